"""`evaluate`: training mode, precision, order, and what it refuses."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from gsto_spec import Graph, GraphBuilder, GraphError, WeightsError, evaluate, initial_weights
from gsto_spec.ops import BatchNorm, Parameter
from gsto_spec.reference import evaluate_nodes

Array = NDArray[Any]


def normalised(op: BatchNorm) -> tuple[Graph, dict[str, Array]]:
    """One batch norm of one channel: scale 3, shift 1, running mean 10, running variance 20."""
    build = GraphBuilder()
    x = build.input("x", 1)
    stored = {"weight": 3.0, "bias": 1.0, "running_mean": 10.0, "running_var": 20.0}
    names = [build.parameter(f"bn.{role}", Parameter((1,))) for role in stored]
    graph = build.graph({"y": build.apply("bn", op, x, *names)})
    return graph, {f"bn.{role}": np.array([value]) for role, value in stored.items()}


BATCH = np.array([1.0, 3.0, 5.0, 7.0]).reshape(2, 1, 1, 2)  # mean 4, variance (9 + 1 + 1 + 9) / 4 = 5


def test_training_normalises_by_the_batch_by_hand() -> None:
    graph, weights = normalised(BatchNorm(eps=4.0))
    outputs, _ = evaluate(graph, weights, {"x": BATCH}, train_mode=True)
    assert outputs["y"].ravel().tolist() == [(v - 4) / 3 * 3 + 1 for v in (1, 3, 5, 7)]


def test_inference_normalises_by_the_running_statistics() -> None:
    graph, weights = normalised(BatchNorm(eps=5.0))
    assert evaluate(graph, weights, {"x": BATCH})["y"].ravel().tolist() == [
        (v - 10) / 5 * 3 + 1 for v in (1, 3, 5, 7)
    ]


@pytest.mark.parametrize(("unbiased", "variance"), [(True, 5 * 4 / 3), (False, 5.0)])
def test_training_moves_the_running_statistics_by_hand(unbiased: bool, variance: float) -> None:
    graph, weights = normalised(BatchNorm(momentum=0.25, unbiased=unbiased))
    _, statistics = evaluate(graph, weights, {"x": BATCH}, train_mode=True)
    assert list(statistics) == ["bn.running_mean", "bn.running_var"]
    assert_allclose(statistics["bn.running_mean"], [0.75 * 10 + 0.25 * 4], rtol=1e-15)
    assert_allclose(statistics["bn.running_var"], [0.75 * 20 + 0.25 * variance], rtol=1e-15)


def test_training_variance_takes_two_passes() -> None:
    graph, weights = normalised(BatchNorm(eps=1e-5, momentum=1.0, unbiased=False))
    _, statistics = evaluate(graph, weights, {"x": BATCH + 1e8}, train_mode=True)
    assert statistics["bn.running_var"].tolist() == [5.0]


def test_training_leaves_the_weights_as_they_were() -> None:
    graph, weights = normalised(BatchNorm())
    before = {name: array.copy() for name, array in weights.items()}
    evaluate(graph, weights, {"x": BATCH}, train_mode=True)
    for name, array in before.items():
        assert_array_equal(weights[name], array)


def test_statistics_are_those_of_what_reaches_the_layer() -> None:
    build = GraphBuilder(momentum=1.0)
    x = build.batch_norm("first", build.input("x", 1))
    x = build.batch_norm("second", build.relu(x))
    graph = build.graph({"y": x})
    _, statistics = evaluate(graph, initial_weights(graph), {"x": BATCH}, train_mode=True)
    shown = np.maximum((BATCH - 4) / np.sqrt(5 + 1e-5), 0)
    assert_allclose(statistics["first.running_mean"], [4.0])
    assert_allclose(statistics["second.running_mean"], [shown.mean()], rtol=1e-14)
    assert_allclose(statistics["second.running_var"], [shown.var(ddof=1)], rtol=1e-14)


@pytest.mark.parametrize(
    ("shape", "fits"), [((1, 1, 1, 1), False), ((2, 1, 1, 1), True), ((1, 1, 1, 2), True)]
)
def test_one_value_per_channel_has_no_statistics(shape: tuple[int, ...], fits: bool) -> None:
    graph, weights = normalised(BatchNorm())
    evaluate(graph, weights, {"x": np.ones(shape)})
    if fits:
        evaluate(graph, weights, {"x": np.ones(shape)}, train_mode=True)
    else:
        with pytest.raises(GraphError, match=r"^bn: expected more than one value per channel"):
            evaluate(graph, weights, {"x": np.ones(shape)}, train_mode=True)


def two_layers() -> Graph:
    build = GraphBuilder()
    x = build.conv2d("conv", build.input("image", 2), 3, kernel=3, bias=True)
    y = build.conv2d("head", build.relu(build.batch_norm("bn", x)), 4)
    return build.graph({"stage4": y, "stage1": x})


def test_outputs_come_in_the_graphs_order_at_the_precision_asked_for() -> None:
    graph = two_layers()
    weights, image = initial_weights(graph), np.ones((1, 2, 5, 4), np.float32)
    outputs = evaluate(graph, weights, {"image": image})
    assert list(outputs) == ["stage4", "stage1"]
    assert {array.dtype for array in outputs.values()} == {np.dtype(np.float64)}
    single = evaluate(graph, weights, {"image": image}, np.float32)
    assert {array.dtype for array in single.values()} == {np.dtype(np.float32)}
    assert_allclose(single["stage4"], outputs["stage4"], rtol=1e-4, atol=1e-5)


def test_every_node_can_be_seen() -> None:
    graph = two_layers()
    values = evaluate_nodes(graph, initial_weights(graph), {"image": np.ones((1, 2, 5, 4))})
    assert set(values) == set(graph.by_name)
    assert {name: value.shape for name, value in values.items()} == graph.check((1, 2, 5, 4))


def test_weights_that_do_not_fit_are_all_listed() -> None:
    graph = two_layers()
    weights: dict[str, Array] = dict(initial_weights(graph))
    del weights["bn.bias"]
    weights["bn.gamma"] = np.ones(3)
    weights["head.weight"] = np.ones((4, 3))
    with pytest.raises(WeightsError) as caught:
        evaluate(graph, weights, {"image": np.ones((1, 2, 5, 4))})
    assert str(caught.value) == (
        "weights: bn.bias is missing; bn.gamma is not declared; "
        "head.weight has shape (4, 3), expected (4, 3, 1, 1)"
    )


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "inputs: expected image, found none"),
        ({"picture": np.ones((1, 2, 5, 4))}, "inputs: expected image, found picture"),
        ({"image": np.ones((2, 5, 4))}, "image: expected an array of N x C x H x W, found 2 x 5 x 4"),
        ({"image": np.ones((1, 3, 5, 4))}, "image: expected an array of 1 x 2 x 5 x 4, found 1 x 3 x 5 x 4"),
        ({"image": np.ones((1, 2, 0, 4))}, "input: expected N x C x H x W of at least 1, found (1, 2, 0, 4)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: dict[str, Array], message: str) -> None:
    graph = two_layers()
    with pytest.raises(GraphError) as caught:
        evaluate(graph, initial_weights(graph), inputs)
    assert str(caught.value) == f"{message} [graph_c5]"


def test_several_inputs_share_their_size_and_have_their_own_channels() -> None:
    build = GraphBuilder()
    graph = build.graph({"y": build.mul(build.input("gate", 1), build.input("feature", 2))})
    inputs = {"gate": np.full((1, 1, 2, 3), 2.0), "feature": np.full((1, 2, 2, 3), 5.0)}
    assert_array_equal(evaluate(graph, {}, inputs)["y"], np.full((1, 2, 2, 3), 10.0))
    inputs["feature"] = np.ones((1, 2, 2, 1))
    with pytest.raises(
        GraphError, match=r"^feature: expected an array of 1 x 2 x 2 x 3, found 1 x 2 x 2 x 1"
    ):
        evaluate(graph, {}, inputs)
