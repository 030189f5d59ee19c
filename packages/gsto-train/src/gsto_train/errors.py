"""Errors that a person can mend."""

import os
from pathlib import Path
from typing import Literal

from gsto_spec.errors import nearest, printable

__all__ = ["InputError", "is_text", "nearest", "nearest_path"]


class InputError(ValueError):
    """Wrong input: one line naming the file or key, what was expected, what was found, and the mend.

    Commands print the line and end with exit status 2. Whatever a terminal would obey is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.splitlines())))


def is_text(value: str) -> bool:
    """Return whether `value` can be written as UTF-8 and be a path: no lone surrogates, no NUL."""
    return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)


def nearest_path(path: Path, kind: Literal["file", "folder"] | None = None) -> str:
    """Return what `nearest` says of the last part of a missing path among what lies beside it.

    With a `kind` among what is such a thing.
    """
    try:
        with os.scandir(path.absolute().parent) as beside:
            names = [each.name for each in beside if kind is None or each.is_dir() == (kind == "folder")]
        return nearest(path.name, sorted(names))
    except (OSError, ValueError):
        return ""
