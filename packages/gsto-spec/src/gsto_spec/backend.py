"""The contract between a backend and everybody else.

All that crosses is numpy, N x C x H x W, under canonical names. A package offers its backend through the
entry point group `gsto.backends`: a name, and a callable without arguments that makes a `Backend`. Files of
its framework it offers through the group `gsto.files`: the ending of a file's name without its dot, such as
`pth`, and a callable without arguments that makes a `TensorFile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, SupportsFloat, runtime_checkable

from numpy.typing import NDArray

from gsto_spec.errors import GstoError, nearest
from gsto_spec.graph import Graph
from gsto_spec.objective import SGD, Adam, Objective
from gsto_spec.users_code import attribute, guarded

ENTRY_POINTS = "gsto.backends"
FILE_ENTRY_POINTS = "gsto.files"

Batch = Mapping[str, NDArray[Any]]
"""`image` N x 3 x H x W float32, normalised; `label` N x H x W integers, or `heatmaps` N x K x h x w and
`visibility` N x K."""

OPTIMIZER_PREFIX = "optimizer/"
"""Before the names of optimiser slots in `Trainer.state`; every other name is a canonical weight name."""


class BackendError(GstoError):
    """A backend, device or precision that is not to be had here."""


@dataclass(frozen=True, slots=True)
class Training:
    """What a trainer minimises and how it steps.

    `batch_norm_momentum` replaces every batch norm's own where given; 0.01 needs thousands of steps, so
    short runs set 0.1.
    """

    objective: Objective = Objective()
    optimizer: SGD | Adam = SGD()
    batch_norm_momentum: float | None = None


class Predictor(Protocol):
    """A network in inference mode."""

    def predict(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Output name -> N x K x h x w at network stride, for images N x 3 x H x W."""
        ...


class Trainer(Predictor, Protocol):
    """A network being trained."""

    def step(self, batch: Batch, learning_rate: float) -> Mapping[str, SupportsFloat]:
        """One optimiser step: `loss`, and `loss_<output>` of every output, before the update.

        Does not wait for the device: a value is read when `float` is called on it.
        """
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """Weights, running statistics and optimiser slots, by name."""
        ...

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a `state`; raises `WeightsError`, listing what does not fit, before anything changes."""
        ...


@runtime_checkable
class Backend(Protocol):
    """A framework that compiles graphs.

    `precisions` are those it offers; `process_index` and `process_count` place this process among those that
    train together.
    """

    name: str
    precisions: tuple[str, ...]
    process_index: int
    process_count: int

    def devices(self) -> tuple[str, ...]:
        """The devices to be had here: `cpu`, and `cuda` where there is one."""
        ...

    def versions(self) -> dict[str, str]:
        """Versions of the framework and of what it computes with, to be kept with results."""
        ...

    def sum_over_processes(self, array: NDArray[Any]) -> NDArray[Any]:
        """The sum of every process's array, on every process."""
        ...

    def trainer(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], training: Training, *,
        device: str = "auto", precision: str = "float32",
    ) -> Trainer:  # fmt: skip
        """A trainer of a graph in training form. Raises `GraphError`, `WeightsError`, `BackendError`."""
        ...

    def predictor(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], *,
        device: str = "auto", precision: str = "float32",
    ) -> Predictor:  # fmt: skip
        """A predictor of a graph in any form. Raises `WeightsError`, `BackendError`."""
        ...


def backends() -> tuple[str, ...]:
    """The names of the backends that are installed."""
    from importlib.metadata import entry_points

    return tuple(sorted(entry_points(group=ENTRY_POINTS).names))


def backend(name: str) -> Backend:
    """An installed backend by name, or anybody's as `module:attribute`: a `Backend` or what makes one.

    Raises `BackendError`, naming the nearest one, or the package to install; `LocateError` for a module.
    """
    from importlib.metadata import entry_points

    if ":" in name:
        return _own(name)
    found = entry_points(group=ENTRY_POINTS, name=name)
    if not found:
        known = backends()
        hint = f"; install the package gsto-{name}" if name in ("torch", "jax") else nearest(name, known)
        raise BackendError(f"backend {name} is not installed (installed: {', '.join(known) or 'none'}){hint}")
    made: Backend = next(iter(found)).load()()
    return made


def _own(name: str) -> Backend:
    made = attribute(name)
    if callable(made):
        with guarded(name):
            made = made()
    if isinstance(made, Backend):
        return made
    raise BackendError(
        f"{name}: expected a Backend or what makes one, found {type(made).__name__}{_lacking(made)}"
    )


def _lacking(made: object) -> str:
    members = [*Backend.__annotations__, "devices", "versions", "sum_over_processes", "trainer", "predictor"]
    return f" without {', '.join(name for name in members if not hasattr(made, name))}"


class TensorFile(Protocol):
    """A framework's own file of named tensors, as bytes. What is not kept as it was is told in words."""

    def decode(self, data: bytes) -> tuple[dict[str, NDArray[Any]], list[str]]:
        """The tensors under the names that the file gives them, and what was left out or changed.

        No code of the file is run. Raises `WeightsError`, which need not name the file.
        """
        ...

    def encode(self, graph: Graph, weights: Mapping[str, NDArray[Any]]) -> tuple[bytes, list[str]]:
        """A file that the framework loads into the compiled graph, and what was added for it.

        `weights` holds exactly `graph.parameters`; `decode` gives every one of them back, bit for bit.
        """
        ...


def tensor_file_endings() -> tuple[str, ...]:
    """The endings of the frameworks' files that installed packages read and write: `pth`, ..."""
    from importlib.metadata import entry_points

    return tuple(sorted(entry_points(group=FILE_ENTRY_POINTS).names))


def tensor_file(ending: str) -> TensorFile:
    """What reads and writes files of an ending. Raises `BackendError`, naming those that are installed."""
    from importlib.metadata import entry_points

    found = entry_points(group=FILE_ENTRY_POINTS, name=ending)
    if not found:
        known = [f".{name}" for name in tensor_file_endings()]
        hint = "; install the package gsto-torch" if ending in ("pt", "pth") else ""
        raise BackendError(
            f"nothing installed reads .{ending} files (installed: {', '.join(known) or 'none'})"
            f"{hint or nearest(f'.{ending}', known)}"
        )
    made: TensorFile = next(iter(found)).load()()
    return made
