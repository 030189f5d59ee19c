"""How many cases of each kind a run draws."""

from __future__ import annotations

from dataclasses import dataclass

from gsto_spec.precision import LOW

PRECISIONS = ("float64", "float32", *LOW)
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
    low: int
    low_architectures: int
    speeds: int


PROFILES = {
    "quick": Profile(
        small=80,
        trained=40,
        architectures=5,
        objectives=24,
        optimizers=8,
        states=4,
        compiled=1,
        low=4,
        low_architectures=0,
        speeds=4,
    ),
    "default": Profile(
        small=400,
        trained=200,
        architectures=25,
        objectives=50,
        optimizers=24,
        states=12,
        compiled=2,
        low=60,
        low_architectures=4,
        speeds=40,
    ),
    "thorough": Profile(
        small=4500,
        trained=2250,
        architectures=300,
        objectives=800,
        optimizers=300,
        states=200,
        compiled=10,
        low=1000,
        low_architectures=60,
        speeds=400,
    ),
}


def blocks(count: int) -> list[tuple[int, int]]:
    """So many cases as pairs (number of the block, cases in it)."""
    full, rest = divmod(count, BLOCK)
    sizes = [BLOCK] * full + ([rest] if rest else [])
    return list(enumerate(sizes))
