"""Nodes take ops, fields and operands of the declared types, or say what they were given."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from gsto_spec import Graph, GraphBuilder, GraphError, Node, VariantError, build, cost, variant
from gsto_spec.ops import Conv2d, Input, Relu, Resize

resize: Any = Resize
conv2d: Any = Conv2d
image: Any = Input


@pytest.mark.parametrize(
    ("op", "operands", "message"),
    [
        (None, (), "n: expected an op, found None [graph_c6]"),
        (Relu, ("x",), "n: expected an op, found <class 'gsto_spec.ops.Relu'> [graph_c6]"),
        (Relu(), "x", "n: expected a list of names of nodes, found 'x' [graph_c6]"),
        (Relu(), (1,), "n: expected a list of names of nodes, found (1,) [graph_c6]"),
        (
            resize("bicubic"), ("x",),
            "n.method: expected one of bilinear, nearest, "
            "found 'bicubic' [graph_c6]",
        ),
        (resize(size=(2.5, 2)), ("x",), "n.size: expected a whole number, found 2.5 [graph_c6]"),
        (conv2d(groups=True), ("x", "w"), "n.groups: expected a whole number, found True [graph_c6]"),
        (conv2d(stride=(1,)), ("x", "w"), "n.stride: expected a list of 2 numbers, found (1,) [graph_c6]"),
        (image(float("nan")), (), "n.channels: expected a whole number, found nan [graph_c6]"),
    ],
)  # fmt: skip
def test_graph_c6_a_node_is_an_op_with_its_declared_fields(op: Any, operands: Any, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        Node("n", op, operands)
    assert str(caught.value) == message


def test_lists_and_numpy_numbers_become_what_is_declared() -> None:
    stride: Any = [np.int64(2), 2]
    node = Node("c", Conv2d(stride=stride), ["x", "w"])  # type: ignore[arg-type]
    assert node == Node("c", Conv2d(stride=(2, 2)), ("x", "w"))
    assert hash(node) == hash(Node("c", Conv2d(stride=(2, 2)), ("x", "w")))


def test_training_c3_a_layer_that_stores_tensors_has_no_slash_in_its_name() -> None:
    maker = GraphBuilder()
    graph = maker.graph({"o": maker.conv2d("a/b", maker.input(), 2)})
    problem = graph.training_form_violation()
    assert problem is not None
    assert (problem.node, problem.label) == ("a/b", "training_c3")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("classes", "5"), ("classes", None), ("classes", True), ("classes", 10**20), ("blocks", 1.5),
        ("widths", ("4", 4, 4, 4)), ("widths", [4, 4, 4, 4]), ("supervised_stages", 2),
        ("supervised_stages", (2.0, 3.0)), ("align_corners", "yes"), ("initialization", None),
    ],
)  # fmt: skip
def test_a_variants_field_of_another_type_is_named(field: str, value: Any) -> None:
    with pytest.raises(VariantError, match=f"^{field}: expected"):
        build(dataclasses.replace(variant("gsto-hrnet-w16-mini"), **{field: value}))


def test_numpy_integers_make_the_same_network() -> None:
    widths: Any = tuple(np.array([4, 6, 8, 10]))
    small = dataclasses.replace(variant("gsto-hrnet-w16-mini"), widths=(4, 6, 8, 10))
    assert build(dataclasses.replace(small, widths=widths)) == build(small)


def test_adaptive_pooling_is_counted_at_once_however_large_it_is() -> None:
    maker = GraphBuilder()
    pooled = maker.adaptive_avg_pool(maker.input(), size=(10**12, 3))
    counted = cost(maker.graph({"o": pooled}), (1, 3, 7, 8), counting="every-op")
    assert counted.macs == 3 * (7 + 10**12 - 1) * (8 + 3 - 1)
    assert isinstance(Graph.from_json(maker.graph({"o": pooled}).to_json()), Graph)
