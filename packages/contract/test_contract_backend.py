"""A backend keeps the contract of `gsto_spec.backend`, and says what is not to be had."""

from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import gsto_spec
from gsto_spec import Graph, GraphBuilder, WeightsError, initial_weights
from gsto_spec.backend import Backend, BackendError, Predictor, Trainer, Training, backends
from gsto_spec.backend import backend as find_backend


def small() -> Graph:
    build = GraphBuilder()
    x = build.relu(build.conv2d("conv1", build.input(), 4, kernel=3, stride=2))
    return build.graph({"stage4": build.conv2d("head", x, 2, bias=True), "stage3": "conv1"})


IMAGES = np.random.default_rng(0).standard_normal((2, 3, 9, 7)).astype(np.float32)
PRECISIONS = ("float32", "tf32", "float64", "bfloat16", "float16")


def test_it_is_a_backend(backend: Backend) -> None:
    assert isinstance(backend, Backend)
    assert backend.name in ("torch", "jax")
    assert (backend.process_index, backend.process_count) == (0, 1)
    assert backend.precisions == PRECISIONS


def test_it_is_found_by_its_entry_point_where_it_is_installed(backend: Backend, package: Any) -> None:
    try:
        version(f"gsto-{backend.name}")
    except PackageNotFoundError:
        pytest.skip(f"gsto-{backend.name} is on the path but not installed, so it has no entry point")
    assert backend.name in backends()
    found = find_backend(backend.name)
    assert found.name == backend.name
    assert type(found).__module__ == f"{package.__name__}.backend"


def test_versions_name_what_computes(backend: Backend) -> None:
    facts = backend.versions()
    assert facts.keys() >= {backend.name, "processes"}
    assert facts["processes"] == "1"
    assert all(isinstance(value, str) for value in facts.values())


def test_of_a_cpu_it_does_not_say_what_is_free(backend: Any) -> None:
    assert backend.free_memory("cpu") is None


def test_one_process_sums_to_itself(backend: Backend) -> None:
    counts = np.arange(6).reshape(2, 3)
    assert_array_equal(backend.sum_over_processes(counts), counts)


def test_trainer_and_predictor_give_the_same_predictions(backend: Backend) -> None:
    graph = small()
    weights = initial_weights(graph)
    # To the same bits where neither rewrites the network.
    trainer: Trainer = backend.trainer(graph, weights, Training(), device="cpu", speed="plain")
    predictor: Predictor = backend.predictor(graph, weights, device="cpu", speed="plain")
    found = predictor.predict(IMAGES)
    assert {name: array.shape for name, array in found.items()} == {
        "stage4": (2, 2, 5, 4),
        "stage3": (2, 4, 5, 4),
    }
    assert list(found) == ["stage4", "stage3"]
    for name, array in trainer.predict(IMAGES).items():
        assert_array_equal(array, found[name])


def test_predictions_belong_to_the_caller(backend: Backend) -> None:
    predictor = backend.predictor(small(), initial_weights(small()), device="cpu")
    first = predictor.predict(IMAGES)["stage4"]
    kept = first.copy()
    first += 1
    assert_array_equal(predictor.predict(IMAGES)["stage4"], kept)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", np.float32), ("float64", np.float64)])
def test_a_precision_is_that_of_weights_losses_and_predictions(
    backend: Backend, precision: str, dtype: Any
) -> None:
    graph = small()
    options: dict[str, Any] = {"device": "cpu", "precision": precision}
    trainer = backend.trainer(graph, initial_weights(graph), Training(), **options)
    batch = {"image": IMAGES.astype(np.float64), "label": np.zeros((2, 5, 4), np.int64)}
    assert np.asarray(trainer.step(batch, 0.1)["loss"]).dtype == dtype
    predictor = backend.predictor(graph, initial_weights(graph), **options)
    assert {array.dtype for array in trainer.state().values()} == {np.dtype(dtype)}
    for each in (trainer, predictor):
        assert {array.dtype for array in each.predict(np.ones((1, 3, 4, 4))).values()} == {np.dtype(dtype)}


KNOWN = ", ".join(PRECISIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "flaot32"},
         f"precision: expected one of {KNOWN}, found flaot32 (nearest: float32)"),
        ({"precision": "bfloat8", "device": "cpu"},
         f"precision: expected one of {KNOWN}, found bfloat8 (nearest: bfloat16)"),
        ({"precision": "tf32", "device": "cpu"}, "precision: expected float32 or float64 on cpu, found tf32"),
    ],
)  # fmt: skip
def test_a_precision_that_is_not_to_be_had_is_refused(
    backend: Backend, options: dict[str, Any], message: str
) -> None:
    graph = small()
    for offered in (backend.predictor, partial(backend.trainer, training=Training())):
        with pytest.raises(BackendError) as caught:
            offered(graph, initial_weights(graph), **options)
        assert str(caught.value) == message


def test_a_device_that_is_not_to_be_had_is_refused(backend: Backend) -> None:
    graph = small()
    with pytest.raises(BackendError) as caught:
        backend.predictor(graph, initial_weights(graph), device="tpu")
    known = ", ".join(backend.devices())
    assert str(caught.value) == f"device: expected one of auto, {known}, found tpu"


def test_weights_that_do_not_fit_are_refused(backend: Backend) -> None:
    for offered in (backend.predictor, partial(backend.trainer, training=Training())):
        with pytest.raises(WeightsError, match=r"^weights: conv1\.weight is missing; "):
            offered(small(), {}, device="cpu")


def test_versions_agree(package: Any) -> None:
    assert package.__version__ == gsto_spec.__version__
