"""Losses with their edge cases, optimisers and schedules, on a small network."""

import pytest

from conformance import checks, states
from conformance.cases import Subject
from conformance.drawing import Drawing
from conformance.strategies import (
    objective_cases,
    optimizer_cases,
    saturated_cases,
    statistics_cases,
    tied_cases,
)


@pytest.mark.cases("objectives")
def test_losses_and_their_gradients(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(checks.training, subject, objective_cases(), block)


@pytest.mark.cases("optimizers")
def test_ten_steps_of_each_optimizer(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(checks.steps, subject, optimizer_cases(), block)


@pytest.mark.cases("optimizers")
def test_gradients_at_ties(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(checks.training, subject, tied_cases(), block)


@pytest.mark.cases("optimizers")
def test_statistics_of_few_values(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(checks.training, subject, statistics_cases(), block)


@pytest.mark.cases("optimizers")
@pytest.mark.parametrize("check", [checks.nodes, checks.training])
def test_saturated_values(
    subject: Subject, block: tuple[int, int], drawing: Drawing, check: states.Check
) -> None:
    drawing.put(check, subject, saturated_cases(), block)
