"""States: resuming, exchanging them with another backend, and refusing what does not fit."""

from dataclasses import replace

import numpy as np
import pytest

from conformance import states
from conformance.cases import Case, Subject
from conformance.drawing import Drawing, attempt
from conformance.strategies import deep, heads, normed, state_cases
from gsto_spec.backend import Training
from gsto_spec.objective import SGD, Adam, Heatmap, Objective

CASE = Case(heads(3, ("stage4", "stage3"), 2), (2, 3, 7, 9), training=Training(optimizer=SGD()))
ONE_VALUE = replace(CASE, shape=(1, 3, 2, 2))
DEEP = Case(deep(), (2, 3, 5, 7), training=Training(Objective(Heatmap((1e4,) * 3))))
NORMED = Case(normed(), (2, 3, 5, 7))
OVERFLOWING: dict[str, dict[str, str]] = {
    "None": {},
    "image": {"image": "infinite"},
    "second": {"first.weight": "large", "second.weight": "large"},
    "loss_stage4": {"second.weight": "large"},
    "gradient of first.weight": {"image": "largest", "first.weight": "smallest"},
}
"""What overflows first where tensors are multiplied by so much; the square of what is large overflows."""

each_optimizer = pytest.mark.parametrize("optimizer", [SGD(), Adam()], ids=["SGD", "Adam"])


@pytest.mark.cases("states")
@pytest.mark.parametrize("check", [states.resumes, states.exchanges, states.leaves_alone])
def test_states_of_small_graphs(
    subject: Subject, block: tuple[int, int], drawing: Drawing, check: states.Check
) -> None:
    drawing.put(check, subject, state_cases(), block)


@pytest.mark.cases("states")
def test_batches_of_two_sizes(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    if subject.precision != "float64":
        pytest.skip("in float64, where the steps must agree")
    drawing.put(states.changes_batch, subject, state_cases(), block)


@each_optimizer
def test_a_state_of_weights_alone_begins_anew(subject: Subject, optimizer: SGD | Adam) -> None:
    attempt(states.begins_anew, subject, with_optimizer(optimizer))


@pytest.mark.cases("states")
def test_steps_that_are_not_finite(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(states.steps_over_what_is_not_finite, subject, state_cases(), block)


@pytest.mark.parametrize("where", OVERFLOWING)
def test_where_values_first_are_not_finite(subject: Subject, where: str) -> None:
    most = float(np.finfo(subject.precision).max)
    sizes = {"infinite": np.inf, "large": 1e3 * most**0.5, "largest": most / 1e3, "smallest": 1e3 / most}
    factors = {name: sizes[size] for name, size in OVERFLOWING[where].items()}
    attempt(states.names_what_is_not_finite, subject, DEEP, where, factors)


def test_statistics_that_overflow_are_named(subject: Subject) -> None:
    """A variance that overflows leaves loss and gradients finite: what it divides becomes 0."""
    large = {"image": 1e3 * float(np.finfo(subject.precision).max) ** 0.5}
    attempt(states.names_what_is_not_finite, subject, NORMED, "new norm.running_var", large)


@each_optimizer
def test_tensors_that_do_not_fit_are_refused(subject: Subject, optimizer: SGD | Adam) -> None:
    attempt(states.refuses, subject, with_optimizer(optimizer))


def test_what_cannot_be_built_is_refused(subject: Subject) -> None:
    attempt(states.refuses_at_the_start, subject, CASE)


def test_statistics_of_one_value_are_refused(subject: Subject) -> None:
    attempt(states.refuses_one_value, subject, ONE_VALUE)


def with_optimizer(optimizer: SGD | Adam) -> Case:
    return replace(CASE, training=Training(optimizer=optimizer))
