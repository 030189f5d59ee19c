"""Rules that compute a projection where there are fewer places: before enlarging, or after shrinking."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from gsto_spec.graph import Node
from gsto_spec.ops import AdaptiveAvgPool, Add, AvgPool, Concat, Conv2d, Op, Resize
from gsto_spec.rewrite import Arrays, Program, Replacement, Rule, sees_more_than_one_place
from gsto_spec.sizes import Dim, Size


def enlargement(program: Program, source: str, target: str) -> Fraction | None:
    """How many places of `target` there are for one of `source` in a large input, or None if that varies."""
    dims = zip(program.graph.shapes[source][2:], program.graph.shapes[target][2:], strict=True)
    rows, columns = (_ratio(*pair) for pair in dims)
    return None if rows is None or columns is None else rows * columns


def _ratio(source: Dim, target: Dim) -> Fraction | None:
    if isinstance(source, int) and isinstance(target, int):
        return Fraction(target, source)
    if isinstance(source, Size) and isinstance(target, Size):
        return Fraction(source.stride, target.stride)
    return Fraction(0) if isinstance(target, int) else None


@dataclass(frozen=True, slots=True)
class United:
    """A convolution of a resized map, or of maps of which some are resized, one after another."""

    node: Node
    parts: tuple[str, ...]


class ProjectBeforeEnlarging(Rule[United]):
    """A 1x1 convolution of enlarged maps is the sum of its parts, each computed before its map is enlarged.

    Such a convolution is linear at each place, and its kernel falls into a part for each map:

        conv(concat(x, resize(y)), W) + b = conv(x, W_x) + b + resize(conv(y, W_y)),

    since a resize sums places and a projection channels. It saves multiply-adds, but a map of as many
    channels as the result has is resized in place of one as wide as y.
    """

    name = "project-before-enlarging"

    def pattern(self, program: Program, node: Node) -> United | None:
        """Every convolution of resized maps."""
        if not isinstance(node.op, Conv2d):
            return None
        source = program.node(node.operands[0])
        parts = source.operands if isinstance(source.op, Concat) else (source.name,)
        resized = any(isinstance(program.node(name).op, Resize) for name in parts)
        return United(node, parts) if resized else None

    def check(self, program: Program, match: United) -> str | None:
        """It sees one place at a time, reads these maps alone, and multiplies less before a resize."""
        node = match.node
        assert isinstance(node.op, Conv2d)
        if node.op.groups > 1:
            return f"it has {node.op.groups} groups"
        reason = (
            sees_more_than_one_place(program, node)
            or program.other_need(node.operands[0], node.name)
            or program.computed(node.operands[1:])
        )
        moved = any(self._moves(program, match, name) for name in match.parts)
        return reason or (None if moved else "no resize enlarges a map that is cheaper to convolve before")

    def build(self, program: Program, match: United) -> Replacement:
        """The sum of the convolution of what stays and of the resized ones."""
        moved = [self._moves(program, match, name) for name in match.parts]
        return _Parts(program, match, moved).replacement()

    def _moves(self, program: Program, match: United, name: str) -> bool:
        """Whether multiply-adds are saved per place of the result."""
        resize = program.node(name)
        if not isinstance(resize.op, Resize) or match.parts.count(name) > 1:
            return False
        reader = match.node.name if name in match.node.operands else match.node.operands[0]
        area = enlargement(program, resize.operands[0], name)
        if area is None or area <= 1 or program.other_need(name, reader):
            return False
        wide, narrow = program.channels(match.node.name), program.channels(name)
        taps = 4 if resize.op.method == "bilinear" else 0
        return wide * narrow + taps * narrow > wide * narrow / area + taps * wide


class _Parts:
    """The convolution of a concatenation, cut into parts; the first one made takes the bias."""

    def __init__(self, program: Program, match: United, moved: list[bool]) -> None:
        self.program, self.node = program, match.node
        self.biases = match.node.operands[2:]
        self.nodes: list[Node] = []
        self.leaves: Arrays = {}
        weight = program.weights[match.node.operands[1]]
        ends = np.cumsum([program.channels(name) for name in match.parts])
        parts = list(zip(match.parts, np.split(weight, ends[:-1], axis=1), moved, strict=True))
        self.kept = [(name, kernel) for name, kernel, moves in parts if not moves]
        self.moved = [(name, kernel) for name, kernel, moves in parts if moves]

    def replacement(self) -> Replacement:
        terms = self._whole() + [self._resized(k, *part) for k, part in enumerate(self.moved)]
        last = self.nodes.pop() if len(terms) == 1 else Node(self.node.name, Add(), tuple(terms))
        return Replacement((*self.nodes, Node(self.node.name, last.op, last.operands)), self.leaves)

    def _whole(self) -> list[str]:
        if not self.kept:
            return []
        names, kernels = zip(*self.kept, strict=True)
        x = names[0] if len(names) == 1 else self._new("kept", Concat(), names)
        return [self._convolved("whole", x, np.concatenate(kernels, axis=1))]

    def _resized(self, number: int, name: str, kernel: NDArray[np.float64]) -> str:
        resize = self.program.node(name)
        x = self._convolved(f"part{number}", resize.operands[0], kernel)
        return self._new(f"part{number}/resized", resize.op, (x, *resize.operands[1:]))

    def _convolved(self, role: str, x: str, kernel: NDArray[np.float64]) -> str:
        weight = self.program.free_leaf(self.node.name, f"{role}.weight")
        self.leaves[weight] = kernel
        operands, self.biases = (x, weight, *self.biases), ()
        return self._new(role, self.node.op, operands)

    def _new(self, role: str, op: Op, operands: tuple[str, ...]) -> str:
        self.nodes.append(Node(self.program.free_name(f"{self.node.name}/{role}"), op, operands))
        return self.nodes[-1].name


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A map that shrinks the result of a convolution."""

    node: Node
    convolution: Node
    area: Fraction


class ProjectAfterShrinking(Rule[Shrunk]):
    """A 1x1 convolution whose result is averaged or resized to a lower resolution may come after that.

    An average and a resize sum places by weights that add up to 1, a projection sums channels at each place:

        shrink(conv(x, W) + b) = conv(shrink(x), W) + b.
    """

    name = "project-after-shrinking"

    def pattern(self, program: Program, node: Node) -> Shrunk | None:
        """Every average or resize of a convolution to fewer places."""
        if not isinstance(node.op, (AdaptiveAvgPool, AvgPool, Resize)):
            return None
        source = program.node(node.operands[0])
        area = enlargement(program, source.name, node.name)
        shrinks = isinstance(source.op, Conv2d) and area is not None and area < 1
        return Shrunk(node, source, area) if shrinks and area is not None else None

    def check(self, program: Program, match: Shrunk) -> str | None:
        """The convolution sees one place at a time, is read here alone, and multiplies less afterwards."""
        node, convolution = match.node, match.convolution
        if not self._saves(program, match):
            return f"{program.channels(convolution.operands[0])} channels cost more to shrink than it saves"
        if isinstance(node.op, AvgPool) and any(node.op.padding):
            return f"its padding is {node.op.padding}, so its weights need not add up to 1"
        if node.operands.count(convolution.name) > 1:
            return f"{convolution.name} is its reference, too"
        return sees_more_than_one_place(program, convolution) or program.other_need(
            convolution.name, node.name
        )

    def build(self, program: Program, match: Shrunk) -> Replacement:
        """The convolution under the smaller map's name."""
        node, convolution = match.node, match.convolution
        x, *stored = convolution.operands
        shrunk = Node(program.free_name(f"{node.name}/shrunk"), node.op, (x, *node.operands[1:]))
        return Replacement((shrunk, Node(node.name, convolution.op, (shrunk.name, *stored))), {})

    def _saves(self, program: Program, match: Shrunk) -> bool:
        """Whether multiply-adds are saved per place of the larger map."""
        op, convolution, area = match.node.op, match.convolution, match.area
        # A cell that a boundary of an adaptive average cuts is read twice along each axis.
        taps = area * (math.prod(op.kernel) if isinstance(op, AvgPool) else 4)
        taps = Fraction(4) if isinstance(op, AdaptiveAvgPool) else taps
        wide, narrow = program.channels(convolution.operands[0]), program.channels(match.node.name)
        each = math.prod(program.graph.shapes[convolution.operands[1]][:2])  # type: ignore[arg-type]
        return each + taps * narrow > each * area + taps * wide
