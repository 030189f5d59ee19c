"""From the names in files that others wrote to canonical ones; what was done is told, never silent.

Published checkpoints carry wrappers' prefixes (data-parallel training adds `module.`, the GSTO release
`model.`, toolboxes `backbone.`), torch's batch counters, and tensors of the loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from gsto_spec.backend import OPTIMIZER_PREFIX
from gsto_spec.errors import WeightsError
from gsto_spec.graph import Graph

PREFIXES = ("module.", "model.", "backbone.")

_BATCH_COUNTER = ".num_batches_tracked"


def canonical_tensors(
    graph: Graph, tensors: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The tensors under canonical names, and what was left out or renamed, in words.

    Prefixes come off where a name of the graph is behind them. Left out are batch counters, a loss's tensors
    and optimiser slots; what else the graph does not know keeps its name, for the caller to refuse.

    Raises `WeightsError` where two names of the file come down to one.
    """
    found: dict[str, str] = {}
    prefixes: Counter[str] = Counter()
    omitted: dict[str, list[str]] = {}
    for name in tensors:
        canonical, prefix = _canonical(graph, name)
        if (reason := _needless(graph, canonical)) is not None:
            omitted.setdefault(reason, []).append(name)
            continue
        if canonical in found:
            raise WeightsError(f"{canonical} is there twice, as {found[canonical]} and as {name}")
        found[canonical] = name
        prefixes[prefix] += 1
    renamed = [f"took {prefix} off {count:,} names" for prefix, count in prefixes.items() if prefix]
    left_out = [f"left out {_listed(names)}: {reason}" for reason, names in omitted.items()]
    return {canonical: tensors[name] for canonical, name in found.items()}, renamed + left_out


def _canonical(graph: Graph, name: str) -> tuple[str, str]:
    """A name of the graph and the prefix before it; a name that leads to none, as it is."""
    rest = name
    while not _known(graph, rest):
        prefix = next((prefix for prefix in PREFIXES if rest.startswith(prefix)), None)
        if prefix is None:
            return name, ""
        rest = rest.removeprefix(prefix)
    return rest, name.removesuffix(rest)


def _known(graph: Graph, name: str) -> bool:
    return name in graph.parameters or _needless(graph, name) is not None


def _needless(graph: Graph, name: str) -> str | None:
    """Why a network does without this tensor, or None."""
    if name in graph.parameters:
        return None
    if (
        name.endswith(_BATCH_COUNTER)
        and f"{name.removesuffix(_BATCH_COUNTER)}.running_mean" in graph.parameters
    ):
        return "torch counts batches there, which nothing reads"
    if name.startswith("loss."):
        return "the loss's, not the network's"
    return "optimiser slots" if name.startswith(OPTIMIZER_PREFIX) else None


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names):,} tensors such as {names[0]}"
