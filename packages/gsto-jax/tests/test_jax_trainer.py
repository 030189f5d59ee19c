"""Training steps on JAX: what they wait for, what they compile, which labels they refuse."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import pytest

from contract.networks import equal, gated_batch, trainer_of
from gsto_jax.backend import JaxBackend
from gsto_spec import (
    GstoError,
)
from gsto_spec.backend import Training
from gsto_spec.objective import (
    SGD,
    Adam,
)


def test_losses_stay_on_the_device() -> None:
    losses = trainer_of(JaxBackend(), Training()).step(gated_batch(0), 0.1)
    assert all(isinstance(loss, jax.Array) for loss in losses.values())


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Everything that JAX traces or compiles meanwhile."""
    seen: list[str] = []

    def listen(event: str, duration: float, **facts: Any) -> None:
        del duration
        if "trace" in event or "compile" in event:
            seen.append(f"{event} {facts}")

    jax.monitoring.register_event_duration_secs_listener(listen)  # type: ignore[arg-type]
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_a_step_compiles_once_per_shape_whatever_the_learning_rate(
    optimizer: SGD | Adam, precision: str
) -> None:
    trainer = trainer_of(JaxBackend(), Training(optimizer=optimizer), precision=precision)
    with compilations() as first:
        trainer.step(gated_batch(0), 0.1)
        trainer.predict(gated_batch(0)["image"])
    assert first
    with compilations() as later:
        for step, rate in enumerate([0.2, np.float64(0.3), np.float32(0.4), 1]):
            trainer.step(gated_batch(step), rate)  # type: ignore[arg-type]
            trainer.predict(gated_batch(step)["image"].astype(np.float32))
        trainer.load(trainer.state())
        trainer.step(gated_batch(4), 0.5)
    assert later == []
    with compilations() as other:
        trainer.step({name: array[..., :5] for name, array in gated_batch(0).items()}, 0.1)
    assert other


@pytest.mark.parametrize("wrong", [-1, 3, 254, 2**40])
def test_a_label_that_is_no_class_is_refused_and_changes_nothing(wrong: int) -> None:
    trainer = trainer_of(JaxBackend(), Training())
    before = trainer.state()
    batch = gated_batch(0)
    batch["label"][1, 2, 3] = wrong
    with pytest.raises(GstoError) as caught:
        trainer.step(batch, 0.1)
    assert str(caught.value) == f"label: expected 0 to 2, or 255 to ignore, found {wrong}"
    assert equal(trainer.state(), before)
