"""The command `gsto-eval`; it imports nothing heavy before it is asked to do something."""

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn

import click

from gsto_train.command_line import CONTEXT, DONE, FAILED, attempt, fail, path, run_command
from gsto_train.commands import completion
from gsto_train.commands.options import (
    PATH_TEXT,
    FormName,
    NetworkOptions,
    SettingsCommand,
    backend_option,
    benchmark_option,
    data_option,
    device_option,
    network_options,
    precision_option,
    set_option,
)
from gsto_train.output import standard_output

NAME = "gsto-eval"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `arguments` (without: the process's) and exit with its status."""
    run_command(command, NAME, arguments, interrupted="nothing was written, run the same command again")


@click.command(cls=SettingsCommand, context_settings=CONTEXT)
@click.argument("source", type=PATH_TEXT, metavar="RUN|DIRECTORY|CHECKPOINT", shell_complete=completion.FILES)
@backend_option("What predicts: torch, jax, ...; default: the run's.")
@benchmark_option("The data and the test procedure; default: the run's own.")
@data_option("Folder of the pictures.")
@network_options
@set_option("evaluation.flip=true")
@device_option("Where to predict.")
@precision_option("Arithmetic: float32, tf32 (GPU), float64.")
@click.option(
    "--output", type=PATH_TEXT, metavar="DIR", help="New folder for result.json.",
    shell_complete=completion.FOLDERS,
)  # fmt: skip
@click.option(
    "--submit",
    type=PATH_TEXT,
    metavar="DIR",
    help="New folder for Cityscapes' PNGs of label ids or COCO's results, checked.",
    shell_complete=completion.FOLDERS,
)
@click.option(
    "--verify",
    is_flag=True,
    help="Score nothing: compute digests and golden answer of a saved model again, and compare.",
)
@click.option("--json", "as_json", is_flag=True, help="Print result.json on standard output.")
@click.version_option(package_name="gsto-train", message="%(prog)s %(version)s")
def command(
    source: str,
    backend: str | None,
    benchmark: str | None,
    data: str | None,
    architecture: str | None,
    classes: int | None,
    form: FormName | None,
    inplace_abn: bool | None,
    assignments: tuple[str, ...],
    device: str | None,
    precision: str | None,
    output: str | None,
    submit: str | None,
    verify: bool,
    as_json: bool,
) -> int:
    """Score a trained network: a run's folder, a saved model's, or a published file of weights.

    A run is scored on its own data by its own test procedure unless --benchmark or --set say otherwise. A
    saved model may be one of the hub, by its id owner/name.
    """
    if verify:
        others = (benchmark, data, architecture, classes, form, inplace_abn, output, submit)
        if assignments or any(option is not None for option in others):
            raise click.UsageError("--verify goes with --backend, --device, --precision and --json alone")
        return _verify(source, backend, device, precision, as_json)
    network = NetworkOptions(architecture, classes, form, inplace_abn)
    shortcuts = {"data.folder": data, "train.device": device, "train.precision": precision}
    paths = {"source": source, "output": output, "submit": submit}
    return _score(paths, backend, benchmark, network, assignments, shortcuts, as_json)


def _verify(
    source: str, backend: str | None, device: str | None, precision: str | None, as_json: bool
) -> int:
    from gsto_train.verifying import VerificationError, summary, verify

    def work() -> int:
        try:
            result = verify(path("source", source), backend=backend, device=device, precision=precision)
        except VerificationError as error:
            if as_json:
                with standard_output():
                    click.echo(json.dumps(error.result, indent=1))
            for line in error.lines:
                fail(NAME, line, FAILED)
            return FAILED
        with standard_output():
            click.echo(json.dumps(result, indent=1) if as_json else summary(result))
        return DONE

    return attempt(NAME, work, less="verify on a larger machine")


def _score(
    paths: Mapping[str, str | None],
    backend: str | None,
    benchmark: str | None,
    network: NetworkOptions,
    assignments: Sequence[str],
    shortcuts: Mapping[str, str | None],
    as_json: bool,
) -> int:
    from gsto_train.finite import NotFiniteError
    from gsto_train.report import Report
    from gsto_train.schema import assignment
    from gsto_train.scoring import ScoringRequest, score
    from gsto_train.submission import SubmissionError

    def work() -> int:
        places = {option: path(option, text) for option, text in paths.items() if text is not None}
        given = {key: value for key, value in shortcuts.items() if value is not None}
        request = ScoringRequest(
            backend=backend,
            benchmark=benchmark,
            graph=network.graph(),
            architecture=network.architecture,
            reading=network.reading(),
            overrides={**dict(map(assignment, assignments)), **given},
            **places,
        )
        try:
            result = score(request, Report(json=as_json))
        except NotFiniteError as error:
            return fail(NAME, f"{paths['source']}: {error}", FAILED)
        except SubmissionError as error:
            return fail(NAME, f"{error}; nothing was submitted, run the same command again", FAILED)
        if as_json:
            with standard_output():
                click.echo(json.dumps(result, indent=1, ensure_ascii=False))
        return DONE

    less = "predict less at once, with a smaller train.evaluation_batch or evaluation.window"
    return attempt(NAME, work, less=less)
