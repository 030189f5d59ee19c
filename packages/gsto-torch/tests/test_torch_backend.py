"""`TorchBackend` keeps the contract of `gsto_spec.backend`, and says what is not to be had."""

from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import gsto_torch
from gsto_spec import Graph, GraphBuilder, WeightsError, evaluate, initial_weights
from gsto_spec.backend import Backend, BackendError, Predictor, Trainer, Training, backend, backends
from gsto_spec.ops import Conv2d
from gsto_torch.backend import TorchBackend


def small() -> Graph:
    build = GraphBuilder()
    x = build.relu(build.conv2d("conv1", build.input(), 4, kernel=3, stride=2))
    return build.graph({"stage4": build.conv2d("head", x, 2, bias=True), "stage3": "conv1"})


def test_it_is_a_backend() -> None:
    made = TorchBackend()
    assert isinstance(made, Backend)
    assert made.name == "torch"
    assert (made.process_index, made.process_count) == (0, 1)
    assert made.precisions == ("float32", "tf32", "float64", "bfloat16", "float16")


def test_it_is_found_by_its_entry_point_where_it_is_installed() -> None:
    try:
        version("gsto-torch")
    except PackageNotFoundError:
        pytest.skip("gsto-torch is on the path but not installed, so it has no entry point")
    assert "torch" in backends()
    assert isinstance(backend("torch"), TorchBackend)


def test_versions_name_what_computes() -> None:
    facts = TorchBackend().versions()
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == str(torch.get_num_threads())
    assert facts["processes"] == "1"
    assert all(isinstance(value, str) for value in facts.values())


def test_of_a_cpu_it_does_not_say_what_is_free() -> None:
    assert TorchBackend().free_memory("cpu") is None


def test_one_process_sums_to_itself() -> None:
    counts = np.arange(6).reshape(2, 3)
    assert_array_equal(TorchBackend().sum_over_processes(counts), counts)


def test_devices_hold_the_cpu_and_cuda_where_there_is_one() -> None:
    assert TorchBackend().devices() == (("cpu", "cuda") if torch.cuda.is_available() else ("cpu",))


def test_trainer_and_predictor_give_the_same_predictions() -> None:
    graph = small()
    weights = initial_weights(graph)
    images = np.random.default_rng(0).standard_normal((2, 3, 9, 7)).astype(np.float32)
    # To the same bits where neither rewrites the network.
    trainer: Trainer = TorchBackend().trainer(graph, weights, Training(), device="cpu", speed="plain")
    predictor: Predictor = TorchBackend().predictor(graph, weights, device="cpu", speed="plain")
    found = predictor.predict(images)
    assert {name: array.shape for name, array in found.items()} == {
        "stage4": (2, 2, 5, 4),
        "stage3": (2, 4, 5, 4),
    }
    assert list(found) == ["stage4", "stage3"]
    for name, array in trainer.predict(images).items():
        assert_array_equal(array, found[name])


@pytest.mark.parametrize(("precision", "dtype"), [("float32", np.float32), ("float64", np.float64)])
def test_a_precision_is_that_of_weights_and_predictions(precision: str, dtype: Any) -> None:
    graph = small()
    predictor = TorchBackend().predictor(graph, initial_weights(graph), device="cpu", precision=precision)
    assert predictor.predict(np.ones((1, 3, 4, 4)))["stage4"].dtype == dtype


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "flaot32"},
         "precision: expected one of float32, tf32, float64, bfloat16, float16, found flaot32 "
         "(nearest: float32)"),
        ({"precision": "bfloat8", "device": "cpu"},
         "precision: expected one of float32, tf32, float64, bfloat16, float16, found bfloat8 "
         "(nearest: bfloat16)"),
        ({"precision": "tf32", "device": "cpu"}, "precision: expected float32 or float64 on cpu, found tf32"),
    ],
)  # fmt: skip
def test_a_precision_that_is_not_to_be_had_is_refused(options: dict[str, Any], message: str) -> None:
    graph = small()
    for offered in (TorchBackend().predictor, partial(TorchBackend().trainer, training=Training())):
        with pytest.raises(BackendError) as caught:
            offered(graph, initial_weights(graph), **options)
        assert str(caught.value) == message


def test_a_device_that_is_not_to_be_had_is_refused() -> None:
    graph = small()
    with pytest.raises(BackendError) as caught:
        TorchBackend().predictor(graph, initial_weights(graph), device="tpu")
    known = ", ".join(TorchBackend().devices())
    assert str(caught.value) == f"device: expected one of auto, {known}, found tpu"


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"^weights: conv1\.weight is missing; "):
        TorchBackend().trainer(small(), {}, Training(), device="cpu")


def test_float32_turns_tf32_off() -> None:
    torch.backends.cudnn.allow_tf32 = True
    TorchBackend().predictor(small(), initial_weights(small()), device="cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_versions_agree() -> None:
    import gsto_spec

    assert gsto_torch.__version__ == gsto_spec.__version__


def striding(graph: Graph, stride: tuple[int, int]) -> Graph:
    """The graph with another stride in every 3x3 convolution."""
    nodes = (
        replace(node, op=replace(node.op, stride=stride))
        if isinstance(node.op, Conv2d) and node.name != "one"
        else node
        for node in graph.nodes
    )
    return Graph(tuple(nodes), graph.outputs)


@pytest.mark.parametrize("batch", [1, 2])
def test_convolutions_of_one_channel_are_right_in_every_layout(batch: int) -> None:
    """torch's CPU kernels misread the strides that channels_last gives a single channel (pytorch#82060)."""
    build = GraphBuilder()
    image = build.input("image", 1)
    first = build.conv2d("first", image, 6, kernel=3, padding=0)
    last = build.conv2d("last", build.conv2d("one", image, 1), 6, kernel=3, padding=0)
    graph = striding(build.graph({"first": first, "last": last}), (1, 3))
    weights = initial_weights(graph)
    images = np.random.default_rng(0).standard_normal((batch, 1, 22, 4)).astype(np.float32)
    wanted = evaluate(graph, weights, {"image": images})
    found = TorchBackend().predictor(graph, weights, device="cpu").predict(images)
    for name, want in wanted.items():
        assert_allclose(found[name], want, rtol=1e-5, atol=1e-5)
