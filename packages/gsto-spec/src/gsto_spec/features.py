"""Feature maps for heads of other people's: a network cut at its branches, one output per level.

The cut graph is a graph like any other: it compiles on every backend, and its parameters are some of the
whole network's, under the same names, so the whole network's weights serve:

    pyramid = gsto_spec.features(gsto_spec.build("hrnetv2-w48"))
    gsto_torch.compile(pyramid, {name: weights[name] for name in pyramid.parameters})
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gsto_spec.errors import GstoError, nearest
from gsto_spec.graph import Graph
from gsto_spec.ops import Input
from gsto_spec.sizes import Size, is_feature, show

_MODULE = re.compile(r"(stage|layer)(\d+)[./]", re.ASCII)


class FeaturesError(GstoError):
    """A graph without feature maps of the kind asked for."""


@dataclass(frozen=True, slots=True)
class Level:
    """A feature map: the output's name, the node, its channels, and input pixels per pixel of it."""

    name: str
    node: str
    channels: int
    stride: int


def features(graph: Graph, *, stage: int | None = None, nodes: Mapping[str, str] | None = None) -> Graph:
    """The graph whose outputs are feature maps of `graph`, N x channels x h x w, the finest first.

    Without further arguments the levels are what the last stage hands on: for an HRNet its branches (where
    the last module fuses to the finest one alone, the others before that fusion); for a ResNet what `layer1`,
    `layer2`, ... hand on, the last of them at each stride. `stage` chooses another stage, stage 1 being an
    HRNet's `layer1`. Outputs are called by stride: `stride4`, `stride8`, ... `feature_levels` reads channels
    and strides off any graph.

    `nodes`, output name -> node, names feature maps of any graph instead, in an order of the caller's own.

    Raises `FeaturesError` for a stage or node that is not there, and where nothing is called `stageN` or
    `layerN`.
    """
    if nodes is not None:
        if stage is not None:
            raise FeaturesError("features: expected a stage or nodes, found both")
        return _cut(graph, nodes)
    levels = [_level(graph, "", name) for name in _found(graph, stage)]
    by_stride = {level.stride: level.node for level in levels}
    return _cut(graph, {f"stride{stride}": by_stride[stride] for stride in sorted(by_stride)})


def feature_levels(graph: Graph) -> tuple[Level, ...]:
    """Name, node, channels and stride of every output of a graph.

    Raises `FeaturesError` for an output that has no stride: of fixed size, or with two strides.
    """
    return tuple(_level(graph, output, node) for output, node in graph.outputs.items())


def _cut(graph: Graph, outputs: Mapping[str, str]) -> Graph:
    for output, name in outputs.items():
        if name not in graph.by_name:
            near = nearest(name, graph.by_name)
            raise FeaturesError(f"features: {output}: expected the name of a node, found {name}{near}")
        _level(graph, output, name)
    needed = set(outputs.values())
    for node in reversed(graph.order):
        if node.name in needed:
            needed.update(node.operands)
    kept = tuple(node for node in graph.nodes if node.name in needed or isinstance(node.op, Input))
    return replace(graph, nodes=kept, outputs=outputs)


def _level(graph: Graph, output: str, name: str) -> Level:
    shape = graph.shapes[name]
    sizes = {size.stride for size in shape[2:] if isinstance(size, Size)} if is_feature(shape) else set()
    if len(sizes) != 1 or not all(isinstance(size, Size) for size in shape[2:]):
        wanted = "a feature map of one stride"
        raise FeaturesError(f"features: {output or name}: expected {wanted}, found {show(shape)} ({name})")
    channels = shape[1]
    assert isinstance(channels, int)
    return Level(output, name, channels, sizes.pop())


def _found(graph: Graph, stage: int | None) -> list[str]:
    """The nodes that the chosen stage, or the last, hands on; a ResNet's layers are stages in a row."""
    named = {match for node in graph.nodes if (match := _MODULE.match(node.name))}
    scopes = sorted({(int(match[2]), match[1]) for match in named})
    stages = [(number, f"{kind}{number}") for number, kind in scopes]
    if stage is not None:
        return _of_stage(graph, dict(stages), stage)
    branched = [scope for _, scope in stages if scope.startswith("stage")]
    found = _branches(graph, branched[-1]) if branched else _of_layers(graph, [scope for _, scope in stages])
    if not found:
        raise FeaturesError(
            "features: expected modules called stageN or layerN that hand maps on, found none; name the maps:"
            ' features(graph, nodes={"stride4": NODE})'
        )
    return found


def _of_stage(graph: Graph, stages: Mapping[int, str], stage: int) -> list[str]:
    if stage not in stages:
        known = ", ".join(map(str, stages)) or "none"
        raise FeaturesError(f"features: stage: expected one of the graph's ({known}), found {stage}")
    return _branches(graph, stages[stage])


def _of_layers(graph: Graph, scopes: list[str]) -> list[str]:
    return [name for scope in scopes for name in _handed_on(graph, scope)]


def _branches(graph: Graph, stage: str) -> list[str]:
    """What a stage hands on, after the branches of its last module that are fused to nothing."""
    modules = {int(match[1]) for node in graph.nodes
               if (match := re.match(rf"{stage}\.(\d+)\.branches\.", node.name))}  # fmt: skip
    fused = _handed_on(graph, stage)
    if not modules:
        return fused
    paths = re.compile(rf"({stage}\.{max(modules)}\.branches\.\d+)\.")
    branches = dict.fromkeys(match[1] for node in graph.nodes if (match := paths.match(node.name)))
    return [*(name for branch in branches for name in _handed_on(graph, branch)), *fused]


def _handed_on(graph: Graph, scope: str) -> list[str]:
    """The feature maps made inside a scope that something outside reads, or that are outputs."""
    prefixes = (f"{scope}.", f"{scope}/")
    read = set(graph.outputs.values())
    for node in graph.nodes:
        if not node.name.startswith(prefixes):
            read.update(node.operands)
    return [node.name for node in graph.order
            if node.name in read and node.name.startswith(prefixes) and node.operands]  # fmt: skip
