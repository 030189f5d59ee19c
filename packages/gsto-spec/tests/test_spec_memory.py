"""The memory estimate: small graphs counted by hand, and what each setting must change."""

from dataclasses import replace

import pytest

from gsto_spec import Graph, GraphBuilder, GraphError, build
from gsto_spec.backend import BackendError, Training
from gsto_spec.memory import NOT_ENOUGH, Memory, advice, estimate
from gsto_spec.objective import SGD, Adam, Heatmap, Objective

MIB = 2**20
SHAPE = (4, 3, 256, 256)
HEATMAP = Training(Objective(Heatmap()))


def chain(classes: int = 2) -> Graph:
    """A convolution of 4 channels, batch norm, relu, and a head: all at the input's size."""
    build_graph = GraphBuilder()
    x = build_graph.conv2d("trunk.0", build_graph.input(), 4)
    x = build_graph.relu(build_graph.batch_norm("trunk.1", x))
    return build_graph.graph({"stage4": build_graph.conv2d("head", x, classes, bias=True)})


LEARNT = 4 * (3 * 4 + 4 + 4 + 4 * 2 + 2)
STATISTICS = 4 * (4 + 4)
PIXELS = 5 * 7
INPUT = (1, 3, 5, 7)


def test_predicting_needs_the_input_and_two_maps_at_a_time() -> None:
    maps = 4 * PIXELS * (3 + 4 + 4)  # the input is the caller's, convolution and batch norm
    assert estimate(chain(), INPUT) == Memory(LEARNT, STATISTICS, 0, 0, maps, 0)
    assert estimate(chain(), INPUT).peak == LEARNT + STATISTICS + maps


def test_training_keeps_what_the_backward_pass_reads() -> None:
    # The most lives in relu's backward pass: the input, the operand of batch norm, relu's result, and the
    # gradients of relu's result and of its operand; of those of learnt tensors, the head's.
    maps = 4 * PIXELS * (3 + 4 + 4 + 4 + 4)
    assert estimate(chain(), INPUT, HEATMAP) == Memory(LEARNT, STATISTICS, 40, LEARNT, maps, 0)


def test_a_loss_keeps_its_scores_at_the_size_of_the_input() -> None:
    found = estimate(chain(50), INPUT, Training())
    # Kept: the logarithms of the scores, and a label, a loss and a weight for every pixel. The output and its
    # scores are there besides.
    assert found.activations == 4 * PIXELS * (3 + 4 + 4 + 50 + 50) + 16 * PIXELS
    assert (found.transient, found.gradients) == (4 * PIXELS * (50 + 2), 0)


def test_slots_and_gradients_are_those_of_what_is_learnt() -> None:
    graph = chain()
    assert estimate(graph, INPUT, replace(HEATMAP, optimizer=Adam())).slots == 2 * LEARNT
    head = {name for name in graph.trainable if not name.startswith("head")}
    frozen = estimate(graph, INPUT, replace(HEATMAP, frozen=frozenset(head)))
    # Nothing below the head has a gradient: the input is kept by who gave it, and the head's operand.
    maps = 4 * PIXELS * (3 + 4 + 2 + 2)
    assert frozen == Memory(LEARNT, STATISTICS, 0, 40, maps, 4 * PIXELS * 2)
    with pytest.raises(BackendError, match="frozen: expected learnt tensors, found hat"):
        estimate(graph, INPUT, replace(HEATMAP, frozen=frozenset({"hat"})))


def test_a_graph_that_cannot_take_the_input_is_refused() -> None:
    with pytest.raises(GraphError, match="graph_c5"):
        estimate(chain(), (1, 4, 5, 7), Training())


@pytest.mark.parametrize(
    "name", ["gsto-hrnet-w16-mini", "resnet50-ppm", "hrnetv2-w18-small-v2-spatial-layer"]
)
def test_each_way_to_need_less_needs_less(name: str) -> None:
    graph = build(name)
    plain = estimate(graph, SHAPE, Training())
    again = estimate(graph, SHAPE, Training(rematerialize=True))
    assert again.activations < 0.6 * plain.activations
    for count in (2, 4):
        part = estimate(graph, SHAPE, Training(micro_batches=count))
        assert part.activations < 1.1 * plain.activations / count
    low = estimate(graph, SHAPE, Training(), "bfloat16")
    assert low.weights == plain.weights and 0.45 < low.activations / plain.activations < 0.95
    double = estimate(graph, SHAPE, Training(), "float64")
    assert double.weights == 2 * plain.weights
    assert estimate(graph, SHAPE).peak < again.peak


def test_nothing_is_advised_where_it_fits() -> None:
    graph = build("gsto-hrnet-w16-mini")
    peak = estimate(graph, SHAPE, Training()).peak
    assert advice(graph, SHAPE, Training(), peak) == ()
    assert len(advice(graph, SHAPE, Training(), peak - 1)) == 4


def test_each_advice_is_the_least_change_that_is_enough() -> None:
    graph = build("gsto-hrnet-w16-mini")
    whole, half = (estimate(graph, SHAPE, Training(micro_batches=count)).peak for count in (1, 2))
    lines = advice(graph, SHAPE, Training(optimizer=SGD()), half, devices=2)
    assert lines[0] == f"train.micro_batches=2: {half / 2**30:.2f} GiB"
    assert [line.partition(":")[0] for line in lines[1:]] == ["train.rematerialize=true", "train.batch=4"]
    assert all(float(line.split()[-2]) * 2**30 < whole for line in lines)


def test_where_no_change_is_enough_all_together_come_first() -> None:
    lines = advice(build("gsto-hrnet-w16-mini"), SHAPE, Training(), MIB)
    together = "train.micro_batches=4 train.rematerialize=true train.precision=bfloat16: "
    assert lines[0].startswith(together) and lines[-1] == NOT_ENOUGH and len(lines) == 6
    assert min(lines[:-1], key=lambda line: float(line.split()[-2])) == lines[0]


def test_what_is_done_already_is_not_advised() -> None:
    training = Training(rematerialize=True, micro_batches=4)
    lines = advice(build("gsto-hrnet-w16-mini"), SHAPE, training, MIB, "bfloat16")
    assert lines == (NOT_ENOUGH,)
