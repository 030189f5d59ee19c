"""Numbers from durations: medians, spreads, ratios, laws of growth, distances between answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rounds = Sequence[Sequence[float]]
"""Seconds of every run, by round."""


@dataclass(frozen=True)
class Spread:
    """A median with the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of one value or more."""
        low, median, high = np.percentile(values, [25, 50, 75])
        return cls(float(median), float(low), float(high))

    def as_json(self) -> dict[str, float]:
        """Return it as results have it."""
        return {"median": self.median, "low": self.low, "high": self.high}


def seconds(rounds: Rounds) -> Spread:
    """Return the spread of all runs."""
    return Spread.of([value for each in rounds for value in each])


def ratio(numerator: Rounds, denominator: Rounds) -> Spread:
    """Return the spread over the rounds of the ratio of their medians.

    Within a round the machine is the same for both; medians over all rounds would compare its good times
    with its bad ones.
    """
    pairs = zip(numerator, denominator, strict=True)
    return Spread.of([float(np.median(above) / np.median(below)) for above, below in pairs])


@dataclass(frozen=True)
class Growth:
    """How a cost grows with the pixels.

    exponent: of the power law nearest to it (least squares of logarithms). worst: the largest of
    (cost ratio) / (pixel ratio) of two cases, the larger over the smaller; 1 is linear.
    """

    exponent: float
    worst: float

    @classmethod
    def of(cls, costs: Mapping[int, float]) -> "Growth":
        """Return the growth of positive costs by pixels, at two numbers of pixels or more."""
        pixels = sorted(costs)
        slope = np.polyfit(np.log(pixels), np.log([costs[each] for each in pixels]), 1)[0]
        pairs = combinations(pixels, 2)
        return cls(float(slope), max(costs[b] / costs[a] * a / b for a, b in pairs))


def difference(answer: Mapping[str, NDArray[Any]], reference: Mapping[str, NDArray[Any]]) -> float:
    """Return the largest difference over the reference's largest magnitude, of the output where it is worst.

    It is infinite where names, shapes or finiteness differ.
    """
    if answer.keys() != reference.keys():
        return float("inf")
    return max((_difference(answer[name], reference[name]) for name in reference), default=0.0)


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    if found.shape != expected.shape or not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")
    scale = float(np.abs(expected).max(initial=0.0))
    distance = float(np.abs(found.astype(np.float64) - expected).max(initial=0.0))
    return distance / scale if scale else distance
