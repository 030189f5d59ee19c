"""SIGKILL at random moments, and inside the writing of checkpoints; then the same bits at the end."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from faults.runs import Recipe, difference, finish, outcome, saved_steps, start

LONGEST = 0.6
"""Seconds of training before a kill, at most."""

AIMED = 5
"""Every so many kills one is aimed at a checkpoint that is being written."""


@dataclass(frozen=True)
class Kill:
    """One kill, as it was found afterwards: in which phase, and from where the run went on."""

    number: int
    moment: str
    step: int
    phase: str
    resumed_from: int


def check(backend: str, folder: Path, kills: int, seed: int, show: Callable[[str], None]) -> list[str]:
    """Kill a backend's training again and again; returns what was not as it should be."""
    recipe, cache, draw = Recipe(backend, steps=150), folder / "cache", random.Random(seed)
    whole, said = folder / "whole", folder / "said.txt"
    if finish(recipe.arguments(whole), said, cache):
        return [f"{backend}: the undisturbed run failed: {said.read_text()[-500:]}"]
    wanted = outcome(whole, recipe.steps)
    show(f"\n{backend}: {kills} kills; undisturbed run of {recipe.steps} steps")
    show("kill  moment                step  phase                 resumed from")
    done, runs, problems = 0, 0, list[str]()
    while done < kills:
        run = folder / f"run-{(runs := runs + 1)}"
        for kill in _killed(recipe, run, cache, kills - done, draw):
            done += 1
            show(f"{done:4d}  {kill.moment:<20s}  {kill.step:4d}  {kill.phase:<20s}  {kill.resumed_from:12d}")
        if status := finish(recipe.resumption(run), run.with_suffix(".txt"), cache):
            problems.append(f"{backend}: {run}: ended with status {status}")
        if (what := difference(run, wanted, recipe.steps)) is not None:
            problems.append(f"{backend}: {run}: {what} is not that of the undisturbed run")
    show(f"{backend}: {done} kills in {runs} runs, {len(problems)} of them other than undisturbed")
    return problems


def _killed(recipe: Recipe, run: Path, cache: Path, most: int, draw: random.Random) -> Iterator[Kill]:
    """Start, kill, and start again, until the run ends by itself or was killed often enough."""
    for number in range(1, most + 1):
        process = start(recipe.resumption(run), run.with_suffix(".txt"), cache)
        aimed = number % AIMED == 0
        moment = _wait_for_writing(process, run) if aimed else _wait(process, run, draw)
        if process.poll() is not None:
            return
        process.kill()
        process.wait()
        step = _last_step(run)
        yield Kill(number, moment, step, _phase(recipe, run), max(saved_steps(run), default=0))


def _wait(process: Popen[bytes], run: Path, draw: random.Random) -> str:
    """Wait for training to begin or go on, and then for a while; now and then not even that long."""
    began, early = time.monotonic(), draw.random() < 0.1
    before = _size(run)
    delay = draw.uniform(0, 3.0 if early else LONGEST)
    while not early and process.poll() is None and _size(run) <= before:
        time.sleep(0.002)
    seconds = time.monotonic()
    while process.poll() is None and time.monotonic() - seconds < delay:
        time.sleep(0.001)
    return f"{time.monotonic() - began:.2f} s after start"


def _wait_for_writing(process: Popen[bytes], run: Path) -> str:
    """Wait until a checkpoint is half there."""
    _wait(process, run, random.Random(0))
    while process.poll() is None and not any((run / "checkpoints").glob(".step-*.partial")):
        time.sleep(0)
    return "while it writes"


def _size(run: Path) -> int:
    path = run / "timings.jsonl"
    return path.stat().st_size if path.exists() else 0


def _phase(recipe: Recipe, run: Path) -> str:
    """What a killed run was doing, by what it left."""
    if not (run / "config.json").exists():
        return "start"
    if any((run / "checkpoints").glob(".step-*.partial")):
        return "writing a checkpoint"
    saved = max(saved_steps(run), default=0)
    scored = [json.loads(line)["step"] for line in _lines(run / "evaluations.jsonl")]
    if saved == recipe.steps:
        return "ending" if saved in scored else "last evaluation"
    due = saved and saved % recipe.evaluate_every == 0
    return "evaluation" if due and saved not in scored and _last_step(run) <= saved else "training"


def _last_step(run: Path) -> int:
    steps = [json.loads(line)["step"] for line in _lines(run / "metrics.jsonl")]
    return max([*steps, *saved_steps(run)], default=0)


def _lines(path: Path) -> list[str]:
    text = path.read_text() if path.exists() else ""
    return re.findall(r"^\{.*\}$", text, re.MULTILINE)
