"""Poses of one picture: how alike they are, which stay, what a person scores (HRNet's pose code)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def person_score(box_score: float, joint_scores: Floats, threshold: float = 0.2) -> float:
    """Return the box's score times the mean of the joints' scores above `threshold`, 0 where none is."""
    counted = joint_scores[joint_scores > threshold]
    return box_score * float(counted.mean()) if counted.size else 0.0


def similarity(pose: Floats, others: Floats, area: float, areas: Floats, sigmas: Sequence[float]) -> Floats:
    """Return the OKS (N,) of one pose (K, 2) and others (N, K, 2), between the means of their areas."""
    variances = np.square(2 * np.asarray(sigmas))
    squares = np.square(others - pose).sum(axis=-1)
    means = (area + areas)[:, None] / 2 + np.spacing(1)
    return np.asarray(np.exp(-squares / variances / means / 2).mean(axis=-1))


def keep(
    poses: Floats, scores: Floats, areas: Floats, sigmas: Sequence[float], threshold: float = 0.9
) -> list[int]:
    """Return which of the poses (N, K, 2) of a picture stay, best first.

    A pose goes where its OKS with a better one that stays is above `threshold`; equal scores keep their
    order.
    """
    waiting, kept = np.argsort(-scores, kind="stable"), list[int]()
    while waiting.size:
        best, rest = int(waiting[0]), waiting[1:]
        kept.append(best)
        alike = similarity(poses[best], poses[rest], float(areas[best]), areas[rest], sigmas)
        waiting = rest[alike <= threshold]
    return kept
