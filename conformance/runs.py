"""Runs of gsto-train that change their backend half-way: what a run folder holds serves every backend."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from conformance import tolerance
from conformance.cases import Case, Subject
from conformance.compare import Comparison
from conformance.strategies import heads
from gsto_spec import Graph
from gsto_train.commands.train import main

Array = NDArray[Any]

ORACLE = "conformance.oracle:OracleBackend"
STEPS, HALF = 4, 2
SETTINGS = {
    "train.steps": STEPS, "train.checkpoint_every": HALF, "train.log_every": 1, "train.batch": 2,
    "train.precision": "float64", "train.device": "cpu", "data.crop": [16, 24], "data.scene_size": [24, 32],
    "data.train_scenes": 6, "data.val_scenes": 3,
}  # fmt: skip


def network(classes: int) -> Graph:
    """The network of these runs."""
    return heads(classes, ("stage4", "stage3"), 2)


def changes_backend(subject: Subject, case: Case) -> None:
    """From the subject to the oracle and the other way round, against the oracle alone."""
    with tempfile.TemporaryDirectory() as folder:
        row = Comparison(subject, case, "runs", across=False)
        whole = _Run(Path(folder) / "whole", row).start(ORACLE)
        for way, (first, second) in {"to": (subject.name, ORACLE), "from": (ORACLE, subject.name)}.items():
            run = _Run(Path(folder) / way, row).start(first)
            run.forget_the_second_half()
            _compare(row, run.go_on(second), whole)


class _Run:
    def __init__(self, path: Path, row: Comparison) -> None:
        self.path, self.row = path, row

    def start(self, backend: str) -> _Run:
        settings = [f"{key}={json.dumps(value)}" for key, value in SETTINGS.items()]
        return self._command(backend, "--architecture", f"{__name__}:network",
                             *(part for setting in settings for part in ("--set", setting)))  # fmt: skip

    def go_on(self, backend: str) -> _Run:
        return self._command(backend, "--resume")

    def forget_the_second_half(self) -> None:
        """Leave the run as if it had ended at its first checkpoint."""
        for file in (self.path / "checkpoints" / f"step-{STEPS:06d}").iterdir():
            file.unlink()

    def _command(self, backend: str, *arguments: str) -> _Run:
        try:
            main(["--backend", backend, "--output", str(self.path), *arguments])
        except SystemExit as ended:
            self.row.agree(f"exit status of gsto-train --backend {backend}", ended.code, 0)
        return self

    @property
    def state(self) -> Mapping[str, Array]:
        return load_file(self.path / "checkpoints" / f"step-{STEPS:06d}" / "state.safetensors")

    @property
    def losses(self) -> Array:
        lines = (self.path / "metrics.jsonl").read_text().splitlines()
        return np.array([json.loads(line)["loss"] for line in lines])

    @property
    def scores(self) -> Any:
        return json.loads((self.path / "result.json").read_text())["metrics"]


def _compare(row: Comparison, run: _Run, whole: _Run) -> None:
    row.pointwise("loss of each step", run.losses, whole.losses, tolerance.STATES * np.abs(whole.losses))
    want = whole.state
    row.agree("names of the state", sorted(run.state), sorted(want))
    for name, array in run.state.items():
        row.pointwise(name, array, want[name], tolerance.STATES * float(np.abs(want[name]).max()))
    row.agree("scores", run.scores, whole.scores)
