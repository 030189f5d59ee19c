"""What an optimisation did, for people: rules and reasons counted, costs and ops before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import get_args

from gsto_spec.cost import Cost, Counting, cost
from gsto_spec.graph import Graph
from gsto_spec.ops import Parameter
from gsto_spec.rewrite import RewriteLog

Costs = Mapping[Counting, Cost]


def costs(graph: Graph, input_shape: tuple[int, int, int, int]) -> Costs:
    """A graph's cost by each convention of counting."""
    return {counting: cost(graph, input_shape, counting=counting) for counting in get_args(Counting)}


def ops(graph: Graph) -> dict[str, int]:
    """How many nodes of each op a graph computes."""
    return dict(sorted(Counter(n.op.kind for n in graph.nodes if not isinstance(n.op, Parameter)).items()))


def firings(log: RewriteLog, rules: Iterable[str]) -> str:
    """How often each rule fired, and where not, how often for which reason."""
    fired = Counter(item.rule for item in log.fired)
    reasons = Counter((item.rule, item.reason) for item in log.not_fired)
    lines = []
    for rule in rules:
        left = {reason: count for (name, reason), count in reasons.items() if name == rule}
        lines.append(f"{rule}: fired {fired[rule]}, left {sum(left.values())}")
        lines += [f"  left {count}: {reason}" for reason, count in left.items()]
    if log.unneeded:
        lines.append(f"needed by no output: {len(log.unneeded)} nodes")
    return "\n".join(lines)


def comparison(before: Graph, after: Graph, input_shape: tuple[int, int, int, int]) -> str:
    """Costs and ops of two graphs as tables."""
    title = f"input {' x '.join(map(str, input_shape))}"
    head = f"{'':<8}{'parameters':>14}{'multiply-adds':>20}{'of convolutions':>20}{'activations':>16}"
    graphs = {"before": before, "after": after}
    rows = [_row(name, costs(graph, input_shape)) for name, graph in graphs.items()]
    return "\n".join([title, head, *rows, "", *_op_rows(ops(before), ops(after))])


def _row(name: str, counted: Costs) -> str:
    every, convolutions = counted["every-op"], counted["convolutions"]
    memory = f"{every.activation_bytes / 2**20:,.1f} MiB"
    return f"{name:<8}{every.parameters:>14,}{every.macs:>20,}{convolutions.macs:>20,}{memory:>16}"


def _op_rows(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    rows = [
        f"{kind:<20}{before.get(kind, 0):>8,}{after.get(kind, 0):>8,}" for kind in sorted({*before, *after})
    ]
    total = f"{'all':<20}{sum(before.values()):>8,}{sum(after.values()):>8,}"
    return [f"{'nodes':<20}{'before':>8}{'after':>8}", *rows, total]
