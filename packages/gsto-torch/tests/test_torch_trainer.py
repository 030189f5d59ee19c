"""Training steps against the definition in float64, and the state that a run goes on from."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from gsto_spec import (
    Graph,
    GraphBuilder,
    GraphError,
    HRNet,
    Node,
    WeightsError,
    build,
    evaluate,
    initial_weights,
)
from gsto_spec.backend import Trainer, Training
from gsto_spec.objective import (
    SGD,
    Adam,
    CrossEntropy,
    Heatmap,
    Objective,
    Ohem,
    objective_value,
    optimizer_step,
)
from gsto_spec.ops import BatchNorm
from gsto_torch.backend import TorchBackend

Arrays = dict[str, NDArray[Any]]


def small() -> Graph:
    """Two outputs, a gate, a norm, and a convolution that no output needs."""
    build = GraphBuilder(momentum=0.2)
    image = build.input("image", 2)
    x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", image, 2, kernel=3, stride=2)))
    x = build.mul(build.sigmoid(build.conv2d("att.0", x, 1)), x)
    build.conv2d("dead", x, 1)
    low = build.max_pool(x, 2, 2)
    united = build.concat([x, build.resize(low, like=x)])
    return build.graph(
        {"stage4": build.conv2d("head", united, 3, bias=True), "stage2": build.conv2d("aux", low, 3)}
    )


def batch_of(seed: int) -> Arrays:
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 3, (2, 7, 6))
    label[draw.random(label.shape) < 0.2] = 255
    return {"image": draw.standard_normal((2, 2, 7, 6)), "label": label}


def trainer_of(
    training: Training, seed: int = 0, precision: str = "float64", graph: Graph | None = None
) -> Trainer:
    graph = graph or small()
    return TorchBackend().trainer(
        graph, initial_weights(graph, seed), training, device="cpu", precision=precision
    )


def gradients_by_definition(graph: Graph, weights: Arrays, objective: Objective, batch: Arrays) -> Arrays:
    """By the complex step, value by value."""
    moved = {name: array.astype(complex) for name, array in weights.items()}
    gradients = {name: np.zeros(shape) for name, shape in graph.trainable.items()}
    for name, gradient in gradients.items():
        for index in np.ndindex(gradient.shape):
            moved[name][index] += 1e-30j
            outputs, _ = evaluate(graph, moved, {"image": batch["image"]}, np.complex128, train_mode=True)
            gradient[index] = np.imag(objective_value(objective, outputs, batch)["loss"]) / 1e-30
            moved[name][index] -= 1e-30j
    return gradients


def step_by_definition(
    graph: Graph, weights: Arrays, slots: Arrays, training: Training, batch: Arrays, rate: float
) -> tuple[dict[str, float], Arrays, Arrays]:
    outputs, statistics = evaluate(graph, weights, {"image": batch["image"]}, train_mode=True)
    losses = objective_value(training.objective, outputs, batch)
    gradients = gradients_by_definition(graph, weights, training.objective, batch)
    learnt = {name: weights[name] for name in graph.trainable}
    learnt, slots = optimizer_step(training.optimizer, learnt, gradients, slots, rate)
    return losses, {**weights, **learnt, **statistics}, slots


def with_momentum(graph: Graph, momentum: float) -> Graph:
    def change(node: Node) -> Node:
        op = node.op
        return replace(node, op=replace(op, momentum=momentum)) if isinstance(op, BatchNorm) else node

    return Graph(tuple(map(change, graph.nodes)), graph.outputs)


TRAININGS = [
    Training(Objective(), SGD(0.9, 5e-4)),
    Training(Objective(CrossEntropy(class_weights=(0.5, 1.0, 2.0)), align_corners=True), SGD(0.0, 0.1), 0.5),
    Training(Objective(CrossEntropy(ohem=Ohem(0.5, 10))), Adam(0.8, 0.9, 1e-3, 0.01)),
]


@pytest.mark.parametrize("training", TRAININGS, ids=["sgd", "plain sgd, weighted", "adam, ohem"])
def test_steps_are_those_of_the_definition(training: Training) -> None:
    momentum = training.batch_norm_momentum
    graph = small() if momentum is None else with_momentum(small(), momentum)
    weights: Arrays = {name: array.astype(float) for name, array in initial_weights(small()).items()}
    slots: Arrays = {}
    trainer = trainer_of(training)
    for step, rate in enumerate([0.1, 0.05, 0.2]):
        losses, weights, slots = step_by_definition(graph, weights, slots, training, batch_of(step), rate)
        found = trainer.step(batch_of(step), rate)
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


def test_weights_that_no_output_needs_decay_all_the_same() -> None:
    trainer = trainer_of(Training(optimizer=SGD(0.0, 0.5)))
    before = trainer.state()["dead.weight"]
    trainer.step(batch_of(0), 0.1)
    assert_allclose(trainer.state()["dead.weight"], before * (1 - 0.1 * 0.5), rtol=1e-12)


def test_a_loss_that_depends_on_no_parameter_leaves_the_weights_to_decay() -> None:
    build = GraphBuilder()
    image = build.input("image", 3)
    build.conv2d("unread", image, 2)
    trainer = trainer_of(Training(optimizer=SGD(0.0, 0.5)), graph=build.graph({"stage4": image}))
    before = trainer.state()["unread.weight"]
    batch = {"image": np.ones((1, 3, 4, 4)), "label": np.zeros((1, 4, 4), np.int64)}
    assert float(trainer.step(batch, 0.1)["loss"]) == pytest.approx(np.log(3))
    assert_allclose(trainer.state()["unread.weight"], before * (1 - 0.1 * 0.5), rtol=1e-12)


def test_pose_is_trained_on_heatmaps() -> None:
    training = Training(Objective(Heatmap((1.0, 1.2, 1.5))), Adam())
    draw = np.random.default_rng(0)
    batch = {
        "image": draw.standard_normal((2, 2, 7, 6)), "visibility": np.array([[1, 0, 1], [1, 1, 1]]),
        "heatmaps": draw.random((2, 3, 4, 3)),
    }  # fmt: skip
    build = GraphBuilder()
    x = build.conv2d("conv1", build.input("image", 2), 4, kernel=3, stride=2)
    graph = build.graph({"stage4": build.conv2d("final_layer", build.relu(x), 3, bias=True)})
    weights: Arrays = {name: array.astype(float) for name, array in initial_weights(graph).items()}
    losses, weights, _ = step_by_definition(graph, weights, {}, training, batch, 1e-2)
    trainer = trainer_of(training, graph=graph)
    assert float(trainer.step(batch, 1e-2)["loss"]) == pytest.approx(losses["loss"], rel=1e-12)
    for name, array in weights.items():
        assert_allclose(trainer.state()[name], array, rtol=1e-10)


NARROW = HRNet(
    widths=(2, 4, 6, 8), modules=(1, 1, 1), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1, classes=3
)


@pytest.mark.parametrize("form", ["release", "paper"])
def test_both_forms_of_gsto_learn(form: Any) -> None:
    gsto = replace(NARROW, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised")
    trainer = trainer_of(Training(), precision="float32", graph=build(gsto, form=form))
    draw = np.random.default_rng(0)
    batch = {"image": draw.standard_normal((2, 3, 65, 49)), "label": draw.integers(0, 2, (2, 65, 49))}
    losses = [float(trainer.step(batch, 0.02)["loss"]) for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]


def test_losses_are_named_after_their_outputs() -> None:
    losses = trainer_of(Training()).step(batch_of(0), 0.1)
    assert list(losses) == ["loss", "loss_stage4", "loss_stage2", "finite"]
    assert float(losses["loss"]) == pytest.approx(
        float(losses["loss_stage4"]) + 0.3 * float(losses["loss_stage2"])
    )


def test_predictions_are_inference_and_leave_the_state_alone() -> None:
    trainer = trainer_of(Training())
    trainer.step(batch_of(0), 0.1)
    before = trainer.state()
    images = batch_of(1)["image"]
    weights = {name: before[name] for name in small().parameters}
    wanted = evaluate(small(), weights, {"image": images})
    found = trainer.predict(images)
    assert list(found) == ["stage4", "stage2"]
    for name, array in wanted.items():
        assert_allclose(found[name], array, rtol=0, atol=1e-12 * np.abs(array).max())
    after = trainer.state()
    assert all(np.array_equal(after[name], array) for name, array in before.items())
    trainer.step(batch_of(2), 0.1)
    assert not np.array_equal(trainer.state()["bn1.running_mean"], before["bn1.running_mean"])


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_a_run_goes_on_from_its_state(optimizer: SGD | Adam) -> None:
    first, second = (
        trainer_of(Training(optimizer=optimizer)),
        trainer_of(Training(optimizer=optimizer), seed=1),
    )
    for step in range(2):
        first.step(batch_of(step), 0.1)
    state = first.state()
    kept = {name: array.copy() for name, array in state.items()}
    second.step(batch_of(9), 0.1)
    second.load(state)
    for step in range(2, 4):
        losses = first.step(batch_of(step), 0.1), second.step(batch_of(step), 0.1)
        assert float(losses[0]["loss"]) == float(losses[1]["loss"])
    ends = first.state(), second.state()
    assert set(ends[0]) == set(ends[1])
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert all(np.array_equal(state[name], kept[name]) for name in kept)


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_a_state_of_weights_alone_starts_the_optimizer_anew(optimizer: SGD | Adam) -> None:
    first, second = (
        trainer_of(Training(optimizer=optimizer)),
        trainer_of(Training(optimizer=optimizer), seed=1),
    )
    second.step(batch_of(5), 0.1)
    second.load(initial_weights(small()))
    for trainer in (first, second):
        trainer.step(batch_of(0), 0.1)
    ends = first.state(), second.state()
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_state_names_weights_canonically_and_slots_by_prefix() -> None:
    trainer = trainer_of(Training(optimizer=Adam()), precision="float32")
    assert list(trainer.state()) == list(small().parameters)
    trainer.step(batch_of(0), 0.1)
    state = trainer.state()
    slots = {name for name in state if name not in small().parameters}
    learnt = small().trainable
    assert slots == {"optimizer/step"} | {
        f"optimizer/{k}/{name}" for k in ("first", "second") for name in learnt
    }
    assert state["optimizer/step"].shape == ()
    assert {array.dtype for name, array in state.items() if name != "optimizer/step"} == {
        np.dtype(np.float32)
    }


def test_a_state_that_does_not_fit_is_listed_and_changes_nothing() -> None:
    trainer = trainer_of(Training())
    trainer.step(batch_of(0), 0.1)
    before = trainer.state()
    bad = trainer_of(Training(), seed=7).state() | {
        name: array + 1 for name, array in before.items() if name.startswith("optimizer/")
    }
    del bad["head.bias"]
    del bad["optimizer/momentum/conv1.weight"]
    bad |= {
        "extra": np.ones(1), "optimizer/first/head.bias": np.ones(3), "aux.weight": np.ones((3, 2)),
        "bn1.bias": np.array([0, np.nan]), "optimizer/momentum/head.bias": np.full(3, np.inf),
    }  # fmt: skip
    with pytest.raises(WeightsError) as caught:
        trainer.load(bad)
    assert str(caught.value) == (
        "state: head.bias is missing; optimizer/momentum/conv1.weight is missing; extra is not declared; "
        "optimizer/first/head.bias is not declared; aux.weight has shape (3, 2), expected (3, 2, 1, 1); "
        "bn1.bias is not finite; optimizer/momentum/head.bias is not finite"
    )
    after = trainer.state()
    assert list(after) == list(before)
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_a_state_of_another_optimizer_is_refused() -> None:
    other = trainer_of(Training(optimizer=Adam()))
    other.step(batch_of(0), 0.1)
    with pytest.raises(
        WeightsError, match=r"optimizer/momentum/.* is missing.*optimizer/step is not declared"
    ):
        trainer_of(Training()).load(other.state())


def test_one_value_per_channel_is_refused_and_changes_nothing() -> None:
    build = GraphBuilder()
    x = build.batch_norm("bn", build.adaptive_avg_pool(build.input("image", 2), size=(1, 1)))
    graph = build.graph({"stage4": build.conv2d("head", x, 3)})
    trainer = trainer_of(Training(), graph=graph)
    before = trainer.state()
    with pytest.raises(
        GraphError, match=r"^bn: expected more than one value per channel .*\[batch_norm_c5\]$"
    ):
        trainer.step({name: array[:1] for name, array in batch_of(0).items()}, 0.1)
    assert all(np.array_equal(trainer.state()[name], array) for name, array in before.items())


def test_arrays_of_any_layout_and_kind_are_taken() -> None:
    plain, odd = trainer_of(Training(), precision="float32"), trainer_of(Training(), precision="float32")
    batch = batch_of(0)
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
