"""Whole runs of gsto-train, begun on one backend and ended on another."""

import pytest

from conformance.cases import Case, Subject
from conformance.drawing import attempt
from conformance.runs import changes_backend, network


def test_a_run_goes_on_and_is_scored_on_another_backend(subject: Subject) -> None:
    if subject.precision != "float64":
        pytest.skip("in float64, where the steps must agree")
    attempt(changes_backend, subject, Case(network(7), (2, 3, 16, 24)))
