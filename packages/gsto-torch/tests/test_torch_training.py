"""What a trainer does on request: frozen tensors, rates, parts, rematerialisation; and values not finite."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from gsto_spec import Graph, GraphBuilder, HRNet, Node, build, evaluate, initial_weights
from gsto_spec.backend import BackendError, Training
from gsto_spec.memory import segments
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
    """Two outputs, a gate, and norms with biased and unbiased running variance."""
    build = GraphBuilder(momentum=0.2)
    image = build.input("image", 2)
    x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", image, 3, kernel=3, stride=2)))
    x = build.mul(build.sigmoid(build.conv2d("att.0", x, 1)), x)
    low = build.batch_norm("bn2", build.adaptive_avg_pool(x, size=(2, 3)))
    united = build.concat([x, build.resize(low, like=x)])
    graph = build.graph(
        {"stage4": build.conv2d("head", united, 3, bias=True), "stage2": build.conv2d("aux", low, 3)}
    )
    return Graph(tuple(map(_biased, graph.nodes)), graph.outputs)


def _biased(node: Node) -> Node:
    if node.name != "bn2" or not isinstance(node.op, BatchNorm):
        return node
    return replace(node, op=replace(node.op, unbiased=False))


NORMS = frozenset({"bn1.weight", "bn2.weight"})
HARD = CrossEntropy(class_weights=(0.5, 1.0, 2.0), ohem=Ohem(0.3, 12))


def batch_of(seed: int, images: int = 4) -> Arrays:
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 3, (images, 7, 6))
    label[draw.random(label.shape) < 0.2] = 255
    return {
        "image": draw.standard_normal((images, 2, 7, 6)), "label": label,
        "heatmaps": draw.random((images, 3, 4, 3)), "visibility": draw.integers(0, 2, (images, 3)),
    }  # fmt: skip


def trainer_of(training: Training, graph: Graph | None = None, precision: str = "float64") -> Any:
    graph = graph or small()
    return TorchBackend().trainer(graph, initial_weights(graph), training, device="cpu", precision=precision)


def states_after(training: Training, batches: list[Arrays], graph: Graph | None = None) -> list[Arrays]:
    trainer = trainer_of(training, graph)
    states = []
    for batch in batches:
        losses = trainer.step(batch, 0.1)
        states.append({**trainer.state(), **{name: np.array(float(loss)) for name, loss in losses.items()}})
    return states


def agree(found: list[Arrays], wanted: list[Arrays], bound: float = 1e-12) -> None:
    for got, want in zip(found, wanted, strict=True):
        assert list(got) == list(want)
        for name, array in want.items():
            assert_allclose(got[name], array, rtol=bound, atol=bound, err_msg=name)


def equal(first: Arrays, second: Arrays) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def inference_gradients(graph: Graph, weights: Arrays, objective: Objective, batch: Arrays) -> Arrays:
    """By the complex step, with every norm frozen."""
    moved = {name: array.astype(complex) for name, array in weights.items()}
    gradients = {name: np.zeros(shape) for name, shape in graph.trainable.items()}
    for name, gradient in gradients.items():
        for index in np.ndindex(gradient.shape):
            moved[name][index] += 1e-30j
            outputs = evaluate(graph, moved, {"image": batch["image"]}, np.complex128)
            gradient[index] = np.imag(objective_value(objective, outputs, batch)["loss"]) / 1e-30
            moved[name][index] -= 1e-30j
    return gradients


@pytest.mark.parametrize("optimizer", [SGD(0.9, 0.01), Adam(weight_decay=0.01)])
def test_frozen_tensors_and_rates_are_those_of_the_definition(optimizer: SGD | Adam) -> None:
    graph, objective = small(), Objective(CrossEntropy(class_weights=(0.5, 1.0, 2.0)))
    factors = {"head.weight": 10.0, "aux.weight": 0.0, "bn1.bias": 0.5}
    training = Training(objective, optimizer, frozen=NORMS | {"head.bias"}, rate_factors=factors)
    weights: Arrays = {name: array.astype(float) for name, array in initial_weights(graph).items()}
    slots: Arrays = {}
    trainer = trainer_of(training)
    for step in range(3):
        gradients = inference_gradients(graph, weights, objective, batch_of(step))
        new_slots: Arrays = {}
        for name in training.learnt(graph):
            rate = 0.1 * factors.get(name, 1.0)
            updated, kept = optimizer_step(
                optimizer, {name: weights[name]}, {name: gradients[name]}, slots, rate
            )
            weights |= updated
            new_slots |= kept
        slots = new_slots
        trainer.step(batch_of(step), 0.1)
    state = trainer.state()
    assert set(state) == {*weights, *(f"optimizer/{name}" for name in slots)}
    for name, array in weights.items():
        assert_allclose(state[name], array, rtol=1e-9, atol=1e-12, err_msg=name)
    assert_allclose(
        trainer.predict(batch_of(0)["image"])["stage4"],
        evaluate(graph, weights, {"image": batch_of(0)["image"]})["stage4"], atol=1e-10,
    )  # fmt: skip


def test_only_the_norm_that_is_frozen_stands_still() -> None:
    trainer = trainer_of(Training(frozen=frozenset({"bn1.weight"})))
    before = trainer.state()
    trainer.step(batch_of(0), 0.1)
    moved = {name for name, array in trainer.state().items()
             if name in before and not np.array_equal(array, before[name])}  # fmt: skip
    assert moved == set(small().parameters) - {"bn1.weight", "bn1.running_mean", "bn1.running_var"}


@pytest.mark.parametrize("field", ["frozen", "rate_factors"])
def test_a_name_that_is_not_learnt_is_refused(field: str) -> None:
    value: Any = {"bn1.running_mean"} if field == "frozen" else {"bn1.running_mean": 2.0}
    with pytest.raises(BackendError, match=f"^{field}: expected learnt tensors, found bn1.running_mean"):
        trainer_of(Training(**{field: value}))


OBJECTIVES = {
    "class weights": Objective(CrossEntropy(class_weights=(0.5, 1.0, 2.0))),
    "hard pixels": Objective(HARD),
    "heatmaps": Objective(Heatmap((1.0, 1.2, 1.5))),
}


def trained_on(objective: Objective) -> Graph:
    graph = small()
    return graph if "aux" not in graph.by_name or not isinstance(objective.loss, Heatmap) else Graph(
        graph.nodes, {"stage4": graph.outputs["stage4"]}
    )  # fmt: skip


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_parts_add_up_to_the_batch(objective: Objective, parts: int) -> None:
    batches, graph = [batch_of(0), batch_of(1)], trained_on(objective)
    batches[0]["label"][2:] = 255
    whole = states_after(Training(objective, frozen=NORMS), batches, graph)
    agree(states_after(Training(objective, frozen=NORMS, micro_batches=parts), batches, graph), whole)


@pytest.mark.parametrize("rematerialize", [False, True])
@pytest.mark.parametrize("objective", [OBJECTIVES["class weights"], OBJECTIVES["hard pixels"]])
def test_running_statistics_take_in_one_part_after_another(objective: Objective, rematerialize: bool) -> None:
    graph, batch = small(), batch_of(0)
    weights: Arrays = {name: array.astype(float) for name, array in initial_weights(graph).items()}
    trainer = trainer_of(Training(objective, micro_batches=2, rematerialize=rematerialize))
    trainer.step(batch, 0.1)
    for part in (slice(0, None, 2), slice(1, None, 2)):
        _, statistics = evaluate(graph, weights, {"image": batch["image"][part]}, train_mode=True)
        weights |= statistics
    for name in statistics:
        assert_allclose(trainer.state()[name], weights[name], rtol=1e-11, atol=1e-14)


def test_parts_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(BackendError) as caught:
        trainer_of(Training(micro_batches=3)).step(batch_of(0), 0.1)
    assert str(caught.value) == "micro_batches: expected a divisor of a batch of 4, found 3"


NARROW = HRNet(
    widths=(2, 4, 6, 8), modules=(1, 1, 1), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1,
    classes=3, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised",
)  # fmt: skip


def pictures(seed: int) -> Arrays:
    draw = np.random.default_rng(seed)
    return {"image": draw.standard_normal((2, 3, 65, 65)), "label": draw.integers(0, 3, (2, 65, 65))}


@pytest.mark.parametrize("choice", ["rematerialize", "deterministic"])
def test_no_result_changes(choice: str) -> None:
    wanted: dict[str, Any] = {choice: True}
    batches = [batch_of(seed) for seed in range(3)]
    agree(states_after(Training(**wanted), batches), states_after(Training(), batches))
    graph = build(NARROW)
    agree(
        states_after(Training(**wanted), [pictures(0)], graph), states_after(Training(), [pictures(0)], graph)
    )


def peak_bytes(training: Training, graph: Graph) -> int:
    """The most that tensors took at once during a step, over what there was before."""
    trainer = trainer_of(training, graph)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        trainer.step(pictures(0), 0.1)
    events = seen.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return int(np.cumsum([change for _, change in changes]).max())


def test_rematerialisation_keeps_less() -> None:
    graph = build(NARROW)
    assert len(segments(graph)) > 3
    assert peak_bytes(Training(rematerialize=True), graph) < 0.6 * peak_bytes(Training(), graph)


def test_determinism_is_for_the_step_alone() -> None:
    trainer = trainer_of(Training(deterministic=True))
    seen = []
    trainer.model.get_submodule("conv1").register_forward_hook(
        lambda *_: seen.append(torch.are_deterministic_algorithms_enabled())
    )
    trainer.step(batch_of(0), 0.1)
    trainer.predict(batch_of(0)["image"])
    with pytest.raises(IndexError):
        trainer.step({**batch_of(0), "label": np.full((4, 7, 6), 7)}, 0.1)
    assert seen == [True, False, True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_has_no_deterministic_kernel_is_refused_in_one_line() -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("some_op does not have a deterministic implementation, but you set\nmore")

    trainer = trainer_of(Training(deterministic=True))
    trainer.model.get_submodule("conv1").register_forward_hook(fail)
    with pytest.raises(BackendError) as caught:
        trainer.step(batch_of(0), 0.1)
    assert str(caught.value).startswith("deterministic: expected a deterministic kernel, found some_op does")


def overflowing() -> tuple[Training, Graph, Arrays]:
    """A loss that is finite, and a gradient that is not."""
    build = GraphBuilder()
    graph = build.graph({"stage4": build.conv2d("head", build.input("image", 2), 3)})
    training = Training(Objective(stage_weights={"stage4": 1e3}))
    label = np.zeros((4, 7, 6), np.int64)
    return training, graph, {"image": np.full((4, 2, 7, 6), 1e306), "label": label}


def tiny(graph: Graph) -> Arrays:
    return {name: np.full(shape, 1e-307) for name, shape in graph.parameters.items()}


@pytest.mark.parametrize("options", [{}, {"micro_batches": 2}, {"rematerialize": True}], ids=str)
@pytest.mark.parametrize("optimizer", [SGD(), SGD(0.0), Adam()])
def test_a_step_that_is_not_finite_changes_nothing(optimizer: Any, options: dict[str, Any]) -> None:
    broken = batch_of(1)
    broken["image"][2, 1, 3, 3] = np.nan
    training = Training(optimizer=optimizer, **options)
    trainer, plain = trainer_of(training), trainer_of(training)
    for seed in (0, 2):
        before = trainer.state()
        assert float(trainer.step(broken, 0.1)["finite"]) == 0
        assert equal(trainer.state(), before)
        found, wanted = (each.step(batch_of(seed), 0.1) for each in (trainer, plain))
        assert float(found["finite"]) == float(wanted["finite"]) == 1
        assert float(found["loss"]) == float(wanted["loss"])
    assert equal(trainer.state(), plain.state())


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    training, graph, batch = overflowing()
    trainer = trainer_of(training, graph)
    trainer.load(tiny(graph))
    losses = trainer.step(batch, 0.1)
    assert np.isfinite(float(losses["loss"]))
    assert float(losses["finite"]) == 0
    assert equal(trainer.state(), tiny(graph))
    assert trainer.first_not_finite(batch) == "gradient of head.weight"


@pytest.mark.parametrize("options", [{}, {"micro_batches": 2}, {"rematerialize": True}], ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_first_value_that_is_not_finite_is_named(objective: Objective, options: dict[str, Any]) -> None:
    graph = trained_on(objective)
    trainer = trainer_of(Training(objective, **options), graph)
    trainer.step(batch_of(0), 0.1)
    before = trainer.state()
    broken, large = batch_of(1), batch_of(1)
    broken["image"][3, 1, 3, 3] = np.inf
    large["image"][3] = 1e308
    assert trainer.first_not_finite(batch_of(1)) is None
    assert trainer.first_not_finite(broken) == "image"
    assert trainer.first_not_finite(large) == "conv1"
    if isinstance(objective.loss, Heatmap):
        batch = batch_of(1)
        batch["heatmaps"][0, 0, 0, 0] = np.inf
        batch["visibility"][:] = 1
        assert trainer.first_not_finite(batch) == "loss_stage4"
    assert equal(trainer.state(), before)
    plain = trainer_of(Training(objective, **options), graph)
    plain.step(batch_of(0), 0.1)
    for each in (plain, trainer):
        each.step(batch_of(2), 0.1)
    assert equal(trainer.state(), plain.state())
