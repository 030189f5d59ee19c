"""What happens to memory that was freed: each case in a process of its own, which it changes for good."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not os.path.exists("/proc/self/statm"), reason="needs glibc on Linux"
)

MEASURE = """
import sys
from pathlib import Path
from threading import Thread
import numpy as np
from gsto_spec import allocator

def pages():
    return int(Path("/proc/self/statm").read_text().split()[1])

def use_and_free():
    np.ones(64 << 20, np.uint8)

for name in sys.argv[1:]:
    getattr(allocator, name)()
for run in (use_and_free, lambda: (thread := Thread(target=use_and_free), thread.start(), thread.join())):
    before = pages()
    run()
    print((pages() - before) * 4096 >> 20)
"""


def mebibytes_left(*calls: str, **environment: str) -> list[int]:
    """Of 64 that were used and freed: by the main thread, then by another one."""
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, *calls], capture_output=True, text=True, check=True,
        env={**os.environ, "GSTO_KEEP_MEMORY": "", **environment}, timeout=60,
    )  # fmt: skip
    return [int(line) for line in ended.stdout.split()]


def test_freed_memory_is_kept_and_other_threads_take_it_again() -> None:
    own, other = mebibytes_left("keep_freed_memory")
    assert own >= 60 and other <= 4


@pytest.mark.parametrize(
    "calls, environment",
    [
        ([], {}),
        (["keep_freed_memory"], {"GSTO_KEEP_MEMORY": "0"}),
        (["keep_freed_memory"], {"GSTO_KEEP_MEMORY": "False"}),
        (["keep_freed_memory"], {"GSTO_KEEP_MEMORY": "no"}),
        (["keep_freed_memory"], {"GSTO_KEEP_MEMORY": "OFF"}),
        (["give_back_freed_memory"], {}),
        (["give_back_freed_memory", "keep_freed_memory"], {}),
    ],
)
def test_freed_memory_is_given_back(calls: list[str], environment: dict[str, str]) -> None:
    assert max(mebibytes_left(*calls, **environment)) <= 4
