"""Feature maps that are computed where the last pass's lay."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

_TRIM_THRESHOLD, _MAP_THRESHOLD = -1, -3
"""What glibc's malloc.h calls M_TRIM_THRESHOLD and M_MMAP_THRESHOLD."""


@cache
def keep_freed_memory() -> None:
    """Have the C library keep memory that is freed, for this process from now on; only glibc can.

    It gives every large block back to the system, whose blank pages then cost a network about as much time
    as its convolutions. The process stays as large as it has once been.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(_TRIM_THRESHOLD, -1)
    # Older ones take no threshold above 32 MiB.
    if not library.mallopt(_MAP_THRESHOLD, 1 << 30):
        library.mallopt(_MAP_THRESHOLD, 1 << 25)
