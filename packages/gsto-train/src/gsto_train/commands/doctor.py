"""The command `gsto-doctor`; it imports nothing heavy before it is asked to do something."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import click

from gsto_train.command_line import CONTEXT, DONE, FAILED, fail, run_command
from gsto_train.output import standard_output

NAME = "gsto-doctor"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `arguments` (without: the process's) and exit with its status."""
    run_command(command, NAME, arguments, interrupted="run the same command again")


@click.command(context_settings=CONTEXT)
@click.option("--json", "as_json", is_flag=True, help="Print all that is found for machines.")
@click.version_option(package_name="gsto-train", message="%(prog)s %(version)s")
def command(as_json: bool) -> int:
    """Look at what is installed, and test every backend for some seconds.

    Tells versions, devices, threads, memory and disk, the data that GSTO_DATA_* variables name, and
    optional libraries. A backend is tested by a small network: a prediction against the definition within
    what rounding explains, and training steps that lower the loss. Ends with 0 where all that is installed
    works, with 1 otherwise.
    """
    from gsto_train.doctor.examination import examine
    from gsto_train.interrupts import Interrupted, Interrupts
    from gsto_train.wording import counted

    try:
        with Interrupts().installed():
            found = examine()
            with standard_output():
                shown = [json.dumps(found, indent=1, ensure_ascii=False)] if as_json else _lines(found)
                click.echo("\n".join(shown))
    except Interrupted as interrupted:
        return fail(NAME, "interrupted; run the same command again", interrupted.status)
    except OSError as error:
        return fail(NAME, f"{error.filename or 'standard error'}: {error.strerror}", FAILED)
    problems = len(found["problems"])
    return fail(NAME, f"{counted(problems, 'problem')}, told above", FAILED) if problems else DONE


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield "versions: " + ", ".join(f"{name} {told}" for name, told in found["versions"].items() if told)
    yield from _machine(found["machine"])
    for name, backend in found["backends"].items():
        yield from _backend(name, backend)
    for variable, data in found["data"].items():
        takers = ", ".join(data["benchmarks"]) or "no benchmark"
        count = f": {data['validation']} to score on" if "validation" in data else ""
        yield f"data: {variable}={data['folder']}, for {takers}{count}"
    for extra, libraries in found["optional"].items():
        told = f"missing {', '.join(libraries['missing'])}: {libraries['install']}"
        yield f"optional {extra}: {told if libraries['missing'] else 'installed'}"
    yield from (f"advice: {line}" for line in found["advice"])
    yield from (f"problem: {line}" for line in found["problems"])
    if not found["problems"]:
        yield "all that is installed works"


def _machine(machine: Mapping[str, Any]) -> Iterator[str]:
    from gsto_train.run.memory import gibibytes
    from gsto_train.wording import counted

    threads = [f"{name}={value}" for name, value in machine["thread_variables"].items()]
    free, disk = machine["memory_bytes"]["free"], machine["disk_bytes"]
    yield "machine: " + ", ".join(
        [machine["platform"], counted(machine["processors"], "processor"), *threads]
    )
    memory = "unknown" if free is None else gibibytes(free)
    yield f"free: memory {memory}, disk {gibibytes(disk['free'])} of {gibibytes(disk['total'])} here"


def _backend(name: str, backend: Mapping[str, Any]) -> Iterator[str]:
    if "versions" not in backend:
        yield f"backend {name}: broken"
        return
    versions = ", ".join(f"{package} {told}" for package, told in backend["versions"].items())
    yield f"backend {name}: {versions}; devices {', '.join(backend['devices'])}"
    yield f"  precisions {', '.join(backend['precisions'])}"
    for device, test in backend["tests"].items():
        losses = test["losses"]
        yield (
            f"  on {device}: a prediction within {test['error_over_bound']:.2g} of its bound, "
            f"loss {losses[0]:.4f} -> {losses[-1]:.4f} in {len(losses) - 1} steps"
        )


if __name__ == "__main__":
    main()
