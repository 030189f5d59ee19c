"""A disk that fills up, at every place where a run writes: once, and from there on until it is mended."""

from __future__ import annotations

import builtins
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from faults.runs import Recipe, difference, here, outcome
from gsto_train import files
from gsto_train.commands.report import main as report

CALLS = ("fsync", "replace", "rename", "mkdir")
"""Of `os`; beside them `open` where files are written."""


class Disk:
    """Counts the calls that write, and lets some of them fail."""

    def __init__(self) -> None:
        self.calls = 0

    @contextmanager
    def failing(self, fails: range) -> Iterator[None]:
        """Let the calls of these numbers fail as a full disk does."""
        self.calls = 0
        with ExitStack() as patched:
            for name in CALLS:
                patched.enter_context(patch.object(os, name, self._counted(getattr(os, name), fails)))
            opened = self._counted(builtins.open, fails)
            patched.enter_context(patch.object(files, "open", opened, create=True))
            patched.enter_context(patch.object(files, "PAUSE", 0.0))
            yield

    def _counted(self, working: Callable[..., Any], fails: range) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls - 1 in fails:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return working(*arguments, **options)

        return call


def check(backend: str, folder: Path, show: Callable[[str], None]) -> list[str]:
    """Let each write fail in turn; returns what was lost or not said."""
    recipe, disk = Recipe(backend, steps=6), Disk()
    here(recipe.arguments(folder / "first"))  # A framework may write files of its own the first time.
    with disk.failing(range(0)):
        here(recipe.arguments(folder / "whole"))
    count, whole = disk.calls, outcome(folder / "whole", recipe.steps)
    problems, went_on = list[str](), 0
    for first in range(count):
        for fails in (range(first, first + 1), range(first, 10**9)):
            run = folder / f"run-{first}-{len(fails)}"
            with disk.failing(fails):
                status, said = here(recipe.arguments(run))
            problems += _problems(recipe, run, status, said, len(fails) > 1, whole)
            went_on += status == 0
    show(
        f"\n{backend}: each of {count} writes failed once, and from there on: {went_on} runs ended by "
        f"themselves, {2 * count - went_on} when told to go on, {len(problems)} problems"
    )
    return problems


def _problems(
    recipe: Recipe, run: Path, status: int, said: str, lasting: bool, whole: dict[str, Any]
) -> list[str]:
    found = []
    if lasting and status == 0:
        found += _without_report(run, said)
    if status and not any(word in said for word in ("go on with", "run the same command again", "--output")):
        found.append("did not say what to do")
    if status and here(recipe.resumption(run))[0]:
        found.append("did not go on")
    if (what := difference(run, whole, recipe.steps)) is not None:
        found.append(f"{what} is not that of the undisturbed run")
    return [f"{run}: {each}" for each in found]


def _without_report(run: Path, said: str) -> list[str]:
    """A run may end without its report and nothing else, if it says so, and what writes it later."""
    if "warning: no report.html" not in said or f"gsto-report {run}" not in said:
        return ["ended as if nothing were wrong"]
    status, _ = here([str(run)], report)
    return [] if status == 0 and (run / "report.html").exists() else ["its report is not written later"]
