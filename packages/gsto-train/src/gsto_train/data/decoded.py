"""Decoded pictures kept in a folder, to be read from there without decoding: time for space."""

import errno
import hashlib
import os
import stat
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from gsto_train.errors import InputError

TAG = "CACHEDIR.TAG"
_SIGNATURE = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# Decoded pictures, kept by gsto-train's data.decoded; they are made again where they are missing.\n"
    b"# https://bford.info/cachedir/\n"
)
"""By which backups and other tools know a folder that can be made again."""

_PARTIAL, _ABANDONED = ".partial", 3600.0
"""How a file is called that is being written, and seconds after which nobody is writing it any more."""

_CHECKSUM_BYTES = 4

Fits = Callable[[NDArray[Any]], bool]
"""Whether an array can be what is looked for."""


class _Store:
    """A folder of `.npy` files, each with the CRC-32 of its bytes behind them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._whole: set[Path] = set()
        self._full = False
        self._lock = threading.Lock()

    def read(self, place: Path, fits: Fits) -> NDArray[Any] | None:
        """Return what is kept, mapped into memory; None where it is missing, damaged, or something else."""
        try:
            if not stat.S_ISREG(place.stat().st_mode) or not self._is_whole(place):
                return None
            array = np.asarray(np.lib.format.open_memmap(place, mode="r"))
        except Exception:  # numpy reads headers by Python's parser, which has many ways to fail.
            return None
        return array if fits(array) else None

    def write(self, place: Path, array: NDArray[Any]) -> None:
        """Keep an array; where that fails say so, once, and keep nothing more."""
        if _only_reading or self._full:
            return
        try:
            _write(place, array)
        except OSError as error:
            with self._lock:
                told, self._full = self._full, True
            if not told:
                click.echo(
                    f"warning: setting 'data.decoded': {place}: {error.strerror or error}; from here on "
                    "nothing more is kept: make room, or give another folder, for the next run",
                    err=True,
                )

    def _is_whole(self, place: Path) -> bool:
        """Whether the bytes are those that were written; looked at once, since that reads all of them."""
        if place not in self._whole:
            content = np.memmap(place, np.uint8, "r")
            if _checksum(content[:-_CHECKSUM_BYTES].data) != content[-_CHECKSUM_BYTES:].tobytes():
                return False
            self._whole.add(place)
        return True


_store: _Store | None = None
_only_reading = False


@contextmanager
def only_reading() -> Iterator[None]:
    """Keep nothing new in this block, and make no folder."""
    global _only_reading
    _only_reading = True
    try:
        yield
    finally:
        _only_reading = False
        keep_in(None)


def keep_in(folder: str | Path | None) -> None:
    """Keep in `folder`, which is made, what this process decodes from now on; None: keep nothing.

    Where something cannot be kept, standard error is told once. Raises InputError where there can be no such
    folder, and for one that holds anything else.
    """
    global _store
    place = None if folder is None else Path(folder)
    if _store is not None and _store.folder == place:
        return
    _store = None
    if place is not None:
        try:
            _prepare(place)
        except OSError as error:
            mend = "give another folder, or leave data.decoded out"
            raise InputError(f"setting 'data.decoded': {place}: {error.strerror}; {mend}") from None
        _store = _Store(place)


def kept(path: Path, how: str, decode: Callable[[], NDArray[Any]], fits: Fits) -> NDArray[Any]:
    """Return what `decode` makes of the file at `path`, or what it once made of it; then it is read-only.

    A file is known by its path, size and times of change, `how` tells apart what is made of one. It is mapped
    into memory: who takes a part reads a part, but for the first time, when its checksum is computed. What is
    kept but damaged, or does not fit, is made again. Raises what `decode` raises.
    """
    store = _store
    if store is None or (place := _place(store.folder, path, how)) is None:
        return decode()
    if (found := store.read(place, fits)) is not None:
        return found
    array = decode()
    store.write(place, array)
    return array


def _prepare(folder: Path) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    tagged = (folder / TAG).exists()
    if not tagged and folder.exists() and any(folder.iterdir()):
        mend = "give one that is empty or not there"
        raise InputError(f"setting 'data.decoded': {folder}: this folder holds something else; {mend}")
    if not _only_reading:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TAG).write_bytes(_SIGNATURE)
        _sweep(folder)


def _sweep(folder: Path) -> None:
    """Remove what killed processes did not write to its end."""
    for path in folder.glob(f"*/.*{_PARTIAL}"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()


def _place(folder: Path, path: Path, how: str) -> Path | None:
    """Where it is kept; None for a file that is not there, of which `decode` has more to say."""
    try:
        found = path.stat()
    except OSError:
        return None
    times = f"{found.st_mtime_ns}\0{found.st_ctime_ns}"
    name = hashlib.sha256(os.fsencode(f"{path.absolute()}\0{found.st_size}\0{times}\0{how}")).hexdigest()
    return folder / name[:2] / f"{name}.npy"


def _write(place: Path, array: NDArray[Any]) -> None:
    """Several threads and processes may write the same: each a file of its own, renamed when it is whole."""
    place.parent.mkdir(exist_ok=True)
    new = place.with_name(f".{place.stem}-{os.getpid()}-{threading.get_ident()}{_PARTIAL}")
    try:
        with new.open("w+b") as file:
            np.save(file, array, allow_pickle=False)
            file.seek(0)
            file.write(_checksum(file.read()))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, place)
    except BaseException:  # An interrupt too.
        new.unlink(missing_ok=True)
        raise


def _checksum(content: bytes | memoryview) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little")
