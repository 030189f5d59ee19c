"""What a trainer does on request: frozen tensors, rates, parts of a batch, rematerialisation, determinism."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from contract import definition
from contract.framework import Arrays
from contract.networks import (
    NORMS,
    OBJECTIVES,
    chain,
    equal,
    for_objective,
    normed_twice,
    normed_twice_batch,
    trainer_of,
)
from gsto_spec import Graph, evaluate
from gsto_spec.backend import Backend, BackendError, Training
from gsto_spec.objective import (
    SGD,
    Adam,
    Objective,
    objective_value,
    optimizer_step,
)


def states_after(
    backend: Backend, training: Training, batches: list[Arrays], graph: Graph, precision: str = "float64"
) -> list[Arrays]:
    """State and losses of every step."""
    trainer = trainer_of(backend, training, graph, precision=precision)
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


@pytest.mark.parametrize("optimizer", [SGD(0.9, 0.01), Adam(weight_decay=0.01)])
def test_frozen_tensors_and_rates_are_those_of_the_definition(
    backend: Backend, optimizer: SGD | Adam
) -> None:
    graph, objective = normed_twice(), OBJECTIVES["class weights"]
    factors = {"head.weight": 10.0, "aux.weight": 0.0, "bn1.bias": 0.5}
    training = Training(objective, optimizer, frozen=NORMS | {"head.bias"}, rate_factors=factors)
    weights, slots = definition.in_float64(graph), dict[str, Any]()
    trainer = trainer_of(backend, training, graph)
    for step in range(3):
        batch = normed_twice_batch(step)
        gradients = definition.loss_gradients(graph, weights, objective, batch, train_mode=False)
        wanted = objective_value(objective, evaluate(graph, weights, {"image": batch["image"]}), batch)
        new_slots: Arrays = {}
        for name in training.learnt(graph):
            rate = 0.1 * factors.get(name, 1.0)
            updated, kept = optimizer_step(
                optimizer, {name: weights[name]}, {name: gradients[name]}, slots, rate
            )
            weights |= updated
            new_slots |= kept
        slots = new_slots
        assert_allclose(float(trainer.step(batch, 0.1)["loss"]), wanted["loss"], rtol=1e-11)
    state = trainer.state()
    assert set(state) == {*weights, *(f"optimizer/{name}" for name in slots)}
    for name, array in weights.items():
        assert_allclose(state[name], array, rtol=1e-9, atol=1e-12, err_msg=name)
    image = normed_twice_batch(0)["image"]
    wanted_output = evaluate(graph, weights, {"image": image})["stage4"]
    assert_allclose(trainer.predict(image)["stage4"], wanted_output, atol=1e-10)
    trainer.load(state)


def test_only_what_is_not_frozen_moves(backend: Backend) -> None:
    frozen = frozenset({"bn1.weight", "bn1.bias", "conv1.weight"})
    trainer = trainer_of(backend, Training(frozen=frozen), normed_twice())
    before = trainer.state()
    trainer.step(normed_twice_batch(0), 0.1)
    after = trainer.state()
    moved = {name for name, array in before.items() if not np.array_equal(after[name], array)}
    assert moved == set(before) - frozen - {"bn1.running_mean", "bn1.running_var"}
    slots = {name for name in after if name.startswith("optimizer/")}
    assert slots == {f"optimizer/momentum/{name}" for name in set(normed_twice().trainable) - frozen}


def test_only_the_norm_that_is_frozen_stands_still(backend: Backend) -> None:
    trainer = trainer_of(backend, Training(frozen=frozenset({"bn1.weight"})), normed_twice())
    before = trainer.state()
    trainer.step(normed_twice_batch(0), 0.1)
    after = trainer.state()
    moved = {name for name, array in before.items() if not np.array_equal(after[name], array)}
    assert moved == set(before) - {"bn1.weight", "bn1.running_mean", "bn1.running_var"}


def test_rate_factors_multiply_the_rate_of_what_they_name(backend: Backend) -> None:
    training = Training(optimizer=SGD(0.9, 0.1))
    faster = Training(optimizer=SGD(0.9, 0.1), rate_factors={"head.bias": 10.0})
    before = definition.in_float64(normed_twice())
    plain, fast = (
        states_after(backend, each, [normed_twice_batch(0)], normed_twice())[0] for each in (training, faster)
    )
    for name, array in before.items():
        moved = array + (10.0 if name == "head.bias" else 1.0) * (plain[name] - array)
        assert_allclose(fast[name], moved, rtol=0, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("field", ["frozen", "rate_factors"])
def test_a_name_that_is_not_learnt_is_refused(backend: Backend, field: str) -> None:
    value: Any = {"bn1.running_mean"} if field == "frozen" else {"bn1.running_mean": 2.0}
    with pytest.raises(BackendError, match=f"^{field}: expected learnt tensors, found bn1.running_mean"):
        trainer_of(backend, Training(**{field: value}), normed_twice())


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_parts_add_up_to_the_batch(backend: Backend, objective: Objective, parts: int) -> None:
    batches, graph = [normed_twice_batch(0), normed_twice_batch(1)], for_objective(objective)
    batches[0]["label"][2:] = 255
    batches[1]["label"][2:, :4] = 255
    whole = states_after(backend, Training(objective, frozen=NORMS), batches, graph)
    training = Training(objective, frozen=NORMS, micro_batches=parts)
    agree(states_after(backend, training, batches, graph), whole)


@pytest.mark.parametrize("rematerialize", [False, True])
@pytest.mark.parametrize("name", ["class weights", "hard pixels"])
def test_running_statistics_take_in_one_part_after_another(
    backend: Backend, name: str, rematerialize: bool
) -> None:
    graph, batch = normed_twice(), normed_twice_batch(0)
    weights = definition.in_float64(graph)
    training = Training(OBJECTIVES[name], micro_batches=2, rematerialize=rematerialize)
    trainer = trainer_of(backend, training, graph)
    trainer.step(batch, 0.1)
    for part in (slice(0, None, 2), slice(1, None, 2)):
        _, statistics = evaluate(graph, weights, {"image": batch["image"][part]}, train_mode=True)
        weights |= statistics
    for key in statistics:
        assert_allclose(trainer.state()[key], weights[key], rtol=1e-11, atol=1e-14)


def test_parts_that_do_not_divide_the_batch_are_refused(backend: Backend) -> None:
    with pytest.raises(BackendError) as caught:
        trainer_of(backend, Training(micro_batches=3), normed_twice()).step(normed_twice_batch(0), 0.1)
    assert str(caught.value) == "micro_batches: expected a divisor of a batch of 4, found 3"


def pictures() -> Arrays:
    draw = np.random.default_rng(0)
    return {"image": draw.standard_normal((4, 2, 32, 32)), "label": draw.integers(0, 3, (4, 32, 32))}


@pytest.mark.parametrize("choice", ["rematerialize", "deterministic"])
@pytest.mark.parametrize("network", ["small", "chain"])
def test_no_result_changes(backend: Backend, network: str, choice: str) -> None:
    graph, batches = {
        "small": lambda: (normed_twice(), [normed_twice_batch(seed) for seed in range(3)]),
        "chain": lambda: (chain(4), [pictures()] * 2),
    }[network]()
    chosen: dict[str, Any] = {choice: True}
    found = states_after(backend, Training(**chosen), batches, graph)
    agree(found, states_after(backend, Training(), batches, graph))


def test_a_deterministic_run_is_repeated_bit_for_bit(backend: Backend) -> None:
    batches = [normed_twice_batch(seed) for seed in range(2)]
    first, second = (
        states_after(backend, Training(deterministic=True), batches, normed_twice(), "float32")[-1]
        for _ in range(2)
    )
    assert equal(first, second)


def test_bfloat16_keeps_tensors_and_losses_in_float32(backend: Backend) -> None:
    training = Training(OBJECTIVES["class weights"], Adam(), micro_batches=2, rematerialize=True)
    batches = [normed_twice_batch(seed) for seed in range(2)]
    wanted, found = (
        states_after(backend, training, batches, normed_twice(), precision)[-1]
        for precision in ("float32", "bfloat16")
    )
    tensors = {*normed_twice().parameters, *(name for name in found if name.startswith("optimizer/"))}
    assert {found[name].dtype for name in tensors - {"optimizer/step"}} == {np.dtype(np.float32)}
    # A rounding of 2^-9 in each of some ten ops, of losses near 1: far from equal, farther from wrong.
    assert found["loss"] != wanted["loss"]
    assert_allclose(found["loss"], wanted["loss"], rtol=10 * 2**-8)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_two_bytes_predict_in_float32(backend: Backend, precision: str) -> None:
    graph, images = normed_twice(), normed_twice_batch(0)["image"]
    weights = definition.in_float64(graph)
    found = backend.predictor(graph, weights, device="cpu", precision=precision).predict(images)
    unit = {"bfloat16": 2**-8, "float16": 2**-11}[precision]
    for name, wanted in evaluate(graph, weights, {"image": images}).items():
        assert found[name].dtype == np.float32
        worst = np.abs(found[name] - wanted).max() / np.abs(wanted).max()
        assert unit / 100 < worst < 10 * unit, name
