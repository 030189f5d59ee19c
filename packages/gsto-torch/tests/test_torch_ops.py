"""Every op against its definition in float64, over odd sizes, strides, paddings and dilations."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

import gsto_torch
from gsto_spec import Graph, GraphBuilder, evaluate
from gsto_spec.ops import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv2d,
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
from gsto_torch.ops import compute

Array = NDArray[np.float64]

SIZE = st.tuples(st.integers(1, 17), st.integers(1, 17))
SEED = st.integers(0, 2**31)
few = settings(max_examples=40)


def array(seed: int, *shape: int) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def agree(graph: Graph, weights: dict[str, Array], inputs: dict[str, Array]) -> None:
    wanted = evaluate(graph, weights, inputs)
    model = gsto_torch.compile(graph, weights, dtype=torch.float64).eval()
    with torch.no_grad():
        found = model(*map(torch.from_numpy, inputs.values()))
    assert list(found) == list(wanted)
    for name, tensor in found.items():
        assert tensor.dtype == torch.float64
        bound = 1e-12 * max(1.0, np.abs(wanted[name]).max())
        assert_allclose(tensor.detach().numpy(), wanted[name], rtol=0, atol=bound)


def agree_on(op: Op, *maps: Array, stored: tuple[Array, ...] = ()) -> None:
    """One op; stored tensors are leaves on their own, as in a graph in inference form."""
    build = GraphBuilder()
    names = [build.input(f"x{k}", each.shape[1]) for k, each in enumerate(maps)]
    leaves = [build.parameter(f"p{k}", Parameter(each.shape)) for k, each in enumerate(stored)]
    graph = build.graph({"y": build.apply("net/y", op, *names, *leaves)})
    agree(graph, dict(zip(leaves, stored, strict=True)), dict(zip(names, maps, strict=True)))


TWO = st.tuples(st.integers(1, 3), st.integers(1, 3))
SIDES: st.SearchStrategy[Padding] = st.tuples(*[st.integers(0, 3)] * 4)


@few
@given(SIZE, st.tuples(st.integers(1, 5), st.integers(1, 3)), TWO, SIDES, TWO, st.sampled_from([1, 2]),
       st.booleans(), st.booleans(), SEED)  # fmt: skip
def test_conv2d(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: Padding,
    dilation: tuple[int, int], groups: int, bias: bool, owned: bool, seed: int,
) -> None:  # fmt: skip
    x, weight = array(seed, 2, 4, *size), array(seed + 1, 6, 4 // groups, *kernel)
    for axis in (0, 1):
        room = size[axis] + sum(padding[2 * axis : 2 * axis + 2])
        assume(room > dilation[axis] * (kernel[axis] - 1))
    op = Conv2d(stride, padding, dilation, groups)
    stored = (weight, array(seed + 2, 6)) if bias else (weight,)
    if owned:
        build = GraphBuilder()
        roles = ["conv.weight", "conv.bias"][: len(stored)]
        for role, tensor in zip(roles, stored, strict=True):
            build.parameter(role, Parameter(tensor.shape))
        graph = build.graph({"y": build.apply("conv", op, build.input("x", 4), *roles)})
        agree(graph, dict(zip(roles, stored, strict=True)), {"x": x})
    else:
        agree_on(op, x, stored=stored)


@few
@given(SIZE, st.sampled_from([1e-5, 1e-3, 1.0]), SEED)
def test_batch_norm(size: tuple[int, int], eps: float, seed: int) -> None:
    stored = (array(seed, 3), array(seed + 1, 3), array(seed + 2, 3), array(seed + 3, 3) ** 2)
    agree_on(BatchNorm(eps), array(seed, 2, 3, *size), stored=stored)


@few
@given(st.sampled_from([Relu(), Sigmoid(), Softmax(), Slice(1, 3), Slice(0, 1)]), SIZE, SEED)
def test_ops_of_one_operand(op: Op, size: tuple[int, int], seed: int) -> None:
    agree_on(op, 5 * array(seed, 2, 3, *size))


@pytest.mark.parametrize("op", [Sigmoid(), Softmax(), Relu()])
def test_large_values(op: Op) -> None:
    agree_on(op, np.array([[[[-1000.0, 0]], [[1000, -0.0]]]]))


@few
@given(st.integers(2, 4), SIZE, SEED)
def test_add_and_concat(count: int, size: tuple[int, int], seed: int) -> None:
    agree_on(Add(), *(array(seed + k, 1, 3, *size) for k in range(count)))
    agree_on(Concat(), *(array(seed + k, 1, k + 1, *size) for k in range(count)))


@few
@given(SIZE, st.booleans(), SEED)
def test_mul(size: tuple[int, int], gate_first: bool, seed: int) -> None:
    gate, x = array(seed, 2, 1, *size), array(seed + 1, 2, 3, *size)
    agree_on(Mul(), *((gate, x) if gate_first else (x, gate)))
    agree_on(Mul(), x, stored=(array(seed + 2, 1, 3, 1, 1),))


@few
@given(SIZE, SIZE, st.booleans(), SEED)
def test_resize_bilinear(source: tuple[int, int], target: tuple[int, int], aligned: bool, seed: int) -> None:
    agree_on(Resize("bilinear", aligned, target), array(seed, 2, 2, *source))


@few
@given(st.integers(1, 300), st.integers(1, 300))
def test_resize_nearest(source: int, target: int) -> None:
    agree_on(Resize("nearest", size=(target, 3)), np.arange(2.0 * source).reshape(1, 1, source, 2))


@pytest.mark.parametrize("factor", [2, 3, 4, 8, 41, 47, 55, 61])
def test_resize_nearest_by_a_whole_factor(factor: int) -> None:
    # In float32, the floor of i / 41 is one too low at some i.
    agree_on(Resize("nearest", size=(17 * factor, 2 * factor)), np.arange(34.0).reshape(1, 1, 17, 2))


@few
@given(st.tuples(st.integers(2, 17), st.integers(3, 17)), st.integers(1, 3), SEED)
def test_sizes_are_taken_from_a_node(size: tuple[int, int], stride: int, seed: int) -> None:
    build = GraphBuilder()
    image = build.input("image", 2)
    low = build.avg_pool(image, 2, stride)
    ends = {
        "bilinear": build.resize(low, like=image),
        "aligned": build.resize(low, like=image, align_corners=True),
        "nearest": build.resize(image, like=low, method="nearest"),
        "adaptive": build.adaptive_avg_pool(image, like=low),
    }
    agree(build.graph(ends), {}, {"image": array(seed, 1, 2, *size)})


@st.composite
def pooled_axes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Along one axis: a kernel, padding on both sides smaller than it, and a size that holds a window."""
    kernel = draw(st.integers(1, 4))
    before, after = draw(st.integers(0, kernel - 1)), draw(st.integers(0, kernel - 1))
    return kernel, before, after, draw(st.integers(max(1, kernel - before - after), 17))


@few
@given(pooled_axes(), pooled_axes(), TWO, st.sampled_from(["avg", "mean", "max"]), SEED)
def test_pools(
    rows: tuple[int, int, int, int], columns: tuple[int, int, int, int], stride: tuple[int, int],
    kind: str, seed: int,
) -> None:  # fmt: skip
    kernel, size = (rows[0], columns[0]), (rows[3], columns[3])
    padding = (*rows[1:3], *columns[1:3])
    op: Op = MaxPool(kernel, stride, padding)
    if kind != "max":
        op = AvgPool(kernel, stride, padding, count_padding=kind == "avg")
    agree_on(op, array(seed, 2, 3, *size))


@few
@given(SIZE, SIZE, SEED)
def test_adaptive_avg_pool(source: tuple[int, int], target: tuple[int, int], seed: int) -> None:
    agree_on(AdaptiveAvgPool(target), array(seed, 2, 2, *source))


def test_inputs_and_parameters_can_be_outputs() -> None:
    build = GraphBuilder()
    build.input("x", 1)
    build.parameter("scale", Parameter((2,)))
    graph = build.graph({"scale": "scale", "x": "x"})
    agree(graph, {"scale": np.array([1.0, 2.0])}, {"x": array(0, 1, 1, 2, 2)})


def test_relu_has_no_slope_at_nought() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    compute(Relu(), [x]).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 1]


def test_not_a_number_is_passed_on() -> None:
    nan = np.full((1, 1, 1, 1), np.nan)
    build = GraphBuilder()
    graph = build.graph({"y": build.relu(build.input("x", 1))})
    assert np.isnan(evaluate(graph, {}, {"x": nan})["y"]).all()
    assert torch.isnan(gsto_torch.compile(graph)(torch.from_numpy(nan))["y"]).all()
