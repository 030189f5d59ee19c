"""What memory this machine has left for a process, the limits of its control groups regarded."""

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_UNLIMITED = 1 << 60
"""What version 1 of control groups has in place of no limit is above."""


def free_host_memory(root: Path = _ROOT) -> int | None:
    """Return the bytes that this process may still have, as Linux tells; elsewhere what is unused, or None.

    That is the least of what the machine has available and what each control group around the process
    (version 1 or 2) leaves of its limit; file caches count as free. `root` is where proc and sys lie.
    """
    left = list(_left_in_groups(root))
    try:
        lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        left.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        left += _unused_pages()
    return min(left, default=None)


def _unused_pages() -> list[int]:
    pages = {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} & set(getattr(os, "sysconf_names", ()))
    return [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if len(pages) == 2 else []


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield what each control group that has a limit leaves."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _left(root / "sys/fs/cgroup/memory", path, *files)


def _left(mounted: Path, path: str, limit: str, used: str, cache: str) -> Iterator[int]:
    """Yield what a group and those around it leave.

    In a container the path may be the host's, which is not to be seen inside; then the outermost is its own.
    """
    group = mounted / path.lstrip("/")
    for each in (group, *group.parents):
        try:
            allowed = int((each / limit).read_text())
            cached = dict(line.split() for line in (each / "memory.stat").read_text().splitlines())[cache]
            if allowed < _UNLIMITED:
                yield max(allowed - int((each / used).read_text()) + int(cached), 0)
        except (OSError, ValueError, KeyError):  # "max", or no such group
            pass
        if each == mounted:
            return
