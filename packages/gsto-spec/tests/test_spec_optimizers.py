"""Optimisers against updates unrolled by hand, and schedules at their first, last and in-between steps."""

from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from gsto_spec import GstoError
from gsto_spec.objective import SGD, Adam, Poly, Steps, optimizer_step

Arrays = dict[str, NDArray[Any]]


def run(
    optimizer: SGD | Adam, weight: float, gradients: list[float], rates: list[float]
) -> tuple[list[float], Arrays]:
    """A weight after each of several steps, and the last slots."""
    weights: Arrays = {"w": np.array([weight])}
    slots: Arrays = {}
    trail = []
    for gradient, rate in zip(gradients, rates, strict=True):
        weights, slots = optimizer_step(optimizer, weights, {"w": np.array([gradient])}, slots, rate)
        trail.append(float(weights["w"][0]))
    return trail, slots


def test_sgd_unrolled_by_hand() -> None:
    trail, slots = run(SGD(momentum=0.5, weight_decay=0.1), 2.0, [1.0, -1.0, 3.0], [0.1, 0.2, 0.1])
    v1 = 1.0 + 0.1 * 2.0  # 1.2
    w1 = 2.0 - 0.1 * v1  # 1.88
    v2 = 0.5 * v1 - 1.0 + 0.1 * w1  # -0.212
    w2 = w1 - 0.2 * v2  # 1.9224
    v3 = 0.5 * v2 + 3.0 + 0.1 * w2
    assert_allclose(trail, [w1, w2, w2 - 0.1 * v3], rtol=1e-15)
    assert_allclose(trail[:2], [1.88, 1.9224], rtol=1e-14)
    assert list(slots) == ["momentum/w"]
    assert_allclose(slots["momentum/w"], [v3], rtol=1e-15)


def test_sgd_without_momentum_or_decay_follows_the_gradient() -> None:
    trail, _ = run(SGD(0.0, 0.0), 1.0, [1.0, 2.0], [0.5, 0.25])
    assert trail == [0.5, 0.0]


def test_the_momentum_of_a_new_rate_is_scaled_by_that_rate() -> None:
    # The rate multiplies the velocity, it is not part of it.
    trail, _ = run(SGD(1.0, 0.0), 0.0, [1.0, 0.0], [1.0, 0.0])
    assert trail == [-1.0, -1.0]


def test_adam_unrolled_by_hand() -> None:
    optimizer = Adam(beta1=0.5, beta2=0.75, epsilon=0.01, weight_decay=0.1)
    trail, slots = run(optimizer, 1.0, [0.9, -2.0, 0.5], [0.1, 0.1, 0.2])
    g1 = 0.9 + 0.1 * 1.0
    m1, s1 = 0.5 * g1, 0.25 * g1**2
    w1 = 1.0 - 0.1 * (m1 / 0.5) / (sqrt(s1 / 0.25) + 0.01)
    assert w1 == pytest.approx(1 - 0.1 / 1.01)
    g2 = -2.0 + 0.1 * w1
    m2, s2 = 0.5 * m1 + 0.5 * g2, 0.75 * s1 + 0.25 * g2**2
    w2 = w1 - 0.1 * (m2 / (1 - 0.5**2)) / (sqrt(s2 / (1 - 0.75**2)) + 0.01)
    g3 = 0.5 + 0.1 * w2
    m3, s3 = 0.5 * m2 + 0.5 * g3, 0.75 * s2 + 0.25 * g3**2
    w3 = w2 - 0.2 * (m3 / (1 - 0.5**3)) / (sqrt(s3 / (1 - 0.75**3)) + 0.01)
    assert_allclose(trail, [w1, w2, w3], rtol=1e-14)
    assert list(slots) == ["step", "first/w", "second/w"]
    assert int(slots["step"]) == 3
    assert_allclose([slots["first/w"][0], slots["second/w"][0]], [m3, s3], rtol=1e-14)


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_a_step_leaves_what_it_was_given(optimizer: SGD | Adam) -> None:
    weights, gradients = {"a": np.ones(2), "b": np.full((1, 2), 3.0)}, {"a": np.ones(2), "b": np.ones((1, 2))}
    once, slots = optimizer_step(optimizer, weights, gradients, {}, 0.1)
    kept = {name: array.copy() for name, array in slots.items()}
    twice, _ = optimizer_step(optimizer, once, gradients, slots, 0.1)
    assert weights["a"].tolist() == [1, 1]
    assert all(np.array_equal(kept[name], array) for name, array in slots.items())
    assert {name: array.shape for name, array in twice.items()} == {"a": (2,), "b": (1, 2)}


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_each_weight_moves_by_its_own_gradient(optimizer: SGD | Adam) -> None:
    both = {"a": np.array([1.0]), "b": np.array([-2.0])}
    gradients = {"a": np.array([0.5]), "b": np.array([4.0])}
    together, _ = optimizer_step(optimizer, both, gradients, {}, 0.1)
    for name in both:
        alone, _ = optimizer_step(optimizer, {name: both[name]}, {name: gradients[name]}, {}, 0.1)
        assert alone[name] == together[name]


def test_defaults_are_those_of_the_paper_and_of_adam() -> None:
    assert SGD() == SGD(momentum=0.9, weight_decay=5e-4)
    assert Adam() == Adam(0.9, 0.999, 1e-8, 0.0)


def test_poly_starts_at_its_base_and_ends_one_step_before_nought() -> None:
    schedule = Poly(0.01)
    assert schedule.rate(0, 100) == 0.01
    assert schedule.rate(50, 100) == pytest.approx(0.01 * 0.5**0.9, rel=1e-15)
    assert schedule.rate(99, 100) == pytest.approx(0.01 * 0.01**0.9, rel=1e-12)
    assert schedule.rate(0, 1) == 0.01
    assert Poly(1.0, power=2.0).rate(3, 4) == 0.0625


def test_poly_falls_at_every_step() -> None:
    rates = [Poly(0.1).rate(step, 30) for step in range(30)]
    assert all(later < earlier for earlier, later in pairwise(rates))


def test_steps_fall_where_a_milestone_is_reached() -> None:
    schedule = Steps(1e-3, milestones=(0.5, 0.75), factor=0.1)
    rates = [schedule.rate(step, 8) for step in range(8)]
    assert_allclose(rates, [1e-3] * 4 + [1e-4] * 2 + [1e-5] * 2, rtol=1e-14)


def test_a_milestone_is_the_nearest_step_whatever_its_fraction_rounds_to() -> None:
    for step in range(1, 100):
        schedule = Steps(1.0, milestones=(step / 100,))
        assert (schedule.rate(step - 1, 100), schedule.rate(step, 100)) == (1.0, 0.1)


def test_steps_of_the_pose_protocol_fall_at_epochs_170_and_200_of_210() -> None:
    schedule = Steps(1e-3, milestones=(170 / 210, 200 / 210))
    rates = {epoch: schedule.rate(epoch * 1000, 210 * 1000) for epoch in (0, 169, 170, 199, 200, 209)}
    assert_allclose(list(rates.values()), [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-14)


@pytest.mark.parametrize("schedule", [Poly(0.1), Steps(0.1, (0.5,))])
@pytest.mark.parametrize(("step", "total"), [(-1, 10), (10, 10), (0, 0)])
def test_a_step_outside_the_run_is_refused(schedule: Poly | Steps, step: int, total: int) -> None:
    with pytest.raises(GstoError) as caught:
        schedule.rate(step, total)
    assert str(caught.value) == f"step: expected 0 <= step < {total}, found {step}"
