"""What `gsto-bench` makes of durations, weights and answers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gsto_spec
from gsto_train.bench.cases import GROWTH_BATCHES, GROWTH_SIDES, Case, growing, size
from gsto_train.bench.ceilings import Ceilings, Work, ceilings, probes, work_of
from gsto_train.bench.figures import Growth, Spread, difference, ratio
from gsto_train.bench.material import live_weights
from gsto_train.errors import InputError

DURATIONS = st.floats(1e-4, 1e3)
ROUNDS = st.lists(st.lists(DURATIONS, min_size=1, max_size=4), min_size=1, max_size=6)


def network(job: str = "inference", precision: str = "float32") -> Case:
    graph = gsto_spec.build("gsto-hrnet-w16-mini", classes=3)
    return Case(job, "mini", graph.to_json(), 32, 64, 1, precision)  # type: ignore[arg-type]


@given(ROUNDS, st.floats(0.1, 10.0), st.data())
def test_a_ratio_is_free_of_what_slows_a_whole_round(
    rounds: list[list[float]], faster: float, data: st.DataObject
) -> None:
    drift = [data.draw(st.floats(0.5, 8.0)) for _ in rounds]
    slow = [[value * slowed for value in each] for each, slowed in zip(rounds, drift, strict=True)]
    fast = [[value / faster for value in each] for each in slow]
    found = ratio(slow, fast)
    assert (found.low, found.median, found.high) == pytest.approx((faster,) * 3)


def test_a_ratio_is_the_median_over_rounds_of_the_ratio_of_medians() -> None:
    assert ratio([[2.0, 4.0, 100.0], [9.0], [10.0]], [[1.0, 2.0, 3.0], [3.0], [1.0]]).median == 3.0


@given(st.lists(DURATIONS, min_size=1))
def test_a_quarter_of_the_durations_lies_on_either_side_of_the_spread(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread.low <= spread.median <= spread.high
    quarter = math.ceil((len(values) - 1) / 4)
    assert sum(value < spread.low for value in values) <= quarter
    assert sum(value > spread.high for value in values) <= quarter


@given(st.sets(st.integers(1, 10**7), min_size=2, max_size=6), st.floats(0.3, 2.0), st.floats(1e-6, 1e3))
def test_growth_finds_the_exponent_of_a_power_law(pixels: set[int], exponent: float, factor: float) -> None:
    law = Growth.of({each: factor * each**exponent for each in pixels})
    span = max(pixels) / min(pixels)
    # Logarithms of neighbours differ by 1e-7 at least, in which a rounding of 1e-15 is 1e-8.
    assert law.exponent == pytest.approx(exponent, abs=1e-6)
    if exponent >= 1:
        assert law.worst == pytest.approx(span ** (exponent - 1))
    else:
        assert law.worst < 1


def test_growth_tells_a_jump_that_the_exponent_hides() -> None:
    law = Growth.of({100: 1.0, 200: 1.0, 400: 4.0})
    assert law.exponent == pytest.approx(1.0)
    assert law.worst == 2.0


def test_a_difference_is_relative_to_the_largest_value_of_the_worst_output() -> None:
    reference = {"a": np.array([0.0, -4.0]), "b": np.array([100.0])}
    assert difference(reference, reference) == 0
    assert difference({"a": np.array([1.0, -4.0]), "b": np.array([101.0])}, reference) == 0.25
    assert difference({"a": np.array([1e-3])}, {"a": np.array([0.0])}) == 1e-3


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"b": np.ones(2)},
        {"a": np.ones(3)},
        {"a": np.array([1.0, math.nan])},
        {"a": np.array([1, math.inf])},
    ],
    ids=["nothing", "another name", "another size", "no number", "infinite"],
)
def test_an_answer_of_another_kind_is_infinitely_far(answer: dict[str, np.ndarray]) -> None:
    assert difference(answer, {"a": np.ones(2)}) == math.inf


def test_feature_maps_neither_fade_nor_explode_under_the_weights_that_are_measured() -> None:
    graph = gsto_spec.build("gsto-hrnet-w16-mini", classes=3)
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32))
    outputs = gsto_spec.evaluate(graph, live_weights(graph), {"image": image})
    assert all(1e-3 < np.std(output) < 1e3 for output in outputs.values())


def test_weights_are_those_of_the_seed() -> None:
    graph = gsto_spec.build("gsto-hrnet-w16-mini", classes=3)
    one, same, other = (live_weights(graph, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


PROBES = probes(network(), "cuda")


@settings(max_examples=20, deadline=None)
@given(st.floats(1e9, 1e15), st.floats(1e8, 1e13), st.floats(1e-4, 1.0))
def test_ceilings_are_rates_without_what_it_takes_to_begin(flops: float, rate: float, begin: float) -> None:
    maps = 16 * 16 * 512 * 768 * 4
    operations = 2 * 16 * 4 * 9 * 256 * 256 * 64 * 128
    durations = {
        "no convolutions": begin, "convolutions": begin + operations / flops,
        "no products": begin, "products": begin + 8 * 3 * maps / rate, "crossing": begin,
    }  # fmt: skip
    found = ceilings({name: (case, [[durations[name]]] * 3) for name, case in PROBES.items()})
    # What is taken from `begin` again has its rounding: of 1.0, 2e-16 beside 1e-5 at least.
    assert found.operations == pytest.approx(flops, rel=1e-6 + 1e-15 * begin * flops / operations)
    assert found.bytes == pytest.approx(rate, rel=1e-6 + 1e-15 * begin * rate / maps)
    assert found.crossing == begin


def test_a_ceiling_lost_in_the_noise_is_none() -> None:
    found = ceilings({name: (case, [[1.0]]) for name, case in PROBES.items() if name != "crossing"})
    assert found == Ceilings(None, None)
    assert work_of(network()).seconds(found) is None
    assert ceilings({}) == Ceilings(None, None)


def test_the_crossing_has_inputs_and_outputs_of_the_network() -> None:
    case = network()
    graph, crossing = (gsto_spec.Graph.from_json(each.graph) for each in (case, PROBES["crossing"]))
    shapes, found = graph.check(case.shape), crossing.check(case.shape)
    assert [(name, found[node]) for name, node in crossing.outputs.items()] == [
        (name, shapes[node]) for name, node in graph.outputs.items()
    ]


def test_the_least_time_is_set_by_arithmetic_or_by_traffic() -> None:
    work = Work(operations=100.0, bytes=10.0)
    assert work.seconds(Ceilings(operations=50.0, bytes=10.0)) == 2.0
    assert work.seconds(Ceilings(operations=1000.0, bytes=10.0)) == 1.0


def test_the_work_of_a_network_is_that_of_its_convolutions() -> None:
    graph, case = gsto_spec.build("gsto-hrnet-w16-mini", classes=3), network()
    inference, training = work_of(case), work_of(network("step"))
    plain = gsto_spec.cost(graph, case.shape)
    assert 0 < inference.operations <= 2 * plain.macs
    assert training.operations >= 6 * plain.macs
    assert work_of(network(precision="float64")).bytes == 2 * inference.bytes


def test_growing_cases_are_the_sizes_and_batches_that_are_promised() -> None:
    by_size, by_batch = growing(network())
    assert [(case.height, case.width, case.batch) for case in by_size] == [(s, s, 1) for s in GROWTH_SIDES]
    assert [(case.height, case.width, case.batch) for case in by_batch] == [
        (32, 64, batch) for batch in GROWTH_BATCHES
    ]


@given(st.integers(1, 9999), st.integers(1, 9999))
def test_a_size_is_height_and_width(height: int, width: int) -> None:
    assert size(f"{height}x{width}") == (height, width)


@pytest.mark.parametrize("text", ["", "512", "512x", "x512", "0x5", "-1x5", "1.5x2", "1x2x3", "٣x٤"])
def test_another_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="512x1024"):
        size(text)
