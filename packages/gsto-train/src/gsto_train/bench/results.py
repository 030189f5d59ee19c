"""From what was measured to a document: a row for every subject of every case, ready for JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gsto_train.bench.cases import Case
from gsto_train.bench.ceilings import Ceilings, work_of
from gsto_train.bench.figures import Growth, Rounds, difference, ratio, seconds
from gsto_train.bench.rounds import Measured
from gsto_train.bench.subjects import PLAIN, YARDSTICK
from gsto_train.bench.tasks import DECODER
from gsto_train.bench.worker import Failed

Row = dict[str, Any]


@dataclass(frozen=True)
class Measurements:
    """Everything that one run of the command measured.

    `limits`: the ceilings of every precision. `groups`: of growth, the cases that grow in size and in batch.
    """

    request: Mapping[str, object]
    threads: int
    machine: Mapping[str, object]
    measured: Sequence[Measured]
    limits: Mapping[str, Ceilings] = field(default_factory=dict)
    groups: Mapping[str, Sequence[Case]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return it all as JSON has it."""
        rows = [_row(each, self) for each in self.measured]
        return {
            "kind": "speed",
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "request": dict(self.request),
            "threads": self.threads,
            "machine": dict(self.machine),
            "environments": _environments(self.measured),
            "ceilings": {name: limits.as_json() for name, limits in self.limits.items()},
            "rows": rows,
            "groups": {name: [str(case) for case in cases] for name, cases in self.groups.items()},
            "growth": [each for name, cases in self.groups.items() for each in _growth(name, cases, rows)],
        }


def _environments(measured: Sequence[Measured]) -> dict[str, Mapping[str, object]]:
    """What each maker computes with."""
    return {
        each.order.network_subject.maker: each.ready.environment
        for each in measured if each.ready is not None and each.ready.environment
    }  # fmt: skip


def yardstick(case: Case, measured: Sequence[Measured]) -> Measured | None:
    """Return what the subjects of a case are told in multiples of: the plain network, or who there is."""
    ran = [each for each in measured if each.order.case == case and each.ran]
    plain = [each for each in ran if _is_plain(each)]
    return next((each for each in ran if each.order.subject in (YARDSTICK, DECODER)), None) or next(
        iter([*plain, *ran]), None
    )


def _is_plain(each: Measured) -> bool:
    subject = each.order.network_subject
    return subject.manner == PLAIN and not subject.is_engine


def _row(each: Measured, whole: Measurements) -> Row:
    case = each.order.case
    row: Row = {
        "case": str(case), "architecture": case.architecture, "height": case.height, "width": case.width,
        "batch": case.batch, "precision": case.precision, "subject": each.order.subject,
    }  # fmt: skip
    distance = _difference(each, whole.measured)
    problem = _problem(each, distance)
    if problem is not None:
        return {**row, "state": "absent" if problem.absent else "failed", "reason": problem.reason}
    return {**row, "state": "ran", **_figures(each, whole), "difference": distance}


def _problem(each: Measured, distance: float | None) -> Failed | None:
    """Why there are no figures."""
    if distance == math.inf:
        return Failed("its answer is not finite, or of other outputs and sizes than the yardstick's")
    return each.failure if each.ran or each.failure else Failed("not measured")


def _figures(each: Measured, whole: Measurements) -> Row:
    assert each.ready is not None
    spread = seconds(rounds(each))
    peak = max((turn.peak for turn in each.turns if turn.peak is not None), default=None)
    before, ready = each.ready.before, each.ready
    return {
        "device": ready.device,
        "seconds": spread.as_json(),
        "images_per_second": each.order.case.images / spread.median,
        "slowest_over_median": max(max(turn) for turn in rounds(each)) / spread.median,
        "compile_seconds": max(0.0, ready.made + ready.first - ready.second),
        "peak_bytes": peak,
        "working_bytes": None if peak is None or before is None else max(0, peak - before),
        "card_bytes": ready.card,
        **_ratios(each, whole.measured),
        "roof": _roof(each.order.case, spread.median, whole),
        "rounds": [list(turn.seconds) for turn in each.turns],
    }


def rounds(each: Measured) -> Rounds:
    """Return the seconds of every run, by round."""
    return [turn.seconds for turn in each.turns]


def _ratios(each: Measured, measured: Sequence[Measured]) -> Row:
    """How many times as fast as the yardstick and as its own plain self; its time over the first case's."""
    same = [other for other in measured if other.ran and other.order.subject == each.order.subject]
    against = yardstick(each.order.case, measured)
    own = _own_plain(each, measured)
    return {
        "yardstick": against.order.subject if against else None,
        "speedup": ratio(rounds(against), rounds(each)).as_json() if against else None,
        "speedup_of_own_plain": ratio(rounds(own), rounds(each)).as_json() if own else None,
        "first_case": str(same[0].order.case),
        "time_over_first_case": ratio(rounds(each), rounds(same[0])).as_json(),
    }


def _own_plain(each: Measured, measured: Sequence[Measured]) -> Measured | None:
    maker = each.order.network_subject.maker
    same = (other for other in measured if other.ran and other.order.case == each.order.case)
    return next((other for other in same if other.order.subject == f"{maker}-{PLAIN}"), None)


def _difference(each: Measured, measured: Sequence[Measured]) -> float | None:
    """How far its answer is from the yardstick's at the first precision measured; None without answers."""
    question = each.order.case.question
    first = next(other.order.case for other in measured if other.order.case.question == question)
    reference = yardstick(first, measured) or yardstick(each.order.case, measured)
    if each.ready is None or reference is None or reference.ready is None or not each.ready.answer:
        return None
    return difference(each.ready.answer, reference.ready.answer)


def _roof(case: Case, median: float, whole: Measurements) -> Row | None:
    limits = whole.limits.get(case.precision)
    if limits is None or case.job not in ("inference", "step"):
        return None
    work = work_of(case)
    least = work.seconds(limits)
    return {**work.as_json(), "least_seconds": least, "reached": least / median if least else None}


def _growth(name: str, cases: Sequence[Case], rows: Sequence[Row]) -> list[Row]:
    """How time and memory of each subject grow over `cases`."""
    pixels = {str(case): case.pixels for case in cases}
    subjects = dict.fromkeys(row["subject"] for row in rows)
    found = []
    for subject in subjects:
        own = [row for row in rows if row["subject"] == subject and row["state"] == "ran"]
        grown = [row for row in own if row["case"] in pixels]
        for cost, value in (("time", _time), ("memory", _memory)):
            costs = {pixels[row["case"]]: value(row) for row in grown if value(row)}
            if len(costs) >= 2:
                law = Growth.of(costs)
                found.append({"over": name, "subject": subject, "of": cost,
                              "exponent": law.exponent, "worst_over_linear": law.worst})  # fmt: skip
    return found


def _time(row: Row) -> float:
    return float(row["seconds"]["median"])


def _memory(row: Row) -> float:
    """Of a GPU where it computes on one."""
    return float(row["card_bytes"] or row["working_bytes"] or 0)
