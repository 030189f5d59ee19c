"""The definition of every op against numbers worked out by hand and against loops written out here."""

from fractions import Fraction
from math import ceil, exp, floor
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from gsto_spec import GraphBuilder, evaluate
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
    Padding,
    Parameter,
    Relu,
    Resize,
    Sigmoid,
    Slice,
    Softmax,
)
from gsto_spec.reference import interpolation, resize_bilinear

Array = NDArray[np.float64]


def run(op: Op, *operands: Any, stored: tuple[Any, ...] = ()) -> Array:
    """One op on feature maps (given as inputs, N x C x h x w) and stored tensors."""
    build = GraphBuilder()
    maps = [np.asarray(operand, np.float64) for operand in operands]
    names = [build.input(f"x{k}", each.shape[1]) for k, each in enumerate(maps)]
    tensors = {f"p{k}": np.asarray(each, np.float64) for k, each in enumerate(stored)}
    names += [build.parameter(name, Parameter(each.shape)) for name, each in tensors.items()]
    graph = build.graph({"y": build.apply("y", op, *names)})
    inputs = dict(zip(names, maps, strict=False))
    result: Array = evaluate(graph, tensors, inputs)["y"]
    return result


def row(*values: float) -> Array:
    return np.array(values, np.float64).reshape(1, 1, 1, -1)


def array(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def padded_at(x: Array, n: int, c: int, i: int, j: int, outside: float) -> float:
    inside = 0 <= i < x.shape[2] and 0 <= j < x.shape[3]
    return float(x[n, c, i, j]) if inside else outside


def test_a_leaf_is_what_was_given() -> None:
    build = GraphBuilder()
    graph = build.graph({"x": build.input("x", 1), "p": build.parameter("p", Parameter((2,)))})
    outputs = evaluate(graph, {"p": np.array([1.0, 2.0])}, {"x": row(3)})
    assert_array_equal(outputs["x"], row(3))
    assert_array_equal(outputs["p"], [1, 2])
    assert graph.by_name["x"].op == Input(1)


def test_conv2d_is_a_cross_correlation_by_hand() -> None:
    x = [[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]]
    weight = [[[[1, 0], [0, -1]]]]
    assert run(Conv2d(), x, stored=(weight,)).tolist() == [[[[-4, -4], [-4, -4]]]]
    biased = run(Conv2d(stride=(2, 2), padding=(0, 1, 0, 1)), x, stored=(weight, [10]))
    assert biased.tolist() == [[[[10 + 1 - 5, 10 + 3], [10 + 7, 10 + 9]]]]


def test_conv2d_pads_each_side_by_itself() -> None:
    ones = np.ones((1, 1, 2, 2))
    weight = np.ones((1, 1, 2, 2))
    result = run(Conv2d(padding=(1, 0, 0, 2)), ones, stored=(weight,))
    assert result.tolist() == [[[[2, 1, 0], [4, 2, 0]]]]


def test_conv2d_groups_read_their_own_channels() -> None:
    x = np.arange(1.0, 5.0).reshape(1, 4, 1, 1)
    weight = np.array([[1, 10], [100, 1000]], np.float64).reshape(2, 2, 1, 1)
    assert run(Conv2d(groups=2), x, stored=(weight,)).ravel().tolist() == [1 + 20, 300 + 4000]


@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_conv2d_equals_its_sum(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: Padding,
    dilation: tuple[int, int], groups: int, seed: int,
) -> None:  # fmt: skip
    x, weight, bias = (
        array(2, 4, *size, seed=seed), array(2, 4 // groups, *kernel, seed=seed + 1), array(2, seed=seed + 2)
    )  # fmt: skip
    room = [size[a] + sum(padding[2 * a : 2 * a + 2]) - dilation[a] * (kernel[a] - 1) - 1 for a in (0, 1)]
    assume(min(room) >= 0)
    wanted = np.zeros((2, 2, room[0] // stride[0] + 1, room[1] // stride[1] + 1))
    for n, o, i, j in np.ndindex(*wanted.shape):
        wanted[n, o, i, j] = bias[o]
        for c, u, v in np.ndindex(4 // groups, *kernel):
            place = (
                i * stride[0] + u * dilation[0] - padding[0],
                j * stride[1] + v * dilation[1] - padding[2],
            )
            channel = o // (2 // groups) * (4 // groups) + c
            wanted[n, o, i, j] += weight[o, c, u, v] * padded_at(x, n, channel, *place, 0.0)
    op = Conv2d(stride, padding, dilation, groups)
    assert_allclose(run(op, x, stored=(weight, bias)), wanted, rtol=1e-12, atol=1e-12)


def test_batch_norm_uses_its_running_statistics_by_hand() -> None:
    x = np.array([5.0, -1.0]).reshape(1, 2, 1, 1)
    result = run(BatchNorm(eps=0.25), x, stored=([3, 2], [1, 10], [1, -3], [3.75, 0.75]))
    assert result.ravel().tolist() == [(5 - 1) / 2 * 3 + 1, (-1 + 3) / 1 * 2 + 10]


def test_relu_by_hand() -> None:
    assert run(Relu(), row(-2, 0, 3)).ravel().tolist() == [0, 0, 3]
    assert np.isnan(run(Relu(), row(np.nan))).all()


def test_sigmoid_by_hand() -> None:
    assert_allclose(
        run(Sigmoid(), row(0, 2, -2)).ravel(), [0.5, 1 / (1 + exp(-2)), 1 / (1 + exp(2))], rtol=1e-15
    )
    assert run(Sigmoid(), row(-1000, 1000)).ravel().tolist() == [0, 1]


def test_softmax_is_over_the_channels_by_hand() -> None:
    x = np.array([[1.0, 0.0], [3.0, 0.0]]).reshape(1, 2, 1, 2)
    first = exp(1) / (exp(1) + exp(3))
    assert_allclose(run(Softmax(), x).ravel(), [first, 0.5, 1 - first, 0.5], rtol=1e-14)
    assert_allclose(run(Softmax(), x + 1000), run(Softmax(), x), rtol=1e-12)


def test_add_goes_from_left_to_right() -> None:
    assert run(Add(), row(1), row(2), row(3)).item() == 6
    assert run(Add(), row(1e16), row(-1e16), row(1)).item() == 1
    assert run(Add(), row(1), row(1e16), row(-1e16)).item() == 0


def test_mul_repeats_a_gate_over_the_channels() -> None:
    gate = np.array([2.0, 3.0]).reshape(1, 1, 1, 2)
    x = np.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(1, 2, 1, 2)
    assert run(Mul(), gate, x).ravel().tolist() == [2, 30, 200, 3000]
    assert run(Mul(), x, gate).ravel().tolist() == [2, 30, 200, 3000]


def test_mul_repeats_a_channel_vector_over_the_places() -> None:
    x = np.ones((2, 2, 3, 3))
    scale = np.array([2.0, 5.0]).reshape(1, 2, 1, 1)
    assert run(Mul(), x, stored=(scale,))[:, :, 2, 1].tolist() == [[2, 5], [2, 5]]


def test_concat_and_slice_are_inverse() -> None:
    first, second = array(2, 2, 3, 3), array(2, 3, 3, 3, seed=1)
    both = run(Concat(), first, second)
    assert both.shape == (2, 5, 3, 3)
    assert_array_equal(run(Slice(0, 2), both), first)
    assert_array_equal(run(Slice(2, 5), both), second)


def test_bilinear_with_half_pixel_centres_by_hand() -> None:
    grown = run(Resize(size=(1, 4)), row(0, 4))
    assert grown.ravel().tolist() == [0, 1, 3, 4]
    # Target centres lie at (i + 1/2) 5/3 - 1/2 = 1/3, 2, 11/3.
    shrunk = run(Resize(size=(1, 3)), row(0, 3, 6, 9, 12))
    assert_allclose(shrunk.ravel(), [1, 6, 11], rtol=1e-14)


def test_bilinear_with_aligned_corners_by_hand() -> None:
    grown = run(Resize(align_corners=True, size=(1, 4)), row(0, 6))
    assert_allclose(grown.ravel(), [0, 2, 4, 6], rtol=1e-14)
    assert run(Resize(align_corners=True, size=(1, 1)), row(7, 9)).item() == 7
    assert run(Resize(align_corners=True, size=(1, 3)), row(7)).ravel().tolist() == [7, 7, 7]


def coordinate(index: int, source: int, target: int, aligned: bool) -> Fraction:
    if aligned:
        return Fraction(index * (source - 1), target - 1) if target > 1 else Fraction(0)
    return max(Fraction(2 * index + 1, 2) * Fraction(source, target) - Fraction(1, 2), Fraction(0))


@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_interpolation_is_the_exact_coordinate(source: int, target: int, aligned: bool) -> None:
    low, high, share = interpolation(source, target, aligned)
    for i in range(target):
        exact = coordinate(i, source, target, aligned)
        below = min(floor(exact), source - 1)
        assert (low[i], high[i]) == (below, min(below + 1, source - 1))
        assert share[i] == pytest.approx(float(exact - below), abs=1e-15)


def nearness(place: Fraction, cell: int, cells: int) -> Fraction:
    """What a source cell counts at a place; past the last centre the last value is repeated."""
    if place >= cell == cells - 1:
        return Fraction(1)
    return max(Fraction(0), 1 - abs(place - cell))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("source", "target"), [((3, 5), (7, 2)), ((7, 1), (3, 9)), ((5, 5), (1, 1))])
def test_bilinear_at_odd_sizes_equals_a_weighted_sum(
    aligned: bool, source: tuple[int, int], target: tuple[int, int]
) -> None:
    x = array(1, 2, *source)
    wanted = np.zeros((1, 2, *target))
    for i, j in np.ndindex(*target):
        y = coordinate(i, source[0], target[0], aligned)
        z = coordinate(j, source[1], target[1], aligned)
        for u, v in np.ndindex(*source):
            share = nearness(y, u, source[0]) * nearness(z, v, source[1])
            wanted[0, :, i, j] += float(share) * x[0, :, u, v]
    assert_allclose(run(Resize(align_corners=aligned, size=target), x), wanted, rtol=1e-12, atol=1e-14)
    assert_array_equal(
        resize_bilinear(x, target, aligned), run(Resize(align_corners=aligned, size=target), x)
    )


def test_resizing_to_its_own_size_changes_nothing() -> None:
    x = array(1, 2, 5, 7)
    for op in (Resize(size=(5, 7)), Resize(align_corners=True, size=(5, 7)), Resize("nearest", size=(5, 7))):
        assert_array_equal(run(op, x), x)


def test_nearest_takes_the_floor_in_integers() -> None:
    assert run(Resize("nearest", size=(1, 5)), row(0, 1, 2)).ravel().tolist() == [0, 0, 1, 1, 2]
    assert run(Resize("nearest", size=(1, 2)), row(0, 1, 2, 3, 4)).ravel().tolist() == [0, 2]


@given(st.integers(1, 300), st.integers(1, 300))
def test_nearest_at_any_pair_of_sizes(source: int, target: int) -> None:
    result = run(Resize("nearest", size=(target, 1)), np.arange(float(source)).reshape(1, 1, -1, 1))
    assert result.ravel().tolist() == [floor(Fraction(i * source, target)) for i in range(target)]


def test_resize_takes_the_size_of_its_reference() -> None:
    assert run(Resize(), array(1, 2, 3, 3), np.zeros((1, 1, 3, 3))).shape == (1, 2, 3, 3)
    build = GraphBuilder()
    image = build.input("image", 1)
    half = build.avg_pool(image, 1, 2)
    graph = build.graph({"y": build.resize(half, like=image, method="nearest")})
    result = evaluate(graph, {}, {"image": row(0, 1, 2, 3, 4)})["y"]
    assert result.ravel().tolist() == [0, 0, 2, 2, 4]


def test_avg_pool_by_hand() -> None:
    x = row(1, 3, 5, 7)
    assert run(AvgPool((1, 2), (1, 2)), x).ravel().tolist() == [2, 6]
    padded = AvgPool((1, 2), (1, 2), (0, 0, 1, 1))
    assert run(padded, x).ravel().tolist() == [0.5, 4, 3.5]
    uncounted = AvgPool((1, 2), (1, 2), (0, 0, 1, 1), count_padding=False)
    assert run(uncounted, x).ravel().tolist() == [1, 4, 7]


def test_max_pool_by_hand() -> None:
    assert run(MaxPool((1, 2), (1, 1)), row(1, 3, 2)).ravel().tolist() == [3, 3]
    assert run(MaxPool((1, 2), (1, 1), (0, 0, 1, 1)), row(-1, -3)).ravel().tolist() == [-1, -1, -3]


@pytest.mark.parametrize("kind", ["avg", "avg, padding not counted", "max"])
@given(
    size=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    kernel=st.tuples(st.integers(2, 3), st.integers(1, 2)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    top=st.integers(0, 1),
    seed=st.integers(0, 99),
)
def test_pools_equal_their_windows(
    kind: str, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], top: int, seed: int
) -> None:
    x, padding = array(1, 2, *size, seed=seed), (top, 1, 0, 0)
    places = [(size[0] + top + 1 - kernel[0]) // stride[0] + 1, (size[1] - kernel[1]) // stride[1] + 1]
    wanted = np.zeros((1, 2, *places))
    for c, i, j in np.ndindex(2, *places):
        cells = [(i * stride[0] + u - top, j * stride[1] + v) for u, v in np.ndindex(*kernel)]
        values = [x[0, c, u, v] for u, v in cells if 0 <= u < size[0]]
        count = len(cells) if kind == "avg" else len(values)
        wanted[0, c, i, j] = max(values) if kind == "max" else sum(values) / count
    pooled = (
        MaxPool(kernel, stride, padding) if kind == "max" else AvgPool(kernel, stride, padding, kind == "avg")
    )
    assert_allclose(run(pooled, x), wanted, rtol=1e-13)


def test_adaptive_avg_pool_by_hand() -> None:
    # Five cells on a grid of three: 0-1, 1-3 and 3-4.
    assert run(AdaptiveAvgPool((1, 3)), row(1, 2, 4, 8, 16)).ravel().tolist() == [1.5, 14 / 3, 12]
    assert run(AdaptiveAvgPool((1, 1)), row(1, 2, 6)).item() == 3
    assert run(AdaptiveAvgPool((1, 4)), row(1, 3)).ravel().tolist() == [1, 1, 3, 3]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_adaptive_avg_pool_equals_the_mean_of_the_cells_it_touches(
    height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    x = array(1, 1, height, width, seed=seed)
    result = run(AdaptiveAvgPool((rows, columns)), x)
    for i, j in np.ndindex(rows, columns):
        touched = x[
            0, 0, floor(Fraction(i * height, rows)) : ceil(Fraction((i + 1) * height, rows)),
            floor(Fraction(j * width, columns)) : ceil(Fraction((j + 1) * width, columns)),
        ]  # fmt: skip
        assert result[0, 0, i, j] == pytest.approx(touched.mean(), rel=1e-13)


def test_adaptive_avg_pool_of_a_whole_factor_is_avg_pool() -> None:
    x = array(2, 3, 6, 9)
    assert_allclose(run(AdaptiveAvgPool((3, 3)), x), run(AvgPool((2, 3), (2, 3)), x), rtol=1e-13)
