"""The same on a GPU, where there is one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from gsto_spec import Graph, HRNet, build, evaluate, initial_weights
from gsto_spec.backend import Training
from gsto_spec.objective import SGD, Adam, CrossEntropy, Objective, Ohem
from gsto_torch.backend import TorchBackend
from gsto_torch.batch_norm import synchronize
from gsto_torch.processes import Processes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")

Arrays = dict[str, NDArray[Any]]


NARROW = HRNet(
    widths=(2, 4, 6, 8), modules=(1, 1, 1), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1, classes=3
)
GSTO = replace(NARROW, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised")


def gsto(form: Any = "release") -> Graph:
    return build(GSTO, form=form)


def batch_of(seed: int) -> Arrays:
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 3, (2, 65, 49))
    label[draw.random(label.shape) < 0.2] = 255
    return {"image": draw.standard_normal((2, 3, 65, 49)), "label": label}


def test_auto_takes_the_gpu() -> None:
    assert TorchBackend().devices() == ("cpu", "cuda")
    assert "device" in TorchBackend().versions()
    assert TorchBackend().predictor(gsto(), initial_weights(gsto())).device.type == "cuda"


def test_free_memory_is_less_by_what_is_held() -> None:
    backend, size = TorchBackend(), 1 << 28
    before = backend.free_memory("cuda")
    held = torch.empty(size, dtype=torch.uint8, device="cuda")
    after = backend.free_memory("cuda")
    assert before is not None and after is not None
    assert before - after >= held.numel() // 2  # others may free some meanwhile


@pytest.mark.parametrize("form", ["release", "paper"])
@pytest.mark.parametrize(("precision", "bound"), [("float64", 1e-10), ("float32", 2e-4)])
def test_predictions_equal_the_definition(form: Any, precision: str, bound: float) -> None:
    graph, image = gsto(form), batch_of(0)["image"]
    wanted = evaluate(graph, initial_weights(graph), {"image": image})
    predictor = TorchBackend().predictor(graph, initial_weights(graph), device="cuda", precision=precision)
    for name, array in predictor.predict(image).items():
        assert_allclose(array, wanted[name], rtol=0, atol=bound * np.abs(wanted[name]).max())


def test_tf32_is_a_precision_of_its_own() -> None:
    graph, image = gsto(), batch_of(0)["image"]
    exact = TorchBackend().predictor(graph, initial_weights(graph), device="cuda").predict(image)["stage4"]
    coarse = TorchBackend().predictor(graph, initial_weights(graph), device="cuda", precision="tf32")
    assert torch.backends.cudnn.allow_tf32
    assert_allclose(coarse.predict(image)["stage4"], exact, rtol=0, atol=0.05 * np.abs(exact).max())


TRAININGS = [
    Training(),
    Training(Objective(CrossEntropy(class_weights=(0.5, 1.0, 2.0))), SGD(0.9, 1e-3), 0.1),
    Training(Objective(CrossEntropy(ohem=Ohem(0.6, 500))), Adam()),
]


@pytest.mark.parametrize("training", TRAININGS)
def test_steps_equal_those_on_the_cpu(training: Training) -> None:
    graph = gsto()
    trainers = [
        TorchBackend().trainer(graph, initial_weights(graph), training, device=device, precision="float64")
        for device in ("cpu", "cuda")
    ]
    for step in range(3):
        losses = [trainer.step(batch_of(step), 0.01) for trainer in trainers]
        assert float(losses[1]["loss"]) == pytest.approx(float(losses[0]["loss"]), rel=1e-9)
    states = [trainer.state() for trainer in trainers]
    assert set(states[0]) == set(states[1])
    for name, array in states[0].items():
        assert_allclose(states[1][name], array, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("training", TRAININGS)
def test_a_run_moves_from_one_device_to_the_other(training: Training) -> None:
    graph = gsto()
    first = TorchBackend().trainer(
        graph, initial_weights(graph), training, device="cuda", precision="float64"
    )
    first.step(batch_of(0), 0.01)
    second = TorchBackend().trainer(
        graph, initial_weights(graph, 1), training, device="cpu", precision="float64"
    )
    second.load(first.state())
    losses = [float(trainer.step(batch_of(1), 0.01)["loss"]) for trainer in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.parametrize("training", TRAININGS)
def test_a_step_does_not_wait_for_the_device(training: Training) -> None:
    graph = gsto()
    trainer = TorchBackend().trainer(graph, initial_weights(graph), training, device="cuda")
    trainer.step(batch_of(0), 0.01)
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = trainer.step(batch_of(1), 0.01)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert float(losses["loss"]) > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
@pytest.mark.parametrize("options", [{}, {"micro_batches": 2}, {"rematerialize": True}], ids=str)
def test_a_step_that_is_not_finite_changes_nothing_and_does_not_wait(
    options: dict[str, Any], optimizer: SGD | Adam, precision: str
) -> None:
    graph = gsto()
    training = Training(Objective(CrossEntropy(ohem=Ohem(0.6, 500))), optimizer, **options)
    trainer = TorchBackend().trainer(
        graph, initial_weights(graph), training, device="cuda", precision=precision
    )
    broken = batch_of(1)
    broken["image"][1, 0, 5, 5] = np.nan
    for batch, finite in ((broken, 0.0), (batch_of(0), 1.0), (broken, 0.0)):
        before = trainer.state()
        torch.cuda.set_sync_debug_mode("error")
        try:
            losses = trainer.step(batch, 0.01)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert float(losses["finite"]) == finite
        after = trainer.state()
        kept = before.keys() == after.keys() and all(
            np.array_equal(before[name], after[name]) for name in before if "loss_scale" not in name
        )
        assert kept == (finite == 0)
    assert trainer.first_not_finite(broken) == "image"


@pytest.mark.parametrize("low", ["bfloat16", "float16"])
def test_networks_learn_in_two_bytes(low: str) -> None:
    graph = gsto()
    trainer = TorchBackend().trainer(
        graph, initial_weights(graph), Training(batch_norm_momentum=0.1), device="cuda", precision=low
    )
    losses = [float(trainer.step(batch_of(0), 0.02)["loss"]) for _ in range(10)]
    assert losses[-1] < 0.95 * losses[0]


def test_rematerialisation_changes_no_result() -> None:
    graph, states = gsto(), []
    for choice in (False, True):
        trainer = TorchBackend().trainer(
            graph, initial_weights(graph), Training(rematerialize=choice), device="cuda", precision="float64"
        )
        trainer.step(batch_of(0), 0.01)
        states.append(trainer.state())
    for name, array in states[0].items():
        assert_allclose(states[1][name], array, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_deterministic_steps_are_the_same_bit_for_bit(precision: str) -> None:
    graph, states = gsto("paper"), []
    for _ in range(2):
        trainer = TorchBackend().trainer(
            graph, initial_weights(graph), Training(deterministic=True), device="cuda", precision=precision
        )
        for step in range(3):
            trainer.step(batch_of(step), 0.01)
        states.append(trainer.state())
    assert all(np.array_equal(states[1][name], array) for name, array in states[0].items())


def test_synchronised_norms_are_those_of_the_cpu() -> None:
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.BatchNorm2d(3, dtype=torch.float64)).to(device)
        synchronize(model, Processes())
        x = torch.randn((2, 3, 5, 6), dtype=torch.float64)
        placed = x.to(device).requires_grad_()
        (model(placed) * x.to(device).square()).sum().backward()
        assert placed.grad is not None
        results.append([placed.grad.cpu(), *(tensor.cpu() for tensor in model.state_dict().values())])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
