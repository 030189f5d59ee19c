"""Speed "fast" computes what "plain" does, which computes what the definition says."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from contract.framework import Arrays
from contract.networks import GSTO, headed, lively_weights, strided
from gsto_spec import Graph, WeightsError, build, evaluate, initial_weights
from gsto_spec.backend import Backend, Speed, Training

SPEEDS: tuple[Speed, ...] = ("plain", "fast", "compiled")


def test_predictions_are_the_definitions_at_every_speed(backend: Backend) -> None:
    graph = build(GSTO)
    weights = lively_weights(graph)
    images = np.random.default_rng(1).standard_normal((1, 3, 33, 37))
    wanted = evaluate(graph, weights, {"image": images})
    for speed in SPEEDS[:2]:
        predictor = backend.predictor(graph, weights, device="cpu", precision="float64", speed=speed)
        found = predictor.predict(images)
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            assert_allclose(found[name], value, rtol=0, atol=1e-10 * np.abs(value).max())


def steps(backend: Backend, graph: Graph, speed: Speed) -> Arrays:
    """The state after two steps, and their losses."""
    draw = np.random.default_rng(2)
    batch = {"image": draw.standard_normal((2, 3, 9, 13)), "label": draw.integers(0, 2, (2, 9, 13))}
    weights = initial_weights(graph)
    trainer = backend.trainer(graph, weights, Training(), device="cpu", precision="float64", speed=speed)
    losses = [float(trainer.step(batch, 0.1)["loss"]) for _ in range(2)]
    return {**trainer.state(), "losses": np.array(losses)}


@pytest.mark.parametrize(
    "graph", [strided(), headed("bilinear"), headed("nearest")], ids=["strided", "bilinear", "nearest"]
)
def test_steps_are_the_same_at_every_speed(backend: Backend, graph: Graph) -> None:
    plain, fast = (steps(backend, graph, speed) for speed in SPEEDS[:2])
    assert list(fast) == list(plain)
    for name, value in plain.items():
        assert_allclose(fast[name], value, rtol=0, atol=1e-9 * max(np.abs(value).max(), 1e-3), err_msg=name)


@pytest.mark.parametrize("speed", SPEEDS)
def test_weights_that_do_not_fit_are_refused_at_every_speed(backend: Backend, speed: Speed) -> None:
    with pytest.raises(WeightsError, match=r"conv1\.weight is missing"):
        backend.predictor(build(GSTO), {}, device="cpu", speed=speed)
