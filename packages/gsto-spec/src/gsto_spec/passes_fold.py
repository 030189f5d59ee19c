"""Rules that work stored tensors out beforehand: constants, and batch norms as weights of convolutions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gsto_spec.graph import Node
from gsto_spec.ops import Add, BatchNorm, Conv2d, Mul, Relu, Sigmoid
from gsto_spec.reference import compute
from gsto_spec.rewrite import Program, Replacement, Rule


@dataclass(frozen=True, slots=True)
class Constants:
    """A node, and those of its operands that are computed from stored tensors alone."""

    node: Node
    operands: tuple[str, ...]


class FoldConstants(Rule[Constants]):
    """What is computed from stored tensors alone is computed once, by the interpreter in float64."""

    name = "fold-constants"

    def pattern(self, program: Program, node: Node) -> Constants | None:
        """A feature map that reads a constant."""
        if not program.is_map(node.name):
            return None
        constant = [name for name in node.operands if not program.is_map(name)]
        computed = tuple(name for name in dict.fromkeys(constant) if name not in program.graph.leaves)
        return Constants(node, computed) if computed else None

    def check(self, program: Program, match: Constants) -> str | None:
        """Always right."""
        return None

    def build(self, program: Program, match: Constants) -> Replacement:
        """The node with a stored tensor for each of the constants."""
        names = {name: program.free_leaf(name, "value") for name in match.operands}
        operands = tuple(names.get(name, name) for name in match.node.operands)
        leaves = {leaf: _value(program, name) for name, leaf in names.items()}
        return Replacement((replace(match.node, operands=operands),), leaves)


def _value(program: Program, name: str) -> NDArray[np.float64]:
    node = program.node(name)
    if name in program.graph.leaves:
        return program.weights[name]
    assert isinstance(node.op, (Add, Mul, Relu, Sigmoid)), "other ops read feature maps"
    return compute(node.op, [_value(program, operand) for operand in node.operands])


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
        return Normalized(node, node.op, program.node(node.operands[0]))

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
