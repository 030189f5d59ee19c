"""Whole networks as torch modules: their names, their counts, and their export."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import gsto_torch
from gsto_spec import (
    Graph,
    GraphBuilder,
    architectures,
    build,
    cost,
    variant,
)
from gsto_spec.catalog import entry

FILES = [
    ("gsto_release_w18_small_v2_c19", "gsto-hrnet-w18-small-v2"),
    ("hrnetv2_w18_small_v2_c19", "hrnetv2-w18-small-v2"),
    ("pose_hrnet_w32_k17", "pose-hrnet-w32"),
]


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
