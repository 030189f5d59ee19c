"""Segments for rematerialisation: a partition of what is computed, in order, by module."""

import pytest

from gsto_spec import GraphBuilder, architectures, build
from gsto_spec.memory import LONGEST, SHORTEST, segments


@pytest.mark.parametrize("name", list(architectures()))
def test_segments_are_a_partition_in_order(name: str) -> None:
    graph = build(name)
    found = segments(graph)
    assert [node for segment in found for node in segment] == [
        node.name for node in graph.order if node.operands
    ]
    assert all(found)
    assert max(len(segment) for segment in found) < sum(len(segment) for segment in found) / 3


def test_a_stage_of_several_modules_is_cut_into_their_branches_and_fusions() -> None:
    found = [(segment[0], segment[-1]) for segment in segments(build("gsto-hrnet-w48"))]
    assert found[:7] == [
        ("conv1", "bn2/relu"),
        *((f"layer1.{block}.conv1", f"layer1.{block}/out") for block in range(4)),
        ("transition1.0.0", "transition1.1.0.1/relu"),
        ("stage2.0.branches.0.0.conv1", "stage2.0.branches.1.3/out"),
    ]
    modules = [f"stage3.{module}" for module in range(4)]
    assert [start for start, _ in found if start.startswith("stage3")] == [
        start for module in modules
        for start in (f"{module}.branches.0.0.conv1", f"{module}.att_layers.0.0.0")
    ]  # fmt: skip


def test_every_block_of_a_resnet_is_a_segment() -> None:
    starts = [segment[0] for segment in segments(build("resnet50-ppm"))]
    blocks = [f"layer{layer + 1}.{block}.conv1" for layer, count in enumerate((3, 4, 6, 3))
              for block in range(count)]  # fmt: skip
    assert starts == ["conv1", *blocks, "ppm/features.0/pool"]


def chain_of(*lengths: int) -> list[int]:
    """The lengths of the segments of modules of so many relus each."""
    build_graph = GraphBuilder()
    x = build_graph.input()
    for module, length in enumerate(lengths):
        for place in range(length):
            x = build_graph.relu(x, name=f"stage.{module}/{place}")
    return [len(segment) for segment in segments(build_graph.graph({"stage4": x}))]


def test_short_neighbours_are_joined_and_others_are_not() -> None:
    short = SHORTEST - 1
    assert chain_of(short, 1, short) == [2 * short + 1]
    assert chain_of(short, SHORTEST, 1, 1) == [short, SHORTEST, 2]
    assert chain_of(LONGEST, 2 * LONGEST, SHORTEST) == [LONGEST, 2 * LONGEST, SHORTEST]
