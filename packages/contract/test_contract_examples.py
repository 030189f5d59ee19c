"""The networks of examples/: inference and a training step are those of the definition."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from contract.definition import STEP
from contract.framework import Array, Arrays
from gsto_spec import Graph, HRNet, build, evaluate, initial_weights
from gsto_spec.backend import Backend, Training
from gsto_spec.locate import locate
from gsto_spec.objective import SGD, Objective, objective_value
from gsto_spec.users_code import attribute

EXAMPLES = Path(__file__).parents[2] / "examples"
RATE = 0.05


def two_layer_gate() -> Graph:
    """The example's gate in a network of fewer channels."""
    variant = attribute("two_layer_gate:network")
    assert isinstance(variant, HRNet)
    small = replace(variant, widths=(4, 5, 6, 7), modules=(1, 1, 1), blocks=1, layer1_blocks=1,
                    layer1_width=2, stem_width=4, classes=5)  # fmt: skip
    return build(small)


@pytest.fixture(params=["gate", "u-net", "file"])
def graph(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Graph:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(EXAMPLES)
    if request.param == "gate":
        return two_layer_gate()
    return locate("gated_unet:network" if request.param == "u-net" else "nearest_unet.json", classes=5)


def batch_of(graph: Graph) -> Arrays:
    draw = np.random.default_rng(0)
    height, width = 37, 42
    return {
        "image": draw.standard_normal((2, 3, height, width)),
        "label": draw.integers(0, 5, (2, height, width)),
    }


def slope(graph: Graph, weights: Mapping[str, Array], way: Arrays, batch: Arrays) -> float:
    """The loss's derivative along `way`, by the complex step."""
    moved = {name: weights[name] + STEP * 1j * way.get(name, np.zeros(())) for name in weights}
    outputs, _ = evaluate(graph, moved, {"image": batch["image"]}, np.complex128, train_mode=True)
    return float(np.imag(objective_value(Objective(), outputs, batch)["loss"]) / STEP)


def test_outputs_are_those_of_the_definition(backend: Backend, graph: Graph) -> None:
    weights, image = initial_weights(graph), batch_of(graph)["image"]
    found = backend.predictor(graph, weights, device="cpu", precision="float64").predict(image)
    for name, wanted in evaluate(graph, weights, {"image": image}).items():
        assert_allclose(found[name], wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())


def test_a_training_step_is_that_of_the_definition(backend: Backend, graph: Graph) -> None:
    weights, batch = initial_weights(graph), batch_of(graph)
    training = Training(Objective(), SGD(momentum=0.0, weight_decay=0.0))
    trainer = backend.trainer(graph, weights, training, device="cpu", precision="float64")
    losses = trainer.step(batch, RATE)
    outputs, statistics = evaluate(graph, weights, {"image": batch["image"]}, train_mode=True)
    for name, wanted in objective_value(Objective(), outputs, batch).items():
        assert_allclose(float(losses[name]), wanted, rtol=1e-10)
    state = trainer.state()
    for name, array in statistics.items():
        assert_allclose(state[name], array, rtol=1e-10, atol=1e-12)
    draw = np.random.default_rng(1)
    way = {name: draw.standard_normal(shape) for name, shape in graph.trainable.items()}
    gradient = {name: (weights[name] - state[name]) / RATE for name in way}
    along = sum(float(np.vdot(gradient[name], way[name])) for name in way)
    scale = sum(float(np.abs(gradient[name] * way[name]).sum()) for name in way)
    assert abs(along - slope(graph, weights, way, batch)) < 1e-10 * scale
