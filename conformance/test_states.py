"""States: resuming, exchanging them with another backend, and refusing what does not fit."""

from dataclasses import replace

import pytest

from conformance import states
from conformance.cases import Case, Subject
from conformance.drawing import Drawing, attempt
from conformance.strategies import heads, state_cases
from gsto_spec.backend import Training
from gsto_spec.objective import SGD, Adam

CASE = Case(heads(3, ("stage4", "stage3"), 2), (2, 3, 7, 9), training=Training(optimizer=SGD()))
ONE_VALUE = replace(CASE, shape=(1, 3, 2, 2))
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


@each_optimizer
def test_tensors_that_do_not_fit_are_refused(subject: Subject, optimizer: SGD | Adam) -> None:
    attempt(states.refuses, subject, with_optimizer(optimizer))


def test_what_cannot_be_built_is_refused(subject: Subject) -> None:
    attempt(states.refuses_at_the_start, subject, CASE)


def test_statistics_of_one_value_are_refused(subject: Subject) -> None:
    attempt(states.refuses_one_value, subject, ONE_VALUE)


def with_optimizer(optimizer: SGD | Adam) -> Case:
    return replace(CASE, training=Training(optimizer=optimizer))
