"""Compiled graphs: their weights, their statistics, and what they refuse."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from contract.framework import Framework
from contract.networks import equal, gated, normed
from gsto_spec import GraphBuilder, GraphError, WeightsError, evaluate, initial_weights
from gsto_spec.ops import BatchNorm, Parameter


def test_a_model_starts_from_the_weights_of_its_seed(package: Any) -> None:
    graph = gated()
    for seed in (0, 5):
        found = package.weights_of(package.compile(graph, seed=seed))
        assert list(found) == list(graph.parameters)
        for name, array in initial_weights(graph, seed).items():
            assert_array_equal(found[name], array)


def test_parameters_have_the_type_asked_for(package: Any, framework: Framework) -> None:
    with framework.float64():
        for options, wanted in (({}, "float32"), ({"dtype": framework.dtype("float64")}, "float64")):
            found = package.weights_of(package.compile(gated(), **options))
            assert {array.dtype for array in found.values()} == {np.dtype(wanted)}


def test_weights_that_do_not_fit_are_refused(package: Any) -> None:
    with pytest.raises(WeightsError, match=r"^weights: .* conv1.weight is missing; .*extra is not declared"):
        package.compile(gated(), {"extra": np.ones(1)})


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.01, 1.0])
def test_running_statistics_move_as_the_definition_says(
    package: Any, framework: Framework, unbiased: bool, momentum: float
) -> None:
    build = GraphBuilder()
    x = build.input("x", 3)
    roles = {"weight": True, "bias": True, "running_mean": False, "running_var": False}
    names = [build.parameter(f"bn.{r}", Parameter((3,), trainable=learnt)) for r, learnt in roles.items()]
    graph = build.graph({"y": build.apply("bn", BatchNorm(1e-3, momentum, unbiased), x, *names)})
    weights: dict[str, Any] = {name: np.full(3, 1.0 + k) for k, name in enumerate(names)}
    with framework.float64():
        model = package.compile(graph, weights, dtype=framework.dtype("float64"))
        for step in range(3):
            image = np.random.default_rng(step).standard_normal((2, 3, 3, 1)) + step
            wanted, statistics = evaluate(graph, weights, {"x": image}, train_mode=True)
            assert_allclose(framework.compute(model, image)["y"], wanted["y"], rtol=0, atol=1e-12)
            weights |= statistics
            for name, array in package.weights_of(model).items():
                assert_allclose(array, weights[name], rtol=1e-13)


def test_inference_leaves_the_statistics_alone(package: Any, framework: Framework) -> None:
    image = np.random.default_rng(0).standard_normal((2, 3, 9, 7)).astype(np.float32)
    model = package.compile(normed())
    framework.compute(model, image)
    # Of their own: what is asked for may be a view of what the next training step moves.
    before = {name: array.copy() for name, array in package.weights_of(model).items()}
    assert before["bn1.running_mean"].any()
    model.eval()
    framework.compute(model, image)
    assert equal(package.weights_of(model), before)
    model.train()
    framework.compute(model, image)
    assert not np.array_equal(package.weights_of(model)["bn1.running_mean"], before["bn1.running_mean"])


def test_one_value_per_channel_in_training_is_refused_as_the_definition_refuses_it(
    package: Any, framework: Framework
) -> None:
    build = GraphBuilder()
    graph = build.graph({"y": build.batch_norm("stage1.bn", build.input())})
    image = np.ones((1, 3, 1, 1), np.float32)
    with pytest.raises(GraphError) as wanted:
        evaluate(graph, initial_weights(graph), {"image": image}, train_mode=True)
    model = package.compile(graph)
    with pytest.raises(GraphError) as found:
        framework.compute(model, image)
    assert str(found.value) == str(wanted.value)
    assert "[batch_norm_c5]" in str(found.value)
    model.eval()
    assert framework.compute(model, image)["y"].shape == (1, 3, 1, 1)
    model.train()
    assert framework.compute(model, np.ones((2, 3, 1, 1), np.float32))["y"].shape == (2, 3, 1, 1)


@pytest.mark.parametrize("names", [("a", "a.b"), ("a.b", "a")])
def test_a_layer_may_lie_inside_another_in_any_order(
    package: Any, framework: Framework, names: tuple[str, str]
) -> None:
    build = GraphBuilder()
    graph = build.graph({"stage4": build.conv2d(names[1], build.conv2d(names[0], build.input(), 2), 2)})
    model = package.compile(graph)
    assert set(package.weights_of(model)) == set(graph.parameters)
    image = np.zeros((1, 3, 2, 2), np.float32)
    assert framework.compute(model, image)["stage4"].shape == (1, 2, 2, 2)


def test_weights_of_another_byte_order_are_read(package: Any) -> None:
    weights: dict[str, Any] = {name: v.astype(">f4") for name, v in initial_weights(gated()).items()}
    found = package.weights_of(package.compile(gated(), weights))
    assert all(np.array_equal(found[name], value) for name, value in weights.items())
