"""Counts: the published ones to the last parameter, the parts that sum to them, and every op by hand."""

from dataclasses import replace

import pytest

from gsto_spec import Cost, Graph, GraphBuilder, GraphError, HRNet, build, cost, variant
from gsto_spec.cost import Part
from gsto_spec.ops import AdaptiveAvgPool, AvgPool, Conv2d, Mul, Parameter, Resize

CITYSCAPES = (1, 3, 1024, 2048)
POSE = (1, 3, 384, 288)

PLAIN = variant("hrnetv2-w18-small-v2")
GFM = replace(PLAIN, fusion_gate="unsupervised")


def supervised(*stages: int) -> HRNet:
    return replace(GFM, supervised_stages=stages, transition_gate="supervised")


# Network, input, convolution parameters, all parameters, multiply-adds in billions, and in 2^30 as printed.
COUNTS: list[tuple[str | HRNet, tuple[int, int, int, int], int, int, float, str]] = [
    ("hrnetv2-w18-small-v2", CITYSCAPES, 3_923_091, 3_939_579, 76.857, "71.6"),
    (GFM, CITYSCAPES, 3_926_493, 3_943_107, 76.937, "71.7"),
    (supervised(3), CITYSCAPES, 3_945_097, 3_961_969, 79.354, "73.9"),
    (supervised(2, 3), CITYSCAPES, 3_949_292, 3_966_276, 79.893, "74.4"),
    ("gsto-hrnet-w18-small-v2", CITYSCAPES, 3_949_292, 3_966_276, 79.893, "74.4"),
    (supervised(1, 2, 3), CITYSCAPES, 4_020_138, 4_037_636, 89.143, "83.0"),
    ("hrnetv2-w48", CITYSCAPES, 65_773_843, 65_859_379, 747.513, "696.2"),
    ("gsto-hrnet-w48", CITYSCAPES, 65_930_442, 66_017_124, 766.562, "713.9"),
    ("pose-hrnet-w32", POSE, 28_481_777, 28_536_113, 17.201, "16.0"),
    ("pose-gsto-hrnet-w32", POSE, 29_561_408, 29_620_538, 19.503, "18.2"),
    ("pose-hrnet-w48", POSE, 63_516_161, 63_595_745, 35.307, "32.9"),
    ("pose-gsto-hrnet-w48", POSE, 65_928_000, 66_014_682, 40.407, "37.6"),
    ("hrnetv2-w18-small-v1", CITYSCAPES, 1_533_587, 1_540_819, 33.391, "31.1"),
    ("hrnetv2-w18", CITYSCAPES, 9_606_643, 9_641_119, 147.401, "137.3"),
    ("gsto-hrnet-w18", CITYSCAPES, 9_634_302, 9_669_324, 150.468, "140.1"),
    ("hrnetv2-w32", CITYSCAPES, 29_488_211, 29_546_515, 361.226, "336.4"),
    ("gsto-hrnet-w32", CITYSCAPES, 29_563_050, 29_622_180, 370.048, "344.6"),
]


@pytest.mark.parametrize(("network", "shape", "convolutions", "parameters", "billions", "printed"), COUNTS)
def test_counts_are_the_released_definitions(
    network: str | HRNet,
    shape: tuple[int, int, int, int],
    convolutions: int,
    parameters: int,
    billions: float,
    printed: str,
) -> None:
    counted = cost(build(network), shape)
    assert (counted.conv_parameters, counted.parameters) == (convolutions, parameters)
    assert round(counted.macs / 1e9, 3) == billions
    assert f"{counted.macs / 2**30:.1f}" == printed


def test_unsupervised_transitions_give_the_last_row_of_table_3() -> None:
    counted = cost(build(replace(GFM, transition_gate="unsupervised")))
    assert f"{counted.conv_parameters / 1e6:.2f}M, {counted.macs / 2**30:.1f}" == "3.93M, 71.7"


def test_the_default_input_is_a_cityscapes_picture() -> None:
    graph = build("hrnetv2-w18-small-v1")
    assert cost(graph) == cost(graph, CITYSCAPES)


def every_op() -> Graph:
    """For 2 x 3 x 5 x 4: see `EVERY_OP` for each node's count."""
    build = GraphBuilder()
    image = build.input("image", 3)
    x = build.conv2d("net.conv", image, 4, kernel=3, stride=2, bias=True)  # 4 x 3 x 2
    x = build.relu(build.batch_norm("net.bn", x), name="net/relu")
    x = build.mul(build.sigmoid(build.slice(x, 0, 1)), x, name="net/gated")
    up = build.resize(x, like=image, name="tail/up")
    near = build.resize(x, like=image, method="nearest", name="tail/near")
    both = build.add([up, near], name="tail/sum")
    pools = [build.avg_pool(both, 2, 2, name="tail/avg"), build.max_pool(both, 2, 2, name="tail/max")]
    build.adaptive_avg_pool(both, size=(2, 2), name="tail/adaptive")
    y = build.conv2d("head", build.concat(pools, name="tail/cat"), 4, groups=4)
    return build.graph({"y": build.softmax(y, name="head/softmax")})


SHAPE = (2, 3, 5, 4)
EVERY_OP = {
    "net.conv": 2 * 4 * 3 * 2 * (3 * 3 * 3),
    "net.bn": 2 * 4 * 3 * 2,
    "net/gated": 2 * 4 * 3 * 2,
    "tail/up": 4 * (2 * 4 * 5 * 4),
    "tail/avg": 4 * (2 * 4 * 2 * 2),
    # Rows 0-2 and 2-4 of five, columns 0-1 and 2-3 of four.
    "tail/adaptive": 2 * 4 * (3 + 3) * (2 + 2),
    "head": 2 * 4 * 2 * 2 * 2,
}
VALUES = [120, 48, 48, 48, 12, 12, 48, 160, 160, 160, 32, 32, 32, 64, 32, 32]
"""Of every node that is no parameter, in declared order."""


def test_every_op_is_counted_by_hand() -> None:
    counted = cost(every_op(), SHAPE, counting="every-op")
    assert counted.macs == sum(EVERY_OP.values())
    assert counted.by_op["conv2d"].macs == EVERY_OP["net.conv"] + EVERY_OP["head"]
    assert counted.by_op["resize"].macs == EVERY_OP["tail/up"]
    assert counted.by_op["mul"].macs == EVERY_OP["net/gated"]
    assert counted.by_op["adaptive_avg_pool"].macs == EVERY_OP["tail/adaptive"]
    free = ("input", "relu", "sigmoid", "softmax", "add", "concat", "slice", "max_pool")
    assert {counted.by_op[kind].macs for kind in free} == {0}


def test_the_papers_convention_counts_convolutions_alone() -> None:
    counted = cost(every_op(), SHAPE)
    assert counted.macs == EVERY_OP["net.conv"] + EVERY_OP["head"]
    assert {part.macs for kind, part in counted.by_op.items() if kind != "conv2d"} == {0}


def test_parameters_are_counted_by_hand() -> None:
    counted = cost(every_op(), SHAPE)
    assert counted.conv_parameters == (4 * 3 * 3 * 3 + 4) + 4 * 2
    assert counted.parameters == counted.conv_parameters + 2 * 4
    assert counted.by_op["batch_norm"].parameters == 8
    assert counted.by_scope["net"].parameters == 4 * 27 + 4 + 8


def test_activations_are_every_nodes_result() -> None:
    graph = every_op()
    assert cost(graph, SHAPE).activation_bytes == 4 * sum(VALUES)
    assert cost(graph, SHAPE, bytes_per_value=2).activation_bytes == 2 * sum(VALUES)


@pytest.mark.parametrize("counting", ["convolutions", "every-op"])
@pytest.mark.parametrize("graph", [every_op(), build("gsto-hrnet-w18-small-v2")], ids=["every-op", "gsto"])
def test_parts_sum_to_the_whole(graph: Graph, counting: str) -> None:
    counted = cost(graph, (2, 3, 64, 96), counting=counting)  # type: ignore[arg-type]
    whole = Part(counted.parameters, counted.conv_parameters, counted.macs, counted.activation_bytes)
    assert isinstance(counted, Cost)
    assert sum(counted.by_op.values(), Part()) == whole
    assert sum(counted.by_scope.values(), Part()) == whole


def test_scopes_are_the_first_part_of_a_path() -> None:
    assert list(cost(every_op(), SHAPE).by_scope) == ["image", "net", "tail", "head"]
    scopes = cost(build("gsto-hrnet-w18-small-v2")).by_scope
    assert {"layer1", "stage2", "att2", "last_layer_stage3", "last_layer"} <= set(scopes)


def test_multiply_adds_grow_with_the_batch_and_parameters_do_not() -> None:
    one, four = (cost(build("hrnetv2-w18-small-v1"), (n, 3, 64, 64)) for n in (1, 4))
    assert four.macs == 4 * one.macs
    assert four.activation_bytes == 4 * one.activation_bytes
    assert four.parameters == one.parameters


def test_an_input_that_the_graph_cannot_take_is_refused() -> None:
    with pytest.raises(GraphError, match=r"^image: expected 3 channels, found 1"):
        cost(build("hrnetv2-w18-small-v1"), (1, 1, 64, 64))


def test_parameters_outside_convolutions_are_no_convolution_parameters() -> None:
    build = GraphBuilder()
    image = build.input()
    scale = build.parameter("scale.weight", Parameter((1, 3, 1, 1)))
    graph = build.graph({"y": build.mul(image, scale)})
    counted = cost(graph, (1, 3, 2, 2), counting="every-op")
    assert (counted.parameters, counted.conv_parameters, counted.macs) == (3, 0, 12)
    assert counted.by_op["mul"].parameters == 3


@pytest.mark.parametrize(
    ("op", "operands", "result", "macs"),
    [
        (Conv2d(), [(1, 4, 9, 9), (8, 4, 3, 5), (8,)], (1, 8, 7, 5), 7 * 5 * 8 * 4 * 15),
        (Mul(), [(1, 1, 2, 2), (1, 5, 2, 2)], (1, 5, 2, 2), 20),
        (Resize("nearest"), [(1, 1, 2, 2), (1, 1, 9, 9)], (1, 1, 9, 9), 0),
        (AvgPool((3, 2), (1, 1)), [(1, 1, 3, 2)], (1, 1, 1, 1), 6),
        (AdaptiveAvgPool((3, 1)), [(1, 2, 4, 3)], (1, 2, 3, 1), 2 * 6 * 3),
    ],
)
def test_an_ops_own_rule(
    op: Conv2d, operands: list[tuple[int, ...]], result: tuple[int, ...], macs: int
) -> None:
    assert op.multiply_adds(operands, result) == macs
