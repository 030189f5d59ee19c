"""Whole architectures: narrow HRNets with and without every gate."""

import pytest

from conformance import checks
from conformance.cases import Subject
from conformance.drawing import Drawing
from conformance.strategies import architectures, trained_architectures

pytestmark = pytest.mark.cases("architectures")


def test_every_node_of_an_architecture(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(checks.nodes, subject, architectures(), block)


def test_inference_form_of_an_architecture(
    subject: Subject, block: tuple[int, int], drawing: Drawing
) -> None:
    drawing.put(checks.optimized, subject, architectures(), block)


def test_training_step_of_an_architecture(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(checks.training, subject, trained_architectures(), block)


@pytest.mark.cases("architectures")
def test_steps_in_little_memory(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    if subject.precision != "float64":
        pytest.skip("in float64, where nothing but rounding may differ")
    drawing.put(checks.rematerialized, subject, trained_architectures(), (block[0], max(block[1] // 5, 1)))
