"""The contract between a backend and everybody else.

All that crosses is numpy, N x C x H x W, under canonical names. A package offers its backend through the
entry point group `gsto.backends`: a name, and a callable without arguments that makes a `Backend`. Files of
its framework it offers through the group `gsto.files`: the ending of a file's name without its dot, such as
`pth`, and a callable without arguments that makes a `TensorFile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, SupportsFloat, runtime_checkable

from numpy.typing import NDArray

from gsto_spec.errors import GraphError, GstoError, nearest
from gsto_spec.graph import Graph
from gsto_spec.objective import SGD, Adam, Objective, check_targets
from gsto_spec.sizes import BATCH, HEIGHT, WIDTH, concrete, show
from gsto_spec.users_code import attribute, guarded
from gsto_spec.weights import check_tensors

ENTRY_POINTS = "gsto.backends"
FILE_ENTRY_POINTS = "gsto.files"

Batch = Mapping[str, NDArray[Any]]
"""`image` N x 3 x H x W float32, normalised; `label` N x H x W integers, or `heatmaps` N x K x h x w and
`visibility` N x K."""

OPTIMIZER_PREFIX = "optimizer/"
"""Before the names of optimiser slots in `Trainer.state`; every other name is a canonical weight name."""

LOSS_SCALE = (f"{OPTIMIZER_PREFIX}loss_scale", f"{OPTIMIZER_PREFIX}loss_scale_steps")
"""What a trainer in float16 keeps besides: the factor of its loss, and the good steps since it changed."""


Speed = Literal["plain", "fast", "compiled"]
"""`plain`: op by op as the graph says, in the framework's default layout: the yardstick of the others, and
what they must agree with. `fast`: whatever pays at once, such as another layout or a rewritten graph.
`compiled`: whatever pays in the long run, compilers included."""


class BackendError(GstoError):
    """A backend, device or precision that is not to be had here."""


@dataclass(frozen=True, slots=True)
class Training:
    """What a trainer minimises and how it steps.

    `batch_norm_momentum` replaces every batch norm's own where given; 0.01 needs thousands of steps, so
    short runs set 0.1.
    `frozen` learnt tensors stay as they are: no update, no decay, no optimiser slots. A batch norm whose
    weight is frozen normalises by its running statistics and leaves them alone.
    `rate_factors` multiply the learning rate of the learnt tensors that they name.
    `micro_batches`: a step's batch is cut into so many equal parts, one after another through the network,
    to save memory: image i of the global batch is in part i mod `micro_batches`. Losses and gradients are
    those of the whole batch; a batch norm's statistics are each part's own, and the running ones take in one
    part after another.
    `rematerialize`: of what the backward pass reads, keep only what crosses `memory.segments` and compute
    the rest again; no result changes.
    `deterministic`: the same arithmetic in the same order whenever the same steps are taken on the same
    device, however much slower.
    """

    objective: Objective = Objective()
    optimizer: SGD | Adam = SGD()
    batch_norm_momentum: float | None = None
    frozen: frozenset[str] = frozenset()
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    micro_batches: int = 1
    rematerialize: bool = False
    deterministic: bool = False

    def learnt(self, graph: Graph) -> dict[str, tuple[int, ...]]:
        """Name -> shape of what is updated. Raises `BackendError` for a name that is not learnt."""
        for field_name in ("frozen", "rate_factors"):
            for name in sorted(getattr(self, field_name)):
                if name not in graph.trainable:
                    hint = nearest(name, graph.trainable)
                    raise BackendError(f"{field_name}: expected learnt tensors, found {name}{hint}")
        return {name: shape for name, shape in graph.trainable.items() if name not in self.frozen}


def share(count: int, index: int, processes: int) -> range:
    """The samples, of a global batch of `count`, that process `index` of `processes` is given.

    Neighbours, in the order of the processes; counts differ by at most one, the larger ones first.
    """
    each, more = divmod(count, processes)
    start = index * each + min(index, more)
    return range(start, start + each + (index < more))


Arrays = Mapping[str, NDArray[Any]]


def check_batch(graph: Graph, objective: Objective, batch: Batch) -> None:
    """Raise `GstoError` unless this process's share of a batch fits a graph's input and outputs.

    `GraphError` (graph_c5) for images; for targets see `objective.check_targets`.
    """
    images = batch["image"]
    channels = next(iter(graph.inputs.values()))
    if images.ndim != 4 or images.shape[1] != channels:  # graph_c5
        raise GraphError("image", f"an array of N x {channels} x H x W", show(images.shape), "graph_c5")
    count, _, height, width = images.shape
    sizes = {BATCH: count, HEIGHT: height, WIDTH: width}
    outputs = {name: concrete(graph.shapes[node], sizes) for name, node in graph.outputs.items()}
    check_targets(objective, outputs, batch)


def slot_kinds(optimizer: SGD | Adam) -> tuple[str, ...]:
    """The slots that each learnt tensor has; `Adam` has one number besides, `step`."""
    return ("momentum",) if isinstance(optimizer, SGD) else ("first", "second")


def split_state(
    graph: Graph, training: Training, state: Arrays
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """A `Trainer.state` as weights and as slots without `OPTIMIZER_PREFIX`; it may hold weights alone.

    Raises `WeightsError`, listing every tensor that is missing, unknown, misshapen or not finite.
    """
    weights = {name: array for name, array in state.items() if not name.startswith(OPTIMIZER_PREFIX)}
    slots = {
        name.removeprefix(OPTIMIZER_PREFIX): array for name, array in state.items() if name not in weights
    }
    scaled: dict[str, tuple[int, ...]] = {name: () for name in LOSS_SCALE if name in state}
    stepped = _slot_shapes(graph, training) if slots.keys() - {"loss_scale", "loss_scale_steps"} else {}
    check_tensors("state", {**graph.parameters, **stepped, **scaled}, state)
    return weights, slots


def _slot_shapes(graph: Graph, training: Training) -> dict[str, tuple[int, ...]]:
    shapes = {
        f"{OPTIMIZER_PREFIX}{kind}/{name}": shape
        for kind in slot_kinds(training.optimizer) for name, shape in training.learnt(graph).items()
    }  # fmt: skip
    return shapes | ({f"{OPTIMIZER_PREFIX}step": ()} if isinstance(training.optimizer, Adam) else {})


class Predictor(Protocol):
    """A network in inference mode."""

    def predict(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Output name -> N x K x h x w at network stride, for images N x 3 x H x W."""
        ...


class Trainer(Predictor, Protocol):
    """A network being trained."""

    def step(self, batch: Batch, learning_rate: float) -> Mapping[str, SupportsFloat]:
        """One optimiser step: `loss`, `loss_<output>` of every output, before the update, and `finite`.

        `batch` is this process's `share` of the global one; losses, statistics and the update are those of
        the global batch. Where the loss, a gradient or a new statistic is not finite, `finite` is 0 and
        nothing changes; else it is 1. Does not wait for the device: a value is read when `float` is called
        on it.
        """
        ...

    def first_not_finite(self, batch: Batch) -> str | None:
        """Where a step on this batch, with the weights as they are, first has a value that is not finite.

        A node's name, in the order of `graph.order`; else `loss_<output>`; else `gradient of NAME`; else
        `new NAME` of a running statistic; None where all is finite. Slow; changes nothing.
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

    `precisions` are those it offers, `gsto_spec.precision` says what they mean; `speeds` are those that
    differ: one that is not among them means the next slower one. `process_index` and `process_count` place
    this process among those that train together.
    """

    name: str
    precisions: tuple[str, ...]
    speeds: tuple[Speed, ...]
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
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> Trainer:  # fmt: skip
        """A trainer of a graph in training form. Raises `GraphError`, `WeightsError`, `BackendError`."""
        ...

    def predictor(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> Predictor:  # fmt: skip
        """A predictor of a graph in any form. Raises `WeightsError`, `BackendError`."""
        ...


def resolve_device(backend: Backend, device: str, precision: str) -> str:
    """The device that `device` means, `auto` being the last one offered.

    Raises `BackendError` for a device or precision that is not to be had; `tf32` is CUDA's alone.
    """
    devices, precisions = backend.devices(), backend.precisions
    chosen = devices[-1] if device == "auto" else device
    if chosen not in devices:
        raise BackendError(f"device: expected one of auto, {', '.join(devices)}, found {device}")
    if precision not in precisions:
        hint = nearest(precision, precisions)
        raise BackendError(f"precision: expected one of {', '.join(precisions)}, found {precision}{hint}")
    if precision == "tf32" and chosen != "cuda":
        raise BackendError("precision: expected float32 or float64 on cpu, found tf32")
    return chosen


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
