"""The command `gsto-predict`; it imports nothing heavy before it is asked to do something."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gsto_train.command_line import CONTEXT, DONE, FAILED, attempt, fail, path, run_command
from gsto_train.commands import completion
from gsto_train.commands.options import (
    ARCHITECTURE,
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

if TYPE_CHECKING:
    from gsto_train.look.explaining import Explanation
    from gsto_train.look.network import Network
    from gsto_train.look.predicting import Looker
    from gsto_train.report import Report

NAME = "gsto-predict"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `arguments` (without: the process's) and exit with its status."""
    run_command(command, NAME, arguments, interrupted="run the same command again")


class _Share(click.FloatRange):
    """A number from 0 to 1; click's own range lets NaN pass."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        number = float(super().convert(value, parameter, context))
        if math.isnan(number):
            self.fail(f"{value} is not in the range 0<=x<=1.", parameter, context)
        return number


@click.command(cls=SettingsCommand, context_settings=CONTEXT)
@click.argument("pictures", metavar="PICTURE|FOLDER|PATTERN...", nargs=-1, shell_complete=completion.FILES)
@click.option(
    "--model",
    type=PATH_TEXT,
    required=True,
    metavar="RUN|DIRECTORY|CHECKPOINT",
    help="The trained network.",
    shell_complete=completion.FILES,
)
@click.option(
    "--output",
    type=PATH_TEXT,
    metavar="DIR",
    help="New folder for all that is written; default: predictions, predictions-2, ...",
    shell_complete=completion.FOLDERS,
)
@click.option("--force", is_flag=True, help="Replace files in --output.")
@backend_option("What predicts: torch, jax, ...; default: the run's.")
@click.option(
    "--boxes",
    type=PATH_TEXT,
    metavar="FILE.json",
    help="Where persons are, in COCO's formats; default: the whole picture.",
    shell_complete=completion.FILES,
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="N pictures of the model's own validation data.",
)
@click.option(
    "--truth",
    type=PATH_TEXT,
    metavar="PNG|DIR",
    help="Class indices of the picture, or a folder of such PNGs.",
    shell_complete=completion.FILES,
)
@click.option(
    "--explain",
    is_flag=True,
    help="Draw every branch's mean feature map, every gate, and a strip to compare.",
)
@click.option(
    "--baseline",
    type=PATH_TEXT,
    metavar="RUN|DIRECTORY|CHECKPOINT",
    help="A second network of the same labels, drawn beside it by --explain.",
    shell_complete=completion.FILES,
)
@click.option(
    "--baseline-architecture", metavar=ARCHITECTURE,
    shell_complete=completion.ARCHITECTURES, help="The network that a baseline's checkpoint belongs to.",
)  # fmt: skip
@click.option(
    "--baseline-inplace-abn/--no-baseline-inplace-abn",
    default=None,
    help="How its scales are read, as --inplace-abn says it of --model.",
)
@click.option(
    "--format", "figure_format", type=click.Choice(["png", "pdf", "svg"]), default="png", show_default=True,
    help="Of the figures that --explain draws.",
)  # fmt: skip
@click.option(
    "--opacity", type=_Share(0, 1), default=0.55, show_default=True, help="Of the classes' colours."
)
@benchmark_option("The test procedure; default: the model's own.")
@data_option("Folder of the data that --samples and class names come from.")
@network_options
@set_option("evaluation.flip=true")
@device_option("Where to predict.")
@precision_option("Arithmetic: float32, tf32 (GPU), float64.")
@click.option("--json", "as_json", is_flag=True, help="Print predictions.json on standard output.")
@click.version_option(package_name="gsto-train", message="%(prog)s %(version)s")
def command(**options: Any) -> int:
    """Run a trained network on pictures, and draw what it finds.

    Classes become overlays and PNGs of class indices, joints become skeletons; predictions are those that
    gsto-eval scores. Pictures that do not read are named and passed over: the exit status is 1 then.
    """
    given = Options(**options)
    if not given.pictures and given.samples is None:
        raise click.UsageError("no pictures: name files, folders or patterns, or give --samples N")
    if given.pictures and given.samples is not None:
        raise click.UsageError("--samples N takes the model's own pictures: leave the others out")
    if given.samples is not None and (given.boxes or given.truth):
        raise click.UsageError("--samples N have their own boxes and truth: leave --boxes and --truth out")
    if given.baseline and not given.explain:
        raise click.UsageError("--baseline is drawn by --explain: give both")
    if given.baseline is None and (given.baseline_architecture or given.baseline_inplace_abn is not None):
        raise click.UsageError(
            "--baseline-architecture and --baseline-inplace-abn go with --baseline: give it"
        )
    given.network()  # Refused before anything is read.
    return _predict(given)


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    pictures: tuple[str, ...]
    model: str
    output: str | None
    force: bool
    backend: str | None
    boxes: str | None
    samples: int | None
    truth: str | None
    explain: bool
    baseline: str | None
    baseline_architecture: str | None
    baseline_inplace_abn: bool | None
    figure_format: str
    opacity: float
    benchmark: str | None
    data: str | None
    architecture: str | None
    classes: int | None
    form: FormName | None
    inplace_abn: bool | None
    assignments: tuple[str, ...]
    device: str | None
    precision: str | None
    as_json: bool

    def network(self) -> NetworkOptions:
        """What --model is, where it is a file of tensors."""
        return NetworkOptions(self.architecture, self.classes, self.form, self.inplace_abn)


def _predict(given: Options) -> int:
    from gsto_train.finite import NotFiniteError
    from gsto_train.report import Report
    from gsto_train.wording import counted

    def work() -> int:
        try:
            summary = _run(given, Report(json=given.as_json))
        except NotFiniteError as error:
            return fail(NAME, str(error), FAILED)
        if given.as_json:
            with standard_output():
                click.echo(json.dumps(summary, indent=1, ensure_ascii=False))
        predicted, skipped, without = (len(summary[key]) for key in ("pictures", "skipped", "without_truth"))
        told = [
            f"{number} of {counted(total, noun)} {'was' if number == 1 else 'were'} {fate}"
            for number, total, noun, fate in (
                (skipped, skipped + predicted, "picture", "passed over"),
                (without, predicted, "truth", "left out"),
            )
            if number
        ]
        return fail(NAME, f"{'; '.join(told)}, named above", FAILED) if told else DONE

    interrupted = "run the same command again (with --force if it wrote files, which stay)"
    return attempt(NAME, work, interrupted=interrupted, less="predict in windows, with evaluation.window")


def _run(given: Options, report: "Report") -> dict[str, Any]:
    """Predict, write, and return what predictions.json holds."""
    from gsto_train.look import gallery, inputs, sources
    from gsto_train.look.boxes import read_boxes
    from gsto_train.look.predicting import looker
    from gsto_train.wording import counted

    named = sources.find(given.pictures)
    place = gallery.default_output() if given.output is None else path("--output", given.output)
    output = gallery.Output(place, force=given.force)
    boxes = None if given.boxes is None else read_boxes(path("--boxes", given.boxes))
    network = _network(given, path("--model", given.model), given.network(), report)
    if boxes is not None and not network.poses:
        raise click.UsageError("--boxes are where joints are found, and this network finds classes")
    baseline = _baseline(given, network, report)
    truth = None if given.truth is None else path("--truth", given.truth)
    shown = (
        inputs.of_validation(network.settings, given.samples)
        if given.samples is not None
        else inputs.of_files(named, network, boxes, truth)
    )
    looks = looker(network, boxed=boxes is not None or given.samples is not None)
    explanation = _explanation(given, network, looks, baseline)
    output.make()
    also = gallery.nothing_more if explanation is None else explanation.into(output)
    outcome = gallery.predict_all(shown, network, looks, output, report, opacity=given.opacity, also=also)
    summary = gallery.summarize(network, looks, output, outcome)
    if outcome.pictures and not given.as_json:
        report.say(
            f"{counted(len(outcome.pictures), 'picture')} by {gallery.title(network)}; "
            f"all is in {output.path}"
        )
    return summary


def _explanation(
    given: Options, network: "Network", looks: "Looker", baseline: "Network | None"
) -> "Explanation | None":
    if not given.explain:
        return None
    from gsto_train.look.explaining import Explanation

    return Explanation(network, looks, baseline, given.figure_format)


def _network(given: Options, source: Path, options: NetworkOptions, report: "Report") -> "Network":
    from gsto_train.look.network import open_network
    from gsto_train.scoring import ScoringRequest

    network = open_network(
        ScoringRequest(
            source=source,
            backend=given.backend,
            benchmark=given.benchmark,
            graph=options.graph(),
            architecture=options.architecture,
            reading=options.reading(),
            overrides=_overrides(given),
        )
    )
    for note in network.notes:
        report.note(note)
    return network


def _baseline(given: Options, network: "Network", report: "Report") -> "Network | None":
    """Return the second network, which must find the same labels; raises `InputError`."""
    from dataclasses import replace

    from gsto_train import benchmarks
    from gsto_train.data.classes import class_names
    from gsto_train.errors import InputError
    from gsto_train.wording import counted

    if given.baseline is None:
        return None
    architecture = given.baseline_architecture
    classes = len(network.labels) if architecture else None
    options = NetworkOptions(architecture, classes, inplace_abn=given.baseline_inplace_abn)
    known = network.benchmark if architecture and network.benchmark in benchmarks.names() else None
    like_the_model = replace(
        given, backend=given.backend or network.backend.name, benchmark=given.benchmark or known
    )
    found = _network(like_the_model, path("--baseline", given.baseline), options, report)
    unnamed = class_names(len(network.labels))  # A file of tensors has no names.
    if len(found.labels) != len(network.labels) or len({found.labels, network.labels, unnamed}) > 2:
        raise InputError(
            f"--baseline {given.baseline}: expected a network of the same "
            f"{counted(len(network.labels), 'label')} as --model, found {counted(len(found.labels), 'other')}"
            "; give one that was trained on the same data"
        )
    return replace(found, labels=network.labels, palette=network.palette)


def _overrides(given: Options) -> Mapping[str, object]:
    from gsto_train.schema import assignment

    shortcuts = {
        "data.folder": given.data, "train.device": given.device, "train.precision": given.precision,
    }  # fmt: skip
    asked = {key: value for key, value in shortcuts.items() if value is not None}
    return {**dict(map(assignment, given.assignments)), **asked}


if __name__ == "__main__":
    main()
