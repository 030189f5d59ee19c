"""The machine that is measured on, and what a process takes of its memory."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

STATUS, CPU, MEMORY = Path("/proc/self/status"), Path("/proc/cpuinfo"), Path("/proc/meminfo")


def describe() -> dict[str, object]:
    """Return processor, cores, memory, system and card, ready for JSON; None for what is not known."""
    return {
        "processor": _field(CPU, "model name") or platform.processor() or platform.machine(),
        "processors": processors(),
        "memory_bytes": _kilobytes(MEMORY, "MemTotal"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "card": card(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resident_bytes() -> int | None:
    """Return the memory of this process, None where the system does not tell."""
    return _kilobytes(STATUS, "VmRSS")


def peak_bytes() -> int | None:
    """Return the largest memory of this process so far.

    On Linux not by `getrusage`: its peak begins with that of the process that started this one.
    """
    if STATUS.exists():
        return _kilobytes(STATUS, "VmHWM")
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def card() -> str | None:
    """Return name, memory and driver of the first GPU, None without one."""
    return _first_card("name,memory.total,driver_version")


def card_bytes(device: str) -> int | None:
    """Return how much memory of the first GPU is in use by all processes, None where `device` is no GPU.

    Frameworks keep what they once took, so the difference around a run is what it needs; in containers the
    shares of single processes are not to be had.
    """
    used = None if device == "cpu" else _first_card("memory.used")
    return int(used.split()[0]) * 2**20 if used and used.split()[0].isdecimal() else None


def _first_card(query: str) -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), "").strip() or None


def _kilobytes(path: Path, key: str) -> int | None:
    found = _field(path, key)
    return int(found.split()[0]) * 1024 if found else None


def _field(path: Path, key: str) -> str | None:
    return next((value for name, value in _fields(path) if name == key), None)


def _fields(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        name, _, value = line.partition(":")
        yield name.strip(), value.strip()
