"""The rules that make a graph cheaper for inference without changing what it computes.

`optimize` applies them to a graph and its weights, once for every backend. The result is in inference form:
it has another digest, computes with tensors that no checkpoint holds, and is neither trained nor saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from gsto_spec.errors import GraphError, GstoError, nearest
from gsto_spec.graph import Graph
from gsto_spec.passes_fold import FoldBatchNorm, FoldConstants
from gsto_spec.passes_gate import HoistGate
from gsto_spec.passes_merge import MergeConvolutions, MergePointwise
from gsto_spec.passes_scale import ProjectAfterShrinking, ProjectBeforeEnlarging
from gsto_spec.passes_sum import FlattenSum, MergeBiases, SumBeforeResize
from gsto_spec.rewrite import Arrays, RewriteLog, Rule, rewrite
from gsto_spec.weights import check_weights

_ALL: tuple[Rule[Any], ...] = (
    FoldConstants(),
    FoldBatchNorm(),
    ProjectAfterShrinking(),
    HoistGate(),
    ProjectBeforeEnlarging(),
    FlattenSum(),
    SumBeforeResize(),
    MergeBiases(),
    MergeConvolutions(),
    MergePointwise(),
)
RULES: Mapping[str, Rule[Any]] = MappingProxyType({rule.name: rule for rule in _ALL})
"""Every rule by its name, in the order in which they are applied, in whatever order they are asked for."""


def optimize(
    graph: Graph, weights: Mapping[str, NDArray[Any]], *, outputs: Iterable[str] | None = None,
    rules: Iterable[str] = tuple(RULES), log: RewriteLog | None = None,
) -> tuple[Graph, Arrays]:  # fmt: skip
    """A graph that computes the same outputs in inference mode at less cost, and its weights.

    Inputs and outputs keep their names, order and shapes, and every node that keeps its name keeps its value.
    `weights` holds exactly `graph.parameters`; the answer's are float64, so that nothing is rounded before a
    backend casts them. With `outputs` only those of the graph's are kept, and what they do not need, such as
    the predictors of supervised stages whose logits make no gate, is dropped. `rules` are names in `RULES`.
    `log` is told which rule fired where, and where not and why.

    Raises `WeightsError`, `GraphError` (graph_c4) for an output that is none, `GstoError` for such a rule.
    """
    chosen = _chosen(rules)
    check_weights(graph, weights)
    kept = graph if outputs is None else keep_outputs(graph, outputs)
    return rewrite(kept, weights, chosen, RewriteLog() if log is None else log)


def _chosen(rules: Iterable[str]) -> tuple[Rule[Any], ...]:
    names = tuple(rules)
    for name in names:
        if name not in RULES:
            raise GstoError(f"rules: expected some of {', '.join(RULES)}, found {name}{nearest(name, RULES)}")
    return tuple(rule for name, rule in RULES.items() if name in names)


def keep_outputs(graph: Graph, outputs: Iterable[str]) -> Graph:
    """The graph with only these of its outputs, in the graph's order. Raises `GraphError` (graph_c4)."""
    names = tuple(outputs)
    for name in names:
        if name not in graph.outputs:
            found = f"{name}{nearest(name, graph.outputs)}"
            raise GraphError("outputs", f"some of {', '.join(graph.outputs)}", found, "graph_c4")
    return replace(graph, outputs={name: node for name, node in graph.outputs.items() if name in names})
