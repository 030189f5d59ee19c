"""Predictions that are not finite: how many samples have them, and an end where all others are missing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec.backend import Predictor
from gsto_train.processes import ALONE, Processes
from gsto_train.wording import counted_units

NOT_FINITE = "not_finite"
"""The number of such samples among a task's scores, which have it only where there are some."""

_NAMED = 3
"""Samples that are told by name."""


class NotFiniteError(RuntimeError):
    """A network that predicts nothing finite; one line that says so, of which samples, and what to do."""


class WatchedPredictor:
    """A predictor that knows of which images its first output, N x K x h x w, was not finite."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._not_finite = np.zeros(0, np.bool_)
        self.found_finite, self.names = False, list[str]()

    def predict(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Predict as the predictor does."""
        outputs = self._predictor.predict(images)
        finite = np.isfinite(next(iter(outputs.values()))).reshape(len(images), -1)
        before = self._not_finite if self._not_finite.size else np.zeros(len(images), np.bool_)
        self._not_finite = before | ~finite.all(axis=1)
        self.found_finite |= bool(finite.any())
        return outputs

    def scored(self, names: Sequence[str]) -> None:
        """Name the images of all predictions since the last time, which were of the same ones."""
        self.names += [name for name, bad in zip(names, self._not_finite, strict=True) if bad]
        self._not_finite = np.zeros(0, np.bool_)


def count_not_finite(
    names: Sequence[str], *, found_finite: bool, total: int, unit: str, processes: Processes = ALONE
) -> int:
    """Return how many samples of all processes had predictions that are not finite, here those of `names`.

    Raises `NotFiniteError` where of all `total` samples not one value was finite.
    """
    count = int(processes.sum(np.array([len(names)]))[0])
    if total and not processes.any(found_finite):
        told = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
        on = f"{'the' if total == 1 else 'all'} {counted_units(total, unit)}"
        raise NotFiniteError(
            f"nothing that the network predicts is finite, on {on} ({told}): its weights have diverged, "
            " or the precision is too short for them; score it in float32, or train anew with a "
            "smaller train.learning_rate"
        )
    return count


def told_of(scores: Mapping[str, Any], unit: str) -> str:
    """Return a clause on how many samples had predictions that are not finite; empty where none had."""
    count = scores.get(NOT_FINITE)
    return f", but predictions on {counted_units(count, unit)} are not finite" if count else ""
