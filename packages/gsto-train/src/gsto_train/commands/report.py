"""The command `gsto-report`; it imports nothing heavy before it is asked to do something."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from gsto_train.command_line import CONTEXT, DONE, FAILED, attempt, fail, path, run_command
from gsto_train.commands import completion
from gsto_train.commands.options import PATH_TEXT, backend_option, device_option
from gsto_train.output import standard_output

NAME = "gsto-report"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `arguments` (without: the process's) and exit with its status."""
    run_command(command, NAME, arguments, interrupted="nothing was written, run the same command again")


@click.command(context_settings=CONTEXT)
@click.argument(
    "runs", type=PATH_TEXT, metavar="RUN...", nargs=-1, required=True, shell_complete=completion.FOLDERS
)
@click.option(
    "--output",
    type=PATH_TEXT,
    metavar="FILE.html",
    help="Default: report.html in the run's folder, comparison.html here for several.",
    shell_complete=completion.FILES,
)
@click.option(
    "--force", is_flag=True, help="Replace a file that is there; a run's own report.html always is."
)
@click.option(
    "--samples", type=click.IntRange(min=0), default=6, show_default=True,
    help="Validation pictures to show with their predictions; 0: nothing is predicted.",
)  # fmt: skip
@click.option(
    "--pictures", type=click.IntRange(min=1), default=50, show_default=True,
    help="Validation pictures that the confusion matrix counts at most, of a run that kept none.",
)  # fmt: skip
@backend_option("What predicts; default: the run's.")
@click.option(
    "--data",
    type=PATH_TEXT,
    metavar="DIR",
    help="Folder of the data, where it is not where it was.",
    shell_complete=completion.FOLDERS,
)
@device_option("Where to predict.")
@click.option("--json", "as_json", is_flag=True, help="Print the report's name and the scores.")
@click.version_option(package_name="gsto-train", message="%(prog)s %(version)s")
def command(
    runs: tuple[str, ...],
    output: str | None,
    force: bool,
    samples: int,
    pictures: int,
    backend: str | None,
    data: str | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Write a report of a run, or compare several, as one HTML file.

    It holds curves, scores, a confusion matrix, samples, gates, and how to reproduce the run, and needs no
    network to be read.
    """
    given = {"data.folder": data, "train.device": device}
    overrides = {key: value for key, value in given.items() if value is not None}
    return _report(runs, output, force, (samples, pictures), backend, overrides, as_json)


def _report(
    runs: Sequence[str],
    output: str | None,
    force: bool,
    counts: tuple[int, int],
    backend: str | None,
    overrides: Mapping[str, object],
    as_json: bool,
) -> int:
    from gsto_train.look.reporting import write_report
    from gsto_train.report import Report

    def work() -> int:
        report = Report(json=as_json)
        folders = [path("RUN", run) for run in runs]
        target = _target(folders, output, force)
        records = write_report(
            folders, target, report, samples=counts[0], pictures=counts[1],
            overrides=overrides, backend=backend,
        )  # fmt: skip
        damage = [line for record in records for line in record.damage]
        for line in damage:
            report.note(f"damaged: {line}")
        _tell(target, records, damage, report, as_json)
        if not damage:
            return DONE
        told = "1 file is" if len(damage) == 1 else f"{len(damage)} files are"
        return fail(NAME, f"{told} damaged, named above; {target} has all the rest", FAILED)

    return attempt(NAME, work, unnamed="the report", less="--samples 0 predicts nothing")


def _target(folders: Sequence[Path], output: str | None, force: bool) -> Path:
    """Return where the report goes; raises `InputError` where there is something, unless `force`.

    A run's own report is there from the run's end, and is replaced.
    """
    from gsto_train.errors import InputError, nearest_path
    from gsto_train.look.reporting import COMPARISON, REPORT

    own = folders[0] / REPORT if len(folders) == 1 else Path(COMPARISON)
    target = own if output is None else path("--output", output)
    if folders[0].is_dir() and not target.absolute().parent.is_dir():
        raise InputError(
            f"{target.parent}: no such folder{nearest_path(target.parent, 'folder')}; make it first"
        )
    replaces = force or (output is None and len(folders) == 1)
    if target.is_dir() or (os.path.lexists(target) and not replaces):
        mend = "give another --output" + ("" if target.is_dir() else ", or replace it with --force")
        raise InputError(f"{target}: is there already; {mend}")
    return target


def _tell(target: Path, records: Sequence[Any], damage: Sequence[str], report: Any, as_json: bool) -> None:
    if not as_json:
        report.say(f"the report is {target}")
        return
    scores = {str(record.path): record.scores for record in records}
    told = {"report": str(target), "runs": scores, "damaged": damage}
    with standard_output():
        click.echo(json.dumps(told, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
