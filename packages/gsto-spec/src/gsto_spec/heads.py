"""Heads as they train at less cost: convolutions over resized and concatenated branches.

As the rule `project-before-enlarging` of `gsto_spec.passes`, but on a graph in training form:

    conv(concat(x, resize(y)), W) = conv(x, W_x) + resize(conv(y, W_y)), W_x and W_y slices of W,

an eighth of the multiply-adds in HRNet's heads, in the backward pass too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from gsto_spec.graph import Graph, Node, stored_names
from gsto_spec.ops import Concat, Conv2d, Resize


@dataclass(frozen=True, slots=True)
class Part:
    """A concatenation's operand: `source`, enlarged by `resize` to the size of `like` where there is one."""

    source: str
    resize: Resize | None = None
    like: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """The parts that a 1x1 convolution reads, and the nodes between, which nothing else reads."""

    parts: tuple[Part, ...]
    between: tuple[str, ...]

    @property
    def operands(self) -> tuple[str, ...]:
        """Every feature map that it reads, once."""
        names = [name for part in self.parts for name in (part.source, part.like) if name]
        return tuple(dict.fromkeys(names))


def heads(graph: Graph) -> dict[str, Head]:
    """Convolution -> head, for all there are of a graph in training form.

    Sizes are not looked at: where a resize leaves fewer places, it is better done first.
    """
    reads = Counter(name for node in graph.order for name in node.operands)
    reads.update(graph.outputs.values())
    found = {node.name: _head(graph, node, reads) for node in graph.order if node.op == Conv2d()}
    return {name: head for name, head in found.items() if head is not None}


def _head(graph: Graph, node: Node, reads: Mapping[str, int]) -> Head | None:
    united, owned = graph.by_name[node.operands[0]], node.operands[1:] == stored_names(node)
    if not isinstance(united.op, Concat) or reads[united.name] > 1 or not owned:
        return None
    if graph.parameters[node.operands[1]][2:] != (1, 1):
        return None
    parts = tuple(_part(graph, name, reads) for name in united.operands)
    resized = [name for part, name in zip(parts, united.operands, strict=True) if part.resize]
    return Head(parts, (*resized, united.name)) if resized else None


def _part(graph: Graph, name: str, reads: Mapping[str, int]) -> Part:
    node = graph.by_name[name]
    if isinstance(node.op, Resize) and reads[name] == 1:
        return Part(node.operands[0], node.op, "".join(node.operands[1:]))
    return Part(name)
