"""What is watched while a reader reads: what it writes and runs, how long it takes, how much memory it needs.

Python's audit hooks tell of every file that is opened for writing, every name that is made or removed, every
program started and every code object run.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

SECONDS = 60.0
"""After which a case hangs."""

MEBIBYTE = 2**20

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal would obey, or could not be sent."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NAMING = {
    "os.mkdir": 1, "os.rmdir": 1, "os.remove": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2,
    "os.truncate": 1, "os.chmod": 1, "os.chown": 1, "os.utime": 1,
}  # fmt: skip
"""Event -> how many of its arguments are names that it makes, changes or removes."""

_RUNNING = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn", "ctypes.dlopen",
    "socket.connect", "urllib.Request", "pickle.find_class", "webbrowser.open",
)  # fmt: skip


class Problem(Exception):
    """What a reader did that none may."""


class Hang(BaseException):
    """A case that took longer than `SECONDS`; no `Exception`, so that no reader takes it for bad data."""


@dataclass
class Measured:
    """What a case took; `violations` says what it did that none may."""

    seconds: float = 0.0
    peak_bytes: int = 0
    violations: list[str] = field(default_factory=list)


_watched: tuple[Path, Measured] | None = None


def install() -> None:
    """Look out for events from now on; there is no way to stop looking."""
    sys.addaudithook(_hear)
    signal.signal(signal.SIGALRM, _alarm)


@contextmanager
def watching(folder: Path) -> Iterator[Measured]:
    """Measure what happens inside; writing is allowed in `folder` alone, running code nowhere."""
    global _watched
    measured = Measured()
    before, began = _reset_peak(), time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _watched = folder.resolve(), measured
    try:
        yield measured
    finally:
        _watched = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        measured.seconds = time.perf_counter() - began
        measured.peak_bytes = max(0, _memory("VmHWM") - before)


def limit_memory(more: int) -> None:
    """Let allocations fail that would need `more` bytes of addresses than there are now."""
    import resource

    limit = _memory("VmSize") + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _alarm(number: int, frame: FrameType | None) -> None:
    raise Hang(f"took more than {SECONDS:g} s")


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    folder, measured = _watched
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, str | bytes) and flags & _WRITING:
            _check_inside(folder, measured, "writes", path)
    elif event in _NAMING:
        last = None if event == "os.truncate" else arguments[-1]
        directory = last if isinstance(last, int) and last >= 0 else None
        for path in arguments[: _NAMING[event]]:
            if event == "os.symlink" and path is arguments[0]:
                continue
            if isinstance(path, str | bytes | os.PathLike):
                _check_inside(folder, measured, event, path, directory, follow=False)
    elif event in _RUNNING:
        measured.violations.append(f"{event} {arguments!r:.200}")
    elif event == "exec" and isinstance(arguments[0], CodeType):
        _check_code(folder, measured, arguments[0].co_filename)


def _check_inside(
    folder: Path,
    measured: Measured,
    what: str,
    path: Any,
    directory: int | None = None,
    *,
    follow: bool = True,
) -> None:
    name = os.fsdecode(path)
    base = os.readlink(f"/proc/self/fd/{directory}") if directory is not None else os.getcwd()
    full = os.path.join(base, name)
    parent, last = os.path.split(full.rstrip("/"))
    real = os.path.realpath(full) if follow else os.path.join(os.path.realpath(parent), last)
    if real != os.devnull and not Path(real).is_relative_to(folder):
        measured.violations.append(f"{what} {name!r}, outside its folder")


def _check_code(folder: Path, measured: Measured, name: str) -> None:
    if os.path.isabs(name) and Path(name).is_relative_to(folder):
        measured.violations.append(f"runs code of {name!r}")


def _reset_peak() -> int:
    """Forget the highest use of memory so far; returns what is in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{name}:")[1].split()[0])
