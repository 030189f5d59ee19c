"""What is not installed is no failure."""

from importlib import import_module
from types import ModuleType


class Absent(Exception):
    """A subject that cannot be measured here, and why."""


def optional(module: str, extra: str) -> ModuleType:
    """Import what one of this package's extras installs; raises `Absent`."""
    try:
        return import_module(module)
    except ImportError:
        raise Absent(f"not installed: pip install 'gsto-train[{extra}]'") from None
