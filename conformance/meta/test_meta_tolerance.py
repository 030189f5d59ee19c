"""The derivations of docs/numerics.md, checked with numbers: bounds hold, and are not vacuous."""

import inspect
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance import noise, rules, tolerance
from conformance.arithmetic import ORDERS, Arithmetic
from gsto_spec.ops import AdaptiveAvgPool, Add, AvgPool, BatchNorm, Conv2d, Mul, Op, Resize, Sigmoid, Softmax
from gsto_spec.reference import interpolation

Array = NDArray[Any]
Form = Callable[[Sequence[Array]], Array]

PAGE = (Path(__file__).parents[2] / "docs" / "numerics.md").read_text(encoding="utf-8")
MODULES: tuple[ModuleType, ...] = (tolerance, noise, rules)
U = 2.0**-24
ONE, HALF = np.float32(1), np.float32(0.5)

drawn = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32)
offsets = st.sampled_from([0.0, 3.0, 30.0])
sides = st.integers(1, 65)


# The page and the code


def documented() -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in re.findall(r"\b([A-Z][A-Z_]+) = (2\^-\d+|[\d.]+(?:e-?\d+)?)", PAGE):
        number = 2.0 ** int(value[2:]) if value.startswith("2^") else float(value.rstrip("."))
        assert found.setdefault(name, number) == number, f"{name} has two values on the page"
    return found


def constants() -> Iterator[tuple[str, float]]:
    for module in MODULES:
        for name in re.findall(r"^([A-Z][A-Z_]+) = ", inspect.getsource(module), re.MULTILINE):
            if isinstance(value := getattr(module, name), int | float):
                yield name, float(value)


def test_every_constant_of_the_code_has_its_value_on_the_page() -> None:
    assert documented() == dict(constants())


# Bounds hold for every order and form


def within(op: Op, operands: Sequence[Array], *forms: Form) -> None:
    """Each form in float32 lies within the bound around the value in float64."""
    given_exactly = [operand.astype(np.float64) for operand in operands]
    want = rules.value(op, given_exactly, False)
    bound = tolerance.local_bound(op, given_exactly, want, U)
    in_orders: list[Form] = [by_rule(op, sums) for sums in ORDERS]
    for form in [*in_orders, *forms]:
        got = form(operands)
        assert got.dtype == np.float32
        assert (np.abs(got - want) <= bound).all()


def by_rule(op: Op, sums: Arithmetic) -> Form:
    return lambda operands: rules.value(op, operands, False, sums)


def normal(seed: int, *shape: int, offset: float = 0.0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) + offset).astype(np.float32)


@drawn
@given(st.integers(1, 1200), st.booleans(), offsets, seeds)
def test_sums_of_products_stay_within_their_bound(terms: int, bias: bool, offset: float, seed: int) -> None:
    x, weight = normal(seed, 1, terms, 4, 5, offset=offset), normal(seed + 1, 3, terms, 1, 1, offset=offset)
    within(Conv2d(), [x, weight, *([normal(seed + 2, 3)] if bias else [])])


@drawn
@given(st.sampled_from([1, 2]), st.integers(1, 4), offsets, seeds)
def test_windows_stay_within_their_bound(groups: int, kernel: int, offset: float, seed: int) -> None:
    op = Conv2d((2, 1), (1, 2, 0, 1), groups=groups)
    x, weight = normal(seed, 2, 4, 9, 7, offset=offset), normal(seed + 1, 4, 4 // groups, kernel, kernel)
    within(op, [x, weight])


@drawn
@given(offsets, st.sampled_from([1e-5, 1e-3, 0.1]), st.sampled_from([1e-4, 0.3, 50.0]), seeds)
def test_batch_norm_stays_within_its_bound(offset: float, eps: float, variance: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    mean = (generator.standard_normal(6) + offset).astype(np.float32)
    variances = (variance * generator.uniform(0.5, 2, 6)).astype(np.float32)
    operands = [normal(seed, 3, 6, 5, 7, offset=offset), normal(seed + 1, 6), normal(seed + 2, 6), mean]
    within(
        BatchNorm(eps=eps), [*operands, variances], by_reciprocal(eps, fold=False), by_reciprocal(eps, True)
    )


def by_reciprocal(eps: float, fold: bool) -> Form:
    """With a reciprocal root, which two of the frameworks use."""

    def form(operands: Sequence[Array]) -> Array:
        x, (weight, bias, mean, variance) = operands[0], (v[:, None, None] for v in operands[1:])
        scale = ONE / np.sqrt(variance + np.float32(eps))
        if fold:
            return np.asarray(x * (weight * scale) + (bias - mean * (weight * scale)))
        return np.asarray((x - mean) * scale * weight + bias)

    return form


@drawn
@given(st.sampled_from([0.1, 1.0, 10.0, 100.0]), seeds)
def test_sigmoid_stays_within_its_bound(scale: float, seed: int) -> None:
    x = np.float32(scale) * normal(seed, 1, 4, 30, 30)

    def by_tanh(operands: Sequence[Array]) -> Array:
        return np.asarray(HALF + HALF * np.tanh(HALF * operands[0]))

    within(Sigmoid(), [x], by_tanh)


@drawn
@given(st.integers(1, 40), st.sampled_from([0.1, 1.0, 10.0, 60.0]), offsets, seeds)
def test_softmax_stays_within_its_bound(channels: int, scale: float, offset: float, seed: int) -> None:
    x = np.float32(scale) * normal(seed, 2, channels, 7, 7, offset=offset)

    def by_reciprocal_sum(operands: Sequence[Array]) -> Array:
        raised = np.exp(operands[0] - operands[0].max(axis=1, keepdims=True))
        return np.asarray(raised * (ONE / raised.sum(axis=1, keepdims=True)))

    within(Softmax(), [x], by_reciprocal_sum)


@drawn
@given(sides, sides, sides, sides, st.booleans(), offsets, seeds)
def test_resizes_stay_within_their_bound(
    height: int, width: int, rows: int, columns: int, corners: bool, offset: float, seed: int
) -> None:
    op = Resize("bilinear", corners, (rows, columns))
    within(op, [normal(seed, 1, 2, height, width, offset=offset)], by_lerp(op), by_four_weights(op))


def rounded_taps(op: Resize, x: Array, axis: int) -> tuple[Array, Array, Array]:
    """Coordinates in float32, in the order of operations that torch has."""
    assert op.size is not None
    source, target = x.shape[2 + axis], op.size[axis]
    index = np.arange(target, dtype=np.float32)
    if op.align_corners:
        where = index * (np.float32(source - 1) / np.float32(max(target - 1, 1)))
    else:
        where = (index + HALF) * (np.float32(source) / np.float32(target)) - HALF
    where = np.maximum(where, np.float32(0))
    low = np.minimum(where.astype(int), source - 1)
    return low, np.minimum(low + 1, source - 1), where - low.astype(np.float32)


def by_lerp(op: Resize) -> Form:
    """a + share (b - a), rows and then columns."""

    def form(operands: Sequence[Array]) -> Array:
        x = operands[0]
        (top, bottom, down), (left, right, across) = (rounded_taps(op, x, axis) for axis in (0, 1))
        rows = x[:, :, top] + down[:, None] * (x[:, :, bottom] - x[:, :, top])
        return np.asarray(rows[..., left] + across * (rows[..., right] - rows[..., left]))

    return form


def by_four_weights(op: Resize) -> Form:
    """The four products of weights first, then one sum."""

    def form(operands: Sequence[Array]) -> Array:
        x = operands[0]
        (top, bottom, down), (left, right, across) = (rounded_taps(op, x, axis) for axis in (0, 1))
        up, back = ONE - down, ONE - across
        corners = [(top, left, up, back), (top, right, up, across)]
        corners += [(bottom, left, down, back), (bottom, right, down, across)]
        parts = [np.multiply.outer(v, h) * x[:, :, i][..., j] for i, j, v, h in corners]
        return np.asarray(((parts[0] + parts[1]) + parts[2]) + parts[3])

    return form


@given(st.integers(1, 2000), st.integers(1, 2000), st.booleans())
def test_source_coordinates_stay_within_their_bound(source: int, target: int, corners: bool) -> None:
    op = Resize("bilinear", corners, (target, 1))
    low, _, share = rounded_taps(op, np.zeros((1, 1, source, 1), np.float32), 0)
    exact_low, _, exact_share = interpolation(source, target, corners)
    error = np.abs((low + share.astype(float)) - (exact_low + exact_share))
    # The last cell repeats: where the exact coordinate lies beyond its centre, the two may count it apart.
    inside = (low < source - 1) & (exact_low < source - 1)
    allowed = tolerance.COORDINATE_ROUNDINGS * U * (exact_low + exact_share + 1)
    assert (error <= allowed)[inside].all()


@drawn
@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), offsets, seeds)
def test_pools_stay_within_their_bound(
    kernel: int, stride: int, counted: bool, offset: float, seed: int
) -> None:
    x = normal(seed, 2, 3, 13, 11, offset=offset)
    padding = (kernel - 1, 0, 0, kernel // 2)
    within(AvgPool((kernel, kernel), (stride, 1), padding, counted), [x])
    within(AdaptiveAvgPool((kernel, stride)), [x])


@drawn
@given(st.integers(2, 9), offsets, seeds)
def test_elementwise_ops_stay_within_their_bound(count: int, offset: float, seed: int) -> None:
    operands = [normal(seed + k, 1, 3, 20, 20, offset=offset) for k in range(count)]
    within(Add(), operands)
    within(Mul(), operands[:2])


def test_the_page_counts_roundings_as_the_code_does() -> None:
    one = np.ones((1, 1, 1, 1))
    bound = tolerance.local_bound(BatchNorm(), [one, one[0, 0, 0], *[one[0, 0, 0]] * 3], one, U)
    assert bound.item() == pytest.approx(8 * U * (2 / math.sqrt(1 + 1e-5) + 1))
    assert tolerance.local_bound(Sigmoid(), [one], one, U).item() == pytest.approx(
        (tolerance.EXP_ROUNDINGS / 2 + 1) * U
    )
    channels = np.zeros((1, 7, 1, 1))
    softmax = tolerance.local_bound(Softmax(), [channels], np.full_like(channels, 1 / 7), U)
    assert softmax.max() == pytest.approx((2 * tolerance.EXP_ROUNDINGS + 7 + 2) * U / 7)
    assert tolerance.local_bound(Mul(), [one, 3 * one], 3 * one, U).item() == pytest.approx(3 * U)


# Sums: two bounds, the smaller one


def test_the_union_bound_gives_the_stated_probability() -> None:
    for terms in (1, 80, 1000, 100_000):
        single = 2 * terms * math.exp(-(tolerance.confidence(terms) ** 2) / 2)
        assert single * tolerance.CHECKED_VALUES == pytest.approx(tolerance.FAILURE)


def test_the_probabilistic_bound_takes_over_at_80_terms() -> None:
    certain = [
        terms for terms in range(1, 200) if tolerance.summation(terms, U) == terms * U / (1 - terms * U)
    ]
    assert certain == list(range(1, 80))
    assert round(tolerance.summation(1000, U) / U) == 290


@given(st.integers(1, 100_000))
def test_a_longer_sum_is_never_held_to_less(terms: int) -> None:
    assert U <= tolerance.summation(terms, U) < tolerance.summation(terms + 1, U)


# Bounds that see something


def share_of_bound(op: Op, got: Array, operands: Sequence[Array]) -> float:
    exact = [operand.astype(np.float64) for operand in operands]
    want = rules.value(op, exact, False)
    return float((np.abs(got - want) / tolerance.local_bound(op, exact, want, U)).max())


@pytest.mark.parametrize(("offset", "looseness"), [(0.0, 100), (3.0, 12)])
def test_sums_of_a_thousand_products_come_near_their_bound(offset: float, looseness: int) -> None:
    operands = [normal(0, 1, 1000, 20, 20, offset=offset), normal(1, 8, 1000, 1, 1, offset=offset)]
    worst = max(share_of_bound(Conv2d(), by_rule(Conv2d(), sums)(operands), operands) for sums in ORDERS)
    assert 1 / looseness < worst < 1


@pytest.mark.parametrize("terms", [9, 27, 300, 1000])
def test_operands_cut_to_eleven_bits_are_seen(terms: int) -> None:
    operands = [normal(0, 1, terms, 20, 20), normal(1, 8, terms, 1, 1)]
    cut = [((o.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32).astype(float) for o in operands]
    assert share_of_bound(Conv2d(), rules.value(Conv2d(), cut, False), operands) > 2


def test_small_faults_of_an_op_are_seen() -> None:
    x = normal(0, 1, 3, 9, 9)
    stored = [np.ones(3, np.float32)] * 4
    assert (
        share_of_bound(BatchNorm(), rules.value(BatchNorm(eps=1.2e-5), [x, *stored], False), [x, *stored]) > 1
    )
    assert share_of_bound(Sigmoid(), rules.value(Sigmoid(), [x], False) * (1 + 1e-6), [x]) > 2
    assert share_of_bound(Softmax(), rules.value(Softmax(), [x], False) * (1 + 1e-5), [x]) > 2
    up, corners = (Resize("bilinear", flag, (11, 11)) for flag in (False, True))
    assert share_of_bound(up, rules.value(corners, [x], False), [x]) > 1000
    assert share_of_bound(Add(), x + x + np.float32(1e-6), [x, x]) > 2


# Uncertain operands


@drawn
@given(st.integers(0, 7), seeds)
def test_what_is_carried_bounds_what_an_error_does(which: int, seed: int) -> None:
    x, y = normal(seed, 1, 4, 5, 5).astype(float), normal(seed + 1, 1, 4, 5, 5).astype(float)
    weight, per_channel = normal(seed + 2, 2, 4, 3, 3).astype(float), np.array([0.5, -1.0, 2.0, 0.1])
    cases: list[tuple[Op, list[Array]]] = [
        (Sigmoid(), [x]), (Softmax(), [x]), (Mul(), [x, y]), (Add(), [x, y]), (Conv2d(), [x, weight]),
        (BatchNorm(), [x, per_channel, per_channel, per_channel, np.abs(per_channel)]),
        (Resize("bilinear", False, (9, 3)), [x]), (AvgPool((2, 2), (1, 1)), [x]),
    ]  # fmt: skip
    op, operands = cases[which]
    errors = [1e-6 * np.abs(o) if o.shape == x.shape else np.zeros_like(o) for o in operands]
    signs = np.random.default_rng(seed).choice([-1, 1], x.shape)
    moved = [o + signs * e if e.any() else o for o, e in zip(operands, errors, strict=True)]
    result = rules.value(op, operands, False)
    allowed = tolerance.carried(op, operands, result, errors)
    change = np.abs(rules.value(op, moved, False) - result)
    assert (change <= allowed * (1 + 1e-5)).all()
    assert change.max() > allowed.max() / 100


# Numbers of the page that are no constants


def test_rounding_as_amplified_as_is_allowed_takes_three_hundredths_of_the_bound() -> None:
    share = tolerance.MEANING / (noise.AMPLIFIED * 2.0**-53)
    assert 30 <= share < 31
    assert round(noise.NUDGE / 2.0**-53) == 901


def test_neighbours_are_covered_up_to_coordinate_224() -> None:
    reach = rules.NEIGHBOURS * tolerance.MEANING / (tolerance.COORDINATE_ROUNDINGS * 2.0**-53) - 1
    assert 224 <= reach < 225


def exceeds(components: int, times: float) -> float:
    """The probability that a norm of so many normal components exceeds `times` the largest of five others."""
    x = np.linspace(0, 40, 400_001)
    density = x ** (components - 1) * np.exp(-x * x / 2)
    share = np.cumsum(density) / density.sum()
    return float((density / density.sum() * np.interp(x / times, x, share) ** len(ORDERS)).sum())


def test_the_table_of_probabilities_is_what_its_model_gives() -> None:
    rows = re.findall(r"^\| (\d+) \| (\d\.\de-\d+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 5
    for components, probability in rows:
        assert f"{exceeds(int(components), tolerance.SPREADS):.1e}" == f"{float(probability):.1e}"
    tensors = 1e5
    assert tensors * exceeds(5, tolerance.SPREADS) < 1e-3 < 0.1 < tensors * exceeds(5, 3.0) < 0.2
    assert exceeds(1, 100.0) > 1e-10
