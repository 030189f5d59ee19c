"""`gsto-spec`: look at declared networks from the command line."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import click
import numpy as np
from click.shell_completion import CompletionItem
from numpy.typing import NDArray

import gsto_spec
from gsto_spec import passes_report, tables
from gsto_spec.backend import tensor_file, tensor_file_endings
from gsto_spec.catalog import architectures, entry
from gsto_spec.checkpoint import CheckpointWarning, read_checkpoint
from gsto_spec.cost import Cost, Counting, Part, cost
from gsto_spec.diff import declared, describe, diff
from gsto_spec.draw import draw
from gsto_spec.errors import GstoError, nearest, printable
from gsto_spec.forms import FORMS, FormName
from gsto_spec.graph import Graph
from gsto_spec.locate import is_directory, locate
from gsto_spec.onnx import write_onnx
from gsto_spec.passes import RULES, optimize
from gsto_spec.published import CITYSCAPES, COCO, TABLES
from gsto_spec.rewrite import RewriteLog
from gsto_spec.weights import initial_weights

DEFAULT_SIZE = (1024, 2048)


_SIDE = re.compile(r"0*[1-9]\d{0,5}", re.ASCII)


def _size(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """`HxW`, such as 1024x2048, as height and width."""
    if value is None:
        return None
    parts = value.lower().split("x")
    if len(parts) != 2 or not all(_SIDE.fullmatch(part) for part in parts):
        raise click.BadParameter(f"expected HxW such as 1024x2048, found {value}", context, option)
    return int(parts[0]), int(parts[1])


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"gsto-spec: {printable(' '.join(message.split()))}", err=True)
    sys.exit(status)


def _give_up_output() -> None:
    """Send standard output nowhere: at its end Python writes once more what a full disk did not take."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def usage_problem(error: click.ClickException) -> str:
    """What is wrong with a command line, in click's words but for names that are like a wrong one."""
    name = getattr(error, "option_name", None) or getattr(error, "command_name", None)
    known = getattr(error, "possibilities", None)
    if not name or not known:
        return error.format_message()
    return f"{error.message.removesuffix('.')}{nearest(name, known)}"


def completion_problem(name: str) -> str | None:
    """What is wrong where the command `name` is asked as by a shell's script for completion, but by none."""
    variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
    shell, _, asked = os.environ.get(variable, "").partition("_")
    if asked != "complete":
        return None
    return (
        f"{variable}: expected COMP_WORDS and COMP_CWORD beside it, as a shell's script for completion "
        f"has them; unset it, or source what {variable}={shell}_source {name} prints"
    )


class _Commands(click.Group):
    """A group whose input errors are one line and status 2."""

    def main(
        self, args: Sequence[str] | None = None, prog_name: str | None = None,
        complete_var: str | None = None, standalone_mode: bool = True, **extra: Any,
    ) -> Any:  # fmt: skip
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            sys.exit(super().main(args, prog_name, complete_var, standalone_mode=False, **extra))
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            _fail(usage_problem(error), error.exit_code)
        except (KeyError, ValueError):
            if (problem := completion_problem("gsto-spec")) is None:
                raise
            _fail(problem, 2)
        except click.Abort:
            _fail("interrupted", 130)
        except OSError as error:
            _give_up_output()
            _fail(f"{error.filename or 'standard output'}: {error.strerror}", 1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GstoError as error:
            click.echo(f"gsto-spec: {error}", err=True)
            ctx.exit(2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(gsto_spec.__version__, prog_name="gsto-spec")
def main() -> None:
    """Networks for pixel labelling, declared once. An ARCHITECTURE is a name of the catalogue (see `list`), a
    graph's FILE.json, a saved model's or a run's directory, or module:attribute.
    """


def _complete(context: click.Context, argument: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What a shell offers for an architecture: names, and files where none begins so."""
    names = [CompletionItem(name) for name in architectures() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def _complete_number(context: click.Context, argument: click.Parameter, incomplete: str) -> list[str]:
    return [str(number) for number in TABLES if str(number).startswith(incomplete)]


_architecture = click.argument("architecture", shell_complete=_complete)
_classes = click.option("--classes", type=click.IntRange(min=1), help="Classes or keypoints.")
_form = click.option("--form", type=click.Choice(tuple(FORMS)), help="The reading of the gated parts.")
_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


@main.command("list")
@_json
def list_command(as_json: bool) -> None:
    """The architectures of the catalogue, and what was published."""
    if as_json:
        click.echo(json.dumps({name: _entry_facts(name) for name in architectures()}, indent=2))
        return
    for family, names in groupby(architectures(), lambda name: entry(name).family):
        click.echo(f"{family}:")
        for name in names:
            click.echo(f"  {name:<44}{_scores(name)}".rstrip())


def _scores(name: str) -> str:
    """The published scores of a network, in short; their measures are told by `--json` and by `table`."""
    scores = [item for item in entry(name).published if item.measure in (CITYSCAPES, COCO)]
    short = [item.source.replace(" (authors' own run)", ", own run") for item in scores]
    words = ", ".join(f"{item.value} ({source})" for item, source in zip(scores, short, strict=True))
    return words and f"{scores[0].measure.partition(',')[0]} {words}"


def _entry_facts(name: str) -> dict[str, Any]:
    found = entry(name)
    return {"family": found.family, "size": found.size, "variant": dataclasses.asdict(found.variant),
            "published": [dataclasses.asdict(item) for item in found.published]}  # fmt: skip


@main.command("table")
@click.argument("number", type=int, required=False, shell_complete=_complete_number)
@click.option("--markdown", is_flag=True, help="All tables as one page, docs/tables.md.")
@_form
@_json
def table_command(number: int | None, markdown: bool, form: FormName | None, as_json: bool) -> None:
    """A table of the paper beside our counts. NUMBER is 1, 2, 3, 4, 6 or 10."""
    if markdown == (number is not None) or (markdown and (as_json or form)):
        raise click.UsageError("expected the NUMBER of a table, or --markdown alone")
    if number is None:
        click.echo(tables.markdown(), nl=False)
    else:
        click.echo(json.dumps(tables.facts(number, form), indent=2) if as_json else tables.text(number, form))


@main.command("show")
@_architecture
@_classes
@_form
@_json
def show_command(architecture: str, classes: int | None, form: FormName | None, as_json: bool) -> None:
    """Every node of a graph with its symbolic shape. With --json the graph file itself."""
    graph = locate(architecture, classes=classes, form=form)
    click.echo(graph.to_json(indent=1) if as_json else str(graph))


@main.command("check")
@_architecture
@_classes
@_form
@click.option("--size", metavar="HxW", callback=_size, default=None, help="The input's height and width.")
def check_command(
    architecture: str, classes: int | None, form: FormName | None, size: tuple[int, int] | None
) -> None:
    """Check that a graph is sound. Status 0 and one line where it is, 2 and the first problem where not."""
    graph = locate(architecture, classes=classes, form=form)
    if size is not None:
        graph.check((1, _channels(graph), *size))
    problem = graph.training_form_violation()
    kind = "training form" if problem is None else f"inference form ({problem})"
    click.echo(f"{architecture}: sound, {kind}, digest {graph.digest}")


@main.command("cost")
@_architecture
@_classes
@_form
@click.option("--size", metavar="HxW", callback=_size, default=None,
              help="The input's height and width [default: the published size, or 1024x2048].")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Pictures at a time.")
@click.option("--counting", type=click.Choice(["convolutions", "every-op"]), default="convolutions",
              show_default=True, help="Whose multiply-adds count.")  # fmt: skip
@_json
def cost_command(
    architecture: str, classes: int | None, form: FormName | None, size: tuple[int, int] | None, batch: int,
    counting: Counting, as_json: bool,
) -> None:  # fmt: skip
    """Parameters, multiply-adds, activation memory, by op and scope."""
    graph = locate(architecture, classes=classes, form=form)
    shape = (batch, _channels(graph), *(size or _usual_size(architecture)))
    counted = cost(graph, shape, counting=counting)
    if as_json:
        facts = {"architecture": architecture, "input_shape": shape, "counting": counting,
                 "graph_digest": graph.digest, **dataclasses.asdict(counted)}  # fmt: skip
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(_cost_table(counted, f"{architecture}, input {' x '.join(map(str, shape))}"))


_outputs = click.option("--output", "outputs", multiple=True, metavar="NAME",
                        help="An output to keep, again for each [default: all].")  # fmt: skip
_rules = click.option("--rule", "rules", multiple=True, metavar="NAME",
                      help="A rewrite to apply, again for each [default: all].")  # fmt: skip


@main.command("optimize")
@_architecture
@_classes
@_form
@_outputs
@_rules
@click.option("--size", metavar="HxW", callback=_size, default=None,
              help="The input's height and width [default: the published size, or 1024x2048].")  # fmt: skip
@click.option("--nodes", is_flag=True, help="Every node where a rule fired or did not, not only how many.")
@_json
def optimize_command(
    architecture: str, classes: int | None, form: FormName | None, outputs: tuple[str, ...],
    rules: tuple[str, ...], size: tuple[int, int] | None, nodes: bool, as_json: bool,
) -> None:  # fmt: skip
    """Which rewrites for inference fire and which not, and why. With the cost before and after.

    Nothing is written: a graph in inference form is no checkpoint, and is made where it is needed.
    """
    graph = locate(architecture, classes=classes, form=form)
    input_shape = (1, _channels(graph), *(size or _usual_size(architecture)))
    log = RewriteLog()
    # Whether a rule fires depends on the graph alone, so any weights will do.
    zeros = {name: np.zeros(shape) for name, shape in graph.parameters.items()}
    optimized, _ = optimize(graph, zeros, outputs=outputs or None, rules=rules or RULES, log=log)
    if as_json:
        click.echo(json.dumps(_optimize_facts(architecture, graph, optimized, input_shape, log), indent=2))
    else:
        counted = passes_report.comparison(graph, optimized, input_shape)
        parts = (str(log) if nodes else "", passes_report.firings(log, rules or RULES), counted)
        click.echo("\n\n".join(filter(None, parts)))


def _optimize_facts(
    architecture: str, before: Graph, after: Graph, input_shape: tuple[int, int, int, int], log: RewriteLog
) -> dict[str, Any]:
    graphs = {"before": before, "after": after}
    costs = {title: {counting: dataclasses.asdict(counted)
                     for counting, counted in passes_report.costs(graph, input_shape).items()}
             for title, graph in graphs.items()}  # fmt: skip
    return {"architecture": architecture, "input_shape": input_shape, **dataclasses.asdict(log),
            "cost": costs, "nodes": {title: passes_report.ops(graph) for title, graph in graphs.items()},
            "graph_digest": {title: graph.digest for title, graph in graphs.items()}}  # fmt: skip


@main.command("export")
@_architecture
@_classes
@_form
@_outputs
@click.option("--onnx", "file", type=click.Path(path_type=Path), required=True, metavar="FILE.onnx",
              help="Where the ONNX model goes; replaces FILE.onnx.")  # fmt: skip
@click.option("--weights", type=click.Path(path_type=Path), metavar="DIR|CHECKPOINT",
              help="A saved directory, a run's, or a checkpoint [default: a directory ARCHITECTURE's own; "
                   "else initial weights, for timing].")  # fmt: skip
@click.option("--inplace-abn/--no-inplace-abn", default=None,
              help="How batch norms' scales are meant: |scale| + eps, or as they are.")  # fmt: skip
@click.option("--optimize", "optimized", is_flag=True, help="Apply the rewrites of `gsto-spec optimize`.")
@_rules
@click.option("--size", metavar="HxW", callback=_size, default=None,
              help="Take pictures of this size only [default: of any size].")  # fmt: skip
def export_command(
    architecture: str, classes: int | None, form: FormName | None, outputs: tuple[str, ...], file: Path,
    weights: Path | None, inplace_abn: bool | None, optimized: bool, rules: tuple[str, ...],
    size: tuple[int, int] | None,
) -> None:  # fmt: skip
    """Write a network and its weights as an ONNX model, in float32. It takes the extra gsto-spec[onnx]."""
    if rules and not optimized:
        raise click.UsageError("--rule: expected it with --optimize")
    if file.suffix.lower() != ".onnx":
        raise GstoError(f"{file}: expected a name ending in .onnx")
    graph = locate(architecture, classes=classes, form=form)
    own = weights is None and is_directory(architecture)
    values = _weights(Path(architecture) if own else weights, graph, inplace_abn)
    chosen = (rules or tuple(RULES)) if optimized else ()
    graph, values = optimize(graph, values, outputs=outputs or None, rules=chosen)
    write_onnx(file, graph, values, size=size)
    used = "its own weights" if own else weights or "initial weights"
    click.echo(f"{file}: {', '.join(graph.outputs)} of {architecture}, {used}, digest {graph.digest}")


def _weights(path: Path | None, graph: Graph, inplace_abn: bool | None) -> dict[str, NDArray[Any]]:
    if path is None:
        return dict(initial_weights(graph))
    ending = path.suffix.lower().removeprefix(".")
    framework = not path.is_dir() and ending in tensor_file_endings()
    decode = tensor_file(ending).decode if framework else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CheckpointWarning)
        found = read_checkpoint(path, graph, inplace_abn=inplace_abn, decode=decode)
    for warning in caught:
        click.echo(f"gsto-spec: {warning.message}", err=True)
    return dict(found)


@main.command("diff")
@click.argument("a", shell_complete=_complete)
@click.argument("b", shell_complete=_complete)
@_classes
@click.option("--form", "forms", type=click.Choice(tuple(FORMS)), multiple=True,
              help="The reading of the gated parts; given twice, A's and B's.")  # fmt: skip
@click.option("--size", metavar="HxW", callback=_size, default=None,
              help="The input's height and width [default: A's published size, or 1024x2048].")  # fmt: skip
@click.option("--nodes", is_flag=True, help="Every node and tensor that differs, not only how many.")
@_json
@click.pass_context
def diff_command(
    context: click.Context, a: str, b: str, classes: int | None, forms: tuple[FormName, ...],
    size: tuple[int, int] | None, nodes: bool, as_json: bool,
) -> None:  # fmt: skip
    """What differs between two architectures. Status 0 where nothing does, 1 where something does."""
    if len(forms) > 2:
        raise click.UsageError("--form: expected it once, or twice for A and B, found more")
    of_a, of_b = (forms[0], forms[-1]) if forms else (None, None)
    graphs = locate(a, classes=classes, form=of_a), locate(b, classes=classes, form=of_b)
    variants = declared(a, classes=classes, form=of_a), declared(b, classes=classes, form=of_b)
    shape = (1, _channels(graphs[0]), *(size or _usual_size(a)))
    found = diff(*graphs, variants=variants, input_shape=shape)
    facts = {"a": a, "b": b, **dataclasses.asdict(found)}
    click.echo(json.dumps(facts, indent=2) if as_json else describe(found, (a, b), nodes=nodes))
    context.exit(0 if found.same else 1)


@main.command("draw")
@_architecture
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE.svg",
              help="Where the drawing goes; - is standard output.")  # fmt: skip
@click.option("--ops", is_flag=True, help="Every op, instead of modules.")
@_classes
@_form
def draw_command(
    architecture: str, output: Path, ops: bool, classes: int | None, form: FormName | None
) -> None:
    """Draw a network as SVG. Its resolutions are lanes, with its modules, gates and losses."""
    if str(output) != "-" and output.suffix.lower() != ".svg":
        raise GstoError(f"{output}: expected a name ending in .svg, or - for standard output")
    drawing = draw(locate(architecture, classes=classes, form=form), title=architecture, ops=ops)
    if str(output) == "-":
        click.echo(drawing, nl=False)
        return
    try:
        output.write_text(drawing, encoding="utf-8")
    except OSError as error:
        raise GstoError(f"{output}: cannot be written: {error.strerror}") from None


def _usual_size(architecture: str) -> tuple[int, int]:
    return entry(architecture).size if architecture in architectures() else DEFAULT_SIZE


def _channels(graph: Graph) -> int:
    return next(iter(graph.inputs.values()), 3)


def _cost_table(counted: Cost, title: str) -> str:
    head = f"{'':<22}{'parameters':>14}{'convolutions':>14}{'multiply-adds':>18}{'activations':>14}"
    blocks = (_rows(counted.by_op), _rows(counted.by_scope), [_row("all", counted)])
    printed = f"multiply-adds / 2^30: {counted.macs / 2**30:.2f}"
    return "\n\n".join([f"{title}\n{head}", *("\n".join(rows) for rows in blocks), printed])


def _rows(parts: Mapping[str, Part]) -> list[str]:
    return [_row(name, part) for name, part in parts.items()]


def _row(name: str, part: Part) -> str:
    return f"{name:<22}{part.parameters:>14,}{part.conv_parameters:>14,}{part.macs:>18,}{_memory(part):>14}"


def _memory(part: Part) -> str:
    return f"{part.activation_bytes / 2**20:,.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
