"""Whole networks: the released ones, those of both forms at odd sizes, their counts and their names."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

import gsto_torch
from gsto_spec import (
    Graph,
    GraphBuilder,
    HRNet,
    architectures,
    build,
    cost,
    evaluate,
    initial_weights,
    variant,
)
from gsto_spec.catalog import entry

FILES = [
    ("gsto_release_w18_small_v2_c19", "gsto-hrnet-w18-small-v2"),
    ("hrnetv2_w18_small_v2_c19", "hrnetv2-w18-small-v2"),
    ("pose_hrnet_w32_k17", "pose-hrnet-w32"),
]


def outputs(model: gsto_torch.CompiledGraph, image: NDArray[Any], dtype: torch.dtype) -> list[NDArray[Any]]:
    with torch.inference_mode():
        found = model.eval()(torch.from_numpy(image).to(dtype))
    assert list(found) == list(model.graph.outputs)
    return [tensor.numpy() for tensor in found.values()]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize(("stem", "name"), FILES)
def test_outputs_are_the_released_ones(
    golden: Callable[[str], Any], stem: str, name: str, dtype: torch.dtype, bound: float
) -> None:
    released, graph = golden(stem), build(name)
    weights = {key: tensor for key, tensor in released.weights.items() if key in graph.parameters}
    model = gsto_torch.compile(graph, weights, dtype=dtype)
    for array, wanted in zip(outputs(model, released.image, dtype), released.outputs, strict=True):
        assert array.dtype == wanted.dtype if dtype == torch.float64 else array.dtype == np.float32
        assert_allclose(array, wanted, rtol=0, atol=bound * np.abs(wanted).max())


@pytest.mark.parametrize(("stem", "name"), FILES)
def test_state_names_are_the_released_ones(golden: Callable[[str], Any], stem: str, name: str) -> None:
    released = {
        key: shape for key, shape in golden(stem).parameters.items() if not key.startswith("att1.1.0.")
    }
    with torch.device("meta"):
        model = gsto_torch.compile(build(name))
    found = {
        key: tuple(tensor.shape)
        for key, tensor in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert found == released


NARROW = HRNet(
    widths=(2, 4, 6, 8), modules=(1, 1, 1), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1, classes=3
)
GSTO = replace(NARROW, fusion_gate="unsupervised", supervised_stages=(1, 2, 3), transition_gate="supervised")


@pytest.mark.parametrize("size", [(33, 47), (32, 64), (5, 9)])
@pytest.mark.parametrize(
    "chosen",
    [
        NARROW,
        GSTO,
        replace(GSTO, form="paper"),
        replace(GSTO, align_corners=True),
        replace(GSTO, form="paper", align_corners=True, transition_gate="unsupervised"),
        replace(NARROW, upsampling="nearest", head="hrnetv1"),
    ],
    ids=["plain", "release", "paper", "release aligned", "paper aligned unsupervised", "pose"],
)
def test_both_forms_equal_the_definition_at_any_size(chosen: HRNet, size: tuple[int, int]) -> None:
    graph = build(chosen)
    draw = np.random.default_rng(1)
    weights = {
        name: np.abs(draw.standard_normal(shape))
        if name.endswith("_var")
        else draw.standard_normal(shape) / 3
        for name, shape in graph.parameters.items()
    }
    image = draw.standard_normal((2, 3, *size))
    wanted = evaluate(graph, weights, {"image": image})
    found = outputs(gsto_torch.compile(graph, weights, dtype=torch.float64), image, torch.float64)
    for array, exact in zip(found, wanted.values(), strict=True):
        assert_allclose(array, exact, rtol=0, atol=1e-10 * np.abs(exact).max())


@pytest.mark.parametrize("size", [(64, 96), (41, 57)])
@pytest.mark.parametrize("form", ["release", "paper"])
def test_training_mode_equals_the_definition(form: Any, size: tuple[int, int]) -> None:
    graph = build(replace(GSTO, form=form))
    weights = initial_weights(graph, seed=3)
    image = np.random.default_rng(2).standard_normal((2, 3, *size))
    wanted, statistics = evaluate(graph, weights, {"image": image}, train_mode=True)
    model = gsto_torch.compile(graph, weights, dtype=torch.float64)
    with torch.no_grad():
        found = model(torch.from_numpy(image))
    for name, exact in wanted.items():
        assert_allclose(found[name].numpy(), exact, rtol=0, atol=1e-10 * np.abs(exact).max())
    kept = gsto_torch.weights_of(model)
    assert set(statistics) == set(graph.parameters) - set(graph.trainable)
    for name, exact in statistics.items():
        assert_allclose(kept[name], exact, rtol=1e-10, atol=1e-12)


def on_meta(graph: Graph) -> gsto_torch.CompiledGraph:
    with torch.device("meta"):
        return gsto_torch.compile(graph).eval()


def parameters_and_flops(graph: Graph, shape: tuple[int, int, int, int]) -> tuple[int, int]:
    model = on_meta(graph)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model(torch.empty(shape, device="meta"))
    learnt = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return learnt, flops.get_total_flops()


@pytest.mark.parametrize("name", architectures())
def test_counts_are_the_compiled_networks_own(name: str) -> None:
    graph, shape = build(name), (1, 3, *entry(name).size)
    counted, whole = cost(graph, shape), cost(graph, shape, counting="every-op")
    # torch counts convolutions whose weights are fixed, too; only CBAM's means and maxima have such.
    assert parameters_and_flops(graph, shape) == (counted.parameters, 2 * whole.by_op["conv2d"].macs)
    assert (counted.macs == whole.by_op["conv2d"].macs) == ("spatial" not in name)


@pytest.mark.parametrize(
    ("stages", "form"), [((), "release"), ((3,), "release"), ((1, 2, 3), "release"), ((2, 3), "paper")]
)
def test_counts_of_the_ablations_are_the_compiled_networks_own(stages: tuple[int, ...], form: Any) -> None:
    chosen = replace(
        variant("gsto-hrnet-w18-small-v2"), supervised_stages=stages, form=form,
        transition_gate="supervised" if stages else None,
    )  # fmt: skip
    shape = (2, 3, 129, 193)
    counted = cost(build(chosen), shape)
    assert parameters_and_flops(build(chosen), shape) == (counted.parameters, 2 * counted.macs)


@pytest.mark.parametrize("name", ["gsto-hrnet-w18-small-v2", "pose-hrnet-w32"])
def test_names_and_shapes_are_the_graphs(name: str) -> None:
    graph = build(name)
    model = on_meta(graph)
    assert {key: tuple(value.shape) for key, value in model.named_parameters()} == dict(graph.trainable)
    kept = {key for key, _ in model.named_buffers() if not key.endswith("num_batches_tracked")}
    assert kept == set(graph.parameters) - set(graph.trainable)


def test_a_network_goes_through_torch_export_and_back(tmp_path: Path) -> None:
    builder = GraphBuilder()
    image = builder.input()
    deep = builder.relu(builder.conv2d("deep", image, 4, kernel=3, stride=2))
    both = builder.concat([image, builder.resize(deep, like=image)])
    model = gsto_torch.compile(builder.graph({"stage4": builder.conv2d("head", both, 2)})).eval()
    # Any number of pictures, shown with two: torch takes one for a constant.
    any_number = {"inputs": ({0: torch.export.Dim.DYNAMIC},)}
    exported = torch.export.export(model, (torch.randn(2, 3, 9, 8),), dynamic_shapes=any_number)
    torch.export.save(exported, tmp_path / "network.pt2")
    pictures = torch.randn(3, 3, 9, 8)
    found = torch.export.load(tmp_path / "network.pt2").module()(pictures)
    wanted = model(pictures)
    assert list(found) == list(wanted)
    assert torch.equal(found["stage4"], wanted["stage4"])
