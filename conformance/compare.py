"""Comparing what a backend gave with what it should have given; the ledger hears of every comparison."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.cases import Case, Subject
from conformance.failures import Disagreement
from conformance.report import LEDGER
from conformance.tolerance import norm

Array = NDArray[Any]

REMEMBERED = 20_000
"""Arrays of earlier backends that are kept, to be compared with those of later ones."""


@dataclass(frozen=True)
class Comparison:
    """Who is compared, and in which line of the table (`row`) it counts.

    `across`: whether the backends of a run are compared with each other, too; not where each is measured by
    numbers of its own.
    """

    subject: Subject
    case: Case
    row: str
    across: bool = True

    def pointwise(self, path: str, got: Any, want: Array, bound: Array | float) -> None:
        """Every value within its own bound."""
        found = self._sound(path, got, want)
        self._settle(path, found, want, np.broadcast_to(np.asarray(bound, np.float64), want.shape))
        self._across(path, found, bound, whole=False)

    def normwise(self, path: str, got: Any, want: Array, bound: float) -> None:
        """The Euclidean norm of all errors within one bound."""
        found = self._sound(path, got, want)
        error = norm(found - want)
        self._record(str(self.subject), error, bound, path, want.size)
        if not error <= bound:
            index = np.unravel_index(np.abs(found - want).argmax(), want.shape)
            raise self._disagreement(path, index, found, want, error, bound)
        self._across(path, found, bound, whole=True)

    def identical(self, path: str, got: Any, want: Array) -> None:
        """The same bits."""
        self.pointwise(path, got, np.asarray(want), 0.0)

    def agree(self, path: str, got: object, want: object) -> None:
        """Equal facts that are no numbers: names, shapes, counts."""
        self._record(str(self.subject), 0.0 if got == want else np.inf, 1.0, path, 1)
        if got != want:
            raise Disagreement(self.row, self.subject, path, "-", str(got), str(want))

    def set_aside(self, reason: Exception) -> None:
        """Count a comparison that no honest backend could be held to."""
        LEDGER.set_aside(str(self.subject), self.row, self.subject.precision, str(reason))

    def _sound(self, path: str, got: Any, want: Array) -> Array:
        """What was got, in float64, of the shape that was wanted and finite."""
        found = np.asarray(got, np.float64)
        if found.shape != want.shape:
            raise Disagreement(self.row, self.subject, path, "shape", str(found.shape), str(want.shape))
        if not np.isfinite(found).all():
            index = np.unravel_index((~np.isfinite(found)).argmax(), want.shape)
            raise self._disagreement(path, index, found, want, np.inf, 1.0)
        return found

    def _settle(self, path: str, found: Array, want: Array, bounds: Array) -> None:
        errors = np.abs(found - want)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(errors > 0, errors / bounds, 0.0)
        index = np.unravel_index(ratios.argmax(), want.shape) if ratios.size else ()
        error, bound = (float(part[index]) if part.size else 0.0 for part in (errors, bounds))
        self._record(str(self.subject), error, bound, path, want.size)
        if not error <= bound:
            raise self._disagreement(path, index, found, want, error, bound)

    def _disagreement(
        self, path: str, index: tuple[Any, ...], found: Array, want: Array, error: float, bound: float
    ) -> Disagreement:
        place = tuple(int(part) for part in index)
        return Disagreement(
            self.row, self.subject, path, str(place), repr(float(found[index])), repr(float(want[index])),
            _ratio(error, bound), error,
        )  # fmt: skip

    def _record(self, who: str, error: float, bound: float, path: str, values: int) -> None:
        LEDGER.record(
            who, self.row, self.subject.precision, self.case.key, _ratio(error, bound), path, values
        )

    def _across(self, path: str, found: Array, bound: Array | float, *, whole: bool) -> None:
        """Against every backend that was here before."""
        if not self.across:
            return
        key = (self.row, self.case.key, self.subject.precision, path)
        earlier = _memory.setdefault(key, {})
        for name, other in earlier.items():
            if name != str(self.subject):
                self._against(name, path, found, other, np.asarray(bound, np.float64), whole)
        earlier[str(self.subject)] = found
        while len(_memory) > REMEMBERED:
            _memory.popitem(last=False)

    def _against(self, name: str, path: str, found: Array, other: Array, bound: Array, whole: bool) -> None:
        # In float32 both may stray, each to its own side; in float64 there is room for both in one bound.
        allowed = bound if self.subject.precision == "float64" else 2 * bound
        errors = np.full((1,) * found.ndim, norm(found - other)) if whole else np.abs(found - other)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(errors > 0, errors / allowed, 0.0)
        worst = float(ratios.max(initial=0.0))
        self._record(" = ".join((name, str(self.subject))), worst, 1.0, path, found.size)
        if worst > 1:
            index = np.unravel_index(np.abs(found - other).argmax(), found.shape)
            raise self._disagreement(
                f"{path} ({name} against {self.subject})", index, found, other, worst, 1.0
            )


_memory: OrderedDict[tuple[str, ...], dict[str, Array]] = OrderedDict()


def _ratio(error: float, bound: float) -> float:
    return 0.0 if error == 0 else error / bound if bound > 0 else np.inf
