"""Putting backends to the suite, each in a process of its own, and saying what became of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parent.parent.parent

Fate = Literal["passed", "caught", "crashed"]


@dataclass(frozen=True)
class Target:
    """A backend to be put to the suite: as `--backend` takes it, and the precision that its fault needs."""

    name: str
    group: str
    backend: str
    precision: str = "float64"
    sound: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of it: every check passed, or one named what is wrong, or the run broke otherwise.

    `test`, `row` and `path` say which check it was and of what; `told` is what it said.
    """

    target: Target
    fate: Fate
    seconds: float
    test: str = ""
    row: str = ""
    path: str = ""
    told: str = ""

    @property
    def as_it_should(self) -> bool:
        """A sound backend passes and a broken one is caught."""
        return self.fate == ("passed" if self.target.sound else "caught")

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "as_it_should": self.as_it_should}


def hunt(target: Target, profile: str, tests: Sequence[str]) -> Outcome:
    """Run the suite on a backend until its first failure."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gsto-mutants-") as folder:
        witness = Path(folder) / "witness.json"
        done = subprocess.run(
            _command(target, profile, tests, witness), cwd=ROOT, capture_output=True, text=True, check=False
        )
        seen = json.loads(witness.read_text()) if witness.exists() else {}
    return judged(target, done.returncode, seen, done.stdout + done.stderr, time.monotonic() - start)


def _command(target: Target, profile: str, tests: Sequence[str], witness: Path) -> list[str]:
    return [
        sys.executable, "-m", "pytest", *tests, "-q", "-x", "--tb=no", "-p", "no:cacheprovider",
        "-p", "conformance.mutants.witness", f"--witness={witness}", f"--backend={target.backend}",
        f"--profile={profile}", f"--precision={target.precision}", "--part",
        f"--report={witness.parent}",
    ]  # fmt: skip


def judged(target: Target, code: int, seen: dict[str, str], printed: str, seconds: float) -> Outcome:
    """The outcome of a run by pytest's exit code, what its witness saw, and what it printed.

    Only a `Disagreement` counts: a run that could not begin, or an exception of another kind, proves nothing.
    """
    if code == 0:
        return Outcome(target, "passed", seconds)
    if code == 1 and "row" in seen:
        told = f"got {seen['got']}, want {seen['want']}, {seen['ratio']} times the bound"
        test = seen["test"].rpartition("/")[2].replace(f"{target.backend}-", "")
        return Outcome(target, "caught", seconds, test, seen["row"], seen["path"], told)
    last = (printed.strip().splitlines() or [f"pytest ended with {code}"])[-1]
    return Outcome(target, "crashed", seconds, seen.get("test", ""), told=seen.get("error", last))
