"""Checkpoints: folders `step-000250/` of state.safetensors and checkpoint.json, whole or not there."""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from gsto_train.errors import InputError
from gsto_train.files import whole_folder, write_synced

State = dict[str, NDArray[Any]]

KEPT = 2
"""Checkpoints that remain: the newest, and one to fall back on."""

_TENSORS, _DESCRIPTION = "state.safetensors", "checkpoint.json"


@dataclass(frozen=True)
class Progress:
    """What a checkpoint says of its run beside the tensors: steps done, seconds trained, and whose it is."""

    step: int
    seconds: float
    seed: int
    backend: str
    graph_digest: str
    training_pictures: int
    settings: Mapping[str, object]


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, read and verified; `state` is a trainer's."""

    path: Path
    progress: Progress
    state: State


class BrokenCheckpoint(Exception):
    """A folder that looks like a checkpoint and is none; says why."""


def save(folder: Path, progress: Progress, state: Mapping[str, NDArray[Any]]) -> Path:
    """Write `folder`/step-NNNNNN and return it; older ones go once it is whole, all but the one before it.

    Raises `FloatingPointError`, naming the tensor, rather than keep a state that is not finite, and OSError.
    """
    _check_finite(state)
    path = folder / _folder_name(progress.step)
    tensors = safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in state.items()})
    description = {"format": 1, **asdict(progress), "sha256": hashlib.sha256(tensors).hexdigest()}
    with whole_folder(path) as temporary:
        write_synced(temporary / _TENSORS, tensors)
        write_synced(temporary / _DESCRIPTION, json.dumps(description, indent=1).encode())
    _prune(folder, progress.step)
    return path


def newest(folder: Path, report: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest whole checkpoint; says of each broken one that it is passed over.

    None where there is none at all. Raises `InputError` where all are broken: to begin anew in their place
    would cost what may still be rescued.
    """
    numbered = sorted(_numbered(folder), reverse=True)
    for _, path in numbered:
        try:
            return read(path)
        except BrokenCheckpoint as broken:
            report(f"{path} is broken ({broken}); passing it over")
    if numbered:
        raise InputError(
            f"{folder}: expected a whole checkpoint, found only broken ones; restore one, or start a new run "
            "with another --output"
        )
    return None


def read(path: Path) -> Checkpoint:
    """Read a checkpoint's folder; raises `BrokenCheckpoint` unless its bytes are those that were written."""
    try:
        description = json.loads((path / _DESCRIPTION).read_bytes())
        progress = Progress(**{each.name: description[each.name] for each in fields(Progress)})
        tensors = (path / _TENSORS).read_bytes()
        _check_progress(progress, path)
    except FileNotFoundError as error:
        raise BrokenCheckpoint(f"no {Path(error.filename).name}") from None
    except OSError as error:
        raise BrokenCheckpoint(f"{error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BrokenCheckpoint(f"{_DESCRIPTION} does not hold what it should: {error!r}") from None
    if hashlib.sha256(tensors).hexdigest() != description.get("sha256"):
        raise BrokenCheckpoint(f"{_TENSORS} is not what was written: its SHA-256 differs")
    return Checkpoint(path, progress, _tensors(tensors))


def _tensors(content: bytes) -> State:
    try:
        return safetensors.numpy.load(content)
    # Written by another program: safetensors has an error of its own, and its reader for numpy raises others.
    except Exception as error:
        raise BrokenCheckpoint(f"{_TENSORS} holds no tensors: {error!r}") from None


def _check_progress(progress: Progress, path: Path) -> None:
    """Raise ValueError for a field that is not what `save` writes."""
    found: dict[str, Any] = asdict(progress)
    counts = {name: found[name] for name in ("step", "seed", "training_pictures")}
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name}: expected a whole number, found {value!r}")
    if path.name != _folder_name(progress.step):
        raise ValueError(f"step: expected that of the folder's name, found {progress.step}")
    seconds = found["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise ValueError(f"seconds: expected a number, found {seconds!r}")
    for name, kind in (("backend", str), ("graph_digest", str), ("settings", dict)):
        if not isinstance(getattr(progress, name), kind):
            raise ValueError(f"{name}: expected a {kind.__name__}, found {getattr(progress, name)!r}")


def _folder_name(step: int) -> str:
    return f"step-{step:06d}"


def _check_finite(state: Mapping[str, NDArray[Any]]) -> None:
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise FloatingPointError(name)


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := re.fullmatch(r"step-(\d+)", path.name):
            yield int(match[1]), path


def _prune(folder: Path, step: int) -> None:
    """Remove all but the last ones up to `step`; one past it was found broken when the run resumed."""
    kept = sorted(number for number, _ in _numbered(folder) if number <= step)[-KEPT:]
    for number, path in _numbered(folder):
        if number not in kept:
            shutil.rmtree(path, ignore_errors=True)
