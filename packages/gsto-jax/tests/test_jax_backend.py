"""`JaxBackend` keeps the contract of `gsto_spec.backend`, and says what is not to be had."""

import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from gsto_jax.backend import JaxBackend
from gsto_spec import Graph, GraphBuilder, GraphError, initial_weights
from gsto_spec.backend import Training


def small() -> Graph:
    build = GraphBuilder()
    x = build.relu(build.conv2d("conv1", build.input(), 4, kernel=3, stride=2))
    return build.graph({"stage4": build.conv2d("head", x, 2, bias=True), "stage3": "conv1"})


IMAGES = np.random.default_rng(0).standard_normal((2, 3, 9, 7)).astype(np.float32)


def test_versions_name_what_computes() -> None:
    facts = JaxBackend().versions()
    assert facts["jax"] == jax.__version__
    assert facts.keys() >= {"jax", "jaxlib", "flax", "optax", "python"}
    assert (facts["devices"], facts["processes"]) == (str(len(jax.devices())), "1")
    assert all(isinstance(value, str) for value in facts.values())


def test_devices_hold_the_cpu_and_cuda_where_there_is_one() -> None:
    has_card = any(device.platform == "gpu" for device in jax.devices())
    assert JaxBackend().devices() == (("cpu", "cuda") if has_card else ("cpu",))


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


@pytest.mark.parametrize("named", ["cuda", "abacus"])
def test_platforms_that_are_not_here_are_told_in_a_line(named: str) -> None:
    if named in JaxBackend().devices():
        pytest.skip("JAX sees a CUDA device here")
    code = "from gsto_jax.backend import JaxBackend; JaxBackend()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "JAX_PLATFORMS": named},
        capture_output=True,
        text=True,
    )
    told = done.stderr.splitlines()[-1]
    assert told.startswith(
        f"gsto_spec.backend.BackendError: JAX_PLATFORMS={named}: expected devices that JAX has here, found: "
    )
