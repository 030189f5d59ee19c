"""The state that a run goes on from: its names, what fits, and that nothing is lost on the way."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from contract import definition
from contract.networks import equal, gated, gated_batch, trainer_of
from gsto_spec import WeightsError, initial_weights
from gsto_spec.backend import Backend, Training
from gsto_spec.objective import SGD, Adam


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_a_run_goes_on_from_its_state(backend: Backend, optimizer: SGD | Adam) -> None:
    first, second = (trainer_of(backend, Training(optimizer=optimizer), seed=seed) for seed in (0, 1))
    for step in range(2):
        first.step(gated_batch(step), 0.1)
    state = first.state()
    kept = {name: array.copy() for name, array in state.items()}
    second.step(gated_batch(9), 0.1)
    second.load(state)
    for step in range(2, 4):
        losses = first.step(gated_batch(step), 0.1), second.step(gated_batch(step), 0.1)
        assert float(losses[0]["loss"]) == float(losses[1]["loss"])
    assert equal(first.state(), second.state())
    assert equal(state, kept)


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_a_run_goes_on_from_a_state_of_the_definition(backend: Backend, optimizer: SGD | Adam) -> None:
    training = Training(optimizer=optimizer)
    weights = definition.in_float64(gated())
    _, weights, slots = definition.step(gated(), weights, {}, training, gated_batch(0), 0.1)
    trainer = trainer_of(backend, training, seed=5)
    trainer.load({**weights, **{f"optimizer/{name}": array for name, array in slots.items()}})
    _, weights, slots = definition.step(gated(), weights, slots, training, gated_batch(1), 0.1)
    trainer.step(gated_batch(1), 0.1)
    state = trainer.state()
    wanted = {**weights, **{f"optimizer/{name}": array for name, array in slots.items()}}
    assert set(state) == set(wanted)
    for name, array in wanted.items():
        assert_allclose(state[name], array, rtol=1e-9, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_a_state_of_weights_alone_starts_the_optimizer_anew(backend: Backend, optimizer: SGD | Adam) -> None:
    first, second = (trainer_of(backend, Training(optimizer=optimizer), seed=seed) for seed in (0, 1))
    second.step(gated_batch(5), 0.1)
    second.load(initial_weights(gated()))
    assert list(second.state()) == list(gated().parameters)
    for trainer in (first, second):
        trainer.step(gated_batch(0), 0.1)
    assert equal(first.state(), second.state())


def test_a_state_names_weights_canonically_and_slots_by_prefix(backend: Backend) -> None:
    trainer = trainer_of(backend, Training(optimizer=Adam()), precision="float32")
    assert list(trainer.state()) == list(gated().parameters)
    trainer.step(gated_batch(0), 0.1)
    state = trainer.state()
    shapes = {
        f"optimizer/{kind}/{name}": shape
        for kind in ("first", "second")
        for name, shape in gated().trainable.items()
    }
    wanted = {**gated().parameters, **shapes, "optimizer/step": ()}
    assert {name: array.shape for name, array in state.items()} == wanted
    assert state["optimizer/step"].dtype == np.int64
    assert {array.dtype for name, array in state.items() if name != "optimizer/step"} == {
        np.dtype(np.float32)
    }


def test_a_state_that_does_not_fit_is_listed_and_changes_nothing(backend: Backend) -> None:
    trainer = trainer_of(backend, Training())
    trainer.step(gated_batch(0), 0.1)
    before = trainer.state()
    bad = trainer_of(backend, Training(), seed=7).state() | {
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
    assert equal(trainer.state(), before)


def test_a_state_of_another_optimizer_is_refused(backend: Backend) -> None:
    other = trainer_of(backend, Training(optimizer=Adam()))
    other.step(gated_batch(0), 0.1)
    with pytest.raises(
        WeightsError, match=r"optimizer/momentum/.* is missing.*optimizer/.* is not declared"
    ) as caught:
        trainer_of(backend, Training()).load(other.state())
    assert "optimizer/step is not declared" in caught.value.offenders


def test_slots_that_an_optimizer_without_momentum_is_given_are_dropped(backend: Backend) -> None:
    other = trainer_of(backend, Training())
    other.step(gated_batch(0), 0.1)
    trainer = trainer_of(backend, Training(optimizer=SGD(0.0)))
    trainer.load(other.state())
    trainer.step(gated_batch(1), 0.1)
    assert list(trainer.state()) == list(gated().parameters)
