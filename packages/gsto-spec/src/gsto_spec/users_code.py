"""`module:attribute`: architectures and backends that live in code of the user's own."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import isroutine, signature
from pathlib import Path

from gsto_spec.errors import GstoError, nearest

_LIBRARIES = (sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib"))
_NOT_OWN = ("<", *(f"{folder}{os.sep}" for folder in (Path(__file__).parent, *_LIBRARIES)))
"""How names of files begin whose code is not the user's; importing has no file."""


_LONGEST = 240
"""Characters of what code of the user's own says when it fails."""


class LocateError(GstoError):
    """A name, file or module that holds nothing of the kind looked for."""


@contextmanager
def guarded(text: str, passed: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Whatever the user's own code raises, in one line, but for errors that are to be `passed` on."""
    try:
        yield
    except passed:
        raise
    except ModuleNotFoundError as error:
        raise LocateError(f"{text}: cannot import {error.name}: no such module here") from error
    except (Exception, SystemExit) as error:
        raise LocateError(f"{text}: {_failure(error)}") from error


def _failure(error: BaseException) -> str:
    told = f"{_place(error)}{type(error).__name__}: {error}"
    return f"its own code failed: {told if len(told) <= _LONGEST else f'{told[:_LONGEST]}...'}"


def _place(error: BaseException) -> str:
    """`FILE line N: `, the last of the user's own; nothing where none of it ran, as at a slip of syntax."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_OWN)]
    if not own:
        return ""
    file = Path(own[-1].filename)
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    return f"{shown} line {own[-1].lineno}: "


def made(text: str, function: Callable[..., object], classes: int | None) -> object:
    """What a function of the number of classes gives; without a number, by its own default if it has one."""
    try:
        with guarded(text):
            first = next(iter(signature(function).parameters.values()), None)
            own_default = classes is None and first is not None and first.default is not first.empty
            return function() if own_default else function(classes)
    except LocateError as error:
        if isroutine(function) or isinstance(function, type | partial):
            raise
        # An instance that is called with something else, a framework's module say.
        cause = error.__cause__ or error
        raise wrong_kind(text, function, f"; {_failure(cause)}" if _place(cause) else "") from error


def wrong_kind(text: str, found: object, more: str = "") -> LocateError:
    """The error for what is no architecture."""
    kind = type(found)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return LocateError(f"{text}: expected a Graph, a variant or a function of classes, found {name}{more}")


def module_of(file: Path) -> str | None:
    """What a file of Python below the working folder is imported as; None for any other path."""
    inside = (*file.parts[:-1], file.stem)
    return ".".join(inside) if file.suffix == ".py" and all(map(str.isidentifier, inside)) else None


def attribute(text: str) -> object:
    """What `module:attribute` names; modules are looked for in the working folder too.

    Raises `LocateError`, in one line, also for whatever the module itself raises.
    """
    module_name, _, path = text.partition(":")
    if (meant := module_of(Path(module_name))) is not None and path.isidentifier():
        raise LocateError(f"{text}: expected module:attribute, found a file; give {meant}:{path}")
    if not all(part.isidentifier() for part in [*module_name.split("."), *path.split(".")]):
        raise LocateError(f"{text}: expected module:attribute, such as mine:network for mine.py here")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    with guarded(text):
        module = importlib.import_module(module_name)
    found: object = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise LocateError(f"{text}: {module_name} has no {path}{nearest(part, dir(found))}")
        found = getattr(found, part)
    return found
