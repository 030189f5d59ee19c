"""The rule that takes a gate from in front of a projection to behind it."""

from __future__ import annotations

from dataclasses import dataclass

from gsto_spec.graph import Node
from gsto_spec.ops import Add, Conv2d, Mul
from gsto_spec.rewrite import Program, Replacement, Rule, sees_more_than_one_place
from gsto_spec.sizes import is_feature


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
        product = program.node(node.operands[0])
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
            sees_more_than_one_place(program, node)
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


def _widens(program: Program, node: Node, product: Node) -> str | None:
    before, after = program.channels(product.name), program.channels(node.name)
    return f"the gate would multiply {after} channels instead of {before}" if after > before else None
