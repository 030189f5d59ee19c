"""Graphs in inference form, written by hand: they compute what they say, and refuse to train."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from torch import nn

import gsto_torch
from gsto_spec import Graph, GraphBuilder, GraphError, evaluate
from gsto_spec.backend import Training
from gsto_spec.ops import Add, BatchNorm, Conv2d, Mul, Parameter
from gsto_torch.backend import TorchBackend

Weights = dict[str, NDArray[Any]]


def arithmetic_on_leaves() -> Graph:
    """conv1's weight is scaled before use, and read as it is by a second convolution; leaves of any name."""
    build = GraphBuilder()
    image = build.input()
    build.conv2d("conv1", image, 3, kernel=3, bias=True)
    build.parameter("conv1.scale", Parameter((3, 1, 1, 1)))
    build.parameter("train_scale.train", Parameter((3,), trainable=False))
    scaled = build.apply("scaled", Mul(), "conv1.weight", "conv1.scale")
    bias = build.apply("shifted", Add(), "conv1.bias", "train_scale.train")
    second = build.apply("net/second", Conv2d(padding=(1, 1, 1, 1)), "conv1", scaled, bias)
    third = build.apply("third", Conv2d(padding=(0, 0, 1, 1)), second, "conv1.weight")
    return build.graph({"y": third, "x": "conv1"})


def random_weights(graph: Graph) -> Weights:
    draw = np.random.default_rng(0)
    return {name: draw.standard_normal(shape) for name, shape in graph.parameters.items()}


IMAGE = np.random.default_rng(1).standard_normal((2, 3, 6, 5))


def renamed(old: str, new: str) -> Graph:
    return Graph.from_json(arithmetic_on_leaves().to_json().replace(f'"{old}"', f'"{new}"'))


def test_arithmetic_on_leaves_computes_what_the_definition_says() -> None:
    graph = renamed("train_scale.train", "offset")
    weights = random_weights(graph)
    model = gsto_torch.compile(graph, weights, dtype=torch.float64)
    assert isinstance(model.get_submodule("conv1"), nn.Conv2d)
    wanted = evaluate(graph, weights, {"image": IMAGE})
    found = model(torch.from_numpy(IMAGE))
    for name, array in wanted.items():
        assert_allclose(found[name].detach().numpy(), array, rtol=0, atol=1e-12 * np.abs(array).max())
    assert {name: tuple(array.shape) for name, array in gsto_torch.weights_of(model).items()} == dict(
        graph.parameters
    )


def test_a_leaf_that_is_not_learnt_is_a_buffer() -> None:
    model = gsto_torch.compile(renamed("train_scale.train", "offset"))
    assert dict(model.named_buffers()).keys() == {"offset"}
    assert "conv1.scale" in dict(model.named_parameters())


@pytest.mark.parametrize("name", ["train", "stem.forward", "a/b"])
def test_torch_c1_a_leaf_has_a_path_that_a_module_can_have(name: str) -> None:
    with pytest.raises(
        GraphError, match=rf"^{name}: expected a path that a torch module can have, .* \[torch_c1\]$"
    ):
        gsto_torch.compile(renamed("train_scale.train", name))


def test_it_is_predicted_with_and_not_trained() -> None:
    graph = renamed("train_scale.train", "offset")
    weights = random_weights(graph)
    predictor = TorchBackend().predictor(graph, weights, device="cpu", precision="float64")
    wanted = evaluate(graph, weights, {"image": IMAGE})["y"]
    assert_allclose(predictor.predict(IMAGE)["y"], wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())
    with pytest.raises(GraphError) as caught:
        TorchBackend().trainer(graph, weights, Training(), device="cpu")
    assert str(caught.value) == str(graph.training_form_violation())
    assert caught.value.label == "training_c1"


def shared_norm() -> Graph:
    build = GraphBuilder()
    image = build.input()
    names = [build.parameter(f"shared.{k}", Parameter((3,), scale=1.0, trainable=False)) for k in range(4)]
    first = build.apply("first/norm", BatchNorm(), image, *names)
    return build.graph({"y": build.apply("second/norm", BatchNorm(), first, *names)})


def test_a_norm_of_leaves_on_their_own_computes_in_inference_mode_only() -> None:
    graph = shared_norm()
    weights = {name: np.full(3, 2.0) for name in graph.parameters}
    model = gsto_torch.compile(graph, weights, dtype=torch.float64)
    with pytest.raises(GraphError, match="training_c1"):
        model(torch.from_numpy(IMAGE))
    wanted = evaluate(graph, weights, {"image": IMAGE})["y"]
    assert_allclose(model.eval()(torch.from_numpy(IMAGE))["y"].numpy(), wanted, rtol=1e-12)


@pytest.mark.parametrize("stored", [False, True])
def test_a_graph_that_learns_nothing_is_predicted_with(stored: bool) -> None:
    build = GraphBuilder()
    graph = shared_norm() if stored else build.graph({"y": build.relu(build.input())})
    weights = {name: np.full(3, 2.0) for name in graph.parameters}
    precision = "float64" if stored else "float32"
    found = TorchBackend().predictor(graph, weights, device="cpu", precision=precision).predict(IMAGE)["y"]
    assert found.dtype == np.dtype(precision)
    assert_allclose(found, evaluate(graph, weights, {"image": IMAGE})["y"], rtol=1e-6)


def test_a_frozen_parameter_is_kept_as_it_is_in_training() -> None:
    build = GraphBuilder()
    image = build.input()
    build.parameter("conv1.weight", Parameter((2, 3, 1, 1), "normal", 1.0, trainable=False))
    x = build.apply("conv1", Conv2d(), image, "conv1.weight")
    graph = build.graph({"stage4": build.conv2d("head", x, 2, bias=True)})
    assert list(graph.trainable) == ["head.weight", "head.bias"]
    weights = random_weights(graph)
    trainer = TorchBackend().trainer(graph, weights, Training(), device="cpu", precision="float64")
    trainer.step({"image": IMAGE, "label": np.zeros((2, 6, 5), np.int64)}, 0.1)
    state = trainer.state()
    assert np.array_equal(state["conv1.weight"], weights["conv1.weight"])
    assert not np.array_equal(state["head.weight"], weights["head.weight"])
    assert "optimizer/momentum/conv1.weight" not in state
    trainer.load(state)
