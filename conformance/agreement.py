"""`python -m conformance.agreement`: two backends train gsto-train's embedded default with one seed.

In float64 the first losses must agree to `FLOAT64`. In float32 rounding is amplified from step to step, so
the yardstick is one backend's own: five of its runs, started one unit in the last place apart. Writes
`agreement.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gsto_spec
from conformance.tolerance import RUNS as TIMES
from conformance.ulps import RUNS
from gsto_train.run.job import Request, prepare

Losses = NDArray[np.float64]

FIRST = 20
FLOAT64 = 1e-9


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print; 1 where the backends part."""
    options = _parser().parse_args(arguments)
    options.report.mkdir(parents=True, exist_ok=True)
    double = _float64(options.backends)
    print(_line("float64, first 20 losses", double["difference"], double["bound"]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        single = _float32(options.backends, Path(folder), options.jobs)
    print(_line("float32, first 20 losses", single["first_difference"], single["first_bound"]))
    print(_line("float32, all losses", single["difference"], single["bound"]))
    print(_score_line(options.backends[0], single["mean_iou"], *single["mean_iou_range"]))
    document = {"backends": options.backends, "float64": double, "float32": single}
    (options.report / "agreement.json").write_text(json.dumps(document, indent=1))
    parted = double["difference"] > double["bound"] or single["first_difference"] > single["first_bound"]
    return int(parted or single["difference"] > single["bound"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m conformance.agreement", description=__doc__)
    parser.add_argument("backends", nargs="*", default=["torch", "jax"], metavar="NAME",
                        help="the one whose own runs are the yardstick, then the other")  # fmt: skip
    parser.add_argument("--report", type=Path, default=Path("conformance-report"), metavar="DIR")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    return parser


def _line(what: str, difference: float, bound: float) -> str:
    return f"{what}: {difference:.3g} apart, {difference / bound:.2g} of the bound {bound:.3g}"


def _score_line(yardstick: str, score: float, low: float, high: float) -> str:
    place = "within" if low <= score <= high else "outside"
    return f"mean IoU {score:.4f}, {place} {low:.4f} to {high:.4f}, the range of {yardstick}'s five runs"


# float64: in processes of their own, since JAX's types are a setting of the process


def _float64(backends: Sequence[str]) -> dict[str, Any]:
    with ProcessPoolExecutor(2, get_context("spawn"), max_tasks_per_child=1) as pool:
        first, second = pool.map(first_losses, backends)
    difference = float(np.abs(first - second).max())
    return {"losses": [list(first), list(second)], "difference": difference, "bound": FLOAT64}


def first_losses(backend: str, count: int = FIRST) -> Losses:
    """The first losses of the embedded default in float64."""
    with tempfile.TemporaryDirectory() as folder:
        job = prepare(Request(backend, overrides={"train.precision": "float64"}, output=Path(folder) / "run"))
    train = job.settings.train
    trainer = job.backend.trainer(
        job.graph, gsto_spec.initial_weights(job.graph, train.seed), job.training_terms(),
        device="cpu", precision="float64",
    )  # fmt: skip
    batches = job.task.batches(job.graph, start_step=0, total_steps=count, slots=range(train.batch))
    with closing(batches):
        losses = [
            trainer.step(batch.inputs, job.schedule.rate(batch.step, job.total_steps)) for batch in batches
        ]
    return np.array([float(loss["loss"]) for loss in losses])


# float32: whole runs, as a user starts them


def _float32(backends: Sequence[str], folder: Path, jobs: int) -> dict[str, Any]:
    yardstick, other = backends
    names = [f"conformance.ulps:{yardstick}_{run}" for run in range(RUNS)] + [other]
    with ThreadPoolExecutor(jobs) as pool:
        runs = list(pool.map(lambda name: _train(name, folder), names))
    losses = np.array([loss for loss, _ in runs])
    scores = [score for _, score in runs]
    own, last = losses[:RUNS], losses[RUNS]
    difference = np.abs(last - own[0])
    spread = np.max([np.abs(a - b) for a, b in combinations(own, 2)], axis=0)
    return {
        "first_difference": float(difference[:FIRST].max()),
        "first_bound": TIMES * float(spread[:FIRST].max()),
        "difference": float(difference.max()),
        "bound": TIMES * float(spread.max()),
        "mean_iou": scores[RUNS],
        "mean_iou_range": [min(scores[:RUNS]), max(scores[:RUNS])],
        "mean_iou_of_each": dict(zip(names, scores, strict=True)),
    }


def _train(backend: str, folder: Path) -> tuple[Losses, float]:
    """Every loss and the final mean IoU of `gsto-train --backend`."""
    run = folder / backend.rpartition(":")[2]
    command = [sys.executable, "-c", "from gsto_train.commands.train import main; main()"]
    settings = ["--set", "train.log_every=1", "--output", str(run)]
    subprocess.run([*command, "--backend", backend, *settings], check=True, capture_output=True)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    result = json.loads((run / "result.json").read_text())
    return np.array([json.loads(line)["loss"] for line in lines]), result["metrics"]["mean_iou"]


if __name__ == "__main__":
    sys.exit(main())
