"""Files that are either whole or not there, and errors that name the file.

All that a run writes goes through here, so that what a full or vanished disk may interrupt is one list.
"""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PAUSE = 1.0
"""Seconds before a write that failed is tried again."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put `path` into an `OSError` that names no file: what a full disk raises from `write` and `fsync`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_bytes(path: Path) -> bytes:
    """Return what a file holds; raises OSError, for a pipe or device too, which may have no end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "expected a file, found a pipe or device", str(path))
    return path.read_bytes()


def read_text(path: Path) -> str:
    """Return what a file of UTF-8 text holds; raises as `read_bytes` does, and UnicodeDecodeError."""
    return read_bytes(path).decode("utf-8-sig")


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk; raises OSError where a link is in its place."""
    with naming(path), open(_opened(path, os.O_TRUNC), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _opened(path: Path, flag: int) -> int:
    """Open a file to write, but not where a link leads to: in folders of others they lead anywhere."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flag, 0o666)


def append_synced(path: Path, content: bytes, size: int) -> int:
    """Append to a file of `size` bytes, wait until that is on the disk, and return the new size.

    What an append that failed left past `size` is dropped first.
    """
    with naming(path), open(_opened(path, os.O_APPEND), "ab") as file:
        if file.tell() > size:
            file.truncate(size)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def claim(folder: Path) -> int | None:
    """Return a descriptor that keeps `folder` to this process until it is closed, or the process ends.

    None on a file system that knows no locks. Raises `BlockingIOError` where another has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader finds the old file or the new one, never a part."""
    replace(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part."""
    temporary = partial(path)
    try:
        temporary.unlink(missing_ok=True)
        write_synced(temporary, content)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` to be filled with synced files, and put it at `path` at the end.

    Where filling it fails, nothing remains of it, and what lay at `path` is still there.
    """
    temporary = partial(path)
    shutil.rmtree(temporary, ignore_errors=True)
    os.mkdir(temporary)
    try:
        yield temporary
        sync_folder(temporary)
        _put(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def tried_twice(write: Callable[[], T], note: Callable[[str], None]) -> T:
    """Return what `write` does; where it raises OSError, `note` hears of it, and it is tried once more."""
    try:
        return write()
    except OSError as error:
        note(f"warning: {told(error)}; trying once more")
        time.sleep(PAUSE)
        return write()


def told(error: OSError) -> str:
    """Return the file and what is wrong with it."""
    return f"{error.filename or 'a file'}: {error.strerror or error}"


def partial(path: Path) -> Path:
    """Return where a file or folder is written before it is whole."""
    return path.with_name(f".{path.name}.partial")


def _put(new: Path, path: Path) -> None:
    """Rename `new` to `path`; what lay there goes afterwards, and comes back where the renaming fails."""
    if not path.exists() and not path.is_symlink():
        os.rename(new, path)
        return
    old = path.with_name(f".{path.name}.old")
    _remove(old)
    os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        os.rename(old, path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
