"""Backends that wire the network otherwise: gates, shortcuts, outputs, a predictor's own optimisation."""

from __future__ import annotations

from dataclasses import replace

from conformance.mutants.broken import Array, Arrays, Mutant, Rewires, RewiresForInference
from conformance.oracle import OraclePredictor
from gsto_spec import Graph
from gsto_spec.graph import Node
from gsto_spec.ops import Add, BatchNorm, Conv2d, Mul, Op, Relu, Sigmoid


def _reads(graph: Graph, name: str, kind: type[Op]) -> Node | None:
    """The node `name` if it is of a kind."""
    node = graph.by_name[name]
    return node if isinstance(node.op, kind) else None


def _ungated(graph: Graph, name: str) -> str:
    """What a gate multiplied, if `name` is a gated map, or `name` itself."""
    product = _reads(graph, name, Mul)
    if product is None:
        return name
    x = [operand for operand in product.operands if _reads(graph, operand, Sigmoid) is None]
    whole = [operand for operand in x if graph.shapes[operand] == graph.shapes[name]]
    return whole[0] if len(x) == 1 and whole else name


class GateWithoutItsRelu(Rewires):
    """No relu before a gate's sigmoid: equation 4 built where the released code is meant."""

    def rewired(self, graph: Graph, node: Node) -> tuple[Node, ...]:
        relu = _reads(graph, node.operands[0], Relu) if isinstance(node.op, Sigmoid) else None
        return (node if relu is None else replace(node, operands=relu.operands),)


class ShortcutUngated(Rewires):
    """A gated map that is only added stays ungated: fusion that skips the path from a branch to itself."""

    def rewired(self, graph: Graph, node: Node) -> tuple[Node, ...]:
        if not isinstance(node.op, Add):
            return (node,)
        return (replace(node, operands=tuple(_ungated(graph, name) for name in node.operands)),)


class ReluInPlace(Rewires):
    """Who reads a relu's operand after it reads the relu: ReLU(inplace=True) before a shortcut."""

    def rewired(self, graph: Graph, node: Node) -> tuple[Node, ...]:
        before = graph.order[: graph.order.index(node)]
        relus = {other.operands[0]: other.name for other in before if isinstance(other.op, Relu)}
        return (replace(node, operands=tuple(relus.get(name, name) for name in node.operands)),)


class BiasInsideGate(RewiresForInference):
    """A gate hoisted behind a convolution multiplies its bias too: the obvious rewrite, wrongly made."""

    def rewired(self, graph: Graph, node: Node) -> tuple[Node, ...]:
        if not isinstance(node.op, Conv2d) or len(node.operands) < 3 or not _is_pointwise(graph, node):
            return (node,)
        gated, *stored = node.operands
        x = _ungated(graph, gated)
        if x == gated:
            return (node,)
        (gate,) = (name for name in graph.by_name[gated].operands if name != x)
        inner = Node(f"{node.name}/ungated", node.op, (x, *stored))
        return (inner, Node(node.name, Mul(), (gate, inner.name)))


def _is_pointwise(graph: Graph, node: Node) -> bool:
    op, kernel = node.op, graph.shapes[node.operands[1]][2:]
    return isinstance(op, Conv2d) and kernel == (1, 1) and op.stride == (1, 1) and not any(op.padding)


class FoldingLosesBias(RewiresForInference):
    """A batch norm folded into a convolution forgets the convolution's own bias: fusers for bias=False."""

    def rewired(self, graph: Graph, node: Node) -> tuple[Node, ...]:
        conv = _reads(graph, node.operands[0], Conv2d) if isinstance(node.op, BatchNorm) else None
        if conv is None or len(conv.operands) < 3:
            return (node,)
        plain = Node(f"{node.name}/unbiased", conv.op, conv.operands[:2])
        return (plain, replace(node, operands=(plain.name, *node.operands[1:])))


class _SortedPredictor(OraclePredictor):
    def predict(self, images: Array) -> Arrays:
        return dict(sorted(super().predict(images).items()))


class OutputsSorted(Mutant):
    """Outputs in alphabetical order: what jax.tree makes of a dict."""

    predicts = _SortedPredictor


class _NamelessPredictor(OraclePredictor):
    def predict(self, images: Array) -> Arrays:
        found = super().predict(images)
        return found if len(found) > 1 else dict(zip(["output"], found.values(), strict=True))


class OnlyOutputNameless(Mutant):
    """A single output loses its name: a model of one output answers with a tensor, not with a dict."""

    predicts = _NamelessPredictor
