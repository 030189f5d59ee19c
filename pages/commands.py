"""Parses commands without running them: a program, option, setting or session that is not there is told."""

import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import click

from gsto_train import benchmarks, schema, settings
from pages.markdown import ROOT

_SHELL = {".", "export", "cd", "if", "then", "fi", "[", "{", "}", "wait", "for", "do", "done", "eval"}
_CLUSTER = {"srun", "scontrol"}
_OPERATORS, _REDIRECTIONS = set("();<>|&"), set("<>")


class CommandError(Exception):
    """A command that would be refused."""


def check(code: str) -> None:
    """Parse every command of a shell script; raises `CommandError`, click's or gsto_train's errors."""
    functions = set(re.findall(r"^(\w+)\(\)", code, re.MULTILINE))
    for words in _commands(code):
        if words[0] not in functions:
            _check(words)


def programs() -> dict[str, EntryPoint]:
    """Return the commands of these packages, by name."""
    found = entry_points(group="console_scripts")
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)
            if entry.name.startswith("gsto-")}  # fmt: skip


def click_command(entry: EntryPoint) -> click.Command:
    """Return what parses a command's options: a module's `command`, or the entry point itself."""
    found = getattr(import_module(entry.module), "command", None) or entry.load()
    if not isinstance(found, click.Command):
        raise CommandError(f"{entry.name}: expected a click command, found {found!r}")
    return found


def _commands(code: str) -> list[list[str]]:
    """The simple commands of a script, as words; operators and variables before a program are left out."""
    found: list[list[str]] = []
    for line in _apart(code.replace("\\\n", " ")).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        before = ""
        for word in [*lexer, ";"]:
            before, last = word, before
            if set(word) <= _OPERATORS - _REDIRECTIONS:
                found.append(words)
                words = []
            elif set(word) <= _OPERATORS or set(last) & _REDIRECTIONS:
                continue
            elif words or not re.match(r"\w+=", word):
                words.append(word)
    return [words for words in found if words]


def _apart(code: str) -> str:
    """A script whose $(...) stand on lines of their own below it."""
    inner = re.findall(r"\$\(([^()]*)\)", code)
    return "\n".join([re.sub(r"\$\([^()]*\)", "$", code), *inner])


def _check(words: Sequence[str]) -> None:
    program, arguments = words[0].rpartition("/")[2] or words[0], list(words[1:])
    if program == "srun":
        _check(arguments)
    elif program in _CHECKS:
        _CHECKS[program](arguments)
    elif program.startswith("gsto"):
        _check_ours(program, arguments)
    elif program not in _SHELL | _CLUSTER and program[0] not in "$#" and shutil.which(program) is None:
        raise CommandError(f"expected a program, found {program}")


def _check_ours(program: str, arguments: list[str]) -> None:
    if program not in programs():
        raise CommandError(f"expected a command of these packages, found {program}")
    _parse(click_command(programs()[program]), program, arguments)


def _parse(command: click.Command, name: str, arguments: list[str]) -> None:
    context = click.Context(command, info_name=name)
    if isinstance(command, click.Group) and arguments:
        inner, found, rest = command.resolve_command(context, arguments)
        if found is not None:
            return _parse(found, str(inner), rest)
    values, _, _ = command.make_parser(context).parse_args(arguments)
    for parameter in command.params:
        given = values.get(parameter.name or "")
        for value in given if isinstance(given, list) else [given]:
            if isinstance(parameter.type, click.Choice) and isinstance(value, str):
                parameter.type.convert(value, parameter, context)
    _check_settings(values)


def _check_settings(values: dict[str, Any]) -> None:
    """Resolve what --set changes over the named benchmark, or the default one."""
    assignments, benchmark = values.get("assignments"), values.get("benchmark")
    ours = isinstance(benchmark, str) and not benchmark.endswith(".toml")
    base = benchmarks.load(str(benchmark) if ours else benchmarks.DEFAULT)
    changed = assignments if isinstance(assignments, list) else []
    settings.resolve(base.values, dict(map(schema.assignment, changed)))


def _check_torchrun(arguments: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(arguments)
    script, given = options.training_script, options.training_script_args
    _check(["python", "-m", script, *given] if options.module else [script, *given])


def _check_python(arguments: list[str]) -> None:
    match arguments:
        case ["-m", "gsto_train", *given]:
            _check_ours("gsto-train", given)
        case ["-m", module, *_] if not (ROOT / module).is_dir() and find_spec(module) is None:
            raise CommandError(f"expected a module that Python finds, found {module}")


def _check_nox(arguments: list[str]) -> None:
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for option, name in pairwise(own):
        if option == "-s" and name.partition("(")[0] not in _sessions():
            raise CommandError(f"expected a session of noxfile.py, found {name}")


@cache
def _sessions() -> frozenset[str]:
    text = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    return frozenset(re.findall(r"@nox\.session.*?\ndef (\w+)\(", text, re.DOTALL))


_CHECKS: dict[str, Callable[[list[str]], None]] = {
    "nox": _check_nox,
    "python": _check_python,
    "python3.11": _check_python,
    "torchrun": _check_torchrun,
}
