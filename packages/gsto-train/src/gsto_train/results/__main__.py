"""`python -m gsto_train.results`: file a run's result, and print docs/results.md."""

from pathlib import Path

import click

from gsto_train.command_line import CONTEXT, DONE, WRONG_INPUT, fail, run_command

NAME = "python -m gsto_train.results"


@click.group(context_settings=CONTEXT)
def command() -> None:
    """Keep results of benchmarks, and show them beside the paper's."""


@command.command("file")
@click.argument("runs", metavar="RUN...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to; default: the package's own.")
@click.option("--replace", is_flag=True, help="Put the run in the place of one that is filed already.")
def file_runs(runs: tuple[Path, ...], folder: Path | None, replace: bool) -> int:
    """File what is in a run's folder, or in gsto-eval's --output, in brief."""
    from gsto_train.errors import InputError
    from gsto_train.results.filing import FOLDER, file, of_folder

    try:
        for run in [of_folder(path) for path in runs]:
            click.echo(str(file(run, folder or FOLDER, replace=replace)))
    except InputError as error:
        return fail(NAME, str(error), WRONG_INPUT)
    return DONE


@command.command("page")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where results lie; default: the package's own."
)
def page(folder: Path | None) -> int:
    """Print docs/results.md."""
    from gsto_train.errors import InputError
    from gsto_train.results.filing import FOLDER, filed
    from gsto_train.results.page import markdown

    try:
        click.echo(markdown(filed(folder or FOLDER)), nl=False)
    except InputError as error:
        return fail(NAME, str(error), WRONG_INPUT)
    return DONE


if __name__ == "__main__":
    run_command(command, NAME, None, interrupted="nothing was written")
