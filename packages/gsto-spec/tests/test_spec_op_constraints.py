"""One test for each constraint of an op, by its label: what is refused, and the whole message."""

import numpy as np
import pytest

from gsto_spec import GraphBuilder, GraphError, evaluate, initial_weights
from gsto_spec.ops import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv2d,
    Input,
    MaxPool,
    Mul,
    Op,
    Parameter,
    Relu,
    Resize,
    Sigmoid,
    Slice,
    Softmax,
)  # fmt: skip


@pytest.fixture
def build() -> GraphBuilder:
    """A picture, what half its resolution is, and stored tensors that fit one channel or three."""
    build = GraphBuilder()
    build.input("image", 3)
    build.avg_pool("image", 2, 2, name="half")
    build.parameter("kernel", Parameter((4, 3, 3, 3)))
    build.parameter("three", Parameter((3,)))
    build.parameter("four", Parameter((4,)))
    return build


def refusal(build: GraphBuilder, op: Op, *operands: str) -> str:
    with pytest.raises(GraphError) as caught:
        build.apply("net/node", op, *operands)
    return str(caught.value)


def test_input_c1_takes_no_operands(build: GraphBuilder) -> None:
    assert refusal(build, Input(), "image") == (
        "net/node: expected no operands, found 1 (operands image) [input_c1]"
    )


def test_input_c2_has_a_channel(build: GraphBuilder) -> None:
    assert refusal(build, Input(0)) == "net/node: expected at least 1 channel, found 0 [input_c2]"


def test_parameter_c1_takes_no_operands(build: GraphBuilder) -> None:
    assert refusal(build, Parameter((1,)), "image", "half") == (
        "net/node: expected no operands, found 2 (operands image, half) [parameter_c1]"
    )


@pytest.mark.parametrize("shape", [(), (4, 0), (-1,)])
def test_parameter_c2_has_dimensions(build: GraphBuilder, shape: tuple[int, ...]) -> None:
    assert refusal(build, Parameter(shape)) == (
        f"net/node: expected one or more dimensions of at least 1, found {shape} [parameter_c2]"
    )


@pytest.mark.parametrize("operands", [("image",), ("image", "kernel", "four", "four")])
def test_conv2d_c1_takes_two_or_three_operands(build: GraphBuilder, operands: tuple[str, ...]) -> None:
    assert refusal(build, Conv2d(), *operands) == (
        f"net/node: expected x, weight and optionally bias, found {len(operands)} "
        f"(operands {', '.join(operands)}) [conv2d_c1]"
    )


def test_conv2d_c2_reads_a_feature_map(build: GraphBuilder) -> None:
    assert refusal(build, Conv2d(), "kernel", "kernel") == (
        "net/node: expected a feature map (N x C x h x w), found 4 x 3 x 3 x 3 (operands kernel, kernel) "
        "[conv2d_c2]"
    )


@pytest.mark.parametrize(("weight", "shape"), [("three", "3"), ("image", "N x 3 x H x W")])
def test_conv2d_c3_has_a_weight_of_four_numbers(build: GraphBuilder, weight: str, shape: str) -> None:
    assert refusal(build, Conv2d(), "image", weight) == (
        f"net/node: expected a weight of O x I x kh x kw, found {shape} (operands image, {weight}) "
        "[conv2d_c3]"
    )


@pytest.mark.parametrize(
    ("shape", "groups"), [((4, 2, 1, 1), 1), ((4, 1, 1, 1), 3), ((3, 3, 1, 1), 3), ((4, 3, 1, 1), 0)]
)
def test_conv2d_c4_weight_fits_the_channels_and_groups(
    build: GraphBuilder, shape: tuple[int, ...], groups: int
) -> None:
    build.parameter("weight", Parameter(shape))
    assert refusal(build, Conv2d(groups=groups), "image", "weight") == (
        "net/node: expected a weight of shape O x 3/groups x kh x kw with O divisible by groups, found "
        f"O = {shape[0]}, I = {shape[1]}, groups = {groups} (operands image, weight) [conv2d_c4]"
    )


def test_conv2d_c5_has_a_bias_per_output_channel(build: GraphBuilder) -> None:
    assert refusal(build, Conv2d(), "image", "kernel", "three") == (
        "net/node: expected a bias of shape 4, found 3 (operands image, kernel, three) [conv2d_c5]"
    )


@pytest.mark.parametrize(
    "op", [Conv2d(stride=(0, 1)), Conv2d(padding=(0, 0, -1, 0)), Conv2d(dilation=(1, 0))], ids=str
)
def test_conv2d_c6_steps_forward(build: GraphBuilder, op: Conv2d) -> None:
    assert refusal(build, op, "image", "kernel") == (
        "net/node: expected kernel, stride and dilation of at least 1, padding of at least 0, found stride "
        f"{op.stride}, padding {op.padding}, kernel and dilation {(3, 3, *op.dilation)} "
        "(operands image, kernel) [conv2d_c6]"
    )


def test_batch_norm_c1_takes_five_operands(build: GraphBuilder) -> None:
    assert refusal(build, BatchNorm(), "image", "three", "three") == (
        "net/node: expected x, weight, bias, running_mean and running_var, found 3 "
        "(operands image, three, three) [batch_norm_c1]"
    )


def test_batch_norm_c2_reads_a_feature_map(build: GraphBuilder) -> None:
    assert refusal(build, BatchNorm(), "three", "three", "three", "three", "three") == (
        "net/node: expected a feature map (N x C x h x w), found 3 "
        "(operands three, three, three, three, three) [batch_norm_c2]"
    )


def test_batch_norm_c3_stores_a_value_per_channel(build: GraphBuilder) -> None:
    assert refusal(build, BatchNorm(), "image", "three", "four", "three", "four") == (
        "net/node: expected x, weight, bias, running_mean and running_var of 3 values, found ['4', '4'] "
        "(operands image, three, four, three, four) [batch_norm_c3]"
    )


@pytest.mark.parametrize(("eps", "momentum"), [(0.0, 0.1), (1e-5, -0.1), (1e-5, 1.5)])
def test_batch_norm_c4_has_sane_numbers(build: GraphBuilder, eps: float, momentum: float) -> None:
    assert refusal(build, BatchNorm(eps, momentum), "image", *["three"] * 4) == (
        f"net/node: expected eps > 0 and 0 <= momentum <= 1, found eps {eps}, momentum {momentum} "
        "(operands image, three, three, three, three) [batch_norm_c4]"
    )


def test_batch_norm_c5_refuses_one_value_per_channel_in_training() -> None:
    build = GraphBuilder()
    graph = build.graph({"y": build.batch_norm("bn", build.input())})
    with pytest.raises(GraphError) as caught:
        evaluate(graph, initial_weights(graph), {"image": np.ones((1, 3, 1, 1))}, train_mode=True)
    assert str(caught.value) == (
        "bn: expected more than one value per channel in training (a larger batch or picture), "
        "found an operand of 1 x 3 x 1 x 1 [batch_norm_c5]"
    )


def test_relu_c1_takes_one_operand(build: GraphBuilder) -> None:
    assert refusal(build, Relu(), "image", "half") == (
        "net/node: expected one operand, found 2 (operands image, half) [relu_c1]"
    )


def test_sigmoid_c1_takes_one_operand(build: GraphBuilder) -> None:
    assert refusal(build, Sigmoid()) == "net/node: expected one operand, found 0 [sigmoid_c1]"


def test_softmax_c1_takes_one_operand(build: GraphBuilder) -> None:
    assert refusal(build, Softmax(), "image", "half") == (
        "net/node: expected one operand, found 2 (operands image, half) [softmax_c1]"
    )


def test_softmax_c2_reads_a_feature_map(build: GraphBuilder) -> None:
    assert refusal(build, Softmax(), "kernel") == (
        "net/node: expected a feature map (N x C x h x w), found 4 x 3 x 3 x 3 (operands kernel) [softmax_c2]"
    )


def test_add_c1_takes_two_operands_or_more(build: GraphBuilder) -> None:
    assert refusal(build, Add(), "image") == (
        "net/node: expected two operands or more, found 1 (operands image) [add_c1]"
    )


def test_add_c2_has_operands_of_one_shape(build: GraphBuilder) -> None:
    assert refusal(build, Add(), "image", "image", "half") == (
        "net/node: expected operands of one shape, N x 3 x H x W (bring them to one size with "
        "resize(like=...)), found N x 3 x H//2 x W//2 (operands image, image, half) [add_c2]"
    )


def test_mul_c1_takes_two_operands(build: GraphBuilder) -> None:
    assert refusal(build, Mul(), "image", "image", "image") == (
        "net/node: expected two operands, found 3 (operands image, image, image) [mul_c1]"
    )


@pytest.mark.parametrize(("other", "shape"), [("half", "N x 3 x H//2 x W//2"), ("three", "3")])
def test_mul_c2_has_dimensions_equal_or_one(build: GraphBuilder, other: str, shape: str) -> None:
    assert refusal(build, Mul(), "image", other) == (
        "net/node: expected shapes equal or 1 in every dimension of N x 3 x H x W (bring them to one size "
        f"with resize(like=...)), found {shape} (operands image, {other}) [mul_c2]"
    )


def test_concat_c1_takes_two_operands_or_more(build: GraphBuilder) -> None:
    assert refusal(build, Concat(), "half") == (
        "net/node: expected two operands or more, found 1 (operands half) [concat_c1]"
    )


def test_concat_c2_reads_feature_maps(build: GraphBuilder) -> None:
    assert refusal(build, Concat(), "image", "kernel") == (
        "net/node: expected a feature map (N x C x h x w), found 4 x 3 x 3 x 3 (operands image, kernel) "
        "[concat_c2]"
    )


def test_concat_c3_has_operands_of_one_size(build: GraphBuilder) -> None:
    assert refusal(build, Concat(), "image", "half") == (
        "net/node: expected operands of one size, H x W (bring them to one size with resize(like=...)), "
        "found N x 3 x H//2 x W//2 (operands image, half) [concat_c3]"
    )


def test_slice_c1_takes_one_operand(build: GraphBuilder) -> None:
    assert refusal(build, Slice(0, 1), "image", "half") == (
        "net/node: expected one operand, found 2 (operands image, half) [slice_c1]"
    )


def test_slice_c2_reads_a_feature_map(build: GraphBuilder) -> None:
    assert refusal(build, Slice(0, 1), "three") == (
        "net/node: expected a feature map (N x C x h x w), found 3 (operands three) [slice_c2]"
    )


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (2, 2), (-1, 2), (2, 1)])
def test_slice_c3_stays_inside_the_channels(build: GraphBuilder, start: int, stop: int) -> None:
    assert refusal(build, Slice(start, stop), "image") == (
        f"net/node: expected 0 <= start < stop <= 3, found start {start}, stop {stop} (operands image) "
        "[slice_c3]"
    )


def test_resize_c1_has_a_number_or_a_reference(build: GraphBuilder) -> None:
    assert refusal(build, Resize(), "image") == (
        "net/node: expected x and the node whose size to take, found 1 (operands image) [resize_c1]"
    )
    assert refusal(build, Resize(size=(2, 2)), "image", "half") == (
        "net/node: expected x alone, for a fixed size, found 2 (operands image, half) [resize_c1]"
    )


def test_resize_c2_reads_feature_maps(build: GraphBuilder) -> None:
    assert refusal(build, Resize(), "image", "kernel") == (
        "net/node: expected a feature map (N x C x h x w), found 4 x 3 x 3 x 3 (operands image, kernel) "
        "[resize_c2]"
    )


def test_resize_c3_has_a_size_of_at_least_one(build: GraphBuilder) -> None:
    assert refusal(build, Resize(size=(0, 4)), "image") == (
        "net/node: expected a size of at least 1 x 1, found (0, 4) (operands image) [resize_c3]"
    )


def test_resize_c4_aligns_corners_only_where_bilinear(build: GraphBuilder) -> None:
    assert refusal(build, Resize("nearest", True), "image", "half") == (
        "net/node: expected align_corners only with method bilinear, found nearest (operands image, half) "
        "[resize_c4]"
    )


def test_avg_pool_c1_takes_one_operand(build: GraphBuilder) -> None:
    assert refusal(build, AvgPool((2, 2), (2, 2)), "image", "half") == (
        "net/node: expected one operand, found 2 (operands image, half) [avg_pool_c1]"
    )


def test_avg_pool_c2_reads_a_feature_map(build: GraphBuilder) -> None:
    assert refusal(build, AvgPool((2, 2), (2, 2)), "three") == (
        "net/node: expected a feature map (N x C x h x w), found 3 (operands three) [avg_pool_c2]"
    )


def test_avg_pool_c3_steps_forward(build: GraphBuilder) -> None:
    assert refusal(build, AvgPool((2, 0), (2, 2)), "image") == (
        "net/node: expected kernel, stride and dilation of at least 1, padding of at least 0, found stride "
        "(2, 2), padding (0, 0, 0, 0), kernel and dilation (2, 0) (operands image) [avg_pool_c3]"
    )


def test_avg_pool_c4_has_a_value_in_every_window(build: GraphBuilder) -> None:
    assert refusal(build, AvgPool((2, 3), (1, 1), (0, 2, 0, 0)), "image") == (
        "net/node: expected padding below the kernel (2, 3), so that every window holds a value, "
        "found (0, 2, 0, 0) (operands image) [avg_pool_c4]"
    )


def test_max_pool_c1_takes_one_operand(build: GraphBuilder) -> None:
    assert refusal(build, MaxPool((2, 2), (2, 2))) == (
        "net/node: expected one operand, found 0 [max_pool_c1]"
    )


def test_max_pool_c2_reads_a_feature_map(build: GraphBuilder) -> None:
    assert refusal(build, MaxPool((2, 2), (2, 2)), "four") == (
        "net/node: expected a feature map (N x C x h x w), found 4 (operands four) [max_pool_c2]"
    )


def test_max_pool_c3_steps_forward(build: GraphBuilder) -> None:
    assert refusal(build, MaxPool((2, 2), (2, 0)), "image") == (
        "net/node: expected kernel, stride and dilation of at least 1, padding of at least 0, found stride "
        "(2, 0), padding (0, 0, 0, 0), kernel and dilation (2, 2) (operands image) [max_pool_c3]"
    )


def test_max_pool_c4_has_a_value_in_every_window(build: GraphBuilder) -> None:
    assert refusal(build, MaxPool((3, 2), (1, 1), (0, 0, 0, 2)), "image") == (
        "net/node: expected padding below the kernel (3, 2), so that every window holds a value, "
        "found (0, 0, 0, 2) (operands image) [max_pool_c4]"
    )


def test_adaptive_avg_pool_c1_has_a_number_or_a_reference(build: GraphBuilder) -> None:
    assert refusal(build, AdaptiveAvgPool(), "image") == (
        "net/node: expected x and the node whose size to take, found 1 (operands image) "
        "[adaptive_avg_pool_c1]"
    )


def test_adaptive_avg_pool_c2_reads_feature_maps(build: GraphBuilder) -> None:
    assert refusal(build, AdaptiveAvgPool((1, 1)), "three") == (
        "net/node: expected a feature map (N x C x h x w), found 3 (operands three) [adaptive_avg_pool_c2]"
    )


def test_adaptive_avg_pool_c3_has_a_size_of_at_least_one(build: GraphBuilder) -> None:
    assert refusal(build, AdaptiveAvgPool((2, -1)), "image") == (
        "net/node: expected a size of at least 1 x 1, found (2, -1) (operands image) [adaptive_avg_pool_c3]"
    )
