"""One short training, as a command, and what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

from gsto_train.commands.train import main

ROOT = Path(__file__).parent.parent

VARYING = ("seconds", "seconds_by_part", "environment")
"""What differs in result.json between two runs that are the same."""

SAME = ("metrics.jsonl", "evaluations.jsonl", "model/model.safetensors", "graph.json")
"""Files that do not differ by a bit."""

TIMEOUT = 600.0


@dataclass(frozen=True)
class Recipe:
    """A training: how many steps, and how often something is written."""

    backend: str
    steps: int
    checkpoint_every: int = 3
    evaluate_every: int = 4
    log_every: int = 2
    data: Path | None = None

    def arguments(self, folder: Path) -> list[str]:
        """The arguments of gsto-train for a new run in `folder`."""
        settings = [
            "train.batch=2", f"train.steps={self.steps}", f"train.log_every={self.log_every}",
            f"train.checkpoint_every={self.checkpoint_every}", f"train.evaluate_every={self.evaluate_every}",
            "train.keep=best", "train.optimizer=adam", "train.learning_rate=0.01", "data.crop=[32,32]",
            "data.scales=[0.8,1.0,1.2]",
        ]  # fmt: skip
        if self.data is None:
            settings += ["data.scene_size=[32,48]", "data.train_scenes=7", "data.val_scenes=3"]
        source = [] if self.data is None else ["--benchmark", "folder", "--data", str(self.data)]
        options = ["--output", str(folder), "--architecture", "faults.network:tiny", *source]
        return [*self.backend_option, *options, *(part for each in settings for part in ("--set", each))]

    def resumption(self, folder: Path) -> list[str]:
        """The arguments that go on with the run in `folder`, or begin it where nothing was begun."""
        if not (folder / "config.json").exists():
            return self.arguments(folder)
        return [*self.backend_option, "--output", str(folder), "--resume"]

    @property
    def backend_option(self) -> list[str]:
        """Which backend is to train."""
        return ["--backend", self.backend]


def start(arguments: Sequence[str], said: Path, cache: Path) -> subprocess.Popen[bytes]:
    """Start gsto-train in a process of its own, what it says going to a file."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        # JAX compiles for seconds at every start otherwise; the undisturbed run fills this.
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-m", "gsto_train", *arguments]
    with said.open("ab") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


def finish(arguments: Sequence[str], said: Path, cache: Path) -> int:
    """Run gsto-train to its end; returns its status."""
    process = start(arguments, said, cache)
    try:
        return process.wait(TIMEOUT)
    finally:
        process.kill()


def here(arguments: Sequence[str], command: Callable[[Sequence[str]], NoReturn] = main) -> tuple[int, str]:
    """Run gsto-train, or another command, in this process; returns its status and what it said."""
    said = StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            command(list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0), said.getvalue()


def outcome(folder: Path, steps: int) -> dict[str, Any]:
    """What a run left, but for times and environments."""
    result = json.loads((folder / "result.json").read_text())
    last = folder / "checkpoints" / f"step-{steps:06d}" / "state.safetensors"
    return {
        "result.json": {key: value for key, value in result.items() if key not in VARYING},
        "last checkpoint": last.read_bytes(),
        **{name: (folder / name).read_bytes() for name in SAME},
    }


def difference(folder: Path, whole: dict[str, Any], steps: int) -> str | None:
    """Name what a run left otherwise than the undisturbed one; None where all is the same bit for bit."""
    try:
        found = outcome(folder, steps)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return next((name for name in whole if found[name] != whole[name]), None)


def saved_steps(folder: Path) -> list[int]:
    """The steps of a run's checkpoints."""
    return sorted(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))
