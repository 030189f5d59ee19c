"""Every op and its gradient against the definition in float64, whose slopes come from the complex step."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from contract.definition import STEP
from contract.framework import Array, Arrays, Framework
from contract.ops_drawn import DRAWN, SEED, Applied, array
from gsto_spec import Graph, GraphBuilder, evaluate
from gsto_spec.backend import Backend
from gsto_spec.ops import Conv2d, MaxPool, Op, Parameter, Relu, Resize, Sigmoid, Softmax

SEVERAL = {"mul": 2, "resize bilinear": 2, "pool": 2}
"""Whose examples are so many times as many."""


@dataclass(frozen=True)
class Ops:
    """A backend's compiled graphs."""

    framework: Framework
    compile: Any

    def slopes(self, graph: Graph, weights: Arrays, inputs: Arrays, factors: Arrays) -> Any:
        with self.framework.float64():
            model = self.compile(graph, weights, dtype=self.framework.dtype("float64"))
            model.eval()
            return self.framework.slopes(model, list(inputs.values()), factors)

    def agree(self, graph: Graph, weights: Arrays, inputs: Arrays) -> None:
        """Outputs, and the slope of their weighted sum along one direction of every input."""
        wanted = evaluate(graph, weights, inputs)
        factors = {name: array(7, *value.shape) for name, value in wanted.items()}
        found, slopes = self.slopes(graph, weights, inputs, factors)
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            assert found[name].dtype == np.float64
            assert_allclose(found[name], value, rtol=0, atol=1e-12 * max(1.0, np.abs(value).max()))
        for (name, x), slope in zip(inputs.items(), slopes, strict=True):
            direction = array(8, *x.shape)
            moved = evaluate(graph, weights, {**inputs, name: x + STEP * 1j * direction}, np.complex128)
            exact = sum((moved[key].imag * factor).sum() for key, factor in factors.items()) / STEP
            terms = slope * direction
            assert terms.sum() == pytest.approx(exact, rel=0, abs=1e-12 * max(1.0, np.abs(terms).sum()))

    def agree_on(self, applied: Applied) -> None:
        graph, weights, inputs = graph_of(applied)
        self.agree(graph, weights, inputs)

    def slope_of(self, op: Op, x: Array) -> Array:
        """Of the sum of the results."""
        graph, weights, inputs = graph_of(Applied(op, (x,)))
        ones = {name: np.ones_like(value) for name, value in evaluate(graph, weights, inputs).items()}
        (slope,) = self.slopes(graph, weights, inputs, ones)[1]
        return np.asarray(slope)


def graph_of(applied: Applied) -> tuple[Graph, Arrays, Arrays]:
    """The op alone, its stored tensors, and its maps."""
    build = GraphBuilder()
    roles = ["op.weight", "op.bias"] if applied.owned else [f"p{k}" for k in range(4)]
    names = [build.input(f"x{k}", each.shape[1]) for k, each in enumerate(applied.maps)]
    # Weight and bias are learnt, the running statistics of a norm are not.
    parameters = [Parameter(each.shape, trainable=k < 2) for k, each in enumerate(applied.stored)]
    leaves = [build.parameter(*pair) for pair in zip(roles, parameters, strict=False)]
    graph = build.graph({"y": build.apply("op" if applied.owned else "net/op", applied.op, *names, *leaves)})
    return graph, dict(zip(leaves, applied.stored, strict=True)), dict(zip(names, applied.maps, strict=True))


@pytest.fixture(scope="session")
def ops(framework: Framework, package: Any) -> Ops:
    return Ops(framework, package.compile)


@pytest.mark.parametrize("kind", DRAWN)
def test_an_op_and_its_slopes_are_those_of_the_definition(ops: Ops, kind: str) -> None:
    @settings(max_examples=ops.framework.EXAMPLES * SEVERAL.get(kind, 1))
    @given(DRAWN[kind])
    def every_one(applied: Applied) -> None:
        ops.agree_on(applied)

    every_one()


def test_sizes_are_taken_from_a_node(ops: Ops) -> None:
    @settings(max_examples=ops.framework.EXAMPLES)
    @given(st.tuples(st.integers(2, 17), st.integers(3, 17)), st.integers(1, 3), SEED)
    def at_every_size(size: tuple[int, int], stride: int, seed: int) -> None:
        build = GraphBuilder()
        image = build.input("image", 2)
        low = build.avg_pool(image, 2, stride)
        ends = {
            "bilinear": build.resize(low, like=image),
            "aligned": build.resize(low, like=image, align_corners=True),
            "nearest": build.resize(image, like=low, method="nearest"),
            "adaptive": build.adaptive_avg_pool(image, like=low),
        }
        ops.agree(build.graph(ends), {}, {"image": array(seed, 1, 2, *size)})

    at_every_size()


CELLS = [
    Conv2d(), Conv2d(padding=(0, 1, 0, 0)), Conv2d(stride=(1, 2)), Conv2d(groups=2), Conv2d(dilation=(2, 2)),
]  # fmt: skip


@pytest.mark.parametrize("op", CELLS)
def test_conv2d_of_one_cell(ops: Ops, op: Conv2d) -> None:
    stored = (array(1, 6, 4 // op.groups, 1, 1), array(2, 6))
    ops.agree_on(Applied(op, (array(0, 2, 4, 5, 3),), stored))


@pytest.mark.parametrize("op", [Sigmoid(), Softmax(), Relu()])
def test_large_values(ops: Ops, backend: Backend, op: Op) -> None:
    ops.agree_on(Applied(op, (np.array([[[[-1000.0, 0.5]], [[1000, -0.25]]]]),)))
    # At nought the complex step has no slope of relu to compare with.
    graph, weights, inputs = graph_of(Applied(op, (np.array([[[[-1000.0, 0]], [[1000, -0.0]]]]),)))
    found = backend.predictor(graph, weights, device="cpu", precision="float64").predict(inputs["x0"])
    assert_allclose(found["y"], evaluate(graph, weights, inputs)["y"], rtol=0, atol=1e-12 * 1000)


@pytest.mark.parametrize("factor", [2, 3, 4, 8, 16])
def test_resize_bilinear_by_a_whole_factor(ops: Ops, factor: int) -> None:
    op = Resize("bilinear", size=(5 * factor, 4 * factor))
    ops.agree_on(Applied(op, (array(factor, 1, 2, 5, 4),)))


@pytest.mark.parametrize("factor", [2, 3, 4, 8, 41, 47, 55, 61])
def test_resize_nearest_by_a_whole_factor(ops: Ops, factor: int) -> None:
    # In float32, the floor of i / 41 is one too low at some i.
    op = Resize("nearest", size=(17 * factor, 2 * factor))
    ops.agree_on(Applied(op, (np.arange(34.0).reshape(1, 1, 17, 2),)))


def test_padding_never_wins_a_max_pool(ops: Ops) -> None:
    ops.agree_on(Applied(MaxPool((2, 2), (2, 2), (1, 1, 1, 1)), (-1 - array(0, 1, 2, 3, 3) ** 2,)))


def test_the_first_of_equal_values_has_the_gradient_of_a_max_pool(ops: Ops) -> None:
    slope = ops.slope_of(MaxPool((2, 2), (2, 2)), np.ones((1, 1, 2, 2)))
    assert slope.ravel().tolist() == [1, 0, 0, 0]


def test_relu_has_no_slope_at_nought(ops: Ops) -> None:
    slope = ops.slope_of(Relu(), np.array([-1.0, -0.0, 0.0, 2.0]).reshape(1, 1, 2, 2))
    assert slope.ravel().tolist() == [0, 0, 0, 1]


def test_not_a_number_is_passed_on(backend: Backend) -> None:
    build = GraphBuilder()
    graph = build.graph({"y": build.relu(build.input("x", 1))})
    nan = np.full((1, 1, 1, 1), np.nan)
    assert np.isnan(evaluate(graph, {}, {"x": nan})["y"]).all()
    assert np.isnan(backend.predictor(graph, {}, device="cpu").predict(nan)["y"]).all()


def test_inputs_and_parameters_can_be_outputs_in_their_own_layout(backend: Backend) -> None:
    build = GraphBuilder()
    build.input("x", 2)
    build.parameter("scale", Parameter((2,)))
    build.parameter("kernel", Parameter((2, 3, 4, 5)))
    graph = build.graph({"scale": "scale", "x": "x", "kernel": "kernel"})
    weights = {"scale": array(0, 2), "kernel": array(0, 2, 3, 4, 5)}
    x = array(0, 1, 2, 3, 4)
    found = backend.predictor(graph, weights, device="cpu", precision="float64").predict(x)
    assert list(found) == ["scale", "x", "kernel"]
    for name, wanted in {**weights, "x": x}.items():
        assert np.array_equal(found[name], wanted)
