"""`TorchBackend` keeps the contract of `gsto_spec.backend`, and says what is not to be had."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from gsto_spec import Graph, GraphBuilder, evaluate, initial_weights
from gsto_spec.ops import Conv2d
from gsto_torch.backend import TorchBackend


def small() -> Graph:
    build = GraphBuilder()
    x = build.relu(build.conv2d("conv1", build.input(), 4, kernel=3, stride=2))
    return build.graph({"stage4": build.conv2d("head", x, 2, bias=True), "stage3": "conv1"})


def test_versions_name_what_computes() -> None:
    facts = TorchBackend().versions()
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == str(torch.get_num_threads())
    assert facts["processes"] == "1"
    assert all(isinstance(value, str) for value in facts.values())


def test_devices_hold_the_cpu_and_cuda_where_there_is_one() -> None:
    assert TorchBackend().devices() == (("cpu", "cuda") if torch.cuda.is_available() else ("cpu",))


def test_float32_turns_tf32_off() -> None:
    torch.backends.cudnn.allow_tf32 = True
    TorchBackend().predictor(small(), initial_weights(small()), device="cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


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
