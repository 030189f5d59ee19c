"""From the names in files that others wrote to canonical ones; what was done is told, never silent.

Published checkpoints carry wrappers' prefixes (data-parallel training adds `module.`, the GSTO release
`model.`, toolboxes `backbone.`, `torch.compile` `_orig_mod.`), torch's batch counters, tensors of the loss,
and tensors of parts that a network does without.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from gsto_spec.backend import OPTIMIZER_PREFIX
from gsto_spec.graph import Graph

PREFIXES = ("module.", "model.", "backbone.", "state_dict.", "_orig_mod.")

_TENSOR = r"\.(weight|bias|running_mean|running_var)"
_BLOCK = rf"\d+\.(conv\d|bn\d|downsample\.\d){_TENSOR}"
_RESIDUAL = rf"((conv|bn)\d{_TENSOR}|layer\d+\.{_BLOCK}|stage\d+\.\d+\.branches\.\d+\.{_BLOCK})"
_BETWEEN = rf"(transition\d+|stage\d+\.\d+\.fuse_layers)(\.\d+)+{_TENSOR}"

RESIDUAL_TRUNK = re.compile(_RESIDUAL)
"""The stem and the residual blocks, which every form and head of a network shares."""

BACKBONE = re.compile(f"{_RESIDUAL}|{_BETWEEN}")
"""What HRNet's and ResNet's classification networks have in common with those that are built on them."""

_BATCH_COUNTER = ".num_batches_tracked"
_CLASSIFICATION_HEAD = re.compile(
    rf"((incre_modules|downsamp_modules)(\.\w+)+|final_layer\.[01]|classifier|fc){_TENSOR}"
)
_DEAD_BRANCH = re.compile(rf"att1\.1\.0\.[01]{_TENSOR}")
_FUSION_TARGET = re.compile(rf"(stage(\d+)\.\d+\.fuse_layers\.)(\d+)(\.\d+)+{_TENSOR}")


@dataclass(frozen=True)
class CanonicalTensors:
    """A file's tensors by canonical name, and what else it holds.

    - `tensors`: a name of the graph where there is one behind the prefixes, else the file's own name.
    - `prefixes`: what was taken off -> from how many of them.
    - `ignored`: bookkeeping that is no part of any network (batch counters, loss, optimiser), by the file's
      names -> why.
    - `declared_absent`: tensors of known parts that the graph does without, by canonical name -> why.
    - `duplicates`: a text for every tensor that the file has under two names.
    """

    tensors: Mapping[str, NDArray[Any]]
    prefixes: Mapping[str, int]
    ignored: Mapping[str, str]
    declared_absent: Mapping[str, str]
    duplicates: tuple[str, ...]


def canonical_tensors(graph: Graph, tensors: Mapping[str, NDArray[Any]]) -> CanonicalTensors:
    """Sort a file's tensors by what they are to `graph`. Prefixes come off where a known name is behind."""
    found: dict[str, str] = {}
    ignored: dict[str, str] = {}
    absent: dict[str, str] = {}
    duplicates = []
    for name, array in tensors.items():
        reading = _meaningful(graph, name, array.shape)
        if (reason := _bookkeeping(graph, reading)) is not None:
            ignored[name] = reason
        elif (reason := _absent(graph, reading, array.shape)) is not None:
            absent[reading] = reason
        elif reading in found:
            duplicates.append(f"{reading} is there twice, as {found[reading]} and as {name}")
        else:
            found[reading] = name
    prefixes = Counter(name.removesuffix(canonical) for canonical, name in found.items() if name != canonical)
    kept = {canonical: tensors[name] for canonical, name in found.items()}
    return CanonicalTensors(kept, dict(prefixes), ignored, absent, tuple(duplicates))


def without_prefixes(name: str) -> str:
    """A name of a file without any wrapper's prefix."""
    return list(_readings(name))[-1]


def _readings(name: str) -> Iterator[str]:
    """The name, then the name without its first prefix, without its first two, ..."""
    yield name
    while (prefix := next(filter(name.startswith, PREFIXES), None)) is not None:
        name = name.removeprefix(prefix)
        yield name


def _meaningful(graph: Graph, name: str, shape: Sequence[int]) -> str:
    """The first reading of a name that is the graph's or of a known part; where none is, the name."""
    for reading in _readings(name):
        known = reading in graph.parameters or _bookkeeping(graph, reading) is not None
        if known or _absent(graph, reading, shape) is not None:
            return reading
    return name


def _bookkeeping(graph: Graph, name: str) -> str | None:
    """Why this is no part of any network, or None."""
    if name in graph.parameters:
        return None
    if name.endswith(_BATCH_COUNTER):
        return "torch counts batches there, which nothing reads"
    if name.startswith("loss."):
        return "the loss's, not the network's"
    return "optimiser slots" if name.startswith(OPTIMIZER_PREFIX) else None


def _absent(graph: Graph, name: str, shape: Sequence[int]) -> str | None:
    """Why the graph does without this known tensor, or None."""
    if name in graph.parameters:
        return None
    if _CLASSIFICATION_HEAD.fullmatch(name):
        return "of the classification head, which this network does without"
    if _DEAD_BRANCH.fullmatch(name) and _is_chain_of_one_channel(shape):
        return "the release's dead branch, which no output depends on"
    if (path := _FUSION_TARGET.fullmatch(name)) and _lacks_target(graph, *path.group(1, 2, 3)):
        return "a path to a lower branch, which this network's last fusion does without"
    return None


def _is_chain_of_one_channel(shape: Sequence[int]) -> bool:
    """Whether this is of the released supervised gate (3x3, classes -> 1) and of no other gate."""
    return tuple(shape) == (1,) or (len(shape) == 4 and (shape[0], *shape[2:]) == (1, 3, 3))


def _lacks_target(graph: Graph, fusion: str, stage: str, target: str) -> bool:
    """Whether the graph fuses here, but only to other branches, as pose HRNet's last module does."""
    inside = [name for name in graph.parameters if name.startswith(fusion)]
    there = any(name.startswith(f"{fusion}{target}.") for name in inside)
    return bool(inside) and not there and int(target) < int(stage)
