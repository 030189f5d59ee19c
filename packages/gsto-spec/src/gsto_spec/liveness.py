"""Which tensors of a step live when: a graph walked through as torch's autograd runs it, bytes counted.

What an op's backward pass reads is what PyTorch saves for it (derivatives.yaml of its source): convolutions,
pools and batch norms their operand, relu, sigmoid and softmax their result, products both factors, sums,
concatenations and resizes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from functools import cached_property

from gsto_spec.graph import Graph, Node
from gsto_spec.objective import CrossEntropy, Heatmap, Objective
from gsto_spec.ops import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv2d,
    MaxPool,
    Mul,
    Relu,
    Sigmoid,
    Softmax,
)

INDEX = 8
"""Bytes of a label, and of the place that a maximum was found at."""

Group = tuple[str, ...]
Shape = tuple[int, ...]


class Meter:
    """Bytes that live, by kind, and what they were when there were most of them."""

    def __init__(self, fixed: Mapping[str, int]) -> None:
        self.now = dict(fixed)
        self.most = dict(fixed)
        self._held: dict[Hashable, tuple[str, int, int]] = {}

    def hold(self, kind: str, key: Hashable, size: int, references: int = 1) -> None:
        """A new tensor, which `references` calls of `drop` free."""
        if references:
            self._held[key] = (kind, size, references)
            self._change(kind, size)

    def share(self, key: Hashable, references: int) -> None:
        """So many readers more."""
        kind, size, before = self._held[key]
        self._held[key] = (kind, size, before + references)

    def drop(self, key: Hashable) -> None:
        """One reader less."""
        kind, size, references = self._held.pop(key)
        if references > 1:
            self._held[key] = (kind, size, references - 1)
        else:
            self.now[kind] -= size

    def brief(self, size: int) -> None:
        """What lives within one op."""
        self._change("transient", size)
        self.now["transient"] -= size

    def _change(self, kind: str, size: int) -> None:
        self.now[kind] = self.now.get(kind, 0) + size
        if sum(self.now.values()) > sum(self.most.values()):
            self.most = dict(self.now)


class Pass:
    """One part of a batch on its way through a graph: forwards, into its losses, and back.

    `item` is the bytes of a feature map's value; `adds`: whether gradients are added to those that live.
    """

    def __init__(
        self, graph: Graph, shapes: Mapping[str, Shape], item: int, learnt: Iterable[str], meter: Meter,
        *, adds: bool = False,
    ) -> None:  # fmt: skip
        self.graph, self.shapes, self.item, self.meter = graph, shapes, item, meter
        self.learnt, self.adds = frozenset(learnt), adds
        self._slopes: dict[str, Hashable] = {}

    def bytes_of(self, name: str) -> int:
        """Of a feature map."""
        return self.item * math.prod(self.shapes[name])

    @property
    def input_bytes(self) -> int:
        """Of all inputs."""
        return sum(map(self.bytes_of, self.graph.inputs))

    @cached_property
    def sloped(self) -> frozenset[str]:
        """The nodes that a learnt tensor has a say in: those whose gradient is computed."""
        found = set(self.learnt)
        for node in self.graph.order:
            if found.intersection(node.operands):
                found.add(node.name)
        return frozenset(found)

    def saved(self, node: Node) -> tuple[str, ...]:
        """The feature maps that the backward pass of a node reads."""
        if node.name not in self.sloped:
            return ()
        match node.op:
            case Conv2d() | BatchNorm() | MaxPool() | AvgPool() | AdaptiveAvgPool():
                return node.operands[:1]
            case Relu() | Sigmoid() | Softmax():
                return (node.name,)
            case Mul():
                return node.operands
            case _:
                return ()

    def _beside(self, node: Node) -> int:
        """Bytes that the backward pass of a node reads besides: places of maxima, kernels in a low type."""
        if node.name in self.sloped and isinstance(node.op, MaxPool):
            return INDEX * math.prod(self.shapes[node.name])
        if node.name in self.sloped and isinstance(node.op, Conv2d) and self.item == 2:
            return self.item * math.prod(self.shapes[node.operands[1]])
        return 0

    def readers(self, group: Group) -> dict[str, int]:
        """Feature map -> how many of the nodes of a group read it."""
        found: dict[str, int] = {}
        for name in group:
            for operand in self._operands(name):
                found[operand] = found.get(operand, 0) + 1
        return found

    def _operands(self, name: str) -> tuple[str, ...]:
        return tuple(o for o in self.graph.by_name[name].operands if o not in self.graph.leaves)

    # Forwards

    def begin(self, references: Mapping[str, int]) -> None:
        """The input, in the type of a feature map."""
        for name in self.graph.inputs:
            self.meter.hold("activations", name, self.bytes_of(name), references.get(name, 0))

    def forward(self, group: Group, kept: Mapping[str, int], *, mark: str = "", saves: bool = False) -> None:
        """Compute a group; `kept` are references beside those of the group's own nodes."""
        readers, own = self.readers(group), frozenset(group)
        saved = self._saves(group) if saves else {}
        for name in group:
            references = 1 + readers.get(name, 0) + kept.get(name, 0) + saved.get(name, 0)
            self.meter.hold("activations", mark + name, self.bytes_of(name), references)
            if saves:
                node = self.graph.by_name[name]
                self.meter.hold("activations", ("beside", name), self._beside(node))
            for used in (*(operand for operand in self._operands(name) if operand in own), name):
                self.meter.drop(mark + used)

    def _saves(self, group: Group) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in group:
            for saved in self.saved(self.graph.by_name[name]):
                found[saved] = found.get(saved, 0) + 1
        return found

    # Losses

    def losses(self, objective: Objective, label: tuple[int, int], item: int) -> None:
        """Every output's loss."""
        for output, name in self.graph.outputs.items():
            self._loss(objective, output, name, label, item)
            self.meter.drop(name)

    def losses_back(self, objective: Objective, label: tuple[int, int], item: int) -> None:
        """The gradient of every output, the last one's first."""
        for output, name in reversed(list(self.graph.outputs.items())):
            self._loss_back(objective, output, name, label, item)

    def _loss(self, objective: Objective, output: str, name: str, label: tuple[int, int], item: int) -> None:
        scores, pixels = self._score_bytes(objective, name, label, item)
        self.meter.hold("activations", ("scores", output), scores)
        self.meter.hold("activations", ("pixels", output), pixels)
        self.meter.brief(scores + pixels // 2)

    def _loss_back(
        self, objective: Objective, output: str, name: str, label: tuple[int, int], item: int
    ) -> None:
        scores, _ = self._score_bytes(objective, name, label, item)
        self.meter.brief(2 * scores)
        self.meter.drop(("pixels", output))
        self.meter.drop(("scores", output))
        if name in self.sloped:
            self._give(name, ("slope", output), self.bytes_of(name))

    def _score_bytes(
        self, objective: Objective, name: str, label: tuple[int, int], item: int
    ) -> tuple[int, int]:
        """Of one value per class and pixel, and of all that is kept per pixel."""
        batch, classes, *size = self.shapes[name]
        match objective.loss:
            case CrossEntropy():
                pixels = batch * math.prod(label)
                return item * classes * pixels, (INDEX + 2 * item) * pixels
            case Heatmap():
                return item * batch * classes * math.prod(size), 0

    # Backwards

    def backward(self, group: Group, *, mark: str = "") -> None:
        """Every gradient of a group whose maps were saved under `mark`; those from outside stay held."""
        own = frozenset(group)
        for name in reversed(group):
            node = self.graph.by_name[name]
            if name in self._slopes:
                self._back(node)
                self.meter.drop(self._slopes.pop(name))
            for saved in self.saved(node):
                if saved in own:
                    self.meter.drop(mark + saved)
            self.meter.drop(("beside", name))

    def _back(self, node: Node) -> None:
        for name in node.operands:
            size = max(self.item, 4) * math.prod(self.shapes[name]) if name in self.learnt else 0
            if self.adds:
                self.meter.brief(size)
            else:
                self.meter.hold("gradients", ("learnt", name), size)
        targets = [name for name in self._operands(node.name) if name in self.sloped]
        if isinstance(node.op, (Add, Concat)):
            self._share(node, targets)
            return
        for name in targets:
            if isinstance(node.op, Mul) and self.bytes_of(name) < self.bytes_of(node.name):
                self.meter.brief(self.bytes_of(node.name))
            self._give(name, ("slope", node.name, name), self.bytes_of(name))

    def _give(self, name: str, key: Hashable, size: int) -> None:
        """A gradient for a node, beside another one or added to it."""
        if name in self._slopes:
            self.meter.brief(2 * size)
        else:
            self.meter.hold("activations", key, size)
            self._slopes[name] = key

    def _share(self, node: Node, targets: list[str]) -> None:
        """The gradient of a sum or of a concatenation is, in parts, those of its operands: not copied."""
        key = self._slopes[node.name]
        for name in targets:
            if name in self._slopes:
                self.meter.brief(2 * self.bytes_of(name))
            else:
                self.meter.share(key, 1)
                self._slopes[name] = key
