"""Rules about sums: flat ones, one bias for each, and one resize for what comes from one resolution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsto_spec.graph import Node
from gsto_spec.ops import Add, Conv2d, Resize
from gsto_spec.rewrite import Arrays, Program, Replacement, Rule
from gsto_spec.sizes import Shape


def own_term(program: Program, total: Node, name: str) -> bool:
    """Whether a sum alone reads one of its operands, once."""
    return total.operands.count(name) == 1 and program.other_need(name, total.name) is None


def sum_of(name: str, operands: tuple[str, ...], other: Node) -> Node:
    """The node `name` that adds `operands`; of a single one, whose node `other` is, that one's double."""
    return Node(name, Add(), operands) if len(operands) > 1 else Node(name, other.op, other.operands)


@dataclass(frozen=True, slots=True)
class NestedSum:
    """A sum, and those of its operands that are sums."""

    node: Node
    inner: tuple[str, ...]


class FlattenSum(Rule[NestedSum]):
    """A sum within a sum is one sum: (a + b) + c = a + b + c."""

    name = "flatten-sum"

    def pattern(self, program: Program, node: Node) -> NestedSum | None:
        """Every sum of sums."""
        if not isinstance(node.op, Add):
            return None
        inner = tuple(name for name in node.operands if isinstance(program.node(name).op, Add))
        return NestedSum(node, inner) if inner else None

    def check(self, program: Program, match: NestedSum) -> str | None:
        """One of the inner sums is read here alone."""
        if any(own_term(program, match.node, name) for name in match.inner):
            return None
        return program.other_need(match.inner[0], match.node.name) or f"{match.inner[0]} is added twice"

    def build(self, program: Program, match: NestedSum) -> Replacement:
        """The sum of all."""
        own = {name for name in match.inner if own_term(program, match.node, name)}
        parts = (program.node(name).operands if name in own else (name,) for name in match.node.operands)
        operands = tuple(name for part in parts for name in part)
        return Replacement((Node(match.node.name, Add(), operands),), {})


@dataclass(frozen=True, slots=True)
class Resized:
    """A sum, and those of its operands that are resizes alike."""

    node: Node
    resizes: tuple[str, ...]


class SumBeforeResize(Rule[Resized]):
    """What is summed at one size and comes from one size is summed there and resized once.

    At each place a resize is a weighted sum of source places, the weights being a matter of the two sizes
    alone. So it is linear: resize(a) + resize(b) = resize(a + b).
    """

    name = "sum-before-resize"

    def pattern(self, program: Program, node: Node) -> Resized | None:
        """Every sum of two resizes or more."""
        if not isinstance(node.op, Add):
            return None
        resizes = tuple(name for name in node.operands if isinstance(program.node(name).op, Resize))
        return Resized(node, resizes) if len(resizes) > 1 else None

    def check(self, program: Program, match: Resized) -> str | None:
        """Two of them are made alike, from one size, and read here alone."""
        if self._alike(program, match):
            return None
        return "its resizes differ in method or source size, or something else reads them"

    def build(self, program: Program, match: Resized) -> Replacement:
        """The sum with one resize in the place of the first."""
        total, (first, *others) = match.node, self._alike(program, match)
        resize = program.node(first)
        sources = tuple(program.node(name).operands[0] for name in (first, *others))
        before = Node(program.free_name(f"{first}/sum"), Add(), sources)
        once = Node(program.free_name(f"{first}/once"), resize.op, (before.name, *resize.operands[1:]))
        terms = tuple(once.name if name == first else name for name in total.operands if name not in others)
        return Replacement((before, once, sum_of(total.name, terms, once)), {})

    def _alike(self, program: Program, match: Resized) -> list[str]:
        groups: dict[tuple[object, Shape], list[str]] = {}
        for name in match.resizes:
            if own_term(program, match.node, name):
                resize = program.node(name)
                source = program.graph.shapes[resize.operands[0]]
                groups.setdefault((resize.op, source), []).append(name)
        return next((names for names in groups.values() if len(names) > 1), [])


@dataclass(frozen=True, slots=True)
class Bias:
    """A stored bias that a sum adds, and the resize it passes on its way there, if it passes one."""

    leaf: str
    resize: str | None


@dataclass(frozen=True, slots=True)
class Biased:
    """A sum, the biases it adds, and a term that adds one at no cost: a convolution, resized or not."""

    node: Node
    biases: tuple[Bias, ...]
    convolution: str | None


class MergeBiases(Rule[Biased]):
    """The biases of a sum are one bias, added where that is cheapest.

    The weights by which a resize sums up source places add up to 1, so it keeps constants:
    resize(x + b) = resize(x) + b. The biases of a sum's terms are therefore biases of the sum, and their sum
    may be any term's: a convolution's, which adds it for nothing, else that of the term resized from the
    lowest resolution, where there are the fewest places to add it to.
    """

    name = "merge-biases"

    def pattern(self, program: Program, node: Node) -> Biased | None:
        """Every sum that adds biases."""
        if not isinstance(node.op, Add) or not program.is_map(node.name):
            return None
        biases = tuple(bias for name in node.operands for bias in _biases(program, node, name))
        free = (name for name in node.operands if _convolution(program, node, name) is not None)
        return Biased(node, biases, next(free, None)) if biases else None

    def check(self, program: Program, match: Biased) -> str | None:
        """There are several, or a convolution to take them."""
        if len(match.biases) > 1 or match.convolution is not None:
            return None
        return "it adds one bias, and none of its terms is a convolution that could"

    def build(self, program: Program, match: Biased) -> Replacement:
        """The sum with one bias."""
        added = sum((program.weights[bias.leaf] for bias in match.biases), np.zeros(()))
        return _Rewritten(program, match, added).replacement()


def _biases(program: Program, total: Node, name: str) -> Iterator[Bias]:
    if name in program.graph.leaves:
        yield Bias(name, None)
    elif (inner := _resized_sum(program, total, name)) is not None:
        yield from (Bias(leaf, name) for leaf in inner.operands if leaf in program.graph.leaves)


def _resized_sum(program: Program, total: Node, name: str) -> Node | None:
    """The sum that a term of `total` resizes, where nothing else reads either."""
    return _resized(program, total, name, Add)


def _resized(program: Program, total: Node, name: str, kind: type[Add | Conv2d]) -> Node | None:
    resize = program.node(name)
    if not isinstance(resize.op, Resize) or not own_term(program, total, name):
        return None
    source = program.node(resize.operands[0])
    return source if isinstance(source.op, kind) and own_term(program, resize, source.name) else None


def _convolution(program: Program, total: Node, name: str) -> Node | None:
    """The convolution that a term is, or resizes, if its bias may be changed."""
    node = program.node(name)
    if isinstance(node.op, Conv2d):
        found = node if own_term(program, total, name) else None
    else:
        found = _resized(program, total, name, Conv2d)
    return found if found and program.computed(found.operands[1:]) is None else None


class _Rewritten:
    """A sum in the making whose biases all go to one place."""

    def __init__(self, program: Program, match: Biased, bias: NDArray[np.float64]) -> None:
        self.program, self.match, self.bias = program, match, bias
        self.nodes: list[Node] = []
        self.leaves: Arrays = {}
        self.place = match.convolution or _lowest(program, match.biases)

    def replacement(self) -> Replacement:
        total = self.match.node
        terms = tuple(self._term(name) for name in total.operands if name not in self.program.graph.leaves)
        if self.place is None:
            terms = (*terms, self._leaf(total.name, self.bias))
        last = self.nodes[-1] if self.nodes else total
        return Replacement((*self.nodes, sum_of(total.name, terms, last)), self.leaves)

    def _term(self, name: str) -> str:
        passed = any(bias.resize == name for bias in self.match.biases)
        if name != self.place and not passed:
            return name
        node = self.program.node(name)
        if isinstance(node.op, Conv2d):
            return self._biased_convolution(node)
        source = self._source(node, name == self.place)
        operands = tuple(source if other == node.operands[0] else other for other in node.operands)
        return self._new(f"{name}/resized", Node(name, node.op, operands))

    def _source(self, resize: Node, takes_bias: bool) -> str:
        source = self.program.node(resize.operands[0])
        if isinstance(source.op, Conv2d):
            return self._biased_convolution(source)
        kept = tuple(name for name in source.operands if name not in self.program.graph.leaves)
        kept += (self._leaf(source.name, self.bias),) if takes_bias else ()
        return self._new(f"{source.name}/sum", Node(source.name, Add(), kept)) if len(kept) > 1 else kept[0]

    def _biased_convolution(self, node: Node) -> str:
        own = (self.program.weights[name] for name in node.operands[2:])
        bias = self._leaf(node.name, sum(own, self.bias.reshape(-1)))
        return self._new(f"{node.name}/biased", Node(node.name, node.op, (*node.operands[:2], bias)))

    def _new(self, name: str, like: Node) -> str:
        self.nodes.append(Node(self.program.free_name(name), like.op, like.operands))
        return self.nodes[-1].name

    def _leaf(self, node: str, value: NDArray[np.float64]) -> str:
        name = self.program.free_leaf(node, "bias")
        self.leaves[name] = value
        return name


def _lowest(program: Program, biases: tuple[Bias, ...]) -> str | None:
    """Of the resizes that biases pass, one from the lowest resolution."""
    resizes = [bias.resize for bias in biases if bias.resize is not None]
    return min(resizes, key=lambda name: places(program, program.node(name).operands[0]), default=None)


def places(program: Program, name: str) -> tuple[bool, float]:
    """What orders feature maps by their places; those of a fixed size come first, inputs being large."""
    height, width = program.graph.shapes[name][2:]
    if isinstance(height, int) and isinstance(width, int):
        return False, height * width
    return True, 1 / (getattr(height, "stride", 1) * getattr(width, "stride", 1))
