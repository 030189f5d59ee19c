"""Backends broken on purpose, each by one fault that real ports have had: they test the suite.

`python -m conformance.mutants` puts each to the whole suite, which must name what is wrong with it.
"""

from __future__ import annotations

from types import ModuleType

from conformance.mutants import (
    arithmetic,
    gates,
    graphs,
    loading,
    objectives,
    optimizers,
    precisions,
    rare,
    training,
    ways,
    weights,
)
from conformance.mutants.broken import Mutant

GROUPS: dict[str, tuple[ModuleType, ...]] = {
    "arithmetic": (arithmetic, gates, graphs, precisions),
    "training": (training, objectives, optimizers, ways, rare),
    "weights": (weights, loading),
}


def _broken_backends(module: ModuleType) -> list[type[Mutant]]:
    """The mutants that a module defines; its helpers are private or have no fault of their own."""
    found = [item for item in vars(module).values() if isinstance(item, type) and issubclass(item, Mutant)]
    return [item for item in found if item.__module__ == module.__name__ and not item.__subclasses__()]


MUTANTS: dict[str, tuple[str, type[Mutant]]] = {
    mutant.__name__: (group, mutant)
    for group, modules in GROUPS.items()
    for module in modules
    for mutant in _broken_backends(module)
}
"""Name -> group and class, of every broken backend."""
