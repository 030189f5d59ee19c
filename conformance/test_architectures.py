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
