"""`JaxBackend`: what the entry point `gsto.backends` finds."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from gsto_jax.program import Program
from gsto_jax.train import JaxPredictor, JaxTrainer, Place
from gsto_spec import Graph
from gsto_spec.backend import BackendError, Training
from gsto_spec.errors import nearest

_PRECISIONS: Mapping[str, tuple[type[np.floating[Any]], str]] = {
    "float32": (np.float32, "float32"),
    "tf32": (np.float32, "tensorfloat32"),
    "float64": (np.float64, "float32"),
}
"""Name -> the type of arrays, and JAX's name for the least precision of products."""


class JaxBackend:
    """JAX as a `gsto_spec.backend.Backend`: one process, CPU or CUDA.

    Precisions: `float32` turns TF32 off, `tf32` turns it on (CUDA only), `float64` is for proofs. JAX's x64
    is switched on while a float64 trainer or predictor works and off while another does: nobody sets it.
    """

    name = "jax"
    precisions = tuple(_PRECISIONS)
    process_index = 0
    process_count = 1

    def devices(self) -> tuple[str, ...]:
        """`cpu`, and `cuda` where JAX sees one."""
        return ("cpu", "cuda") if _cuda() else ("cpu",)

    def versions(self) -> dict[str, str]:
        """JAX, what it computes with, and the card where there is one."""
        facts = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}
        facts["python"] = platform.python_version()
        for card in _cuda()[:1]:
            facts |= {"cuda": card.client.platform_version, "device": card.device_kind}
        return facts

    def sum_over_processes(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself: this backend trains in one process."""
        return array

    def trainer(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], training: Training, *,
        device: str = "auto", precision: str = "float32",
    ) -> JaxTrainer:  # fmt: skip
        """See `gsto_spec.backend.Backend.trainer`."""
        return JaxTrainer(graph, weights, training, self._resolve(device, precision))

    def predictor(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], *,
        device: str = "auto", precision: str = "float32",
    ) -> JaxPredictor:  # fmt: skip
        """See `gsto_spec.backend.Backend.predictor`."""
        return JaxPredictor(Program(graph), weights, self._resolve(device, precision))

    def _resolve(self, device: str, precision: str) -> Place:
        chosen = self.devices()[-1] if device == "auto" else device
        if chosen not in self.devices():
            raise BackendError(f"device: expected one of auto, {', '.join(self.devices())}, found {device}")
        if precision not in _PRECISIONS:
            hint = nearest(precision, _PRECISIONS)
            known = ", ".join(_PRECISIONS)
            raise BackendError(f"precision: expected one of {known}, found {precision}{hint}")
        if precision == "tf32" and chosen != "cuda":
            raise BackendError("precision: expected float32 or float64 on cpu, found tf32")
        return Place(jax.devices(chosen)[0], *_PRECISIONS[precision])


def _cuda() -> list[jax.Device]:
    try:
        return jax.devices("cuda")
    except RuntimeError:  # how JAX says that there is none
        return []
