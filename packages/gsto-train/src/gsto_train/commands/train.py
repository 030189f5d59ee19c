"""The command `gsto-train`; it imports nothing heavy before it is asked to do something."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from gsto_train.command_line import CONTEXT, DONE, FAILED, WRONG_INPUT, fail, out_of_memory, path, run_command
from gsto_train.commands import completion
from gsto_train.commands.options import (
    PATH_TEXT,
    SettingsCommand,
    architecture_option,
    backend_option,
    benchmark_option,
    data_option,
    device_option,
    precision_option,
    set_option,
)
from gsto_train.output import OutputError, standard_output

if TYPE_CHECKING:
    from gsto_train.interrupts import Interrupts
    from gsto_train.report import Report
    from gsto_train.run.job import Job, Request

NAME = "gsto-train"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `arguments` (without: the process's) and exit with its status."""
    run_command(command, NAME, arguments, interrupted="nothing was begun, run the same command again")


@click.command(cls=SettingsCommand, context_settings=CONTEXT)
@backend_option("What trains: torch, jax, another that is installed, or your own; of --resume the run's.")
@benchmark_option("Settings to start from; default: scenes, which are generated.")
@architecture_option("The network; default: the benchmark's.")
@data_option("Folder of the pictures and their lists.")
@click.option(
    "--output", type=PATH_TEXT, metavar="DIR", help="Run folder; default: a new one in runs/.",
    shell_complete=completion.FOLDERS,
)  # fmt: skip
@set_option("train.batch=4")
@click.option("--resume", is_flag=True, help="Go on with the run in --output from its last whole checkpoint.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Resolve the settings, check data, memory and output, say what would run, and write nothing.",
)
@device_option("Where to train.")
@precision_option("Arithmetic: float32, tf32 (GPU), bfloat16, float16, float64.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print result.json on standard output, all else on standard error.",
)
@click.option(
    "--list",
    "listing",
    is_flag=True,
    help="List benchmarks with their scores, architectures, installed backends and settings; with "
    "--benchmark that one and its settings.",
)
@click.version_option(package_name="gsto-train", message="%(prog)s %(version)s")
def command(
    backend: str | None,
    benchmark: str | None,
    architecture: str | None,
    data: str | None,
    output: str | None,
    assignments: tuple[str, ...],
    resume: bool,
    dry_run: bool,
    device: str | None,
    precision: str | None,
    as_json: bool,
    listing: bool,
) -> int:
    """Train a network, score it, and leave a run folder.

    `gsto-train --backend torch` alone trains a small GSTO-HRNet on generated scenes, in minutes;
    `gsto-train --list` shows what else there is.
    """
    if listing:
        return _list(benchmark, as_json)
    if backend is None and resume and not output:
        raise click.UsageError("--output is missing: give the folder of the run to go on with")
    if backend is None and not resume:
        raise click.UsageError("--backend is missing: give torch, jax, or another that --list shows")
    shortcuts = {
        "architecture.name": architecture,
        "data.folder": data,
        "train.device": device,
        "train.precision": precision,
    }
    return _train(backend, benchmark, output, (resume, dry_run), assignments, shortcuts, as_json)


def _train(
    backend: str | None,
    benchmark: str | None,
    output: str | None,
    how: tuple[bool, bool],
    assignments: Sequence[str],
    shortcuts: Mapping[str, str | None],
    as_json: bool,
) -> int:
    from gsto_train.interrupts import Interrupted, Interrupts
    from gsto_train.run.job import Request, prepare, recorded_backend
    from gsto_train.schema import assignment

    interrupts = Interrupts()
    job: Job | None = None

    def stopped(status: int) -> int:
        if job is not None and not job.processes.first:
            return status
        return fail(NAME, f"interrupted; {_how_to_go_on(job)}", status)

    try:
        with interrupts.installed(stopped):
            given = {key: value for key, value in shortcuts.items() if value is not None}
            overrides = {**dict(map(assignment, assignments)), **given}
            folder = path("--output", output) if output else None
            resume, only_checked = how
            name = backend or recorded_backend(path("--output", output or ""))
            request = Request(name, benchmark, overrides, folder, resume)
            if only_checked:
                return _dry_run(request, as_json)
            job = prepare(request)
            return _run(job, interrupts, as_json)
    except Interrupted as interrupted:
        return stopped(interrupted.status)
    except Exception as error:
        return _failed(error, job)
    finally:
        if job is not None:
            job.folder.release()


def _run(job: "Job", interrupts: "Interrupts", as_json: bool) -> int:
    from gsto_train.report import Report
    from gsto_train.run.loop import run

    first = job.processes.first
    report = Report(json=as_json, silent=not first)
    result = run(job, report, interrupts)
    if as_json and first:
        with standard_output():
            click.echo(json.dumps(result, indent=1, ensure_ascii=False))
    return _report_on(job, report) if first and job.settings.train.report else DONE


def _failed(error: Exception, job: "Job | None") -> int:
    """Say in one line what ended training and how to go on, and return the exit status; else raise it."""
    from gsto_spec import GstoError
    from gsto_train.data.loader import LoaderError
    from gsto_train.errors import InputError
    from gsto_train.processes import Elsewhere
    from gsto_train.run.loop import TrainingError
    from gsto_train.run.runfolder import RESULT

    match error:
        case Elsewhere():
            return FAILED
        case InputError() | GstoError():
            return fail(NAME, str(error), WRONG_INPUT)
        case TrainingError():
            return fail(NAME, str(error), FAILED)
        case LoaderError():
            return fail(NAME, f"{error}; {_how_to_go_on(job)}", FAILED)
        case OutputError():
            where = f"; the run is complete, its scores are in {job.folder.path / RESULT}" if job else ""
            return fail(NAME, f"{error}{where}", FAILED)
        case OSError():
            return fail(NAME, _mend(error, job), FAILED)
        case _ if out_of_memory(error):
            told = str(error) or "none is left"
            return fail(NAME, f"out of memory: {told}; {_how_to_need_less(job)}", FAILED)
        case _:
            raise error


def _mend(error: OSError, job: "Job | None") -> str:
    problem = f"{error.filename or 'standard error'}: {error.strerror}"
    if job is None:
        return f"{problem}; mend that and run the same command again"
    return f"{problem}; mend that (is the disk full?), then {_how_to_go_on(job)}"


def _list(benchmark: str | None, as_json: bool) -> int:
    from gsto_train.commands.listing import show
    from gsto_train.errors import InputError

    try:
        show(benchmark=benchmark, as_json=as_json)
    except InputError as error:
        return fail(NAME, str(error), WRONG_INPUT)
    return DONE


def _dry_run(request: "Request", as_json: bool) -> int:
    from gsto_train.data.decoded import only_reading
    from gsto_train.report import Report
    from gsto_train.run.dry_run import dry_run
    from gsto_train.run.job import resolved

    with only_reading():
        job = resolved(request)
        first = job.processes.first
        told = dry_run(job, Report(json=as_json, silent=not first))
    if as_json and first:
        with standard_output():
            click.echo(json.dumps(told, indent=1, ensure_ascii=False))
    return DONE


def _report_on(job: "Job", report: "Report") -> int:
    """Leave report.html and return the exit status; the run is complete whatever becomes of its report."""
    from gsto_train.files import told
    from gsto_train.interrupts import Interrupted
    from gsto_train.look.reporting import REPORT, SAMPLES, write_report

    folder = job.folder.path
    later = f"the run is complete; its report is written by: {shlex.join(['gsto-report', str(folder)])}"
    # Of several processes this one is alone by now, and could wait for the others in a prediction.
    samples = SAMPLES if job.processes.count == 1 else 0
    try:
        write_report([folder], folder / REPORT, report, samples=samples, backend=job.backend_name)
    except Interrupted as interrupted:
        return fail(NAME, f"interrupted; {later}", interrupted.status)
    except OSError as error:
        report.note(f"warning: no {REPORT}: {told(error)}; mend that (is the disk full?): {later}")
        return DONE
    except Exception as error:  # Memory that is gone, a backend's own.
        report.note(f"warning: no {REPORT}: {' '.join(str(error).split()) or type(error).__name__}; {later}")
        return DONE
    report.say(f"the report is {folder / REPORT}")
    return DONE


def _how_to_need_less(job: "Job | None") -> str:
    from gsto_train.run.runfolder import CONFIG

    less = "with a smaller train.batch or data.crop"
    if job is None or not (job.folder.path / CONFIG).exists():
        return f"nothing was begun, run the same command again {less}"
    return f"free some and {_how_to_go_on(job)}, or start a new run {less} and another --output"


def _how_to_go_on(job: "Job | None") -> str:
    return f"go on with: {job.resume_command}" if job else "nothing was begun, run the same command again"
