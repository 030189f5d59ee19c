"""Graphs written by hand, one call per node."""

import pytest

from gsto_spec import HRNET_NORMAL, Graph, GraphBuilder, GraphError, Initialization
from gsto_spec.ops import AdaptiveAvgPool, AvgPool, BatchNorm, Conv2d, MaxPool, Op, Parameter, Resize, Slice


def op_of(build: GraphBuilder, name: str) -> Op:
    return build.graph({"y": name}).by_name[name].op


def test_layers_are_named_by_the_caller_and_the_rest_after_their_first_operand() -> None:
    build = GraphBuilder()
    x = build.conv2d("conv1", build.input("image", 3), 4, bias=True)
    names = [
        build.relu(x), build.relu(x), build.relu(x), build.sigmoid(x), build.add([x, x]),
        build.relu(x, name="stage/out"), build.resize(x, size=(2, 2)), build.softmax("conv1/relu"),
    ]  # fmt: skip
    assert names == [
        "conv1/relu", "conv1/relu_2", "conv1/relu_3", "conv1/sigmoid", "conv1/add", "stage/out",
        "conv1/resize", "conv1/relu/softmax",
    ]  # fmt: skip
    assert list(build.graph({"y": x}).parameters) == ["conv1.weight", "conv1.bias"]


def test_one_operand_needs_no_sum_and_no_concatenation() -> None:
    build = GraphBuilder()
    image = build.input()
    assert build.add([image]) == image
    assert build.concat([image]) == image


def test_a_convolution_keeps_the_size_unless_told_otherwise() -> None:
    build = GraphBuilder()
    image = build.input("image", 4)
    build.conv2d("same", image, 2, kernel=3, dilation=2)
    build.conv2d("valid", image, 2, kernel=3, padding=0)
    build.conv2d("lopsided", image, 6, kernel=2, padding=(0, 1, 0, 1), groups=2)
    assert op_of(build, "same") == Conv2d((1, 1), (2, 2, 2, 2), (2, 2), 1)
    assert op_of(build, "lopsided") == Conv2d((1, 1), (0, 1, 0, 1), (1, 1), 2)
    graph = build.graph({"y": "same"})
    assert {name: shape[2:] for name, shape in graph.check((1, 4, 9, 7)).items() if "." not in name} == {
        "image": (9, 7), "same": (9, 7), "valid": (7, 5), "lopsided": (9, 7),
    }  # fmt: skip
    assert graph.parameters["lopsided.weight"] == (6, 2, 2, 2)


def test_every_method_makes_the_op_it_is_called_after() -> None:
    build = GraphBuilder(eps=1e-3, momentum=0.25)
    image = build.input("image", 4)
    half = build.avg_pool(image, 2, 2, padding=1)
    assert op_of(build, half) == AvgPool((2, 2), (2, 2), (1, 1, 1, 1))
    assert op_of(build, build.max_pool(image, 3, 2)) == MaxPool((3, 3), (2, 2))
    assert op_of(build, build.slice(image, 1, 3)) == Slice(1, 3)
    assert op_of(build, build.batch_norm("bn", image)) == BatchNorm(1e-3, 0.25, True)
    assert op_of(build, build.resize(image, like=half, method="nearest")) == Resize("nearest", False, None)
    assert op_of(build, build.resize(image, size=(1, 2), align_corners=True)) == Resize(
        "bilinear", True, (1, 2)
    )
    assert op_of(build, build.adaptive_avg_pool(image, like=half)) == AdaptiveAvgPool()
    assert op_of(build, build.adaptive_avg_pool(image, size=(3, 3))) == AdaptiveAvgPool((3, 3))


def test_leaves_say_how_they_start_and_whether_they_are_learnt() -> None:
    build = GraphBuilder(initialization=HRNET_NORMAL)
    build.batch_norm("bn", build.conv2d("conv", build.input(), 2, bias=True))
    assert build.graph({"y": "bn"}).leaves == {
        "conv.weight": Parameter((2, 3, 1, 1), "normal", 0.001),
        "conv.bias": Parameter((2,), "constant", 0.0),
        "bn.weight": Parameter((2,), "constant", 1.0),
        "bn.bias": Parameter((2,), "constant", 0.0),
        "bn.running_mean": Parameter((2,), "constant", 0.0, trainable=False),
        "bn.running_var": Parameter((2,), "constant", 1.0, trainable=False),
    }
    assert Initialization() == Initialization("fan_in_normal", 2**0.5)


def test_shapes_are_known_while_building() -> None:
    build = GraphBuilder()
    x = build.conv2d("conv1", build.input(), 64, kernel=3, stride=2)
    assert build.channels(x) == 64
    assert " x ".join(map(str, build.shape(x))) == "N x 64 x (H+1)//2 x (W+1)//2"


def test_a_wrong_operand_is_reported_where_it_is_used() -> None:
    build = GraphBuilder()
    build.conv2d("conv1", build.input(), 8)
    with pytest.raises(GraphError) as caught:
        build.relu("conv2")
    assert str(caught.value) == (
        "conv2: expected the name of a node made before, found none (nearest: conv1) [graph_c2]"
    )


def test_a_name_is_taken_once() -> None:
    build = GraphBuilder()
    image = build.input()
    build.conv2d("conv1", image, 8)
    with pytest.raises(
        GraphError, match=r"^conv1\.weight: expected one node of each name, found a second one"
    ):
        build.conv2d("conv1", image, 8)


def test_a_graph_holds_all_nodes_so_far_and_the_builder_goes_on() -> None:
    build = GraphBuilder()
    image = build.input()
    first = build.graph({"y": image})
    second = build.graph({"y": build.relu(image)}, {"about": "more"})
    assert (len(first.nodes), len(second.nodes)) == (1, 2)
    assert isinstance(second, Graph)
    assert dict(second.notes) == {"about": "more"}
