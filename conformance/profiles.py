"""How many cases of each kind a run draws."""

from __future__ import annotations

from dataclasses import dataclass

PRECISIONS = ("float64", "float32")
BLOCK = 100
"""Cases that one test draws: few enough for the answers to be kept for the next backend."""


@dataclass(frozen=True)
class Profile:
    """Cases by kind, as the tests' marks name them."""

    small: int
    trained: int
    architectures: int
    objectives: int
    optimizers: int
    states: int
    compiled: int


PROFILES = {
    "quick": Profile(
        small=80, trained=40, architectures=5, objectives=24, optimizers=8, states=4, compiled=1
    ),
    "default": Profile(
        small=400, trained=200, architectures=25, objectives=50, optimizers=24, states=12, compiled=2
    ),
    "thorough": Profile(
        small=4500, trained=2250, architectures=300, objectives=800, optimizers=300, states=200, compiled=10
    ),
}


def blocks(count: int) -> list[tuple[int, int]]:
    """So many cases as pairs (number of the block, cases in it)."""
    full, rest = divmod(count, BLOCK)
    sizes = [BLOCK] * full + ([rest] if rest else [])
    return list(enumerate(sizes))
