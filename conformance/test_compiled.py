"""Compiled against eager, for the frameworks that have both."""

import warnings

import pytest

from conformance import checks, eager
from conformance.cases import Subject
from conformance.drawing import Drawing
from conformance.low import gated_cases
from conformance.strategies import small_cases


@pytest.mark.cases("compiled")
def test_compiled_equals_eager(
    subject: Subject, block: tuple[int, int], drawing: Drawing, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--compilers") != "full":
        pytest.skip("for --compilers full")
    if subject.name not in eager.FRAMEWORKS:
        pytest.skip(f"{subject} has no eager mode that this suite knows of")
    drawing.put(eager.compiled, subject, small_cases(), block)


@pytest.mark.cases("compiled")
@pytest.mark.speeds("compiled")
def test_outputs_of_compiled_networks(
    subject: Subject, block: tuple[int, int], drawing: Drawing, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--compilers") != "full":
        pytest.skip("for --compilers full")
    if pytestconfig.getoption("--profile") == "quick":
        pytest.skip("a compiler takes half a minute for each network; not in the quick profile")
    with warnings.catch_warnings():
        # torch's compiler imports what torch deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        drawing.put(checks.forward, subject, gated_cases(), block)
