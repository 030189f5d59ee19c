"""The command `gsto-data`; it imports nothing heavy before it is asked to do something."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn, Union

import click

from gsto_train.command_line import CONTEXT, DONE, FAILED, WRONG_INPUT, fail, run_command
from gsto_train.commands import completion
from gsto_train.commands.options import data_option, set_option
from gsto_train.output import standard_output

if TYPE_CHECKING:
    from gsto_train.data.check import SplitReport
    from gsto_train.pose.check import KeypointReport
    from gsto_train.settings import Part, Settings

NAME = "gsto-data"

_SHOWN = 20

Checked = Union["SplitReport", "KeypointReport"]
"""What is said of one part."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `arguments` (without: the process's) and exit with its status."""
    run_command(command, NAME, arguments, interrupted="nothing was written")


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="gsto-train", message="%(prog)s %(version)s")
def command() -> None:
    """Look at data sets."""


@command.command()
@click.argument("benchmark", metavar="BENCHMARK|FILE.toml", shell_complete=completion.BENCHMARKS)
@data_option("Folder of the pictures and their labels.")
@set_option("data.train_split=trainval")
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="That read pictures; default: one per processor."
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole report for machines.")
def check(
    benchmark: str, data: str | None, assignments: tuple[str, ...], threads: int | None, as_json: bool
) -> int:
    """Read every picture and label of a benchmark. Says what is missing, broken or odd.

    Ends with 0 where nothing is missing or broken, 1 where something is, 2 where the question is wrong.
    """
    from gsto_spec import GstoError
    from gsto_train.data.findings import problems as count_problems
    from gsto_train.errors import InputError
    from gsto_train.schema import assignment

    try:
        overrides = {**dict(map(assignment, assignments)), **({"data.folder": data} if data else {})}
        settings = _settings(benchmark, overrides)
        reports = _reports(settings, threads or os.cpu_count() or 1, as_json)
    except (InputError, GstoError) as error:
        return fail(NAME, str(error), WRONG_INPUT)
    problems = sum(count_problems(report.findings) for report in reports.values())
    with standard_output():
        if as_json:
            click.echo(json.dumps(_as_json(benchmark, settings.data.folder, reports, problems), indent=1))
        else:
            _show(reports, problems)
    return FAILED if problems else DONE


def _settings(benchmark: str, overrides: Mapping[str, object]) -> "Settings":
    from gsto_train import benchmarks
    from gsto_train.data.classes import existing_folder
    from gsto_train.errors import InputError
    from gsto_train.settings import FROM_FILES, resolve

    settings = resolve(benchmarks.load(benchmark).values, overrides)
    data = settings.data
    if data.folder is not None:
        existing_folder(data.folder)
    elif data.kind in FROM_FILES:
        raise InputError("setting 'data.folder' is missing: give the folder of pictures with --data DIR")
    return settings


def _reports(settings: "Settings", threads: int, as_json: bool) -> dict[str, "Checked"]:
    """Check both parts; what keeps one from being opened at all is a finding of it."""
    from gsto_train.data.check import SplitReport, absent_classes, check_split, shared_pictures
    from gsto_train.data.findings import Finding
    from gsto_train.errors import InputError
    from gsto_train.report import Report
    from gsto_train.resolve import open_split
    from gsto_train.settings import KEYPOINTS, PARTS
    from gsto_train.wording import counted

    reports, opened, progress = dict[str, "Checked"](), [], Report(json=as_json)
    for part in PARTS:
        try:
            if settings.data.kind in KEYPOINTS:
                reports[part] = _keypoint_report(settings, part)
                continue
            dataset = open_split(settings.data, part, skip_missing=True)
        except InputError as error:
            reports[part] = SplitReport(findings=[Finding("missing", str(error))])
            continue
        with progress.counting(
            f"reading {counted(len(dataset), 'picture')} of {part}", len(dataset)
        ) as count:
            reports[part] = report = check_split(dataset, threads=threads, on_picture=count.advance)
        if part == "train":
            report.findings.extend(absent_classes(report, part))
        opened.append(dataset)
    if len(opened) == len(PARTS):
        reports["val"].findings.extend(shared_pictures(*opened))
    return reports


def _keypoint_report(settings: "Settings", part: "Part") -> "Checked":
    from gsto_train.pose.check import check_keypoints
    from gsto_train.pose.task import open_part

    return check_keypoints(open_part(settings, part, skip_unreadable=True))


def _as_json(
    benchmark: str, folder: str | None, reports: Mapping[str, "Checked"], problems: int
) -> dict[str, object]:
    parts = {part: report.as_json() for part, report in reports.items()}
    return {"benchmark": benchmark, "folder": folder, "problems": problems, **parts}


def _show(reports: Mapping[str, "Checked"], problems: int) -> None:
    from gsto_train.data.findings import gathered
    from gsto_train.wording import counted

    for part, report in reports.items():
        first, *others = report.lines()
        click.echo("\n".join([f"{part}: {first}", *others]))
        findings = gathered(report.findings)
        for finding in findings[:_SHOWN]:
            click.echo(f"  {finding.kind}: {finding.text}")
        if len(findings) > _SHOWN:
            click.echo(f"  and {counted(len(findings) - _SHOWN, 'more finding')}; --json has them all")
    click.echo(counted(problems, "problem") if problems else "nothing is missing or broken")
