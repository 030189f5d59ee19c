"""Graphs in inference form, by hand and from the optimiser: they compute, and refuse to train."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from contract.framework import Array, Arrays, Framework
from contract.networks import GSTO, arithmetic_on_leaves, lively_weights, random_weights
from gsto_spec import Graph, GraphBuilder, GraphError, build, evaluate, optimize
from gsto_spec.backend import Backend, Training
from gsto_spec.ops import BatchNorm, Conv2d, Parameter

IMAGE = np.random.default_rng(1).standard_normal((2, 3, 6, 5))


def predictions(backend: Backend, graph: Graph, weights: Arrays, images: Array) -> Arrays:
    return backend.predictor(graph, weights, device="cpu", precision="float64").predict(images)


def test_arithmetic_on_leaves_computes_what_the_definition_says(backend: Backend, package: Any) -> None:
    graph = arithmetic_on_leaves()
    weights = random_weights(graph)
    found = predictions(backend, graph, weights, IMAGE)
    for name, array in evaluate(graph, weights, {"image": IMAGE}).items():
        assert_allclose(found[name], array, rtol=0, atol=1e-12 * np.abs(array).max())
    kept = package.weights_of(package.compile(graph, weights))
    assert {name: array.shape for name, array in kept.items()} == dict(graph.parameters)


def test_it_is_not_trained(backend: Backend) -> None:
    graph = arithmetic_on_leaves()
    with pytest.raises(GraphError) as caught:
        backend.trainer(graph, random_weights(graph), Training(), device="cpu")
    assert str(caught.value) == str(graph.training_form_violation())
    assert caught.value.label == "training_c1"


def shared_norm() -> Graph:
    build = GraphBuilder()
    image = build.input()
    names = [build.parameter(f"shared.{k}", Parameter((3,), scale=1.0, trainable=False)) for k in range(4)]
    first = build.apply("first/norm", BatchNorm(), image, *names)
    return build.graph({"y": build.apply("second/norm", BatchNorm(), first, *names)})


def test_a_norm_of_leaves_on_their_own_computes_in_inference_mode_only(
    package: Any, framework: Framework
) -> None:
    graph = shared_norm()
    weights = {name: np.full(3, 2.0) for name in graph.parameters}
    wanted = evaluate(graph, weights, {"image": IMAGE})["y"]
    with framework.float64():
        model = package.compile(graph, weights, dtype=framework.dtype("float64"))
        with pytest.raises(GraphError, match="training_c1"):
            framework.compute(model, IMAGE)
        model.eval()
        assert_allclose(framework.compute(model, IMAGE)["y"], wanted, rtol=1e-12)


@pytest.mark.parametrize(("precision", "bound"), [("float64", 1e-12), ("float32", 1e-6)])
@pytest.mark.parametrize("stored", [False, True])
def test_a_graph_that_learns_nothing_is_predicted_with(
    backend: Backend, stored: bool, precision: str, bound: float
) -> None:
    build = GraphBuilder()
    graph = shared_norm() if stored else build.graph({"y": build.relu(build.input())})
    weights = {name: np.full(3, 2.0) for name in graph.parameters}
    found = backend.predictor(graph, weights, device="cpu", precision=precision).predict(IMAGE)["y"]
    assert found.dtype == np.dtype(precision)
    wanted = evaluate(graph, weights, {"image": IMAGE})["y"]
    assert_allclose(found, wanted, rtol=bound, atol=bound)


def test_a_frozen_parameter_is_kept_as_it_is_in_training(backend: Backend) -> None:
    build = GraphBuilder()
    image = build.input()
    build.parameter("conv1.weight", Parameter((2, 3, 1, 1), "normal", 1.0, trainable=False))
    x = build.apply("conv1", Conv2d(), image, "conv1.weight")
    graph = build.graph({"stage4": build.conv2d("head", x, 2, bias=True)})
    assert list(graph.trainable) == ["head.weight", "head.bias"]
    weights = random_weights(graph)
    trainer = backend.trainer(graph, weights, Training(), device="cpu", precision="float64")
    trainer.step({"image": IMAGE, "label": np.zeros((2, 6, 5), np.int64)}, 0.1)
    state = trainer.state()
    assert np.array_equal(state["conv1.weight"], weights["conv1.weight"])
    assert not np.array_equal(state["head.weight"], weights["head.weight"])
    assert "optimizer/momentum/conv1.weight" not in state
    trainer.load(state)


@pytest.mark.parametrize("form", ["release", "paper"])
def test_an_optimized_network_gives_the_same_outputs_and_is_neither_trained_nor_saved(
    backend: Backend, package: Any, form: Any, tmp_path: Path
) -> None:
    graph = build(replace(GSTO, form=form))
    weights = lively_weights(graph, 1)
    images = np.random.default_rng(1).standard_normal((1, 3, 17, 21))
    optimized, folded = optimize(graph, weights)
    before = predictions(backend, graph, weights, images)
    after = predictions(backend, optimized, folded, images)
    assert list(after) == list(before)
    for name, value in before.items():
        assert_allclose(after[name], value, rtol=0, atol=1e-10 * np.abs(value).max())
    with pytest.raises(GraphError, match="training_c2"):
        backend.trainer(optimized, folded, Training(), device="cpu")
    with pytest.raises(GraphError, match="training_c2"):
        package.save(package.compile(optimized, folded), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_optimized_network_without_norms_runs_in_either_mode(package: Any, framework: Framework) -> None:
    builder = GraphBuilder()
    graph = builder.graph({"y": builder.batch_norm("norm", builder.conv2d("conv", builder.input(), 2))})
    model = package.compile(*optimize(graph, lively_weights(graph)))
    image = IMAGE.astype(np.float32)
    trained = framework.compute(model, image)["y"]
    model.eval()
    assert np.array_equal(framework.compute(model, image)["y"], trained)
