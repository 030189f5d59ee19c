"""Every reader of outside data, by module, in the order of the table."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import ModuleType

NAMES = ("declarations", "tensors", "pictures", "datasets", "runs", "commands")

MODULES: Mapping[str, Callable[[], ModuleType]] = {
    name: partial(import_module, f"fuzz.{name}") for name in NAMES
}
"""Imported when wanted: not each needs what another does."""
