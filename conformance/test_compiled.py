"""Compiled against eager, for the frameworks that have both."""

import pytest

from conformance import eager
from conformance.cases import Subject
from conformance.drawing import Drawing
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
