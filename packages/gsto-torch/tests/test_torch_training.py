"""Training on torch: the memory that rematerialisation saves, whole networks, deterministic kernels."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from contract.networks import GSTO, normed_twice, normed_twice_batch, trainer_of
from gsto_spec import Graph, build
from gsto_spec.backend import BackendError, Training
from gsto_spec.memory import segments
from gsto_torch.backend import TorchBackend

DRAW = np.random.default_rng(0)
PICTURES = {"image": DRAW.standard_normal((2, 3, 65, 65)), "label": DRAW.integers(0, 3, (2, 65, 65))}


def peak_bytes(training: Training, graph: Graph) -> int:
    """The most that tensors took at once during a step, over what there was before."""
    trainer: Any = trainer_of(TorchBackend(), training, graph)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        trainer.step(PICTURES, 0.1)
    events = seen.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return int(np.cumsum([change for _, change in changes]).max())


def test_rematerialisation_keeps_less() -> None:
    graph = build(GSTO)
    assert len(segments(graph)) > 3
    assert peak_bytes(Training(rematerialize=True), graph) < 0.6 * peak_bytes(Training(), graph)


@pytest.mark.parametrize("choice", ["rematerialize", "deterministic"])
def test_no_result_of_a_whole_network_changes(choice: str) -> None:
    chosen: dict[str, Any] = {choice: True}
    states: list[dict[str, Any]] = []
    for training in (Training(), Training(**chosen)):
        trainer = trainer_of(TorchBackend(), training, build(GSTO))
        losses = {name: float(loss) for name, loss in trainer.step(PICTURES, 0.1).items()}
        states.append({**trainer.state(), **losses})
    wanted, found = states
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert_allclose(found[name], value, rtol=1e-12, atol=1e-12, err_msg=name)


def test_determinism_is_for_the_step_alone() -> None:
    trainer: Any = trainer_of(TorchBackend(), Training(deterministic=True), normed_twice())
    seen = []

    def look(*_: Any) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())
        if len(seen) == 3:
            raise IndexError

    trainer.model.get_submodule("conv1").register_forward_hook(look)
    trainer.step(normed_twice_batch(0), 0.1)
    trainer.predict(normed_twice_batch(0)["image"])
    with pytest.raises(IndexError):
        trainer.step(normed_twice_batch(0), 0.1)
    assert seen == [True, False, True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_has_no_deterministic_kernel_is_refused_in_one_line() -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("some_op does not have a deterministic implementation, but you set\nmore")

    trainer: Any = trainer_of(TorchBackend(), Training(deterministic=True), normed_twice())
    trainer.model.get_submodule("conv1").register_forward_hook(fail)
    with pytest.raises(BackendError) as caught:
        trainer.step(normed_twice_batch(0), 0.1)
    assert str(caught.value).startswith("deterministic: expected a deterministic kernel, found some_op does")
