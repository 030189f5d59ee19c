"""Reports of runs: what their folders say and what their networks do, written as one HTML file."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from gsto_spec.errors import GstoError, printable
from gsto_train.errors import InputError
from gsto_train.files import replace
from gsto_train.look.evidence import Evidence, gather
from gsto_train.look.network import open_network
from gsto_train.look.page import page
from gsto_train.look.record import Record, has_network, read_record
from gsto_train.report import Report
from gsto_train.scoring import ScoringRequest, open_subject

REPORT = "report.html"
"""What a run's report is called in its folder."""

COMPARISON = "comparison.html"

SAMPLES, PICTURES = 6, 50

NOTHING_PREDICTED = "no samples were asked for"


def write_report(
    runs: Sequence[Path], target: Path, report: Report, *, samples: int = SAMPLES, pictures: int = PICTURES,
    overrides: Mapping[str, object] | None = None, backend: str | None = None,
) -> list[Record]:  # fmt: skip
    """Write the report of one run, or of several side by side, to `target`; returns what the runs said.

    With `samples` 0 nothing is predicted; else so many validation pictures are shown. The confusion matrix
    is the run's own; where it kept none, `pictures` of the validation pictures are predicted and counted.
    A network whose data are not there is no error: the page says why there are no predictions. Files that
    do not read are among the `damage` of what is returned. Raises `InputError` for a folder that is no run,
    and OSError.
    """
    entries: list[tuple[Record, Evidence | str]] = []
    for run in runs:
        record = read_record(run)
        request = ScoringRequest(record.path, backend=backend, overrides=overrides or {})
        counted = pictures if record.confusion is None else 0
        evidence = _seen(request, report, samples, counted)
        if isinstance(evidence, str) and (damage := _damaged_network(request, evidence)):
            record = dataclasses.replace(record, damage=(*record.damage, damage))
        entries.append((record, evidence))
    content = page(entries).encode("utf-8", "backslashreplace")
    try:
        replace(target, content)
    except OSError as error:  # Of the file that is to become the report.
        raise OSError(error.errno, error.strerror, str(target)) from error
    return [record for record, _ in entries]


def _seen(request: ScoringRequest, report: Report, samples: int, pictures: int) -> Evidence | str:
    if samples == 0:
        return NOTHING_PREDICTED
    try:
        return gather(open_network(request), report, samples=samples, pictures=pictures)
    except (InputError, GstoError) as error:
        reason = printable(" ".join(str(error).split()))
        report.note(f"no predictions in the report: {reason}")
        return reason


def _damaged_network(request: ScoringRequest, reason: str) -> str | None:
    """Return what is wrong with a run's own network, where that is why nothing was predicted."""
    if reason == NOTHING_PREDICTED or not has_network(request.source):
        return None
    try:
        open_subject(request)
    except (InputError, GstoError) as error:
        return printable(" ".join(str(error).split()))
    return None
