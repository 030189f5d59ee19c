"""bfloat16 and float16: outputs, losses and one training step."""

import pytest

from conformance import low
from conformance.cases import Case, Subject
from conformance.drawing import Drawing
from conformance.strategies import architectures, heads, small_cases, trained_architectures
from gsto_spec.backend import BackendError


@pytest.fixture
def trains(subject: Subject) -> None:
    try:
        subject.trainer(Case(heads(2, ("stage4",), 1), (1, 3, 4, 4)))
    except BackendError as refusal:
        pytest.skip(str(refusal))


@pytest.mark.cases("low")
def test_ops_of_exact_operands_round_once(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(low.nodes, subject, low.fans(), (block[0], max(block[1] // 4, 2)))


@pytest.mark.cases("low")
def test_every_node_of_a_small_graph_rounds_once(
    subject: Subject, block: tuple[int, int], drawing: Drawing
) -> None:
    drawing.put(low.nodes, subject, small_cases(), block)


@pytest.mark.cases("low")
@pytest.mark.usefixtures("trains")
def test_losses_and_statistics_are_of_four_bytes(
    subject: Subject, block: tuple[int, int], drawing: Drawing
) -> None:
    drawing.put(low.exact_operands, subject, low.selecting_cases(), (block[0], max(block[1] // 4, 3)))


@pytest.mark.cases("low")
@pytest.mark.usefixtures("trains")
def test_a_training_step(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(low.training, subject, low.gated_cases(), (block[0], max(block[1] // 4, 2)))


@pytest.mark.cases("low")
@pytest.mark.speeds("plain")
def test_outputs_at_another_speed(subject: Subject, block: tuple[int, int], drawing: Drawing) -> None:
    drawing.put(low.nodes, subject, low.gated_cases(), (block[0], max(block[1] // 8, 1)))


@pytest.mark.cases("low_architectures")
def test_every_node_of_an_architecture_rounds_once(
    subject: Subject, block: tuple[int, int], drawing: Drawing
) -> None:
    drawing.put(low.nodes, subject, architectures(), block)


@pytest.mark.cases("low_architectures")
@pytest.mark.usefixtures("trains")
def test_a_training_step_of_an_architecture(
    subject: Subject, block: tuple[int, int], drawing: Drawing
) -> None:
    cases = trained_architectures().map(low.without_hard_examples)
    drawing.put(low.training, subject, cases, block)
