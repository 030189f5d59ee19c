"""The command `gsto-train`; it imports nothing heavy before it is asked to do something."""

import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gsto_train.output import OutputError, give_up, standard_output

if TYPE_CHECKING:
    from gsto_train.job import Job

DONE, FAILED, WRONG_INPUT = 0, 1, 2
"""Exit statuses; an interrupted run ends with 128 + the signal's number."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with `arguments` (without: the process's) and exit with its status."""
    try:
        status = command.main(
            None if arguments is None else list(arguments), "gsto-train", standalone_mode=False
        )
    except click.ClickException as error:
        status = _fail(error.format_message(), WRONG_INPUT)
    except (click.Abort, KeyboardInterrupt):
        status = _fail("interrupted; nothing was begun, run the same command again", 128 + signal.SIGINT)
    except OutputError as error:
        status = _fail(str(error), FAILED)
    except OSError as error:  # Of --help and --version, which print by themselves.
        give_up()
        status = _fail(f"{error.filename or 'standard output'}: {error.strerror}", FAILED)
    sys.exit(status)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--backend",
    metavar="NAME|MODULE:ATTRIBUTE",
    help="What trains: torch, jax, another that is installed, or your own.",
)
@click.option(
    "--benchmark",
    metavar="NAME|FILE.toml",
    help="Settings to start from; default: scenes, which are generated.",
)
@click.option(
    "--architecture", metavar="NAME|FILE.json|MODULE:ATTRIBUTE", help="The network; default: the benchmark's."
)
@click.option("--data", metavar="DIR", help="Folder of the pictures and their lists.")
@click.option("--output", metavar="DIR", help="Run folder; default: a new one in runs/.")
@click.option(
    "--set",
    "assignments",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a setting, as in train.batch=4; repeatable.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --output from its last whole checkpoint.")
@click.option("--device", metavar="auto|cpu|cuda", help="Where to train.")
@click.option("--precision", metavar="NAME", help="Arithmetic: float32, tf32 (GPU), float64.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print result.json on standard output, all else on standard error.",
)
@click.option(
    "--list", "listing", is_flag=True, help="List benchmarks, architectures, installed backends and settings."
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
    device: str | None,
    precision: str | None,
    as_json: bool,
    listing: bool,
) -> int:
    """Train a network, score it, and leave a run folder.

    `gsto-train --backend torch` alone trains a small GSTO-HRNet on generated scenes, in minutes.
    """
    if listing:
        from gsto_train.listing import show

        show(as_json=as_json)
        return DONE
    if backend is None:
        raise click.UsageError("--backend is missing: give torch, jax, or another that --list shows")
    shortcuts = {
        "architecture.name": architecture,
        "data.folder": data,
        "train.device": device,
        "train.precision": precision,
    }
    return _train(backend, benchmark, output, resume, assignments, shortcuts, as_json)


def _train(
    backend: str,
    benchmark: str | None,
    output: str | None,
    resume: bool,
    assignments: Sequence[str],
    shortcuts: Mapping[str, str | None],
    as_json: bool,
) -> int:
    from gsto_spec import GstoError
    from gsto_train.errors import InputError
    from gsto_train.interrupts import Interrupted, Interrupts
    from gsto_train.job import Request, prepare
    from gsto_train.loop import TrainingError, run
    from gsto_train.report import Report
    from gsto_train.runfolder import RESULT
    from gsto_train.schema import assignment

    interrupts, job = Interrupts(), None
    try:
        with interrupts.installed():
            given = {key: value for key, value in shortcuts.items() if value is not None}
            overrides = {**dict(map(assignment, assignments)), **given}
            _check_output(output)
            job = prepare(Request(backend, benchmark, overrides, Path(output) if output else None, resume))
            result = run(job, Report(json=as_json), interrupts)
            if as_json:
                with standard_output():
                    click.echo(json.dumps(result, indent=1, ensure_ascii=False))
    except (InputError, GstoError) as error:
        return _fail(str(error), WRONG_INPUT)
    except TrainingError as error:
        return _fail(str(error), FAILED)
    except Interrupted as interrupted:
        return _fail(f"interrupted; {_how_to_go_on(job)}", interrupted.status)
    except OSError as error:
        problem = f"{error.filename or 'standard error'}: {error.strerror}"
        if job is None:
            return _fail(f"{problem}; mend that and run the same command again", FAILED)
        return _fail(f"{problem}; mend that (is the disk full?), then {_how_to_go_on(job)}", FAILED)
    except OutputError as error:
        where = f"; the run is complete, its scores are in {job.folder.path / RESULT}" if job else ""
        return _fail(f"{error}{where}", FAILED)
    except Exception as error:
        if not _out_of_memory(error):
            raise
        return _fail(f"out of memory: {str(error) or 'none is left'}; {_how_to_need_less(job)}", FAILED)
    return DONE


def _check_output(output: str | None) -> None:
    from gsto_train.errors import InputError, is_text

    if output is not None and not is_text(output):
        raise InputError(f"--output {output!a}: expected a path in UTF-8; give another")


def _out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed; frameworks and cv2 say so in types of their own."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "alloc" in text


def _how_to_need_less(job: "Job | None") -> str:
    from gsto_train.runfolder import CONFIG

    less = "with a smaller train.batch or data.crop"
    if job is None or not (job.folder.path / CONFIG).exists():
        return f"nothing was begun, run the same command again {less}"
    return f"free some and {_how_to_go_on(job)}, or start a new run {less} and another --output"


def _how_to_go_on(job: "Job | None") -> str:
    return f"go on with: {job.resume_command}" if job else "nothing was begun, run the same command again"


def _fail(message: str, status: int) -> int:
    """Say what is wrong in one line, and return the exit status."""
    click.echo(f"gsto-train: {' '.join(message.split())}", err=True)
    return status
