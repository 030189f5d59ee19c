"""Backends that start one ulp off: `conformance.ulps:torch_1` and the like, for `gsto-train --backend`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec import Graph
from gsto_spec.backend import Backend, Predictor, Speed, Trainer, Training, backend

Array = NDArray[Any]
RUNS = 5


class OneUlpOff:
    """An installed backend whose trainers start with every weight moved to a neighbouring float32.

    Up or down is drawn from `run` and the tensor's name; run 0 moves nothing.
    """

    def __init__(self, name: str, run: int) -> None:
        self.inner: Backend = backend(name)
        self.run = run
        self.name, self.precisions = f"{name}_{run}", self.inner.precisions
        self.speeds = self.inner.speeds
        self.process_index, self.process_count = self.inner.process_index, self.inner.process_count

    def devices(self) -> tuple[str, ...]:
        """The installed backend's."""
        return self.inner.devices()

    def versions(self) -> dict[str, str]:
        """The installed backend's."""
        return self.inner.versions()

    def sum_over_processes(self, array: Array) -> Array:
        """The installed backend's."""
        return self.inner.sum_over_processes(array)

    def trainer(
        self, graph: Graph, weights: Mapping[str, Array], training: Training, *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> Trainer:  # fmt: skip
        """See `gsto_spec.backend.Backend.trainer`."""
        moved = {name: self._moved(name, array) for name, array in weights.items()}
        return self.inner.trainer(graph, moved, training, device=device, precision=precision, speed=speed)

    def predictor(
        self, graph: Graph, weights: Mapping[str, Array], *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> Predictor:  # fmt: skip
        """See `gsto_spec.backend.Backend.predictor`."""
        return self.inner.predictor(graph, weights, device=device, precision=precision, speed=speed)

    def _moved(self, name: str, array: Array) -> Array:
        if self.run == 0:
            return array
        generator = np.random.default_rng([self.run, zlib.crc32(name.encode())])
        towards = np.where(generator.random(array.shape) < 0.5, -np.inf, np.inf).astype(np.float32)
        return np.nextafter(array.astype(np.float32), towards)


def __getattr__(name: str) -> Callable[[], OneUlpOff]:
    """`torch_3` is run 3 of the backend torch."""
    inner, _, run = name.rpartition("_")
    if not inner or not run.isdecimal() or int(run) >= RUNS:
        raise AttributeError(f"expected NAME_RUN with a run from 0 to {RUNS - 1}, found {name}")
    return partial(OneUlpOff, inner, int(run))
