"""Reports of runs: what their folders say and what their networks do, written as one HTML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from gsto_spec.errors import GstoError
from gsto_train.errors import InputError
from gsto_train.files import replace
from gsto_train.look.evidence import Evidence, gather
from gsto_train.look.network import open_network
from gsto_train.look.page import page
from gsto_train.look.record import Record, read_record
from gsto_train.look.sources import printable
from gsto_train.report import Report
from gsto_train.scoring import ScoringRequest

REPORT = "report.html"
"""What a run's report is called in its folder."""

COMPARISON = "comparison.html"

SAMPLES, PICTURES = 6, 50


def write_report(
    runs: Sequence[Path], target: Path, report: Report, *, samples: int = SAMPLES, pictures: int = PICTURES,
    overrides: Mapping[str, object] | None = None, backend: str | None = None,
) -> list[Record]:  # fmt: skip
    """Write the report of one run, or of several side by side, to `target`; returns what the runs said.

    With `samples` 0 nothing is predicted; else so many validation pictures are shown, and `pictures` of them
    counted in a confusion matrix. A network that cannot be opened or whose data are not there is no error:
    the page says why there are no predictions. Raises `InputError` for a folder that is no run, and OSError.
    """
    records = [read_record(run) for run in runs]
    entries: list[tuple[Record, Evidence | str]] = []
    for record in records:
        request = ScoringRequest(record.path, backend=backend, overrides=overrides or {})
        entries.append((record, _seen(request, report, samples, pictures)))
    replace(target, page(entries).encode("utf-8", "backslashreplace"))
    return records


def _seen(request: ScoringRequest, report: Report, samples: int, pictures: int) -> Evidence | str:
    if samples == 0:
        return "no samples were asked for"
    try:
        return gather(open_network(request), report, samples=samples, pictures=pictures)
    except (InputError, GstoError) as error:
        reason = printable(" ".join(str(error).split()))
        report.note(f"no predictions in the report: {reason}")
        return reason
