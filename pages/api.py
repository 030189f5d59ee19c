"""`python -m pages.api > docs/api.md`: the whole public interface on one page, read from the packages."""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import click

from pages.commands import click_command, programs

MODULES: dict[str, tuple[str, ...]] = {
    "gsto_spec": (),
    "gsto_spec.cost": ("Part",),
    "gsto_spec.sizes": ("Size",),
    "gsto_spec.ops": (),
    "gsto_spec.forms": (),
    "gsto_spec.objective": (),
    "gsto_spec.backend": (),
    "gsto_spec.precision": (),
    "gsto_spec.memory": (),
    "gsto_spec.rewrite": (),
    "gsto_spec.checkpoint": ("CheckpointError", "CheckpointWarning", "LoadedWeights"),
    "gsto_spec.checkpoint_report": ("CheckpointReport",),
    "gsto_spec.onnx": (),
    "gsto_torch": (),
    "gsto_jax": (),
    "gsto_train.data.augment": ("normalize",),
}
"""Module -> its public names; none: `__all__`, or whatever is defined there without an underscore."""

_HEAD = """\
# The public interface

Made by `python -m pages.api > docs/api.md`; a test fails where this page is stale. What is not here may
change without notice. [reference.md](reference.md) describes every name, `COMMAND --help` every option.
"""


def public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Yield the public names of a module, in the order of their alphabet, with what they stand for."""
    chosen = MODULES[module.__name__] or getattr(module, "__all__", None)
    for name in sorted(chosen or vars(module)):
        value = getattr(module, name)
        if chosen or (not name.startswith("_") and getattr(value, "__module__", None) == module.__name__):
            yield name, value


def page() -> str:
    """Return `docs/api.md`."""
    return "\n".join([_HEAD, "## Python", "", *_modules(), "## Commands", "", *_commands()]) + "\n"


def _modules() -> Iterator[str]:
    for name in MODULES:
        module = import_module(name)
        yield from (f"### {name}", "", _sentence(module), "", "| name | |", "| --- | --- |")
        for attribute, value in public(module):
            yield f"| `{attribute}{_parameters(value)}` | {_sentence(value)} |"
        yield ""


def _commands() -> Iterator[str]:
    yield from ("| command | options | |", "| --- | --- | --- |")
    for name, entry in programs().items():
        yield from _rows(name, click_command(entry))


def _rows(name: str, command: click.Command) -> Iterator[str]:
    """A row of a command, or one of each command inside it."""
    if isinstance(command, click.Group):
        for inner, each in sorted(command.commands.items()):
            yield from _rows(f"{name} {inner}", each)
    else:
        options = [each.opts[-1] for each in command.params if isinstance(each, click.Option)]
        told = " ".join((command.help or "").split("\n\n")[0].split())
        yield f"| `{name}` | {', '.join(f'`{option}`' for option in options)} | {told} |"


def _parameters(value: object) -> str:
    """The names of a function's parameters and `=...` where they have defaults; nothing for all else."""
    if not inspect.isfunction(value):
        return ""
    signature, told, keywords = inspect.signature(value), list[str](), False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            keywords = True
            told.append("*")
        told.append(parameter.name + ("" if parameter.default is parameter.empty else "=..."))
    return f"({', '.join(told)})"


def _sentence(value: object) -> str:
    """The first sentence of a docstring, on one line of a table."""
    if not isinstance(value, type | ModuleType) and not inspect.isroutine(value):
        return "a constant"
    words = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return re.split(r"(?<!\.)\.(?: |$)", words)[0].replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
