"""Weights from one kind of file to another: saved models, safetensors, and the files of installed frameworks.

A file is read by the rules of `gsto_spec.checkpoint`. Each tensor arrives bit for bit, under its canonical
name, which the new file is read again to prove; whatever is left out, renamed, read otherwise, initialised or
added on the way stands in the report.
"""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from gsto_spec.backend import BackendError, tensor_file, tensor_file_endings
from gsto_spec.checkpoint import fit_checkpoint, read_tensors
from gsto_spec.checkpoint_report import CheckpointReport
from gsto_spec.graph import Graph
from gsto_spec.hub import find, is_hub_id
from gsto_spec.pretrained import FILES, save_pretrained
from gsto_spec.weights import WEIGHTS_FILE, load_directory
from gsto_train.errors import InputError, nearest_path
from gsto_train.files import sync_folder, whole_folder, write_synced
from gsto_train.wording import noun_of

Weights = dict[str, NDArray[Any]]

SAFETENSORS = "safetensors"
_BESIDE = tuple(name for name in FILES if name != WEIGHTS_FILE)
_WRITTEN_ANEW = ("graph_digest", "weights_sha256")


class ConversionError(Exception):
    """A file that was written and does not give back what went in; nothing is left of it."""


@dataclass(frozen=True)
class Reading:
    """How a file of tensors is understood; see `gsto_spec.checkpoint.read_checkpoint`."""

    inplace_abn: bool | None = None
    initialize: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Model:
    """A graph, its weights, what a card says of them, and what reading did to the file's contents."""

    graph: Graph
    weights: Weights
    card: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What was converted; `notes` tells everything that is not a tensor's arrival under its own name."""

    source: str
    target: str
    graph_digest: str
    tensors: int
    parameters: int
    running_statistics: int
    dtypes: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.source} -> {self.target}, graph {self.graph_digest[:12]}",
            f"{self.tensors:,} {noun_of(self.tensors, 'tensor')} of {', '.join(self.dtypes)}: "
            f"{self.parameters:,} {noun_of(self.parameters, 'parameter')}, "
            f"{self.running_statistics:,} {noun_of(self.running_statistics, 'running statistic')}; "
            "read again, bit for bit the same",
        ]
        return "\n".join([*lines, *self.notes])


def convert(
    source: Path, target: Path, *, graph: Graph | None = None, reading: Reading | None = None,
    force: bool = False,
) -> Report:  # fmt: skip
    """Write the weights in `source` to `target`; each is a saved model's folder or a file, by its ending.

    A file holds no graph and needs one; a folder has its own, which `graph`, if given, must equal, and says
    itself how it is meant, so that it takes no `reading`. What is at `target` stays unless `force`, and where
    anything fails nothing new is there.

    Raises `InputError` or gsto_spec's error for what is wrong with the input, `ConversionError`, `OSError`.
    """
    _check_target(source, target, force)
    model = read_model(source, graph, reading)
    if (violation := model.graph.training_form_violation()) is not None:
        raise InputError(f"{source}: this graph's weights are no checkpoint: {violation}")
    added = _write(target, model, source)
    return Report(
        str(source), str(target), model.graph.digest, len(model.weights),
        _values(model.graph.trainable), _values(model.graph.parameters) - _values(model.graph.trainable),
        tuple(sorted({str(array.dtype) for array in model.weights.values()})),
        tuple(f"reading: {note}" for note in model.notes) + tuple(f"writing: {note}" for note in added),
    )  # fmt: skip


def _values(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes.values()))


def _check_target(source: Path, target: Path, force: bool) -> None:
    _ending(target)
    if target.exists() and source.exists() and target.samefile(source):
        raise InputError(f"{target}: is what is to be converted; choose another name for the result")
    if not target.parent.is_dir():
        raise InputError(
            f"{target.parent}: no such folder{nearest_path(target.parent, 'folder')}; make it first"
        )
    if target.is_dir():
        _check_replaceable(target, force)
    elif os.path.lexists(target) and not force:
        raise InputError(f"{target}: exists already; choose another name, or replace it with --force")


def _check_replaceable(folder: Path, force: bool) -> None:
    inside = {path.name for path in folder.iterdir()}
    if inside and not force:
        raise InputError(f"{folder}: holds files already; choose another name, or replace it with --force")
    foreign = sorted(inside - {*FILES})
    if foreign:
        raise InputError(
            f"{folder}: holds {foreign[0]}, which is no part of a saved model; choose another name"
        )


def _ending(path: Path) -> str:
    """How a file is read or written; empty for a folder. Raises where nothing installed knows the ending."""
    name = path.name.lower().removesuffix(".tar" if path.name.lower().endswith(".pth.tar") else "")
    ending = "" if path.is_dir() else Path(name).suffix.removeprefix(".")
    if ending not in ("", SAFETENSORS, *tensor_file_endings()):
        try:
            tensor_file(ending)
        except BackendError as error:
            raise InputError(f"{path}: {error}; a folder or a .safetensors file always works") from None
    return ending


def here(path: Path) -> Path:
    """Return `path`, or where nothing is there and it may be a model of the hub, the folder of its copy.

    Raises gsto_spec's `HubError` where the hub or its library are not to be had.
    """
    return find(str(path), FILES) if not path.exists() and is_hub_id(str(path)) else path


def read_model(path: Path, graph: Graph | None, reading: Reading | None = None) -> Model:
    """Return what is in a saved model's folder, or in a file of `graph`'s tensors, as `convert` does."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder{nearest_path(path)}")
    ending = _ending(path)
    if path.is_dir():
        if reading is not None:
            raise InputError(f"{path}: expected a file to read otherwise or initialise from, found a folder")
        return _read_folder(path, graph)
    if not ending:
        raise InputError(f"{path}: expected a saved model's folder or a file with an ending, found neither")
    if graph is None:
        raise InputError(f"{path}: a file of tensors names no network; name it with --architecture")
    return _read_file(path, ending, graph, reading or Reading())


def _read_folder(path: Path, graph: Graph | None) -> Model:
    own, weights, card = load_directory(path)
    if graph is not None and graph.digest != own.digest:
        raise InputError(
            f"{path}: expected the graph that --architecture names ({graph.digest[:12]}), found "
            f"{own.digest[:12]}; leave --architecture out, a saved model has its own"
        )
    return Model(own, _ordered(own, dict(weights)), card)


def _read_file(path: Path, ending: str, graph: Graph, reading: Reading) -> Model:
    decode = None if ending == SAFETENSORS else tensor_file(ending).decode
    tensors, notes = read_tensors(path, graph, decode=decode)
    weights, report = fit_checkpoint(
        str(path), graph, tensors, notes=notes, inplace_abn=reading.inplace_abn,
        initialize=reading.initialize, seed=reading.seed,
    )  # fmt: skip
    return Model(graph, weights, _origin(path, graph, report), (report.summary, *report.details))


def _ordered(graph: Graph, weights: Weights) -> Weights:
    return {name: weights[name] for name in graph.parameters}


def _origin(path: Path, graph: Graph, report: CheckpointReport) -> dict[str, Any]:
    origin: dict[str, Any] = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if report.inplace_abn is not None:
        origin["inplace_abn"] = report.inplace_abn
    if report.kept_as_initialized:
        origin |= {"initialised": list(report.kept_as_initialized), "seed": report.seed}
    return {"converted_from": origin, "licence": _licence(graph)}


def _licence(graph: Graph) -> str:
    licence = "that of the file converted from"
    gated = any(".att_layers." in name for name in graph.parameters)
    return f"{licence}; weights that GSTO's authors published are for academic use only" if gated else licence


def _write(target: Path, model: Model, source: Path) -> list[str]:
    ending, place = _ending(target), Path(os.path.abspath(target))
    if not ending:
        card = {key: value for key, value in model.card.items() if key not in _WRITTEN_ANEW}
        with whole_folder(place) as folder:
            save_pretrained(folder, model.graph, model.weights, card)
            _check_same(model, _read_folder(folder, model.graph), target)
        return [] if source.is_dir() else [f"added {', '.join(_BESIDE)}"]
    data, notes = _encoded(ending, model)
    with _whole_file(place) as temporary:
        write_synced(temporary, data)
        _check_same(model, _read_file(temporary, ending, model.graph, Reading()), target)
    beside = [name for name in _BESIDE if (source / name).exists()] if source.is_dir() else []
    return [*notes, *([f"left out {', '.join(beside)}"] if beside else [])]


def _encoded(ending: str, model: Model) -> tuple[bytes, list[str]]:
    if ending == SAFETENSORS:
        return safetensors.numpy.save({k: np.asarray(v, order="C") for k, v in model.weights.items()}), []
    return tensor_file(ending).encode(model.graph, model.weights)


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """Yield a name beside `path`, of the same ending; the file written there takes its place at the end."""
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _check_same(model: Model, again: Model, target: Path) -> None:
    """Raise `ConversionError` unless what was just written holds the same bits."""
    changed = [
        name for name, array in model.weights.items()
        if (array.dtype, array.tobytes()) != (again.weights[name].dtype, again.weights[name].tobytes())
    ]  # fmt: skip
    if changed:
        raise ConversionError(f"{target}: not written, since it would not give back {', '.join(changed)}")
