"""Decoded pictures kept in a folder, to be read from there without decoding: time for space."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_train.errors import InputError

_MEND = "make room or give another folder, then go on, or leave data.decoded out"

_folder: Path | None = None


def keep_in(folder: str | Path | None) -> None:
    """Keep in `folder`, which is made, what this process decodes from now on; None: keep nothing.

    Raises InputError where there can be no such folder.
    """
    global _folder
    _folder = None if folder is None else Path(folder)
    if _folder is not None:
        try:
            _folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"setting 'data.decoded': {_folder}: {error.strerror}; {_MEND}") from None


def kept(path: Path, how: str, decode: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """Return what `decode` makes of the file at `path`, or what it once made of it; then it is read-only.

    A file is known by its path, size and time of change, `how` tells apart what is made of one. It is mapped
    into memory: who takes a part reads a part. What is kept but does not read is made again. Raises
    InputError where it cannot be kept, and what `decode` raises.
    """
    if _folder is None or (place := _place(_folder, path, how)) is None:
        return decode()
    try:
        return np.asarray(np.load(place, mmap_mode="r"))
    except (OSError, ValueError, EOFError):
        array = decode()
    try:
        _write(place, array)
    except OSError as error:
        raise InputError(f"setting 'data.decoded': {place}: {error.strerror}; {_MEND}") from None
    return array


def _place(folder: Path, path: Path, how: str) -> Path | None:
    """Where it is kept; None for a file that is not there, of which `decode` has more to say."""
    try:
        found = path.stat()
    except OSError:
        return None
    told = f"{path.absolute()}\0{found.st_size}\0{found.st_mtime_ns}\0{how}"
    name = hashlib.sha256(os.fsencode(told)).hexdigest()
    return folder / name[:2] / f"{name}.npy"


def _write(place: Path, array: NDArray[Any]) -> None:
    """Several threads and processes may write the same: each a file of its own, renamed when it is whole."""
    place.parent.mkdir(exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=".", suffix=".partial")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, place)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
