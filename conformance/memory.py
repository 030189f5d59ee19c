"""`python -m conformance.memory`: the memory estimate against what PyTorch's tensors really take, on the CPU.

Per network, size and kind of run: the estimate of `gsto_spec.memory`, the most bytes that tensors took at any
moment of a step or prediction, and their ratio; with `--jax` XLA's own analysis of the same run beside. Exit
code 1 where an estimate is further than `ALLOWED` from PyTorch's.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from gsto_spec import Graph, build, initial_weights
from gsto_spec.backend import Training, backend
from gsto_spec.memory import InputShape, estimate
from gsto_spec.objective import Heatmap, Objective

ALLOWED = 0.15
"""The share of the measured peak that an estimate may be off by."""
NETWORKS = ("gsto-hrnet-w16-mini", "pose-gsto-hrnet-w32", "resnet50-ppm-gsto-supervised")
SIZES = ((4, 3, 96, 128), (4, 3, 256, 192))
RATE = 0.01


@dataclass(frozen=True)
class Run:
    """A network at a size, in training or, where that is None, predicting."""

    network: str
    shape: InputShape
    training: Training | None

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"{self.network:30}  {size:18}  {self._kind:24}"

    @property
    def _kind(self) -> str:
        if self.training is None:
            return "prediction"
        if self.training.micro_batches > 1:
            return f"step in {self.training.micro_batches} parts"
        return "step, rematerialised" if self.training.rematerialize else "step"

    @property
    def graph(self) -> Graph:
        return build(self.network)


def runs(networks: Sequence[str]) -> Iterator[Run]:
    """Every network at every size: predicting, training, and training with less."""
    for network in networks:
        objective = Objective(Heatmap()) if network.startswith("pose") else Objective()
        kinds = (
            None, Training(objective), Training(objective, rematerialize=True),
            Training(objective, micro_batches=2),
        )  # fmt: skip
        yield from (Run(network, shape, training) for shape in SIZES for training in kinds)


def measured_by_torch(run: Run) -> int:
    """The peak of live tensor bytes in the second step, or in a prediction."""
    graph = run.graph
    given = _given(run, graph)
    live = LiveBytes()
    with live:
        weights = initial_weights(graph, 0)
        subject = backend("torch")
        if run.training is None:
            predictor = subject.predictor(graph, weights, device="cpu")
            live.start()
            predictor.predict(given["image"])
        else:
            trainer = subject.trainer(graph, weights, run.training, device="cpu")
            trainer.step(given, RATE)
            live.start()  # with the slots and the gradients of a step before
            trainer.step(given, RATE)
    return live.most


def _given(run: Run, graph: Graph) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(0)
    given: dict[str, NDArray[Any]] = {"image": generator.standard_normal(run.shape).astype(np.float32)}
    output = graph.check(run.shape)[list(graph.outputs.values())[-1]]
    if run.training is not None and isinstance(run.training.objective.loss, Heatmap):
        heatmaps = generator.random(output).astype(np.float32)
        return {**given, "heatmaps": heatmaps, "visibility": np.ones(output[:2], np.float32)}
    return {**given, "label": generator.integers(0, output[1], (run.shape[0], *run.shape[2:]))}


class LiveBytes(TorchDispatchMode):
    """A context in which `most` is the peak, since `start`, of the bytes of all tensors' storages."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.most = 0, 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def start(self) -> None:
        """Forget the peak so far."""
        self.most = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen[key] = weakref.ref(storage, lambda _: self._gone(key, size))
            self.now += size
            self.most = max(self.most, self.now)

    def _gone(self, key: int, size: int) -> None:
        del self._seen[key]
        self.now -= size


def told_by_jax(run: Run) -> str:
    """XLA's own peak of the compiled program."""
    graph = run.graph
    jax, weights = backend("jax"), initial_weights(graph, 0)
    asked: Any = (
        jax.predictor(graph, weights, device="cpu") if run.training is None
        else jax.trainer(graph, weights, run.training, device="cpu")
    )  # fmt: skip
    return f"  {asked.memory_analysis(run.shape)['peak'] / 2**20:10.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where an estimate is too far off."""
    options = _parser().parse_args(arguments)
    xla = "         XLA" if options.jax else ""
    print(f"{'':30}  {'':18}  {'MiB':24}  {'estimate':>10}  {'torch':>10}  ratio{xla}")
    worst = 0.0
    for run in runs(options.networks):
        guessed = estimate(run.graph, run.shape, run.training).peak
        found = measured_by_torch(run)
        ratio = guessed / found
        worst = max(worst, abs(ratio - 1))
        more = told_by_jax(run) if options.jax else ""
        line = f"{run}  {guessed / 2**20:10.1f}  {found / 2**20:10.1f}  {ratio:.3f}{more}"
        print(line, flush=True)
    print(f"worst: {worst:.1%} off, allowed {ALLOWED:.0%}")
    return int(worst > ALLOWED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m conformance.memory", description=__doc__, allow_abbrev=False)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--jax", action="store_true", help="XLA's analysis beside; it compiles every run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
