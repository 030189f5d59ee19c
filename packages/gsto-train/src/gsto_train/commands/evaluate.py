"""The command `gsto-eval`; it imports nothing heavy before it is asked to do something."""

import json
from collections.abc import Mapping, Sequence
from typing import Literal, NoReturn

import click

from gsto_train.command_line import DONE, FAILED, WRONG_INPUT, fail, out_of_memory, path, run_command
from gsto_train.output import standard_output

NAME = "gsto-eval"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `arguments` (without: the process's) and exit with its status."""
    run_command(command, NAME, arguments, interrupted="nothing was written, run the same command again")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("source", metavar="RUN|DIRECTORY|CHECKPOINT")
@click.option(
    "--backend", metavar="NAME|MODULE:ATTRIBUTE", help="What predicts: torch, jax, ...; default: the run's."
)
@click.option(
    "--benchmark", metavar="NAME|FILE.toml", help="The data and the test procedure; default: the run's own."
)
@click.option("--data", metavar="DIR", help="Folder of the pictures.")
@click.option(
    "--architecture",
    metavar="NAME|FILE.json|MODULE:ATTRIBUTE",
    help="The network that a checkpoint's tensors belong to; a run or directory has its own.",
)
@click.option("--classes", type=click.IntRange(min=1), help="Classes or keypoints of --architecture.")
@click.option("--form", type=click.Choice(["release", "paper"]), help="Reading of its gated parts.")
@click.option(
    "--inplace-abn/--no-inplace-abn",
    default=None,
    help="Read batch norms' scales as |scale| + eps, as GSTO's authors trained; or as they are.",
)
@click.option(
    "--set",
    "assignments",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a setting, as in evaluation.flip=true; repeatable.",
)
@click.option("--device", metavar="auto|cpu|cuda", help="Where to predict.")
@click.option("--precision", metavar="NAME", help="Arithmetic: float32, tf32 (GPU), float64.")
@click.option("--output", metavar="DIR", help="New folder for result.json.")
@click.option(
    "--submit", metavar="DIR", help="New folder for Cityscapes' PNGs of label ids or COCO's results, checked."
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
    form: Literal["release", "paper"] | None,
    inplace_abn: bool | None,
    assignments: tuple[str, ...],
    device: str | None,
    precision: str | None,
    output: str | None,
    submit: str | None,
    as_json: bool,
) -> int:
    """Score a trained network: a run's folder, a saved model's, or a published file of weights.

    A run is scored on its own data by its own test procedure unless --benchmark or --set say otherwise.
    """
    if architecture is None and (classes or form):
        raise click.UsageError("--classes and --form change the network that --architecture names: give it")
    shortcuts = {"data.folder": data, "train.device": device, "train.precision": precision}
    paths = {"source": source, "output": output, "submit": submit}
    network = (architecture, classes, form, inplace_abn)
    return _score(paths, backend, benchmark, network, assignments, shortcuts, as_json)


def _score(
    paths: Mapping[str, str | None],
    backend: str | None,
    benchmark: str | None,
    network: tuple[str | None, int | None, Literal["release", "paper"] | None, bool | None],
    assignments: Sequence[str],
    shortcuts: Mapping[str, str | None],
    as_json: bool,
) -> int:
    from gsto_spec import GstoError
    from gsto_spec.locate import locate
    from gsto_train.convert import Reading
    from gsto_train.errors import InputError
    from gsto_train.interrupts import Interrupted, Interrupts
    from gsto_train.report import Report
    from gsto_train.schema import assignment
    from gsto_train.scoring import ScoringRequest, score
    from gsto_train.submission import SubmissionError

    architecture, classes, form, inplace_abn = network
    try:
        with Interrupts().installed():
            places = {option: path(option, text) for option, text in paths.items() if text is not None}
            given = {key: value for key, value in shortcuts.items() if value is not None}
            request = ScoringRequest(
                backend=backend,
                benchmark=benchmark,
                graph=None if architecture is None else locate(architecture, classes=classes, form=form),
                architecture=architecture,
                reading=None if inplace_abn is None else Reading(inplace_abn),
                overrides={**dict(map(assignment, assignments)), **given},
                **places,
            )
            result = score(request, Report(json=as_json))
            if as_json:
                with standard_output():
                    click.echo(json.dumps(result, indent=1, ensure_ascii=False))
    except (InputError, GstoError) as error:
        return fail(NAME, str(error), WRONG_INPUT)
    except SubmissionError as error:
        return fail(NAME, f"{error}; nothing was submitted, run the same command again", FAILED)
    except Interrupted as interrupted:
        return fail(NAME, "interrupted; run the same command again", interrupted.status)
    except OSError as error:
        return fail(
            NAME, f"{error.filename or 'standard error'}: {error.strerror}; mend that, try again", FAILED
        )
    except Exception as error:
        if not out_of_memory(error):
            raise
        return fail(
            NAME,
            f"out of memory: {str(error) or 'none is left'}; predict less at once, with a smaller "
            "train.evaluation_batch or evaluation.window",
            FAILED,
        )
    return DONE
