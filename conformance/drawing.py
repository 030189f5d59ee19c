"""Drawing cases with hypothesis and putting each to a backend."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS
from hypothesis.strategies import SearchStrategy

from conformance.cases import Case, Subject
from conformance.coverage import note
from conformance.failures import Disagreement
from conformance.noise import SetAside
from conformance.report import LEDGER

# Under its own name hypothesis follows each case with five that repeat parts of it: good for finding rare
# values, but cases that cost seconds should differ. Any other name of the same provider draws afresh.
AVAILABLE_PROVIDERS["afresh"] = "hypothesis.internal.conjecture.providers.HypothesisProvider"

Check = Callable[..., None]


@dataclass(frozen=True)
class Drawing:
    """Puts drawn cases to checks. `base` seeds all draws; `shrink` makes the first failure smaller."""

    base: int = 0
    shrink: bool = False

    def put(
        self, check: Check, subject: Subject, strategy: SearchStrategy[Any], block: tuple[int, int]
    ) -> None:
        """Check so many cases of a block; a drawn tuple holds the case and the check's further arguments."""
        number, count = block
        phases = [Phase.generate, Phase.shrink] if self.shrink else [Phase.generate]
        start = zlib.crc32(f"{self.base} {check.__name__} {number}".encode())

        @seed(start)
        @settings(max_examples=count, phases=phases, deadline=None, database=None, backend="afresh",
                  suppress_health_check=list(HealthCheck), print_blob=False,
                  report_multiple_bugs=False)  # fmt: skip
        @given(strategy)
        def each(drawn: Any) -> None:
            case, *arguments = drawn if isinstance(drawn, tuple) else (drawn,)
            if not _attempt(check, subject, case, *arguments):
                reject()

        try:
            each()
        except Disagreement as disagreement:
            disagreement.save()
            raise


def attempt(check: Check, subject: Subject, case: Case, *arguments: Any) -> bool:
    """Put one case to a check: False, and a line in the ledger, where it is set aside."""
    try:
        return _attempt(check, subject, case, *arguments)
    except Disagreement as disagreement:
        disagreement.save()
        raise


def _attempt(check: Check, subject: Subject, case: Case, *arguments: Any) -> bool:
    note(case, *arguments)
    try:
        check(subject, case, *arguments)
    except SetAside as reason:
        LEDGER.set_aside(str(subject), check.__name__, subject.precision, str(reason))
        return False
    except Disagreement as disagreement:
        disagreement.reproduced_by(check, case, arguments, LEDGER.folder / "failures")
        raise
    return True
