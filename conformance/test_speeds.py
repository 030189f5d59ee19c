"""The speed that other tests do not ask for: the network as written, by which others are measured."""

import pytest

from conformance import checks
from conformance.cases import Subject
from conformance.drawing import Drawing
from conformance.low import gated_cases
from conformance.strategies import resized_cases, small_cases

pytestmark = [pytest.mark.cases("speeds"), pytest.mark.speeds("plain")]


def test_every_node_at_another_speed(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(checks.nodes, subject, small_cases(), block)


def test_outputs_at_another_speed(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(checks.forward, subject, resized_cases(), (block[0], max(block[1] // 4, 1)))


def test_a_training_step_at_another_speed(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(checks.training, subject, small_cases(), (block[0], max(block[1] // 2, 1)))


def test_a_gated_network_at_another_speed(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(checks.nodes, subject, gated_cases(), (block[0], max(block[1] // 8, 1)))
