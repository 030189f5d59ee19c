"""Backends are found by entry point; what is not installed is said with the mend."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gsto_spec import GraphBuilder, GstoError, WeightsError
from gsto_spec.backend import (
    LOSS_SCALE,
    OPTIMIZER_PREFIX,
    Backend,
    BackendError,
    Training,
    backend,
    backends,
    resolve_device,
    share,
    split_state,
)
from gsto_spec.objective import SGD, Adam, Objective

MODULE = """
class Abacus:
    name = "abacus"
    precisions = ("float64",)
    speeds = ("plain",)
    process_index = 0
    process_count = 1

    def devices(self): ...
    def versions(self): ...
    def sum_over_processes(self, array): ...
    def trainer(self, graph, weights, training, *, device="auto", precision="float32"): ...
    def predictor(self, graph, weights, *, device="auto", precision="float32"): ...

def make(): return Abacus()
def fails(): raise RuntimeError("no beads")
made = Abacus()
beads = 10
"""


@pytest.fixture
def abacus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution that offers a backend of its own."""
    (tmp_path / "abacus_backend.py").write_text(MODULE)
    facts = tmp_path / "abacus_backend-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: abacus-backend\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[gsto.backends]\nabacus = abacus_backend:Abacus\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("abacus")
def test_a_backend_is_found_by_its_entry_point() -> None:
    assert "abacus" in backends()
    found = backend("abacus")
    assert isinstance(found, Backend)
    assert found.name == "abacus"


@pytest.mark.usefixtures("abacus")
def test_an_unknown_backend_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(BackendError) as caught:
        backend("abakus")
    message = str(caught.value)
    assert message.startswith("backend abakus is not installed (installed: abacus")
    assert message.endswith(" (nearest: abacus)")


def test_a_known_backend_that_is_missing_is_told_how_to_be_installed() -> None:
    missing = {"jax", "torch"} - set(backends())
    if not missing:
        pytest.skip("torch and jax are both installed")
    for name in missing:
        with pytest.raises(BackendError) as caught:
            backend(name)
        installed = ", ".join(backends()) or "none"
        assert str(caught.value) == (
            f"backend {name} is not installed (installed: {installed}); install the package gsto-{name}"
        )


@pytest.mark.usefixtures("abacus")
@pytest.mark.parametrize("attribute", ["Abacus", "made", "make"])
def test_anybodys_backend_is_found_by_module_and_attribute(attribute: str) -> None:
    assert backend(f"abacus_backend:{attribute}").name == "abacus"


@pytest.mark.usefixtures("abacus")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("abacus_backend:Abakus", "abacus_backend has no Abakus (nearest: Abacus)"),
        ("abacsu_backend:Abacus", "cannot import abacsu_backend: no such module here"),
        ("abacus_backend:", "expected module:attribute, such as"),
        ("abacus_backend:fails", "abacus_backend.py line 16: RuntimeError: no beads"),
        ("abacus_backend:beads", "expected a Backend or what makes one, found int without name, "),
    ],
)
def test_a_module_without_a_backend_is_told_in_one_line(name: str, message: str) -> None:
    with pytest.raises(GstoError) as caught:
        backend(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_backend_does_not_pass_for_one() -> None:
    assert not isinstance(object(), Backend)


def test_training_has_the_protocols_defaults() -> None:
    assert Training() == Training(Objective(), SGD(0.9, 5e-4), None)
    assert OPTIMIZER_PREFIX == "optimizer/"


# What training means


BUILD = GraphBuilder()
GRAPH = BUILD.graph({"stage4": BUILD.batch_norm("norm", BUILD.conv2d("conv", BUILD.input(), 2))})
FROZEN = Training(frozen=frozenset({"norm.weight", "norm.bias"}))


def test_what_is_frozen_is_not_learnt_and_statistics_never_are() -> None:
    assert list(Training().learnt(GRAPH)) == ["conv.weight", "norm.weight", "norm.bias"]
    assert FROZEN.learnt(GRAPH) == {"conv.weight": (2, 3, 1, 1)}


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (Training(frozen=frozenset({"norm.wait"})),
         "frozen: expected learnt tensors, found norm.wait (nearest: norm.weight)"),
        (Training(rate_factors={"norm.running_mean": 2.0}),
         "rate_factors: expected learnt tensors, found norm.running_mean"),
    ],
)  # fmt: skip
def test_a_name_that_is_not_learnt_is_refused_with_the_nearest(training: Training, message: str) -> None:
    with pytest.raises(BackendError) as caught:
        training.learnt(GRAPH)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_are_a_partition_in_the_order_of_the_processes(count: int, processes: int) -> None:
    shares = [share(count, index, processes) for index in range(processes)]
    assert [sample for each in shares for sample in each] == list(range(count))
    sizes = [len(each) for each in shares]
    assert sizes == sorted(sizes, reverse=True) and max(sizes) - min(sizes) <= 1


# States

State = dict[str, NDArray[Any]]


def state_of(training: Training, kinds: tuple[str, ...] = ("momentum",)) -> State:
    weights: State = {name: np.ones(shape) for name, shape in GRAPH.parameters.items()}
    slots: State = {
        f"optimizer/{kind}/{name}": np.ones(shape)
        for kind in kinds for name, shape in training.learnt(GRAPH).items()
    }  # fmt: skip
    return {**weights, **slots}


def test_a_state_is_parted_into_weights_and_slots() -> None:
    weights, slots = split_state(GRAPH, FROZEN, state_of(FROZEN))
    assert list(weights) == list(GRAPH.parameters)
    assert list(slots) == ["momentum/conv.weight"]
    assert split_state(GRAPH, FROZEN, weights) == (weights, {})


def test_adam_has_two_slots_a_tensor_and_a_count() -> None:
    training = Training(optimizer=Adam())
    state = {**state_of(training, ("first", "second")), "optimizer/step": np.asarray(3)}
    assert len(split_state(GRAPH, training, state)[1]) == 7
    with pytest.raises(WeightsError, match="optimizer/step"):
        split_state(GRAPH, training, state_of(training, ("first", "second")))


def test_a_loss_scale_may_be_there_with_slots_or_without() -> None:
    scale: State = dict.fromkeys(LOSS_SCALE, np.asarray(8.0))
    weights, _ = split_state(GRAPH, Training(), state_of(Training()))
    assert set(split_state(GRAPH, Training(), {**weights, **scale})[1]) == {"loss_scale", "loss_scale_steps"}
    assert len(split_state(GRAPH, Training(), {**state_of(Training()), **scale})[1]) == 5


def test_all_that_does_not_fit_a_state_is_listed_at_once() -> None:
    state = state_of(Training())
    del state["norm.bias"]
    state |= {
        "optimizer/momentum/norm.bias": np.ones(3), "nobody": np.ones(1), "optimizer/loss_scale": np.ones(2),
        "conv.weight": np.full((2, 3, 1, 1), np.nan),
    }  # fmt: skip
    with pytest.raises(WeightsError) as caught:
        split_state(GRAPH, Training(), state)
    message = str(caught.value)
    for name in (
        "norm.bias",
        "optimizer/momentum/norm.bias",
        "nobody",
        "optimizer/loss_scale",
        "conv.weight",
    ):
        assert name in message
    assert "\n" not in message


def test_a_slot_of_a_frozen_tensor_and_one_that_is_missing_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"optimizer/momentum/norm\.weight"):
        split_state(GRAPH, FROZEN, state_of(Training()))
    with pytest.raises(WeightsError, match=r"optimizer/momentum/norm\.weight"):
        split_state(GRAPH, Training(), state_of(FROZEN))


# Devices


class Offers:
    """What `resolve_device` reads of a backend."""

    precisions = ("float32", "tf32", "bfloat16")

    def __init__(self, *devices: str) -> None:
        self._devices = devices

    def devices(self) -> tuple[str, ...]:
        return self._devices


def resolved(device: str, precision: str, *devices: str) -> str:
    return resolve_device(cast(Backend, Offers(*devices)), device, precision)


def test_auto_is_the_last_device_that_is_offered() -> None:
    assert resolved("auto", "float32", "cpu") == "cpu"
    assert resolved("auto", "tf32", "cpu", "cuda") == "cuda"
    assert resolved("cpu", "bfloat16", "cpu", "cuda") == "cpu"


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("cuda", "float32", "device: expected one of auto, cpu, found cuda"),
        (
            "auto",
            "bfloat61",
            "precision: expected one of float32, tf32, bfloat16, found bfloat61 (nearest: bfl",
        ),
        ("auto", "tf32", "precision: expected float32 or float64 on cpu, found tf32"),
    ],
)
def test_what_is_not_to_be_had_is_refused(device: str, precision: str, message: str) -> None:
    with pytest.raises(BackendError) as caught:
        resolved(device, precision, "cpu")
    assert str(caught.value).startswith(message)


def test_one_training_differs_from_another_by_each_field() -> None:
    changes: list[dict[str, Any]] = [
        {"frozen": frozenset({"conv.weight"})}, {"rate_factors": {"conv.weight": 0.1}}, {"micro_batches": 2},
        {"rematerialize": True}, {"deterministic": True},
    ]  # fmt: skip
    assert all(replace(Training(), **change) != Training() for change in changes)
