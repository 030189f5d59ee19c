"""What becomes of the memory of a program's feature maps between two runs, in a process of its own."""

import os
import platform
import subprocess
import sys

import jax
import pytest

MEASURE = """
import resource
from gsto_jax.backend import JaxBackend
JaxBackend()
import jax, jax.numpy as jnp

@jax.jit
def program(x):
    # Sums along other axes than the products': no compiler makes one loop of them.
    wide = jnp.outer(x, x)
    return jnp.cumsum(jnp.cumsum(wide, 0), 1).sum()

x = jnp.ones(3000)
found = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
# What else is allocated may take a part of a freed block, so that the next run needs another one: seldom.
print(min(found[4:]))
"""


def blank_pages(**environment: str) -> int:
    """How many new pages a run of a program takes whose maps are some tens of MiB: the least of the last."""
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, "GSTO_KEEP_MEMORY": "", **environment},
    )  # fmt: skip
    return int(ended.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can keep freed memory")
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="feature maps lie on another device")
def test_a_program_computes_where_its_last_run_did() -> None:
    forbidden = blank_pages(GSTO_KEEP_MEMORY="0")
    assert forbidden > 5000
    assert blank_pages() < forbidden / 10
