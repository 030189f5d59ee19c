"""Steps whose loss, gradients or statistics are not finite: nothing changes, and the first place is named."""

from typing import Any

import numpy as np
import pytest

from contract.framework import Arrays
from contract.networks import OBJECTIVES, equal, for_objective, normed_twice, normed_twice_batch, trainer_of
from gsto_spec import Graph, GraphBuilder
from gsto_spec.backend import Backend, Training
from gsto_spec.objective import SGD, Adam, Heatmap, Objective

WAYS: list[dict[str, Any]] = [{}, {"micro_batches": 2}, {"rematerialize": True}]


def overflowing() -> tuple[Training, Graph, Arrays]:
    """A loss that is finite, and a gradient that is not."""
    build = GraphBuilder()
    graph = build.graph({"stage4": build.conv2d("head", build.input("image", 2), 3)})
    training = Training(Objective(stage_weights={"stage4": 1e3}))
    label = np.zeros((4, 7, 6), np.int64)
    return training, graph, {"image": np.full((4, 2, 7, 6), 1e306), "label": label}


def tiny(graph: Graph) -> Arrays:
    return {name: np.full(shape, 1e-307) for name, shape in graph.parameters.items()}


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("optimizer", [SGD(), SGD(0.0), Adam()])
def test_a_step_that_is_not_finite_changes_nothing(
    backend: Backend, optimizer: Any, options: dict[str, Any]
) -> None:
    training = Training(optimizer=optimizer, **options)
    trainer, plain = (trainer_of(backend, training, normed_twice()) for _ in range(2))
    for seed, value in (
        (0, np.nan),
        (2, np.inf),
    ):  # before the first step, when there are no slots, and after
        broken = normed_twice_batch(1)
        broken["image"][2, 1, 3, 3] = value
        before = trainer.state()
        assert float(trainer.step(broken, 0.1)["finite"]) == 0
        assert equal(trainer.state(), before)
        found, wanted = (each.step(normed_twice_batch(seed), 0.1) for each in (trainer, plain))
        assert float(found["finite"]) == float(wanted["finite"]) == 1
        assert float(found["loss"]) == float(wanted["loss"])
    assert equal(trainer.state(), plain.state())


def test_a_gradient_that_is_not_finite_changes_nothing(backend: Backend) -> None:
    training, graph, batch = overflowing()
    trainer = trainer_of(backend, training, graph)
    trainer.load(tiny(graph))
    losses = trainer.step(batch, 0.1)
    assert np.isfinite(float(losses["loss"]))
    assert float(losses["finite"]) == 0
    assert equal(trainer.state(), tiny(graph))
    assert trainer.first_not_finite(batch) == "gradient of head.weight"


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_first_value_that_is_not_finite_is_named(
    backend: Backend, objective: Objective, options: dict[str, Any]
) -> None:
    graph = for_objective(objective)
    trainer, plain = (trainer_of(backend, Training(objective, **options), graph) for _ in range(2))
    trainer.step(normed_twice_batch(0), 0.1)
    before = trainer.state()
    broken, large = normed_twice_batch(1), normed_twice_batch(1)
    broken["image"][3, 1, 3, 3] = np.inf
    large["image"][3] = 1e308
    assert trainer.first_not_finite(normed_twice_batch(1)) is None
    assert trainer.first_not_finite(broken) == "image"
    assert trainer.first_not_finite(large) == "conv1"
    if isinstance(objective.loss, Heatmap):
        batch = normed_twice_batch(1)
        batch["heatmaps"][0, 0, 0, 0] = np.inf
        batch["visibility"][:] = 1
        assert trainer.first_not_finite(batch) == "loss_stage4"
    assert equal(trainer.state(), before)
    plain.step(normed_twice_batch(0), 0.1)
    for each in (plain, trainer):
        each.step(normed_twice_batch(2), 0.1)
    assert equal(trainer.state(), plain.state())


def test_a_node_whose_weights_overflow_is_named(backend: Backend) -> None:
    trainer = trainer_of(backend, Training(), normed_twice())
    state = trainer.state()
    state["head.weight"] = np.full_like(state["head.weight"], 1e308)
    trainer.load(state)
    assert trainer.first_not_finite(normed_twice_batch(0)) == "head"
