"""Small graphs over the whole op set."""

import pytest

from conformance import checks
from conformance.cases import Subject
from conformance.drawing import Drawing
from conformance.strategies import pixel_cases, resized_cases, small_cases

pytestmark = pytest.mark.cases("small")


def test_every_node_of_a_small_graph(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(checks.nodes, subject, small_cases(), block)


def test_outputs_at_several_sizes(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(checks.forward, subject, resized_cases(), (block[0], block[1] // 4))


def test_inference_form_of_a_small_graph(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(checks.optimized, subject, small_cases(), (block[0], block[1] // 4))


@pytest.mark.cases("trained")
def test_training_step_of_a_small_graph(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(checks.training, subject, small_cases() | pixel_cases(), block)
