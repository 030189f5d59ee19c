"""The rules that make a graph cheaper for inference without changing what it computes.

`optimize` applies them to a graph and its weights, once for every backend. The result is in inference form:
it has another digest, computes with tensors that no checkpoint holds, and is neither trained nor saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec.graph import Graph, Node
from gsto_spec.ops import Add, BatchNorm, Conv2d, Mul
from gsto_spec.rewrite import Arrays, Program, Replacement, RewriteLog, Rule, rewrite
from gsto_spec.sizes import Shape, is_feature
from gsto_spec.weights import check_weights


def optimize(
    graph: Graph, weights: Mapping[str, NDArray[Any]], *, log: RewriteLog | None = None
) -> tuple[Graph, Arrays]:
    """A graph that computes the same outputs in inference mode at less cost, and its weights.

    Inputs and outputs keep their names, order and shapes, and every node that keeps its name keeps its value.
    `weights` holds exactly `graph.parameters`; the answer's are float64, so that nothing is rounded before a
    backend casts them. `log` is told which rule fired where, and where not and why.

    Raises `WeightsError`.
    """
    check_weights(graph, weights)
    return rewrite(graph, weights, RULES, RewriteLog() if log is None else log)


@dataclass(frozen=True, slots=True)
class Normalized:
    """A batch norm and the node that it normalises."""

    node: Node
    op: BatchNorm
    source: Node


class FoldBatchNorm(Rule[Normalized]):
    """A batch norm over a convolution is that convolution with other weights.

    With running statistics a batch norm is `y -> s (y - mean) + beta`, s = gamma / sqrt(var + eps), per
    channel o. A convolution is linear in its kernel and gives each o a kernel of its own, whatever its
    stride, padding, dilation and groups, so

        s (conv(x, W) + b - mean) + beta = conv(x, s W) + (s (b - mean) + beta),   (s W)_o = s_o W_o.
    """

    name = "fold-batch-norm"

    def pattern(self, program: Program, node: Node) -> Normalized | None:
        """Every batch norm."""
        if not isinstance(node.op, BatchNorm):
            return None
        return Normalized(node, node.op, program.graph.by_name[node.operands[0]])

    def check(self, program: Program, match: Normalized) -> str | None:
        """It normalises a convolution that nothing else needs, and both have stored tensors."""
        source = match.source
        if not isinstance(source.op, Conv2d):
            return f"it normalises {source.name}, which is no conv2d but {source.op.kind}"
        stored = (*source.operands[1:], *match.node.operands[1:])
        return program.other_need(source.name, match.node.name) or program.computed(stored)

    def build(self, program: Program, match: Normalized) -> Replacement:
        """The convolution under the batch norm's name."""
        node, source = match.node, match.source
        kernel, *biases = (program.weights[name] for name in source.operands[1:])
        gamma, beta, mean, variance = (program.weights[name] for name in node.operands[1:])
        scale = gamma / np.sqrt(variance + match.op.eps)
        shift = biases[0] - mean if biases else -mean
        weight_name, bias_name = (program.free_leaf(node.name, role) for role in ("weight", "bias"))
        folded = Node(node.name, source.op, (source.operands[0], weight_name, bias_name))
        leaves = {weight_name: scale[:, None, None, None] * kernel, bias_name: scale * shift + beta}
        return Replacement((folded,), leaves)


@dataclass(frozen=True, slots=True)
class Gated:
    """A convolution of a product, and what of the product is a gate, if anything is."""

    node: Node
    op: Conv2d
    product: Node
    gate: str | None
    source: str


class HoistGate(Rule[Gated]):
    """A one-channel gate in front of a 1x1 convolution may as well come after it.

    At each place such a convolution is a linear map of the channels there, and g is one number there:

        conv(g x, W)_o = sum over c of W_oc g x_c = g sum over c of W_oc x_c = (g conv(x, W))_o.

    The bias is not part of what g multiplied, so it stays outside: conv(g x, W) + b = g conv(x, W) + b.
    """

    name = "hoist-gate"

    def pattern(self, program: Program, node: Node) -> Gated | None:
        """Every convolution of a product."""
        if not isinstance(node.op, Conv2d):
            return None
        product = program.graph.by_name[node.operands[0]]
        if not isinstance(product.op, Mul):
            return None
        left, right = product.operands
        shapes = program.graph.shapes
        for gate, source in ((left, right), (right, left)):
            if shapes[gate][1] == 1 and is_feature(shapes[source]):
                return Gated(node, node.op, product, gate, source)
        return Gated(node, node.op, product, None, left)

    def check(self, program: Program, match: Gated) -> str | None:
        """There is a gate, the convolution sees one place at a time, and hoisting costs nothing."""
        node, product = match.node, match.product
        if match.gate is None:
            return f"{product.name} is not a gate of 1 channel times a feature map"
        return (
            _sees_more_than_one_place(match.op, program.graph.shapes[node.operands[1]])
            or _widens(program, node, product)
            or program.other_need(product.name, node.name)
            or program.computed(node.operands[2:])
        )

    def build(self, program: Program, match: Gated) -> Replacement:
        """The convolution of the ungated map, its gate, and its bias."""
        node, (weight, *biases) = match.node, match.node.operands[1:]
        assert match.gate is not None
        ungated = Node(program.free_name(f"{node.name}/ungated"), match.op, (match.source, weight))
        if not biases:
            return Replacement((ungated, Node(node.name, Mul(), (match.gate, ungated.name))), {})
        gated = Node(program.free_name(f"{node.name}/gated"), Mul(), (match.gate, ungated.name))
        outside = program.free_leaf(node.name, "bias")
        bias = program.weights[biases[0]].reshape(1, -1, 1, 1)
        biased = Node(node.name, Add(), (gated.name, outside))
        return Replacement((ungated, gated, biased), {outside: bias})


def _sees_more_than_one_place(op: Conv2d, weight: Shape) -> str | None:
    if weight[2:] != (1, 1):
        return f"its kernel is {weight[2]}x{weight[3]}, and only a 1x1 kernel sees one place at a time"
    if op.stride != (1, 1) or any(op.padding):
        return f"its stride is {op.stride} and its padding {op.padding}, so the gate does not fit its result"
    return None


def _widens(program: Program, node: Node, product: Node) -> str | None:
    before, after = program.graph.shapes[product.name][1], program.graph.shapes[node.name][1]
    assert isinstance(before, int) and isinstance(after, int)
    return f"the gate would multiply {after} channels instead of {before}" if after > before else None


RULES: tuple[Rule[Any], ...] = (FoldBatchNorm(), HoistGate())
"""All of them, in the order of a sweep."""
