"""Errors that a person can mend."""

import os
from pathlib import Path

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


def nearest_path(path: Path) -> str:
    """Return what `nearest` says of the last part of a missing path among what lies beside it."""
    try:
        return nearest(path.name, sorted(os.listdir(path.absolute().parent)))
    except (OSError, ValueError):
        return ""
