"""Where a network's branches and gates are, found in its graph: what figure 1 of the paper shows of it.

A gate is a sigmoid's result that multiplies a feature map; branches are what each fusion of an HRNet hands
on, and what each stage (`layerN` of a ResNet) does.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gsto_spec import Graph, features
from gsto_spec.errors import GstoError
from gsto_spec.features import Level, feature_levels
from gsto_spec.ops import Mul, Relu, Sigmoid
from gsto_spec.sizes import is_feature

_FUSED = re.compile(r"stage(\d+)\.(\d+)/fuse\.(\d+)/out", re.ASCII)
_FUSION_GATE = re.compile(r"stage(\d+)\.(\d+)/fuse\.(\d+)\.(\d+)/gated", re.ASCII)
_TRANSITION_GATE = re.compile(r"transition(\d+)/gated", re.ASCII)
_STAGE = re.compile(r"(?:stage|layer)(\d+)[./]", re.ASCII)


@dataclass(frozen=True)
class Branch:
    """A feature map, by its node: after which part of the network, and input pixels per pixel of it."""

    after: str
    stride: int
    node: str


@dataclass(frozen=True)
class Gate:
    """A gate, one value per place: in which part, on the way from which map to which, by its node.

    `source` and `target` are strides in a fusion; elsewhere `source` is the gated map's own and `target`
    None. `least` is what the gate cannot be below: 0.5 where a relu precedes the sigmoid (released form).
    """

    part: str
    name: str
    source: int
    target: int | None
    node: str
    least: float


def branches(graph: Graph) -> list[Branch]:
    """Return the branches in the order in which they are computed, the finest first after each part."""
    matches = {node.name: match for node in graph.order if (match := _FUSED.fullmatch(node.name))}
    strides = _strides(graph, matches)
    found = [
        Branch(f"stage {match[1]}, fusion {int(match[2]) + 1}", strides[node], node)
        for node, match in matches.items()
    ]
    fused = {int(match[1]) for match in matches.values()}
    handed = [
        Branch(f"stage {stage}", level.stride, level.node)
        for stage in _stages(graph)
        if stage not in fused
        for level in feature_levels(features(graph, stage=stage))
    ]
    last = [Branch("last branches", level.stride, level.node) for level in _last(graph)]
    return _in_order(graph, _distinct([*handed, *found, *last]))


def gates(graph: Graph) -> list[Gate]:
    """Return the gates that have one value per place, in the order in which they are computed."""
    places = dict[str, str]()
    for node in graph.order:
        sigmoids = [name for name in node.operands if isinstance(graph.by_name[name].op, Sigmoid)]
        if isinstance(node.op, Mul) and sigmoids and _is_map(graph, sigmoids[0]):
            places[node.name] = sigmoids[0]
    fused = [node.name for node in graph.nodes if _FUSED.fullmatch(node.name)]
    strides = _strides(graph, [*places.values(), *fused])
    return [_gate(graph, strides, place, node) for place, node in places.items()]


def _gate(graph: Graph, strides: Mapping[str, int], place: str, node: str) -> Gate:
    before = graph.by_name[graph.by_name[node].operands[0]].op
    least = 0.5 if isinstance(before, Relu) else 0.0
    if match := _FUSION_GATE.fullmatch(place):
        part = f"stage {match[1]}, fusion {int(match[2]) + 1}"
        target = strides.get(f"stage{match[1]}.{match[2]}/fuse.{match[3]}/out")
        return Gate(part, f"{match[4]} to {match[3]}", strides[node], target, node, least)
    if match := _TRANSITION_GATE.fullmatch(place):
        return Gate("transitions", f"after stage {match[1]}", strides[node], None, node, least)
    return Gate("other gates", place.removesuffix("/gated"), strides[node], None, node, least)


def _stages(graph: Graph) -> list[int]:
    """Return the numbers of the stages; stage 1 of an HRNet is `layer1`."""
    return sorted({int(match[1]) for node in graph.nodes if (match := _STAGE.match(node.name))})


def _last(graph: Graph) -> tuple[Level, ...]:
    try:
        return feature_levels(features(graph))
    except GstoError:  # A graph of somebody's own, without stages.
        return ()


def _distinct(found: Iterable[Branch]) -> list[Branch]:
    """Return the branches without those whose node came before."""
    by_node = dict[str, Branch]()
    for branch in found:
        by_node.setdefault(branch.node, branch)
    return list(by_node.values())


def _in_order(graph: Graph, found: list[Branch]) -> list[Branch]:
    """Return branches by the part that is computed first, then by stride."""
    place = {node.name: number for number, node in enumerate(graph.order)}
    first = dict[str, int]()
    for branch in found:
        first[branch.after] = min(first.get(branch.after, place[branch.node]), place[branch.node])
    return sorted(found, key=lambda branch: (first[branch.after], branch.stride))


def _is_map(graph: Graph, node: str) -> bool:
    shape = graph.shapes[node]
    return is_feature(shape) and shape[1] == 1 and shape[2:] != (1, 1)


def _strides(graph: Graph, nodes: Iterable[str]) -> dict[str, int]:
    """Return the strides of maps, by node."""
    outputs = {f"map{number}": node for number, node in enumerate(nodes)}
    if not outputs:
        return {}
    return {level.node: level.stride for level in feature_levels(features(graph, nodes=outputs))}
