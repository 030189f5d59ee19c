"""Whether this run has drawn what it claims to cover. Runs last."""

import pytest

from conformance import coverage


def test_every_kind_of_case_was_drawn(pytestconfig: pytest.Config) -> None:
    assert coverage.missing(pytestconfig.getoption("--profile")) == []
