"""`JaxBackend` keeps the contract of `gsto_spec.backend`, and says what is not to be had."""

from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import gsto_jax
import gsto_spec
from gsto_jax.backend import JaxBackend
from gsto_spec import Graph, GraphBuilder, GraphError, WeightsError, initial_weights
from gsto_spec.backend import Backend, BackendError, Predictor, Trainer, Training, backend, backends


def small() -> Graph:
    build = GraphBuilder()
    x = build.relu(build.conv2d("conv1", build.input(), 4, kernel=3, stride=2))
    return build.graph({"stage4": build.conv2d("head", x, 2, bias=True), "stage3": "conv1"})


IMAGES = np.random.default_rng(0).standard_normal((2, 3, 9, 7)).astype(np.float32)


def test_it_is_a_backend() -> None:
    made = JaxBackend()
    assert isinstance(made, Backend)
    assert made.name == "jax"
    assert (made.process_index, made.process_count) == (0, 1)
    assert made.precisions == ("float32", "tf32", "float64", "bfloat16", "float16")


def test_it_is_found_by_its_entry_point_where_it_is_installed() -> None:
    try:
        version("gsto-jax")
    except PackageNotFoundError:
        pytest.skip("gsto-jax is on the path but not installed, so it has no entry point")
    assert "jax" in backends()
    assert isinstance(backend("jax"), JaxBackend)


def test_of_a_cpu_it_does_not_say_what_is_free() -> None:
    assert JaxBackend().free_memory("cpu") is None


def test_versions_name_what_computes() -> None:
    facts = JaxBackend().versions()
    assert facts["jax"] == jax.__version__
    assert facts.keys() >= {"jax", "jaxlib", "flax", "optax", "python"}
    assert (facts["devices"], facts["processes"]) == (str(len(jax.devices())), "1")
    assert all(isinstance(value, str) for value in facts.values())


def test_one_process_sums_to_itself() -> None:
    counts = np.arange(6).reshape(2, 3)
    assert_array_equal(JaxBackend().sum_over_processes(counts), counts)


def test_devices_hold_the_cpu_and_cuda_where_there_is_one() -> None:
    has_card = any(device.platform == "gpu" for device in jax.devices())
    assert JaxBackend().devices() == (("cpu", "cuda") if has_card else ("cpu",))


def test_trainer_and_predictor_give_the_same_predictions() -> None:
    graph = small()
    weights = initial_weights(graph)
    trainer: Trainer = JaxBackend().trainer(graph, weights, Training(), device="cpu")
    predictor: Predictor = JaxBackend().predictor(graph, weights, device="cpu")
    found = predictor.predict(IMAGES)
    assert {name: array.shape for name, array in found.items()} == {
        "stage4": (2, 2, 5, 4),
        "stage3": (2, 4, 5, 4),
    }
    assert list(found) == ["stage4", "stage3"]
    for name, array in trainer.predict(IMAGES).items():
        assert_array_equal(array, found[name])


def test_predictions_belong_to_the_caller() -> None:
    predictor = JaxBackend().predictor(small(), initial_weights(small()), device="cpu")
    first = predictor.predict(IMAGES)["stage4"]
    kept = first.copy()
    first += 1
    assert_array_equal(predictor.predict(IMAGES)["stage4"], kept)


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize(("precision", "dtype"), [("float32", np.float32), ("float64", np.float64)])
def test_a_precision_is_that_of_weights_and_predictions_whatever_x64_is(
    precision: str, dtype: Any, outside: bool
) -> None:
    graph = small()
    with jax.enable_x64(outside):
        options: dict[str, Any] = {"device": "cpu", "precision": precision}
        trainer = JaxBackend().trainer(graph, initial_weights(graph), Training(), **options)
        batch = {"image": IMAGES.astype(np.float64), "label": np.zeros((2, 5, 4), np.int64)}
        loss = trainer.step(batch, 0.1)["loss"]
        assert np.asarray(loss).dtype == dtype
        assert {array.dtype for array in trainer.state().values()} == {np.dtype(dtype)}
        assert {array.dtype for array in trainer.predict(IMAGES).values()} == {np.dtype(dtype)}
        assert jax.config.read("jax_enable_x64") is outside  # type: ignore[no-untyped-call]


KNOWN = "float32, tf32, float64, bfloat16, float16"


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
def test_a_precision_that_is_not_to_be_had_is_refused(options: dict[str, Any], message: str) -> None:
    graph = small()
    for offered in (JaxBackend().predictor, partial(JaxBackend().trainer, training=Training())):
        with pytest.raises(BackendError) as caught:
            offered(graph, initial_weights(graph), **options)
        assert str(caught.value) == message


def test_a_device_that_is_not_to_be_had_is_refused() -> None:
    graph = small()
    with pytest.raises(BackendError) as caught:
        JaxBackend().predictor(graph, initial_weights(graph), device="tpu")
    known = ", ".join(JaxBackend().devices())
    assert str(caught.value) == f"device: expected one of auto, {known}, found tpu"


def test_weights_that_do_not_fit_are_refused() -> None:
    for offered in (JaxBackend().predictor, partial(JaxBackend().trainer, training=Training())):
        with pytest.raises(WeightsError, match=r"^weights: conv1\.weight is missing; "):
            offered(small(), {}, device="cpu")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 9, 7), "image: expected an array of N x C x H x W, found 3 x 9 x 7 [graph_c5]"),
        ((2, 4, 9, 7), "image: expected an array of 2 x 3 x 9 x 7, found 2 x 4 x 9 x 7 [graph_c5]"),
    ],
)
def test_images_that_the_graph_cannot_take_are_refused(shape: tuple[int, ...], message: str) -> None:
    predictor = JaxBackend().predictor(small(), initial_weights(small()), device="cpu")
    with pytest.raises(GraphError) as caught:
        predictor.predict(np.zeros(shape, np.float32))
    assert str(caught.value) == message


def test_versions_agree() -> None:
    assert gsto_jax.__version__ == gsto_spec.__version__
