"""What the C library does with the memory of feature maps that were freed; both backends compute on it."""

import ctypes
import os
import platform
from functools import cache

KEEP = "GSTO_KEEP_MEMORY"
_NO = ("0", "false", "no", "off")

_TRIM_THRESHOLD, _MAP_THRESHOLD, _MOST_MAPS, _MOST_ARENAS = -1, -3, -4, -8
"""What glibc's malloc.h calls M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX and M_ARENA_MAX."""


@cache
def keep_freed_memory() -> None:
    """Have the C library keep memory that is freed, for this process from now on; only glibc can.

    It gives every large block back to the system, whose blank pages then cost a network about as much time
    as its convolutions. The process stays as large as it has once been. Only the first arena holds blocks of
    any size, so threads that begin afterwards have no other: call it before a framework starts its own. With
    `GSTO_KEEP_MEMORY=0` (or `false`, `no`, `off`) in the environment it does nothing.
    """
    if os.environ.get(KEEP, "").strip().lower() not in _NO:
        _set({_TRIM_THRESHOLD: -1, _MOST_MAPS: 0, _MOST_ARENAS: 1})


def give_back_freed_memory() -> None:
    """Have glibc give every block back at once, so that a process is as large as its live arrays; slow.

    For measurements: `keep_freed_memory` has no effect on this process and its children afterwards.
    """
    os.environ[KEEP] = "0"
    _set({_TRIM_THRESHOLD: 0, _MAP_THRESHOLD: 1 << 16})


def _set(options: dict[int, int]) -> None:
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for option, value in options.items():
        library.mallopt(option, value)
