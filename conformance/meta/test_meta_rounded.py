"""Precisions of two bytes: how numbers round, and whether one op's bound holds and means something."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance import noise, tolerance
from conformance.cases import Case
from conformance.expected import one_op, training
from conformance.low import fan, gated, selecting, short
from conformance.rounded import FORMATS, RoundedOracle, read
from gsto_spec.backend import Training
from gsto_spec.graph import Node
from gsto_spec.ops import Add, Conv2d, Input, Parameter
from gsto_spec.reference import evaluate_nodes

Array = NDArray[Any]

drawn = settings(max_examples=60, deadline=None)
arrays = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40).map(
    lambda values: np.array(values, np.float32)
)
precisions = st.sampled_from(["bfloat16", "float16"])


@drawn
@given(arrays)
def test_float16_rounds_as_numpys(x: Array) -> None:
    with np.errstate(over="ignore"):
        want = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(FORMATS["float16"].rounded(x), want)


@drawn
@given(arrays)
def test_bfloat16_rounds_as_the_upper_half_of_a_float32(x: Array) -> None:
    """To even: the lower half is added up to a carry, one less where the last bit kept is 0."""
    bits = x.view(np.uint32)
    up = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    want = ((bits + up) & np.uint32(0xFFFF0000)).view(np.float32)
    np.testing.assert_array_equal(FORMATS["bfloat16"].rounded(x), want)


@drawn
@given(precisions, st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_at_random_it_is_a_neighbour_and_on_average_the_number(precision: str, x: float, seed: int) -> None:
    form = FORMATS[precision]
    many = form.rounded_at_random(np.full(4000, x), np.random.default_rng(seed)).astype(np.float64)
    assert len(np.unique(many)) <= 2
    assert np.abs(many - x).max() <= 2 * form.unit_roundoff * x
    # Of 4000, the mean's deviation is at most a 126th of the distance of neighbours: eight of them.
    assert abs(many.mean() - x) < 8 / 126 * 2 * form.unit_roundoff * x


def _values(case: Case, precision: str) -> dict[str, Array]:
    predictor = RoundedOracle(precision).predictor(case.graph, case.weights, precision=precision)
    return predictor.run(case.image, training=False)


def _share(node: Node, operands: Sequence[Array], got: Array, precision: str) -> float:
    """The largest error of an op over its bound."""
    exact = [np.asarray(x, np.float64) for x in read(node.op, operands, FORMATS[precision])]
    want = one_op(node, exact)
    return float((np.abs(got - want) / tolerance.op_bound(node.op, exact, want, precision)).max())


@settings(max_examples=20, deadline=None)
@given(precisions, st.integers(0, 2**16), st.integers(5, 17), st.integers(5, 17))
def test_each_op_of_the_rounded_oracle_is_within_its_bound(
    precision: str, seed: int, height: int, width: int
) -> None:
    for graph in (fan(3, (9, 11)), gated()):
        case = short(Case(graph, (1, 3, height, width), seed), precision)
        values = _values(case, precision)
        for node in graph.order:
            if not isinstance(node.op, (Input, Parameter)):
                operands = [values[name] for name in node.operands]
                assert _share(node, operands, values[node.name], precision) <= 1, node.name


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_second_rounding_is_past_the_bound(precision: str) -> None:
    """Of all ops that round once, to a type of one bit less."""
    case = short(Case(fan(3, (9, 11)), (2, 3, 17, 16), 1), precision)
    values, form = _values(case, precision), FORMATS[precision]
    coarse = type(form)(form.bits - 1, form.largest, form.smallest_normal)
    for node in case.graph.order:
        two = isinstance(node.op, Add) or (isinstance(node.op, Conv2d) and len(node.operands) == 3)
        if not isinstance(node.op, (Input, Parameter)) and not two:
            operands = [values[name] for name in node.operands]
            assert _share(node, operands, coarse.rounded(values[node.name]), precision) > 1, node.name


def test_statistics_losses_and_weights_stay_in_float32() -> None:
    case = short(Case(selecting(1), (2, 3, 9, 9), 2, Training()), "bfloat16")
    trainer = RoundedOracle().trainer(case.graph, case.weights, case.training, precision="bfloat16")
    told = trainer.step(case.batch, 0.01)
    state = trainer.state()
    rounded = FORMATS["bfloat16"].rounded
    for value in (
        told["loss"],
        *(state[name] for name in ("norm.running_mean", "norm.weight", "head.weight")),
    ):
        assert not np.array_equal(rounded(np.asarray(value)), np.asarray(value))
    exact = evaluate_nodes(case.graph, case.weights, {"image": case.image})
    assert np.array_equal(_values(case, "bfloat16")["image"], exact["image"])


def test_rounding_to_nearest_strays_less_than_rounding_at_random() -> None:
    """Gradients and statistics of a training step, over the largest error of the five runs."""
    shares = []
    for seed in range(4):
        case = short(Case(gated(), (2, 3, 19, 17), seed), "bfloat16")
        trainer = RoundedOracle().trainer(case.graph, case.weights, case.training, precision="bfloat16")
        nearest = noise.observe(trainer, case)
        for check in ("gradients", "statistics"):
            for name, quantity in getattr(training(case), check).items():
                runs = [run.of(check)[name] for run in noise.strays(case, "bfloat16")[1:]]
                largest = tolerance.spread(quantity.want, runs) / tolerance.SPREADS
                shares.append(tolerance.norm(nearest.of(check)[name] - quantity.want) / largest)
    assert np.median(shares) < 1 and max(shares) < 2
