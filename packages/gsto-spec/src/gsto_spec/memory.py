"""What training or predicting takes of memory, from the graph alone; segments for rematerialisation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, groupby

from gsto_spec.backend import Training, share, slot_kinds
from gsto_spec.graph import Graph
from gsto_spec.liveness import Group, Meter, Pass
from gsto_spec.precision import LOW, Precision

SHORTEST = 7
"""Nodes of a residual block of two convolutions: shorter neighbours make one segment together."""

LONGEST = 32
"""Nodes beyond which a module is cut into its parts: the branches of a stage's module, and their fusion."""

NOT_ENOUGH = "no setting is enough: take smaller pictures or a narrower network"

Names = tuple[str, ...]
InputShape = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the moment of a step, or of a prediction, when most are in use; their sum is the `peak`.

    `weights`, `statistics` and `slots` live all along. `gradients` are those of learnt tensors, `activations`
    feature maps and their gradients, the input and what losses keep; `transient` is what lives within a
    single op.
    """

    weights: int
    statistics: int
    gradients: int
    slots: int
    activations: int
    transient: int

    @property
    def peak(self) -> int:
        """All of them."""
        state = self.weights + self.statistics + self.gradients + self.slots
        return state + self.activations + self.transient


def estimate(
    graph: Graph, input_shape: InputShape, training: Training | None = None, precision: Precision = "float32"
) -> Memory:
    """The memory of a training step, or of predicting where `training` is None, on one device.

    `input_shape` is that device's share of the batch, N x C x H x W; labels are taken to have its size. What
    a framework needs besides (its libraries, workspaces of convolutions, fragments) is not counted. The
    order of ops and what is kept for the backward pass are PyTorch's; XLA plans for itself, on a CPU mostly
    with more. Raises `GraphError` where the graph cannot take the input, `BackendError` as `Training.learnt`.
    """
    if training is None:
        return _predicting(graph, input_shape, precision)
    return _training(graph, input_shape, training, precision)


def advice(
    graph: Graph, input_shape: InputShape, training: Training, available: int,
    precision: Precision = "float32", *, devices: int = 1,
) -> tuple[str, ...]:  # fmt: skip
    """What to change where a training step takes more than `available` bytes of a device; empty where not.

    Each line is one setting of gsto-train that is enough by itself, with the peak that it gives; where none
    is, the line of all that leave the batch as it is comes first, and each is told with what it gives; where
    those are not enough either, the last line says so. `input_shape` is one device's share of the batch.
    """
    plan = _Plan(input_shape, training, precision)
    if plan.peak(graph) <= available:
        return ()
    choices = list(_choices(graph, plan, available))
    enough = [choice for choice in choices if choice.peak(graph) <= available]
    together = _altogether(plan)
    told = enough or [each for each in (together, *choices) if each != plan]
    lines = [f"{each.told(plan, devices)}: {each.peak(graph) / 2**30:.2f} GiB" for each in told]
    if not enough and together.peak(graph) > available:
        lines.append(NOT_ENOUGH)
    return tuple(dict.fromkeys(lines))


@dataclass(frozen=True)
class _Plan:
    """One way to take a step."""

    shape: InputShape
    training: Training
    precision: Precision

    def peak(self, graph: Graph) -> int:
        return estimate(graph, self.shape, self.training, self.precision).peak

    def in_parts(self, count: int) -> _Plan:
        return replace(self, training=replace(self.training, micro_batches=count))

    def again(self) -> _Plan:
        return replace(self, training=replace(self.training, rematerialize=True))

    def lower(self) -> _Plan:
        return self if self.precision in LOW else replace(self, precision="bfloat16")

    def smaller(self, batch: int) -> _Plan:
        return replace(self, shape=(batch, *self.shape[1:]))

    def told(self, before: _Plan, devices: int) -> str:
        """What differs, as settings."""
        new, old = self.training, before.training
        parts = {
            f"train.micro_batches={new.micro_batches}": new.micro_batches != old.micro_batches,
            "train.rematerialize=true": new.rematerialize != old.rematerialize,
            f"train.precision={self.precision}": self.precision != before.precision,
            f"train.batch={self.shape[0] * devices}": self.shape != before.shape,
        }
        return " ".join(part for part, differs in parts.items() if differs)


def _choices(graph: Graph, plan: _Plan, available: int) -> Iterator[_Plan]:
    """One change each, the least that is enough, or else the most that can be had; what costs least first."""
    batch, parts = plan.shape[0], plan.training.micro_batches
    finer = [plan.in_parts(count) for count in range(parts + 1, batch + 1) if batch % count == 0]
    fewer = [plan.smaller(count) for count in range(batch - 1, 0, -1) if count % parts == 0]
    for ladder in (finer, [plan.again()], [plan.lower()], fewer):
        changed = [each for each in ladder if each != plan]
        if changed:
            yield next((each for each in changed if each.peak(graph) <= available), changed[-1])


def _altogether(plan: _Plan) -> _Plan:
    return plan.again().lower().in_parts(plan.shape[0])


def _predicting(graph: Graph, input_shape: InputShape, precision: Precision) -> Memory:
    meter = Meter(_stored(graph, precision))
    one = Pass(graph, graph.check(input_shape), _item(precision), (), meter)
    everything = _computed(graph)
    one.begin(one.readers(everything))
    one.forward(everything, dict.fromkeys(graph.outputs.values(), 1))
    return _memory(meter)


def _training(graph: Graph, input_shape: InputShape, training: Training, precision: Precision) -> Memory:
    learnt, wide = training.learnt(graph), 8 if precision == "float64" else 4
    learnt_bytes = _bytes(learnt.values(), wide)
    meter = Meter({**_stored(graph, precision), "slots": learnt_bytes * len(slot_kinds(training.optimizer))})
    part = len(share(input_shape[0], 0, training.micro_batches))
    shapes, adds = graph.check((part, *input_shape[1:])), training.micro_batches > 1
    one = Pass(graph, shapes, _item(precision), learnt, meter, adds=adds)
    if adds:
        meter.hold("gradients", "of other parts", learnt_bytes)
        meter.hold("activations", "other parts", _item(precision) * math.prod(input_shape) - one.input_bytes)
    _step(one, training, input_shape[2:], wide)
    return _memory(meter)


def _step(one: Pass, training: Training, label: tuple[int, int], wide: int) -> None:
    """The last part of a batch: forwards, losses, and back."""
    graph = one.graph
    groups = segments(graph) if training.rematerialize else (_computed(graph),)
    kept = _crossing(one, groups)
    mark = "again " if training.rematerialize else ""
    one.begin({name: kept.get(name, 1) for name in graph.inputs})
    for group in groups:
        one.forward(group, kept, saves=not mark)
    one.losses(training.objective, label, wide)
    one.losses_back(training.objective, label, wide)
    for group in reversed(groups):
        if mark:
            one.forward(group, {}, mark=mark, saves=True)
        one.backward(group, mark=mark)
        for name in _entering(one, group) if mark else ():
            one.meter.drop(name)


def _computed(graph: Graph) -> Group:
    return tuple(node.name for node in graph.order if node.operands)


def _entering(one: Pass, group: Group) -> frozenset[str]:
    """The feature maps that a group reads and does not compute."""
    return frozenset(one.readers(group)).difference(group)


def _crossing(one: Pass, groups: Iterable[Group]) -> dict[str, int]:
    """Feature map -> how many readers it has beside those of its own group: other groups, and a loss."""
    found = dict.fromkeys(one.graph.outputs.values(), 0)
    for name in chain(one.graph.outputs.values(), *(_entering(one, group) for group in groups)):
        found[name] = found.get(name, 0) + 1
    return found


def _stored(graph: Graph, precision: Precision) -> dict[str, int]:
    wide = 8 if precision == "float64" else 4
    learnt = _bytes(graph.trainable.values(), wide)
    return {"weights": learnt, "statistics": _bytes(graph.parameters.values(), wide) - learnt}


def _bytes(shapes: Iterable[tuple[int, ...]], item: int) -> int:
    return item * sum(map(math.prod, shapes))


def _item(precision: Precision) -> int:
    """Bytes of a feature map's value."""
    return 2 if precision in LOW else 8 if precision == "float64" else 4


def _memory(meter: Meter) -> Memory:
    kinds = ("weights", "statistics", "gradients", "slots", "activations", "transient")
    return Memory(**{kind: meter.most.get(kind, 0) for kind in kinds})


def segments(graph: Graph) -> tuple[Names, ...]:
    """The computed nodes' names in `graph.order`, cut into neighbouring groups by module.

    Rematerialisation keeps what crosses from one group to another and computes the rest again, group by
    group. A group is a block of a backbone (`layer1.0`), a stage's module, or its branches and its fusion
    (`stage3.1`), or what lies between (`conv1` to `bn2`).
    """
    names = tuple(node.name for node in graph.order if node.operands)
    modules = _cut(names, depth=2, shortest=SHORTEST)
    parts = (_cut(module, 3, LONGEST) if len(module) > LONGEST else (module,) for module in modules)
    return tuple(chain.from_iterable(parts))


def _cut(names: Names, depth: int, shortest: int) -> tuple[Names, ...]:
    """Runs of names whose modules' paths begin alike; neighbours below `shortest` nodes are joined."""
    runs = [tuple(run) for _, run in groupby(names, key=lambda name: _module(name, depth))]
    grouped = [(long, list(group)) for long, group in groupby(runs, key=lambda run: len(run) >= shortest)]
    return tuple(
        run for long, group in grouped for run in (group if long else [tuple(chain.from_iterable(group))])
    )


def _module(name: str, depth: int) -> Names:
    return tuple(name.partition("/")[0].split(".")[:depth])
