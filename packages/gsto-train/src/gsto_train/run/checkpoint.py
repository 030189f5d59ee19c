"""Checkpoints: folders `step-000250/` of tensors, what they belong to, and digests; whole or not there.

`state.safetensors` holds a trainer's state, `checkpoint.json` a `Progress`, and `SHA256SUMS` the digests of
both, as `sha256sum -c` reads them.
"""

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
from gsto_train.files import read_bytes, whole_folder, write_synced

State = dict[str, NDArray[Any]]

KEPT = 2
"""Checkpoints that remain beside the best one: the newest, and one to fall back on."""

FORMAT = 2

_TENSORS, _DESCRIPTION, _DIGESTS = "state.safetensors", "checkpoint.json", "SHA256SUMS"


@dataclass(frozen=True)
class Progress:
    """What a checkpoint says of its run beside the tensors.

    `samples` is the sampler's position: how many samples were drawn, which with the seed says what comes
    next. `skipped` counts the steps left out for not being finite. `best_step` and `best_score` are those of
    the best evaluation before this step. `environment` is what rounding depends on, threads included.
    """

    step: int
    samples: int
    seconds: float
    skipped: int
    best_step: int | None
    best_score: float | None
    seed: int
    backend: str
    graph_digest: str
    training_pictures: int
    settings: Mapping[str, object]
    environment: Mapping[str, object]


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, read and verified; `state` is a trainer's."""

    path: Path
    progress: Progress
    state: State


class BrokenCheckpoint(Exception):
    """A folder that looks like a checkpoint and is none; says why."""


def save(folder: Path, progress: Progress, state: Mapping[str, NDArray[Any]]) -> Path:
    """Write `folder`/step-NNNNNN and return it.

    Older ones go once it is whole and on the disk: all but the one before it and the best. `folder` is made
    where it is missing, what it lies in is not. Raises `FloatingPointError`, naming the tensor, rather than
    keep a state that is not finite, and OSError.
    """
    check_finite(state)
    folder.mkdir(exist_ok=True)
    path = folder / folder_name(progress.step)
    contents = encode(progress, state)
    with whole_folder(path) as temporary:
        for name, content in contents.items():
            write_synced(temporary / name, content)
    _prune(folder, progress)
    return path


def encode(progress: Progress, state: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
    """Return the files of a checkpoint: name -> bytes."""
    tensors = safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in state.items()})
    description = json.dumps({"format": FORMAT, **asdict(progress)}, indent=1).encode()
    return {_TENSORS: tensors, _DESCRIPTION: description, _DIGESTS: _digests(tensors, description)}


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
        contents = {name: read_bytes(path / name) for name in (_TENSORS, _DESCRIPTION, _DIGESTS)}
    except FileNotFoundError as error:
        raise BrokenCheckpoint(f"no {Path(error.filename).name}") from None
    except OSError as error:
        raise BrokenCheckpoint(f"{error.filename}: {error.strerror}") from None
    progress, state = decode(contents)
    if path.name != folder_name(progress.step):
        raise BrokenCheckpoint(f"step: expected that of the folder's name, found {progress.step}")
    return Checkpoint(path, progress, state)


def decode(contents: Mapping[str, bytes]) -> tuple[Progress, State]:
    """Return what `encode` was given; raises `BrokenCheckpoint` for anything but its bytes."""
    tensors, description = contents[_TENSORS], contents[_DESCRIPTION]
    if contents[_DIGESTS] != _digests(tensors, description):
        raise BrokenCheckpoint(f"{_broken_file(contents)} is not what was written: its SHA-256 differs")
    return _progress(description), _tensors(tensors)


def folder_name(step: int) -> str:
    """Return the name of the folder of a step's checkpoint."""
    return f"step-{step:06d}"


def _digests(tensors: bytes, description: bytes) -> bytes:
    lines = (
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in ((_TENSORS, tensors), (_DESCRIPTION, description))
    )
    return "".join(lines).encode()


def _broken_file(contents: Mapping[str, bytes]) -> str:
    """Return which file is not what its digest says; the digests themselves where both or none are."""
    written = contents[_DIGESTS].splitlines()
    now = _digests(contents[_TENSORS], contents[_DESCRIPTION]).splitlines()
    broken = [name for name, line in zip((_TENSORS, _DESCRIPTION), now, strict=True) if line not in written]
    return broken[0] if len(broken) == 1 else _DIGESTS


def _progress(content: bytes) -> Progress:
    try:
        description = json.loads(content)
        if description["format"] != FORMAT:
            raise ValueError(f"format: expected {FORMAT}, found {description['format']!r}")
        progress = Progress(**{each.name: description[each.name] for each in fields(Progress)})
        _check_progress(progress)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BrokenCheckpoint(f"{_DESCRIPTION} does not hold what it should: {error!r}") from None
    return progress


def _tensors(content: bytes) -> State:
    try:
        return safetensors.numpy.load(content)
    # Written by another program: safetensors has an error of its own, and its reader for numpy raises others.
    except Exception as error:
        raise BrokenCheckpoint(f"{_TENSORS} holds no tensors: {error!r}") from None


def _check_progress(progress: Progress) -> None:
    """Raise ValueError for a field that is not what `save` writes."""
    found: dict[str, Any] = asdict(progress)
    best = [] if progress.best_step is None else ["best_step"]
    for name in ("step", "samples", "skipped", "seed", "training_pictures", *best):
        value = found[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name}: expected a whole number, found {value!r}")
    for name in ("seconds", *(["best_score"] if best else [])):
        value = found[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name}: expected a number, found {value!r}")
    for name, kind in (("backend", str), ("graph_digest", str), ("settings", dict), ("environment", dict)):
        if not isinstance(found[name], kind):
            raise ValueError(f"{name}: expected a {kind.__name__}, found {found[name]!r}")


def check_finite(state: Mapping[str, NDArray[Any]]) -> None:
    """Raise `FloatingPointError`, naming the first tensor that is not finite."""
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise FloatingPointError(name)


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := re.fullmatch(r"step-(\d+)", path.name):
            yield int(match[1]), path


def _prune(folder: Path, progress: Progress) -> None:
    """Remove all but the best and the last ones up to this step, and what a killed run left half-written.

    One past this step was found broken when the run resumed.
    """
    kept = sorted(number for number, _ in _numbered(folder) if number <= progress.step)[-KEPT:]
    for number, path in _numbered(folder):
        if number not in kept and number != progress.best_step:
            shutil.rmtree(path, ignore_errors=True)
    for rest in folder.glob(".step-*"):
        shutil.rmtree(rest, ignore_errors=True)
