"""Graphs in inference form, by hand and from the optimiser: they compute, and refuse to train."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose
from numpy.typing import NDArray

import gsto_jax
from gsto_jax.backend import JaxBackend
from gsto_spec import Graph, GraphBuilder, GraphError, build, evaluate, initial_weights, optimize, variant
from gsto_spec.backend import Training
from gsto_spec.ops import Add, BatchNorm, Conv2d, Mul, Parameter

Arrays = dict[str, NDArray[Any]]


def arithmetic_on_leaves(offset: str = "offset") -> Graph:
    """conv1's weight is scaled before use, and read as it is by a second convolution; leaves of any name."""
    build = GraphBuilder()
    image = build.input()
    build.conv2d("conv1", image, 3, kernel=3, bias=True)
    build.parameter("conv1.scale", Parameter((3, 1, 1, 1)))
    build.parameter("pixels", Parameter((1, 3, 1, 1)))
    build.parameter(offset, Parameter((3,), trainable=False))
    scaled = build.apply("scaled", Mul(), "conv1.weight", "conv1.scale")
    bias = build.apply("shifted", Add(), "conv1.bias", offset)
    gated = build.mul("pixels", "conv1")
    second = build.apply("net/second", Conv2d(padding=(1, 1, 1, 1)), gated, scaled, bias)
    third = build.apply("third", Conv2d(padding=(0, 0, 1, 1)), second, "conv1.weight")
    return build.graph({"y": third, "x": "conv1", "scaled": "scaled", "shifted": "shifted"})


def random_weights(graph: Graph) -> Arrays:
    draw = np.random.default_rng(0)
    return {name: draw.standard_normal(shape) for name, shape in graph.parameters.items()}


IMAGE = np.random.default_rng(1).standard_normal((2, 3, 6, 5))


def predictions(graph: Graph, weights: Arrays, images: NDArray[Any]) -> Arrays:
    return JaxBackend().predictor(graph, weights, device="cpu", precision="float64").predict(images)


def test_arithmetic_on_leaves_computes_what_the_definition_says() -> None:
    graph = arithmetic_on_leaves()
    weights = random_weights(graph)
    found = predictions(graph, weights, IMAGE)
    for name, array in evaluate(graph, weights, {"image": IMAGE}).items():
        assert_allclose(found[name], array, rtol=0, atol=1e-12 * np.abs(array).max())


def test_a_leaf_that_is_not_learnt_is_no_param() -> None:
    model = gsto_jax.compile(arithmetic_on_leaves())
    assert isinstance(model.variable("offset"), nnx.BatchStat)
    assert isinstance(model.variable("conv1.scale"), nnx.Param)


@pytest.mark.parametrize("name", ["train", "stem.items", "conv1.weight.x", "_program"])
def test_jax_c1_a_leaf_has_a_path_that_a_module_can_have(name: str) -> None:
    builder = GraphBuilder()
    image = builder.input()
    leaves = [builder.parameter(leaf, Parameter((1, 3, 1, 1))) for leaf in ("conv1.weight", name)]
    graph = builder.graph(
        {"y": builder.mul(leaves[1], builder.mul(leaves[0], image, name="a/b"), name="a/c")}
    )
    with pytest.raises(
        GraphError, match=rf"^{name}: expected a path that a flax module can have, .* \[jax_c1\]$"
    ):
        gsto_jax.compile(graph)


def test_it_is_not_trained() -> None:
    graph = arithmetic_on_leaves()
    with pytest.raises(GraphError) as caught:
        JaxBackend().trainer(graph, random_weights(graph), Training(), device="cpu")
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
    model = gsto_jax.compile(graph, weights)
    images = IMAGE.transpose(0, 2, 3, 1)
    with pytest.raises(GraphError, match="training_c1"):
        model(images)  # type: ignore[arg-type]
    model.eval()  # type: ignore[no-untyped-call]
    wanted = evaluate(graph, weights, {"image": IMAGE})["y"].transpose(0, 2, 3, 1)
    assert_allclose(model(images)["y"], wanted, rtol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("stored", [False, True])
def test_a_graph_that_learns_nothing_is_predicted_with(stored: bool) -> None:
    build = GraphBuilder()
    graph = shared_norm() if stored else build.graph({"y": build.relu(build.input())})
    weights = {name: np.full(3, 2.0) for name in graph.parameters}
    found = predictions(graph, weights, IMAGE)["y"]
    assert_allclose(found, evaluate(graph, weights, {"image": IMAGE})["y"], rtol=1e-12)


def test_a_frozen_parameter_is_kept_as_it_is_in_training() -> None:
    build = GraphBuilder()
    image = build.input()
    build.parameter("conv1.weight", Parameter((2, 3, 1, 1), "normal", 1.0, trainable=False))
    x = build.apply("conv1", Conv2d(), image, "conv1.weight")
    graph = build.graph({"stage4": build.conv2d("head", x, 2, bias=True)})
    weights = random_weights(graph)
    trainer = JaxBackend().trainer(graph, weights, Training(), device="cpu", precision="float64")
    trainer.step({"image": IMAGE, "label": np.zeros((2, 6, 5), np.int64)}, 0.1)
    state = trainer.state()
    assert np.array_equal(state["conv1.weight"], weights["conv1.weight"])
    assert not np.array_equal(state["head.weight"], weights["head.weight"])
    assert "optimizer/momentum/conv1.weight" not in state
    trainer.load(state)


def lively_weights(graph: Graph, seed: int) -> Arrays:
    """Initial weights with batch norms that do something."""
    generator = np.random.default_rng(seed)
    weights: Arrays = dict(initial_weights(graph, seed))
    for name, array in weights.items():
        if array.ndim == 1:
            low, high = (-0.5, 0.5) if name.endswith(("bias", "running_mean")) else (0.5, 1.5)
            weights[name] = generator.uniform(low, high, array.shape)
    return weights


@pytest.mark.parametrize("form", ["release", "paper"])
def test_an_optimized_network_gives_the_same_outputs_and_is_not_trained(form: Any, tmp_path: Path) -> None:
    named = dataclasses.replace(
        variant("gsto-hrnet-w18-small-v2"), widths=(3, 4, 5, 6), modules=(1, 1, 1), blocks=1, stem_width=4,
        layer1_width=2, layer1_blocks=1, classes=3, form=form,
    )  # fmt: skip
    graph = build(named)
    weights = lively_weights(graph, 1)
    images = np.random.default_rng(1).standard_normal((1, 3, 17, 21))
    optimized, folded = optimize(graph, weights)
    before, after = predictions(graph, weights, images), predictions(optimized, folded, images)
    assert list(after) == list(before)
    for name, value in before.items():
        assert_allclose(after[name], value, rtol=0, atol=1e-10 * np.abs(value).max())
    with pytest.raises(GraphError, match="training_c"):
        JaxBackend().trainer(optimized, folded, Training(), device="cpu")
    with pytest.raises(GraphError, match="training_c"):
        gsto_jax.save(gsto_jax.compile(optimized, folded), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_optimized_network_without_norms_runs_in_either_mode() -> None:
    builder = GraphBuilder()
    graph = builder.graph({"y": builder.batch_norm("norm", builder.conv2d("conv", builder.input(), 2))})
    model = gsto_jax.compile(*optimize(graph, lively_weights(graph, 0)))
    images = jax.numpy.asarray(IMAGE.transpose(0, 2, 3, 1), np.float32)
    trained = model(images)["y"]
    model.eval()  # type: ignore[no-untyped-call]
    assert np.array_equal(model(images)["y"], trained)
