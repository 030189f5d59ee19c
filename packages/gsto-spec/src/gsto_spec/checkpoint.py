"""Published checkpoints: a file's tensors fitted to a graph, all of them or none, and a report of what did.

`read_checkpoint` here reads the neutral files, safetensors and saved directories; a backend adds its own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec.checkpoint_names import (
    BACKBONE,
    RESIDUAL_TRUNK,
    CanonicalTensors,
    canonical_tensors,
    without_prefixes,
)
from gsto_spec.checkpoint_report import CheckpointReport, negative_text, shape_text, shown
from gsto_spec.errors import FEW, GstoError, WeightsError, listed
from gsto_spec.graph import Graph, require_graph
from gsto_spec.ops import BatchNorm
from gsto_spec.weights import Weights, initial_weights, load_directory, read_safetensors

Tensors = dict[str, NDArray[Any]]
Decode = Callable[[bytes], tuple[Tensors, list[str]]]
"""A framework's reader of its own files: tensors under the file's names, and what it left out, in words."""


class CheckpointError(WeightsError):
    """A checkpoint that does not fit; `offenders` has a text for each tensor, `report` holds them as data."""

    def __init__(self, message: str, report: CheckpointReport, offenders: Sequence[str] = ()) -> None:
        super().__init__(message, offenders)
        self.report = report


class CheckpointWarning(UserWarning):
    """A checkpoint that fits and may mean something else than what was read."""


class LoadedWeights(Weights):
    """Weights, canonical name -> float32 array, in the order of `Graph.parameters`; `report` says whence."""

    def __init__(self, tensors: Mapping[str, NDArray[np.float32]], report: CheckpointReport) -> None:
        super().__init__(tensors)
        self.report = report


def read_checkpoint(
    path: str | Path, graph: Graph, *, inplace_abn: bool | None = None, initialize: bool = False,
    seed: int = 0, decode: Decode | None = None,
) -> LoadedWeights:  # fmt: skip
    """The weights in a safetensors file, a saved directory or, by `decode`, a framework's file.

    Every tensor of the graph must be there and every tensor of the file must be known, but for two cases:

    - A file that has the backbone and nothing of the graph's other parts, as ImageNet's have, leaves those at
      `initial_weights(graph, seed)`.
    - `initialize` takes from any checkpoint with the same stem and residual blocks whatever fits, and leaves
      the rest at `initial_weights(graph, seed)`: other classes, another head, gates that the file lacks.

    `inplace_abn` says how batch norms' scales are meant: True as in-place activated batch norm reads them,
    |scale| + eps, as in the networks that GSTO's authors trained; False as they are; None as they are too,
    with a `CheckpointWarning` that counts the negative ones.

    Raises `WeightsError` for what is no such file, and else a `CheckpointError`, whose `offenders` are
    everything missing, unknown, misshapen, not finite, twice there or of another type. Raises `TypeError`
    for what is no graph.
    """
    require_graph(graph)
    tensors, notes = read_tensors(path, graph, initialize=initialize, decode=decode)
    fitted, report = fit_checkpoint(
        str(path), graph, tensors, notes=notes, inplace_abn=inplace_abn, initialize=initialize, seed=seed,
        dtype=np.float32,
    )  # fmt: skip
    if inplace_abn is None and report.negative_scales:
        warnings.warn(f"{path}: {negative_text(report.negative_scales)}", CheckpointWarning, stacklevel=3)
    return LoadedWeights(fitted, report)


def read_tensors(
    path: str | Path, graph: Graph, *, initialize: bool = False, decode: Decode | None = None
) -> tuple[Tensors, list[str]]:
    """A checkpoint's tensors under its own names, and what reading changed. Raises `WeightsError`."""
    place = Path(path)
    if place.is_dir():
        return _read_directory(place, graph, initialize), []
    if not place.is_file():
        raise WeightsError(f"{path}: expected a checkpoint's file or a saved directory, found none")
    if not place.stat().st_size:
        raise WeightsError(f"{path}: expected a checkpoint, found an empty file")
    if place.suffix.lower() == ".safetensors":
        return read_safetensors(place), []
    if decode is None:
        raise WeightsError(
            f"{path}: expected a .safetensors file or a saved directory; gsto_torch.read_checkpoint reads "
            "torch's files, and gsto-convert makes neutral ones of them"
        )
    try:
        return decode(place.read_bytes())
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}", error.offenders) from None


def _read_directory(path: Path, graph: Graph, initialize: bool) -> Tensors:
    try:
        own, weights, _ = load_directory(path)
    except GstoError as error:
        raise WeightsError(str(error)) from None
    if own.parameters == graph.parameters and own.digest != graph.digest and not initialize:
        raise WeightsError(
            f"{path}: expected weights of graph {graph.digest[:12]}, found those of {own.digest[:12]}, which "
            "computes something else with the same tensors; initialize=True from Python takes them all"
        )
    return dict(weights)


def fit_checkpoint(
    source: str, graph: Graph, tensors: Mapping[str, NDArray[Any]], *, notes: list[str] | None = None,
    inplace_abn: bool | None = None, initialize: bool = False, seed: int = 0, dtype: type[Any] | None = None,
) -> tuple[Tensors, CheckpointReport]:  # fmt: skip
    """A file's tensors as `graph`'s weights, and the report; see `read_checkpoint` for rules and errors.

    `source` is what errors call the file; `notes` go into the report; without `dtype` each tensor keeps the
    file's floating-point type, bit for bit.
    """
    if graph.parameters and not tensors:
        raise WeightsError(f"{source}: expected a checkpoint, found a file that holds no tensors")
    named = canonical_tensors(graph, tensors)
    report = _compared(source, graph, named, notes or [], inplace_abn, seed)
    required = _required(graph, report, initialize)
    loaded = {name: named.tensors[name] for name in report.loaded}
    problems = [*named.duplicates, *_misfits(report, required), *_wrong_values(loaded, dtype)]
    if problems or (graph.parameters and not loaded):
        raise CheckpointError(_refusal(report, named, problems), report, problems)
    if dtype is not None:
        report = replace(report, notes=(*report.notes, *_rounding(loaded, dtype)))
        loaded = {name: array.astype(dtype) for name, array in loaded.items()}
    if inplace_abn:
        loaded |= _absolute_scales(graph, loaded)
    initial: Mapping[str, NDArray[Any]] = initial_weights(graph, seed) if report.kept_as_initialized else {}
    return {name: loaded[name] if name in loaded else initial[name] for name in graph.parameters}, report


def _compared(
    source: str, graph: Graph, named: CanonicalTensors, notes: list[str], inplace_abn: bool | None, seed: int
) -> CheckpointReport:
    shapes = {name: tuple(array.shape) for name, array in named.tensors.items()}
    declared = {name: tuple(shape) for name, shape in graph.parameters.items()}
    loaded = tuple(name for name, shape in declared.items() if shapes.get(name) == shape)
    return CheckpointReport(
        source=source,
        sizes={name: math.prod(shape) for name, shape in graph.trainable.items()},
        tensors=len(declared),
        loaded=loaded,
        kept_as_initialized=tuple(name for name, shape in declared.items() if shapes.get(name) != shape),
        declared_absent=named.declared_absent,
        unexpected=tuple(name for name in shapes if name not in declared),
        misshapen={
            name: (shapes[name], shape)
            for name, shape in declared.items()
            if name in shapes and shapes[name] != shape
        },
        ignored=named.ignored,
        prefixes=named.prefixes,
        negative_scales=_negative_scales(graph, {name: named.tensors[name] for name in loaded}),
        inplace_abn=inplace_abn,
        seed=seed,
        notes=tuple(notes),
    )


def _required(graph: Graph, report: CheckpointReport, initialize: bool) -> Callable[[str], bool]:
    """Which tensors must be in the file if the graph has them, and in the graph if the file has them."""
    if initialize:
        return _is_trunk
    there = {*report.loaded, *report.misshapen}
    backbone = {name for name in graph.parameters if BACKBONE.fullmatch(name)}
    if there and there <= backbone:
        return lambda name: name in backbone or name not in graph.parameters
    return lambda name: True


def _is_trunk(name: str) -> bool:
    return RESIDUAL_TRUNK.fullmatch(without_prefixes(name)) is not None


def _misfits(report: CheckpointReport, required: Callable[[str], bool]) -> list[str]:
    """A text for every required tensor that is missing, undeclared or misshapen."""
    missing = [name for name in report.kept_as_initialized if name not in report.misshapen]
    problems = [f"{name} is missing" for name in missing if required(name)]
    problems += [f"{shown(name)} is not declared" for name in report.unexpected if required(name)]
    return problems + [
        f"{name} has shape {shape_text(found)}, expected {shape_text(expected)}"
        for name, (found, expected) in report.misshapen.items()
        if required(name)
    ]


def _wrong_values(tensors: Mapping[str, NDArray[Any]], dtype: type[Any] | None) -> list[str]:
    """A text for every tensor that is no floating-point one, or that has a value that is not finite."""
    problems = []
    for name, array in tensors.items():
        if array.dtype.kind != "f" or array.dtype.itemsize > 8:
            problems.append(f"{name} is of {array.dtype}, expected floating-point numbers")
            continue
        with np.errstate(over="ignore"):
            cast = array if dtype is None else array.astype(dtype)
        if not np.isfinite(cast).all():
            problems.append(f"{name} is not finite")
    return problems


def _rounding(tensors: Mapping[str, NDArray[Any]], dtype: type[Any]) -> list[str]:
    wide = [name for name, array in tensors.items() if array.dtype.itemsize > np.dtype(dtype).itemsize]
    return [f"rounded {len(wide):,} tensors such as {wide[0]} to {np.dtype(dtype)}"] if wide else []


def _refusal(report: CheckpointReport, named: CanonicalTensors, problems: list[str]) -> str:
    known = len(report.loaded) + len(report.misshapen)
    counts = f"of the architecture's {report.tensors:,} tensors the file has {known:,}"
    if len(named.tensors) > known:
        counts += f", and {len(named.tensors) - known:,} others"
    first = ""
    if report.class_counts is not None:
        found = report.class_counts[0]
        first = f"{report.other_classes}: give --classes {found}, from Python classes={found}; "
    told, verdict = listed(problems) or "nothing in it belongs to the architecture", counts + _mend(report)
    if len(problems) <= FEW:
        return f"{report.source}: {first}{told} ({verdict})"
    return f"{report.source}: {first}{verdict}{' ' if verdict.endswith('?') else ': '}{told}"


def _mend(report: CheckpointReport) -> str:
    if not (report.kept_as_initialized or report.unexpected):
        return ""
    if any(map(_is_trunk, report.loaded)) and not _misfits(report, _is_trunk):
        keep = f"to keep {report.class_counts[1]} classes, " if report.class_counts else ""
        return (
            f"; its backbone fits: {keep}say initialize=True from Python, or gsto-convert --initialize, to "
            "take what fits and leave the rest as initialised"
        )
    return "; is it of another architecture?"


def _batch_norms(graph: Graph) -> dict[str, float]:
    """The name of every batch norm's scale -> its eps."""
    return {node.operands[1]: node.op.eps for node in graph.nodes if isinstance(node.op, BatchNorm)}


def _negative_scales(graph: Graph, tensors: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    counts = {
        name: int(np.count_nonzero(tensors[name] < 0))
        for name in _batch_norms(graph)
        if name in tensors and tensors[name].dtype.kind == "f"
    }
    return {name: count for name, count in counts.items() if count}


def _absolute_scales(graph: Graph, tensors: Tensors) -> Tensors:
    """What in-place activated batch norm multiplies by, computed in each tensor's own type as it does."""
    return {
        name: np.abs(tensors[name]) + tensors[name].dtype.type(eps)
        for name, eps in _batch_norms(graph).items()
        if name in tensors
    }
