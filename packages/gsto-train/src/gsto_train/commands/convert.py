"""The command `gsto-convert`; it imports nothing heavy before it is asked to do something."""

import dataclasses
import json
from collections.abc import Sequence
from typing import NoReturn

import click

from gsto_train.command_line import CONTEXT, DONE, FAILED, attempt, fail, path, run_command
from gsto_train.commands import completion
from gsto_train.commands.options import PATH_TEXT, FormName, NetworkOptions, network_options

NAME = "gsto-convert"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `arguments` (without: the process's) and exit with its status."""
    run_command(command, NAME, arguments, interrupted="nothing was written")


@click.command(context_settings=CONTEXT)
@click.argument("source", metavar="IN", type=PATH_TEXT, shell_complete=completion.FILES)
@click.argument("target", metavar="OUT", type=PATH_TEXT, shell_complete=completion.FILES)
@network_options
@click.option("--initialize", is_flag=True, help="Initialise whatever of the network IN does not fit.")
@click.option("--seed", type=click.IntRange(min=0), help="Of what is initialised; 0 if not given.")
@click.option("--force", is_flag=True, help="Replace OUT where it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the report for machines.")
@click.version_option(package_name="gsto-train", message="%(prog)s %(version)s")
def command(
    source: str,
    target: str,
    architecture: str | None,
    classes: int | None,
    form: FormName | None,
    inplace_abn: bool | None,
    initialize: bool,
    seed: int | None,
    force: bool,
    as_json: bool,
) -> int:
    """Convert weights between a saved model's folder, a .safetensors file and a torch .pth or .pt file.

    Of a run's folder the trained network is taken.

    Every tensor arrives bit for bit, under its canonical name; whatever is left out, renamed, read
    otherwise, initialised or added is printed.
    """
    from gsto_train.convert import ConversionError, Reading, Report, convert
    from gsto_train.run import runfolder

    report: Report | None = None

    def work() -> int:
        nonlocal report
        network = NetworkOptions(architecture, classes, form)
        asked = inplace_abn is not None or initialize or seed is not None
        reading = Reading(inplace_abn, initialize, seed or 0) if asked else None
        given = runfolder.saved_model(path("IN", source))
        try:
            report = convert(given, path("OUT", target), graph=network.graph(), reading=reading, force=force)
        except ConversionError as error:
            return fail(NAME, str(error), FAILED)
        return DONE

    status = attempt(NAME, work, interrupted="nothing was written", unnamed=target)
    if report is not None:
        click.echo(json.dumps(dataclasses.asdict(report), indent=1) if as_json else str(report))
    return status
