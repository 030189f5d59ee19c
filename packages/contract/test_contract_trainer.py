"""Training steps against the definition in float64."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from contract import definition
from contract.framework import Arrays
from contract.networks import GSTO, equal, gated, gated_batch, trainer_of, with_norms
from gsto_spec import Graph, GraphBuilder, GraphError, build, evaluate
from gsto_spec.backend import Backend, Training
from gsto_spec.objective import SGD, Adam, CrossEntropy, Heatmap, Objective, Ohem, optimizer_step

TRAININGS = [
    Training(Objective(), SGD(0.9, 5e-4)),
    Training(Objective(CrossEntropy(class_weights=(0.5, 1.0, 2.0)), align_corners=True), SGD(0.0, 0.1), 0.5),
    Training(Objective(CrossEntropy(ohem=Ohem(0.5, 10))), Adam(0.8, 0.9, 1e-3, 0.01)),
]


@pytest.mark.parametrize("training", TRAININGS, ids=["sgd", "plain sgd, weighted", "adam, ohem"])
def test_steps_are_those_of_the_definition(backend: Backend, training: Training) -> None:
    momentum = training.batch_norm_momentum
    graph = gated() if momentum is None else with_norms(gated(), ["bn1"], momentum=momentum)
    weights = definition.in_float64(gated())
    slots: Arrays = {}
    trainer = trainer_of(backend, training)
    for step, rate in enumerate([0.1, 0.05, 0.2]):
        losses, weights, slots = definition.step(graph, weights, slots, training, gated_batch(step), rate)
        found = trainer.step(gated_batch(step), rate)
        assert list(found) == [*losses, "finite"]
        for name, value in losses.items():
            assert float(found[name]) == pytest.approx(value, rel=1e-11)
        state = trainer.state()
        for name, array in weights.items():
            assert_allclose(state[name], array, rtol=1e-10, atol=1e-13, err_msg=f"{name} after step {step}")
    kept = {name: array for name, array in state.items() if name.startswith("optimizer/")}
    plain = training.optimizer == SGD(0.0, 0.1)
    assert set(kept) == (set() if plain else {f"optimizer/{name}" for name in slots})
    for name, array in kept.items():
        assert_allclose(array, slots[name.removeprefix("optimizer/")], rtol=1e-9, atol=1e-13)


def shift(seed: int = 0) -> tuple[Graph, Arrays]:
    """A graph whose gradients are exact in float32: the loss is half the mean of (bias - target)^2."""
    builder = GraphBuilder()
    graph = builder.graph({"stage4": builder.conv2d("head", builder.input("image", 1), 4, bias=True)})
    weights = {"head.weight": np.zeros((4, 1, 1, 1)), "head.bias": np.random.default_rng(seed).random(4)}
    return graph, weights


@pytest.mark.parametrize(
    "optimizer", [SGD(), SGD(0.5, 0.01), Adam(), Adam(0.0, 0.99), Adam(0.8, 0.9995, 1e-6, 0.1)]
)
def test_steps_in_float32_are_the_definitions_to_a_few_ulp(backend: Backend, optimizer: SGD | Adam) -> None:
    graph, start = shift()
    training = Training(Objective(Heatmap()), optimizer)
    trainer = backend.trainer(graph, start, training, device="cpu")
    target = np.array([0.5, -0.25, 0.75, -1.0])
    batch = {
        "image": np.zeros((1, 1, 1, 1)), "heatmaps": target.reshape(1, 4, 1, 1), "visibility": np.ones((1, 4))
    }  # fmt: skip
    weights = {"head.bias": start["head.bias"].astype(np.float32).astype(float)}
    slots: Arrays = {}
    for step in range(4):
        before = weights["head.bias"]
        gradients = {"head.bias": (before - target) / 4}
        weights, slots = optimizer_step(optimizer, weights, gradients, slots, 0.125)
        trainer.step(batch, 0.125)
        found = trainer.state()["head.bias"]
        assert found.dtype == np.float32
        ulp = np.finfo(np.float32).eps
        moved = np.abs(weights["head.bias"] - before)
        assert (np.abs(found - weights["head.bias"]) <= 8 * ulp * (moved + np.abs(before))).all(), step
        weights = {"head.bias": found.astype(float)}
        slots = {
            name.removeprefix("optimizer/"): array.astype(float)
            for name, array in trainer.state().items()
            if name.startswith("optimizer/") and "weight" not in name
        }  # fmt: skip


def test_adams_first_step_is_the_rate_in_float32_too(backend: Backend) -> None:
    graph, start = shift()
    start["head.bias"] = np.zeros(4)
    training = Training(Objective(Heatmap()), Adam(epsilon=1e-30))
    trainer = backend.trainer(graph, start, training, device="cpu")
    batch = {
        "image": np.zeros((1, 1, 1, 1)), "heatmaps": np.ones((1, 4, 1, 1)), "visibility": np.ones((1, 4)),
    }  # fmt: skip
    trainer.step(batch, 2.0)
    assert_allclose(trainer.state()["head.bias"], 2.0, rtol=4 * np.finfo(np.float32).eps)  # type: ignore[call-overload]


def test_weights_that_no_output_needs_decay_all_the_same(backend: Backend) -> None:
    trainer = trainer_of(backend, Training(optimizer=SGD(0.0, 0.5)))
    before = trainer.state()["dead.weight"]
    trainer.step(gated_batch(0), 0.1)
    assert_allclose(trainer.state()["dead.weight"], before * (1 - 0.1 * 0.5), rtol=1e-12)


def test_a_loss_that_depends_on_no_parameter_leaves_the_weights_to_decay(backend: Backend) -> None:
    build = GraphBuilder()
    image = build.input("image", 3)
    build.conv2d("unread", image, 2)
    trainer = trainer_of(backend, Training(optimizer=SGD(0.0, 0.5)), build.graph({"stage4": image}))
    before = trainer.state()["unread.weight"]
    batch = {"image": np.ones((1, 3, 4, 4)), "label": np.zeros((1, 4, 4), np.int64)}
    assert float(trainer.step(batch, 0.1)["loss"]) == pytest.approx(np.log(3))
    assert_allclose(trainer.state()["unread.weight"], before * (1 - 0.1 * 0.5), rtol=1e-12)


def test_pose_is_trained_on_heatmaps(backend: Backend) -> None:
    training = Training(Objective(Heatmap((1.0, 1.2, 1.5))), Adam())
    draw = np.random.default_rng(0)
    batch = {
        "image": draw.standard_normal((2, 2, 7, 6)), "visibility": np.array([[1, 0, 1], [1, 1, 1]]),
        "heatmaps": draw.random((2, 3, 4, 3)),
    }  # fmt: skip
    build = GraphBuilder()
    x = build.conv2d("conv1", build.input("image", 2), 4, kernel=3, stride=2)
    graph = build.graph({"stage4": build.conv2d("final_layer", build.relu(x), 3, bias=True)})
    weights = definition.in_float64(graph)
    losses, weights, _ = definition.step(graph, weights, {}, training, batch, 1e-2)
    trainer = trainer_of(backend, training, graph)
    assert float(trainer.step(batch, 1e-2)["loss"]) == pytest.approx(losses["loss"], rel=1e-12)
    for name, array in weights.items():
        assert_allclose(trainer.state()[name], array, rtol=1e-10)


@pytest.mark.parametrize("form", ["release", "paper"])
def test_both_forms_of_gsto_learn(backend: Backend, form: Any) -> None:
    trainer = trainer_of(backend, Training(), build(GSTO, form=form), precision="float32")
    draw = np.random.default_rng(0)
    batch = {"image": draw.standard_normal((2, 3, 65, 49)), "label": draw.integers(0, 2, (2, 65, 49))}
    losses = [float(trainer.step(batch, 0.02)["loss"]) for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]


def test_losses_are_named_after_their_outputs(backend: Backend) -> None:
    losses = trainer_of(backend, Training()).step(gated_batch(0), 0.1)
    assert list(losses) == ["loss", "loss_stage4", "loss_stage2", "finite"]
    assert float(losses["loss"]) == pytest.approx(
        float(losses["loss_stage4"]) + 0.3 * float(losses["loss_stage2"])
    )


def test_a_batch_may_be_overwritten_as_soon_as_the_step_returns(backend: Backend) -> None:
    safe, reused = (trainer_of(backend, Training(), precision="float32") for _ in range(2))
    batch = {"image": np.empty((2, 2, 7, 6), np.float32), "label": np.empty((2, 7, 6), np.int32)}
    for step in range(6):
        safe.step(gated_batch(step), 0.1)
        for name, array in gated_batch(step).items():
            batch[name][...] = array
        reused.step(batch, 0.1)
        for array in batch.values():
            array[...] = 0
    assert equal(safe.state(), reused.state())


def test_predictions_are_inference_and_leave_the_state_alone(backend: Backend) -> None:
    trainer = trainer_of(backend, Training())
    trainer.step(gated_batch(0), 0.1)
    before = trainer.state()
    images = gated_batch(1)["image"]
    weights = {name: before[name] for name in gated().parameters}
    wanted = evaluate(gated(), weights, {"image": images})
    found = trainer.predict(images)
    assert list(found) == ["stage4", "stage2"]
    for name, array in wanted.items():
        assert_allclose(found[name], array, rtol=0, atol=1e-12 * np.abs(array).max())
    assert equal(trainer.state(), before)
    trainer.step(gated_batch(2), 0.1)
    assert not np.array_equal(trainer.state()["bn1.running_mean"], before["bn1.running_mean"])


def test_one_value_per_channel_is_refused_and_changes_nothing(backend: Backend) -> None:
    build = GraphBuilder()
    x = build.batch_norm("bn", build.adaptive_avg_pool(build.input("image", 2), size=(1, 1)))
    graph = build.graph({"stage4": build.conv2d("head", x, 3)})
    trainer = trainer_of(backend, Training(), graph)
    before = trainer.state()
    with pytest.raises(
        GraphError, match=r"^bn: expected more than one value per channel .*\[batch_norm_c5\]$"
    ):
        trainer.step({name: array[:1] for name, array in gated_batch(0).items()}, 0.1)
    assert equal(trainer.state(), before)


def test_arrays_of_any_layout_and_kind_are_taken(backend: Backend) -> None:
    plain, odd = (trainer_of(backend, Training(), precision="float32") for _ in range(2))
    batch = gated_batch(0)
    image = batch["image"].astype(np.float32)
    label = batch["label"].astype(np.uint8)
    image.flags.writeable = label.flags.writeable = False
    flipped = np.ascontiguousarray(image[..., ::-1])[..., ::-1]
    assert flipped.strides[-1] < 0
    first = plain.step({"image": image.copy(), "label": label.astype(np.int64)}, 0.1)
    second = odd.step({"image": flipped, "label": label}, 0.1)
    assert float(first["loss"]) == float(second["loss"])
    wanted = plain.predict(image)["stage4"]
    assert np.array_equal(odd.predict(flipped)["stage4"], wanted)
