"""A graph in inference form compiles to the network it came from."""

import dataclasses
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

import gsto_torch
from contract.networks import lively_weights
from gsto_spec import Graph, GraphBuilder, build, initial_weights, optimize, variant

Arrays = dict[str, NDArray[Any]]


def narrow(**changes: Any) -> Graph:
    named = variant("gsto-hrnet-w18-small-v2")
    return build(dataclasses.replace(named, widths=(3, 4, 5, 6), modules=(1, 1, 1), blocks=1, stem_width=4,
                                     layer1_width=2, layer1_blocks=1, classes=3, **changes))  # fmt: skip


def outputs(graph: Graph, weights: Arrays, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
    model = gsto_torch.compile(graph, weights, dtype=torch.float64).eval()
    with torch.inference_mode():
        return {name: value.numpy() for name, value in model(torch.from_numpy(images)).items()}


@settings(max_examples=15)
@given(
    form=st.sampled_from(["release", "paper"]),
    transition=st.sampled_from([None, "unsupervised", "supervised"]),
    align_corners=st.booleans(),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_compiled_optimized_network_gives_the_same_outputs(
    form: str, transition: str | None, align_corners: bool, size: tuple[int, int], seed: int
) -> None:
    graph = narrow(form=form, transition_gate=transition, align_corners=align_corners)
    weights = lively_weights(graph, seed)
    images = np.random.default_rng(seed).standard_normal((2, 3, *size))
    before, after = outputs(graph, weights, images), outputs(*optimize(graph, weights), images)
    assert list(after) == list(before)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=0, atol=1e-10 * np.abs(value).max())


def gated_projection() -> Graph:
    build = GraphBuilder()
    image = build.input()
    gated = build.mul(build.sigmoid(build.conv2d("gate", image, 1)), image)
    return build.graph({"stage4": build.batch_norm("norm", build.conv2d("project", gated, 2, bias=True))})


def test_a_bias_outside_a_gate_is_added_at_every_place() -> None:
    graph = gated_projection()
    weights = lively_weights(graph, 0)
    images = np.zeros((1, 3, 4, 5))
    optimized, optimized_weights = optimize(graph, weights)
    assert optimized.by_name["norm"].op.kind == "add"
    result = outputs(optimized, optimized_weights, images)["stage4"]
    # A black picture leaves nothing but the bias, which is 0 nowhere.
    np.testing.assert_allclose(result, outputs(graph, weights, images)["stage4"], rtol=1e-12)
    assert np.abs(result).min() > 0.01


def test_the_optimized_network_has_no_batch_norm_module() -> None:
    graph = narrow()
    model = gsto_torch.compile(*optimize(graph, initial_weights(graph)))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
