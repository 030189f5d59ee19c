"""Every op and its gradient against the definition in float64, whose slopes come from the complex step."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

import gsto_jax
from gsto_jax.backend import JaxBackend
from gsto_jax.ops import compute
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

Array = NDArray[Any]
Arrays = dict[str, Array]

SIZE = st.tuples(st.integers(1, 17), st.integers(1, 17))
SEED = st.integers(0, 2**31)
few = settings(max_examples=15)


def array(seed: int, *shape: int) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def outputs_and_slopes(
    model: gsto_jax.CompiledGraph, images: list[jax.Array], factors: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], tuple[jax.Array, ...]]:
    """In one program, since compiling is what takes the time."""
    outputs, pull = jax.vjp(lambda *images: dict(model(*images)), *images)
    return outputs, pull(factors)


def agree(graph: Graph, weights: Arrays, inputs: Arrays) -> None:
    """Outputs, and the slope of their weighted sum along one direction of every input."""
    wanted = evaluate(graph, weights, inputs)
    with jax.enable_x64(True):
        model = gsto_jax.compile(graph, weights, dtype=np.float64)
        model.eval()  # type: ignore[no-untyped-call]
        images = [jnp.asarray(x.transpose(0, 2, 3, 1)) for x in inputs.values()]
        factors = {name: array(7, *value.shape) for name, value in wanted.items()}
        pulled = {name: jnp.asarray(factor.transpose(0, 2, 3, 1)) for name, factor in factors.items()}
        outputs, slopes = jax.jit(partial(outputs_and_slopes, model))(images, pulled)
        found = {name: np.asarray(output).transpose(0, 3, 1, 2) for name, output in outputs.items()}
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == np.float64
        assert_allclose(found[name], value, rtol=0, atol=1e-12 * max(1.0, np.abs(value).max()))
    for (name, x), slope in zip(inputs.items(), slopes, strict=True):
        direction = array(8, *x.shape)
        moved = evaluate(graph, weights, {**inputs, name: x + 1e-30j * direction}, np.complex128)
        exact = sum((moved[key].imag * factor).sum() for key, factor in factors.items()) / 1e-30
        terms = np.asarray(slope).transpose(0, 3, 1, 2) * direction
        assert terms.sum() == pytest.approx(exact, rel=0, abs=1e-12 * max(1.0, np.abs(terms).sum()))


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
       st.booleans(), SEED)  # fmt: skip
def test_conv2d(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: Padding,
    dilation: tuple[int, int], groups: int, bias: bool, seed: int,
) -> None:  # fmt: skip
    x, weight = array(seed, 2, 4, *size), array(seed + 1, 6, 4 // groups, *kernel)
    for axis in (0, 1):
        room = size[axis] + sum(padding[2 * axis : 2 * axis + 2])
        assume(room > dilation[axis] * (kernel[axis] - 1))
    stored = (weight, array(seed + 2, 6)) if bias else (weight,)
    agree_on(Conv2d(stride, padding, dilation, groups), x, stored=stored)


@pytest.mark.parametrize(
    "op",
    [
        Conv2d(),
        Conv2d(padding=(0, 1, 0, 0)),
        Conv2d(stride=(1, 2)),
        Conv2d(groups=2),
        Conv2d(dilation=(2, 2)),
    ],
)
def test_conv2d_of_one_cell(op: Conv2d) -> None:
    agree_on(op, array(0, 2, 4, 5, 3), stored=(array(1, 6, 4 // op.groups, 1, 1), array(2, 6)))


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
    agree_on(op, np.array([[[[-1000.0, 0.5]], [[1000, -0.25]]]]))


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


@settings(max_examples=30)
@given(SIZE, SIZE, st.booleans(), SEED)
def test_resize_bilinear(source: tuple[int, int], target: tuple[int, int], aligned: bool, seed: int) -> None:
    agree_on(Resize("bilinear", aligned, target), array(seed, 2, 2, *source))


@pytest.mark.parametrize("factor", [2, 3, 4, 8, 16])
def test_resize_bilinear_by_a_whole_factor(factor: int) -> None:
    agree_on(Resize("bilinear", size=(5 * factor, 4 * factor)), array(factor, 1, 2, 5, 4))


@few
@given(st.integers(1, 300), st.integers(1, 300))
def test_resize_nearest(source: int, target: int) -> None:
    agree_on(Resize("nearest", size=(target, 3)), np.arange(2.0 * source).reshape(1, 1, source, 2))


@pytest.mark.parametrize("factor", [2, 4, 8, 41, 61])
def test_resize_nearest_by_a_whole_factor(factor: int) -> None:
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


POOLS = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=30)
@given(SIZE, POOLS, TWO, st.tuples(*[st.integers(0, 3)] * 4), st.sampled_from(["avg", "mean", "max"]), SEED)
def test_pools(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: Padding,
    kind: str, seed: int,
) -> None:  # fmt: skip
    top, bottom, left, right = padding
    padding = (top % kernel[0], bottom % kernel[0], left % kernel[1], right % kernel[1])
    assume(size[0] + sum(padding[:2]) >= kernel[0] and size[1] + sum(padding[2:]) >= kernel[1])
    op: Op = MaxPool(kernel, stride, padding)
    if kind != "max":
        op = AvgPool(kernel, stride, padding, count_padding=kind == "avg")
    agree_on(op, array(seed, 2, 3, *size))


@few
@given(SIZE, SIZE, SEED)
def test_adaptive_avg_pool(source: tuple[int, int], target: tuple[int, int], seed: int) -> None:
    agree_on(AdaptiveAvgPool(target), array(seed, 2, 2, *source))


def test_padding_never_wins_a_max_pool() -> None:
    agree_on(MaxPool((2, 2), (2, 2), (1, 1, 1, 1)), -1 - array(0, 1, 2, 3, 3) ** 2)


def test_the_first_of_equal_values_has_the_gradient_of_a_max_pool() -> None:
    slope = jax.grad(lambda x: compute(MaxPool((2, 2), (2, 2)), [x]).sum())(jnp.ones((1, 2, 2, 1)))
    assert slope.ravel().tolist() == [1, 0, 0, 0]


def test_relu_has_no_slope_at_nought() -> None:
    x = jnp.array([-1.0, -0.0, 0.0, 2.0])
    assert jax.grad(lambda x: compute(Relu(), [x]).sum())(x).tolist() == [0, 0, 0, 1]


def test_not_a_number_is_passed_on() -> None:
    build = GraphBuilder()
    graph = build.graph({"y": build.relu(build.input("x", 1))})
    nan = np.full((1, 1, 1, 1), np.nan)
    assert np.isnan(evaluate(graph, {}, {"x": nan})["y"]).all()
    assert np.isnan(JaxBackend().predictor(graph, {}, device="cpu").predict(nan)["y"]).all()


def test_inputs_and_parameters_can_be_outputs_in_their_own_layout() -> None:
    build = GraphBuilder()
    build.input("x", 2)
    build.parameter("scale", Parameter((2,)))
    build.parameter("kernel", Parameter((2, 3, 4, 5)))
    graph = build.graph({"scale": "scale", "x": "x", "kernel": "kernel"})
    weights = {"scale": array(0, 2), "kernel": array(0, 2, 3, 4, 5)}
    x = array(0, 1, 2, 3, 4)
    found = JaxBackend().predictor(graph, weights, device="cpu", precision="float64").predict(x)
    assert list(found) == ["scale", "x", "kernel"]
    for name, wanted in {**weights, "x": x}.items():
        assert np.array_equal(found[name], wanted)


def test_ops_of_static_tables_can_be_mapped_and_differentiated_twice() -> None:
    x = jnp.asarray(array(3, 2, 1, 4, 5, 2), jnp.float32)
    op = Resize("bilinear", size=(8, 12))
    mapped = jax.vmap(lambda each: compute(op, [each]))(x)
    for one, many in zip(x, mapped, strict=True):
        assert jnp.array_equal(compute(op, [one]), many)

    def cubes(x: jax.Array) -> jax.Array:
        return (compute(op, [x]) ** 3).sum() / 6

    point, direction = x[0], x[1]
    curved = jax.grad(lambda x: (jax.grad(cubes)(x) * direction).sum())(point)
    resized, along = compute(op, [point]), compute(op, [direction])
    assert float((curved * direction).sum()) == pytest.approx(float((resized * along**2).sum()), rel=1e-4)
