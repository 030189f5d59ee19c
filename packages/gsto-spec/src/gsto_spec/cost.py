"""Parameters, multiply-adds and activation memory, counted from the graph.

Two conventions: `convolutions` counts multiply-adds of learnt convolutions only, as the paper's tables do
(printed there divided by 2^30 and called GFLOPs); `every-op` adds those of the other ops, and of convolutions
with fixed weights, which stand for reductions (`docs/ops.md` gives each op's rule).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from gsto_spec.graph import Graph, Node
from gsto_spec.ops import Conv2d, Parameter

Counting = Literal["convolutions", "every-op"]


@dataclass(frozen=True, slots=True)
class Part:
    """The cost of some of a graph's nodes."""

    parameters: int = 0
    conv_parameters: int = 0
    macs: int = 0
    activation_bytes: int = 0

    def __add__(self, other: Part) -> Part:
        return Part(
            self.parameters + other.parameters, self.conv_parameters + other.conv_parameters,
            self.macs + other.macs, self.activation_bytes + other.activation_bytes,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cost(Part):
    """The cost of a graph.

    `parameters` are the learnt values (running statistics are not), `conv_parameters` the weights and biases
    of convolutions, `macs` multiply-adds, `activation_bytes` the size of every node's result, which is what
    training keeps. `by_op` and `by_scope` split all four by op and by the first part of the node's path.
    """

    by_op: Mapping[str, Part] = field(default_factory=dict)
    by_scope: Mapping[str, Part] = field(default_factory=dict)


def cost(
    graph: Graph, input_shape: tuple[int, int, int, int] = (1, 3, 1024, 2048), *,
    counting: Counting = "convolutions", bytes_per_value: int = 4,
) -> Cost:  # fmt: skip
    """Count a graph for an input of N x C x H x W. Raises `GraphError` where the graph cannot take it."""
    shapes = graph.check(input_shape)
    owners = _owners(graph)
    parts = [
        (node, owners.get(node.name, node), _part(graph, node, owners, shapes, counting, bytes_per_value))
        for node in graph.order
    ]
    whole = sum((part for _, _, part in parts), Part())
    by_op = _group((owner.op.kind, part) for _, owner, part in parts)
    by_scope = _group((_scope(owner.name), part) for _, owner, part in parts)
    return Cost(whole.parameters, whole.conv_parameters, whole.macs, whole.activation_bytes, by_op, by_scope)


def _owners(graph: Graph) -> dict[str, Node]:
    """Leaf -> the node that reads it, under whose name its cost is filed."""
    return {name: node for node in graph.nodes for name in node.operands if name in graph.leaves}


def _part(
    graph: Graph,
    node: Node,
    owners: Mapping[str, Node],
    shapes: Mapping[str, tuple[int, ...]],
    counting: Counting,
    size: int,
) -> Part:
    if isinstance(node.op, Parameter):
        values = math.prod(node.op.shape) if node.op.trainable else 0
        in_conv = node.name in owners and isinstance(owners[node.name].op, Conv2d)
        return Part(values, values if in_conv else 0)
    counted = counting == "every-op" or _learns_kernel(graph, node)
    operands = [shapes[name] for name in node.operands]
    macs = node.op.multiply_adds(operands, shapes[node.name]) if counted else 0
    return Part(macs=macs, activation_bytes=size * math.prod(shapes[node.name]))


def _learns_kernel(graph: Graph, node: Node) -> bool:
    if not isinstance(node.op, Conv2d):
        return False
    kernel = graph.leaves.get(node.operands[1])
    return kernel is None or kernel.trainable


def _scope(name: str) -> str:
    return name.replace("/", ".").partition(".")[0]


def _group(parts: Iterable[tuple[str, Part]]) -> dict[str, Part]:
    groups: dict[str, Part] = {}
    for key, part in parts:
        groups[key] = groups.get(key, Part()) + part
    return groups
