"""The command `gsto-bench`; it imports nothing heavy before it is asked to do something."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast, get_args

import click

from gsto_train.bench.cases import JOBS, Job
from gsto_train.command_line import CONTEXT, DONE, FAILED, attempt, fail, path, run_command
from gsto_train.commands import completion
from gsto_train.commands.options import ARCHITECTURE
from gsto_train.output import standard_output

if TYPE_CHECKING:
    from gsto_train.bench.session import Request

NAME = "gsto-bench"
_AT_LEAST_ONE = click.IntRange(min=1)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `arguments` (without: the process's) and exit with its status."""
    run_command(command, NAME, arguments, interrupted="nothing was measured, run the same command again")


@click.command(context_settings=CONTEXT)
@click.argument("job", type=click.Choice(JOBS), default="inference")
@click.option(
    "--architecture",
    "architectures",
    metavar=ARCHITECTURE,
    multiple=True,
    shell_complete=completion.ARCHITECTURES,
    help="The network; repeatable: times are told in multiples of the first.  [gsto-hrnet-w18-small-v2]",
)
@click.option("--size", metavar="HxW", help="Of the pictures or crops.  [512x1024; step: 256x512]")
@click.option("--batch", type=_AT_LEAST_ONE, help="Pictures at once.  [1; step: 2]")
@click.option(
    "--precision",
    "precisions",
    metavar="NAME",
    multiple=True,
    shell_complete=completion.PRECISIONS,
    help="float32, tf32, bfloat16, ...; repeatable.  [float32]",
)
@click.option(
    "--device", metavar="auto|cpu|cuda", default="auto", show_default=True, shell_complete=completion.DEVICES
)
@click.option("--threads", type=_AT_LEAST_ONE, help="Processors that a subject may use.  [all]")
@click.option(
    "--only", metavar="SUBJECT", multiple=True, help="torch-plain, jax-fast, ...; repeatable.  [all]"
)
@click.option("--rounds", type=_AT_LEAST_ONE, default=7, show_default=True, help="Turns of every subject.")
@click.option("--repeats", type=_AT_LEAST_ONE, help="Runs of a turn.  [as many as fill half a second]")
@click.option("--ceilings/--no-ceilings", default=True, help="Measure what the machine can do beside it.")
@click.option(
    "--data",
    metavar="DIR",
    help="For data: Cityscapes' folder.  [drawn scenes of its size]",
    shell_complete=completion.FOLDERS,
)
@click.option("--json", "as_json", is_flag=True, help="Print the results on standard output.")
@click.option(
    "--output", metavar="FILE.json", help="Write the results to a file.", shell_complete=completion.FILES
)
@click.option(
    "--plot", metavar="FILE.svg|png|pdf", help="Draw them; needs matplotlib.", shell_complete=completion.FILES
)
@click.version_option(package_name="gsto-train", message="%(prog)s %(version)s")
def command(
    job: str, size: str | None, data: str | None, as_json: bool, output: str | None, plot: str | None,
    **given: Any,
) -> int:  # fmt: skip
    """Measure how fast networks predict, train, read pictures and are scored, side by side.

    \b
    inference   a prediction, from numpy to numpy
    step        a training step
    data        a training crop from PNGs of Cityscapes' size, in one thread, beside bare decoding
    evaluation  a picture predicted and scored
    growth      predictions at growing sizes (256 to 1024) and batches (1 to 8)

    Every subject runs in a process of its own and they take turns; ratios are medians over the rounds.
    Alone it measures the inference of gsto-hrnet-w18-small-v2 on a picture of 512x1024.
    """  # noqa: D301 - click reads the escape

    def work() -> int:
        places = {"--output": output, "--plot": plot}
        _check(places)
        return _measure(_request(job, size, data, given), places, as_json)

    return attempt(NAME, work)


def _check(places: Mapping[str, str | None]) -> None:
    """Refuse at once what would fail after minutes of measuring."""
    from gsto_train.absence import Absent
    from gsto_train.bench.plot import ENDINGS, require_matplotlib
    from gsto_train.errors import InputError

    for option, endings in (("--output", (".json",)), ("--plot", ENDINGS)):
        given = places[option]
        if given is None:
            continue
        where = path(option, given)
        if where.suffix not in endings:
            raise InputError(f"{option} {given}: expected a name that ends in {' or '.join(endings)}")
        if not where.absolute().parent.is_dir():
            raise InputError(f"{option} {given}: expected a file in a folder that is there; make the folder")
    if places["--plot"] is not None:
        try:
            require_matplotlib()
        except Absent as reason:
            raise InputError(f"--plot: matplotlib is {reason}") from None


def _request(job: str, size: str | None, data: str | None, given: Mapping[str, Any]) -> "Request":
    from gsto_train.bench import cases
    from gsto_train.bench.session import Request

    for precision in given["precisions"]:
        _check_precision(precision)
    return Request(
        job=cast(Job, job),
        size=None if size is None else cases.size(size),
        data=None if data is None else path("--data", data),
        **given,
    )


def _check_precision(name: str) -> None:
    from gsto_spec.precision import Precision
    from gsto_train.errors import InputError, nearest

    known = get_args(Precision)
    if name not in known:
        raise InputError(
            f"--precision: expected one of {', '.join(known)}, found {name!r}{nearest(name, known)}"
        )


def _measure(request: "Request", places: Mapping[str, str | None], as_json: bool) -> int:
    from gsto_train.bench import table
    from gsto_train.bench.plot import draw
    from gsto_train.bench.session import run
    from gsto_train.files import write_json

    session = run(request, lambda text: click.echo(text, err=True))
    document = session.document()
    ran = any(row["state"] == "ran" for row in document["rows"])
    if (output := places["--output"]) is not None:
        write_json(path("--output", output), document)
    if (plot := places["--plot"]) is not None and ran:
        draw(document, path("--plot", plot))
    with standard_output():
        table.show(document, table.console(stderr=as_json))
        if as_json:
            click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    return DONE if ran else fail(NAME, "no subject ran; the table says why", FAILED)
