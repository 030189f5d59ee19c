"""Checkpoints that are cut off, changed by a bit or incomplete, and pictures that vanish."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from faults.runs import TIMEOUT, Recipe, difference, finish, here, outcome, saved_steps, start

FLIPS = 8
"""Bits that are flipped, one after another, in each file of a checkpoint."""


def check(backend: str, folder: Path, seed: int, show: Callable[[str], None]) -> list[str]:
    """Break a run's files; returns what was not found, not said or not mended."""
    problems = _checkpoints(Recipe(backend, steps=6), folder, random.Random(seed), show)
    return problems + _picture(backend, folder, show)


def _checkpoints(recipe: Recipe, folder: Path, draw: random.Random, show: Callable[[str], None]) -> list[str]:
    whole = folder / "whole"
    here(recipe.arguments(whole))
    wanted, newest = outcome(whole, recipe.steps), saved_steps(whole)[-1]
    problems, count = list[str](), 0
    for name, damage in _damages():
        run = folder / f"broken-{(count := count + 1)}"
        shutil.copytree(whole, run)
        damage(run / "checkpoints" / f"step-{newest:06d}" / name, draw)
        status, said = here(recipe.resumption(run))
        if status or "is broken" not in said or difference(run, wanted, recipe.steps):
            problems.append(f"{run}: {damage.__name__} {name}: status {status}: {said[-300:]}")
    show(
        f"\n{recipe.backend}: {count} broken checkpoints, each passed over for the one before and made again"
    )
    return problems


def _damages() -> Iterator[tuple[str, Callable[[Path, random.Random], None]]]:
    for name in ("state.safetensors", "checkpoint.json", "SHA256SUMS"):
        yield from ((name, damage) for damage in (_remove, _cut, *[_flip] * FLIPS))


def _remove(path: Path, draw: random.Random) -> None:
    path.unlink()


def _cut(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * draw.random())])


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _picture(backend: str, folder: Path, show: Callable[[str], None]) -> list[str]:
    """Take a picture away while it is trained on; then put it back and go on."""
    recipe = Recipe(
        backend, steps=600, checkpoint_every=150, evaluate_every=0, data=_pictures(folder / "data")
    )
    run, said, cache = folder / "run", folder / "said.txt", folder / "cache"
    problems = [f"{run}: status {s}" for s in [finish(recipe.arguments(folder / "all"), said, cache)] if s]
    process = start(recipe.arguments(run), said, cache)
    while process.poll() is None and not (run / "timings.jsonl").exists():
        time.sleep(0.005)
    taken = folder / "data" / "3.png"
    taken.rename(folder / "taken.png")
    status = process.wait(TIMEOUT)
    told = said.read_text().splitlines()[-1]
    if status != 2 or "3.png" not in told or "go on with" not in told:
        problems.append(f"{run}: a picture that vanished: status {status}: {told}")
    (folder / "taken.png").rename(taken)
    resumed = finish(recipe.resumption(run), said, cache)
    if resumed or difference(run, outcome(folder / "all", recipe.steps), recipe.steps):
        problems.append(f"{run}: after the picture came back: status {resumed}")
    show(f"{backend}: a picture vanished while it was trained on: {told}")
    return problems


def _pictures(folder: Path) -> Path:
    """A small data set of two classes, light and dark."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for index in range(6):
        label = draw.integers(0, 2, (5, 6), np.uint8).repeat(8, 0).repeat(8, 1)
        noise = draw.integers(0, 50, (*label.shape, 3), np.uint8)
        Image.fromarray(label[..., None] * np.uint8(150) + noise).save(folder / f"{index}.png")
        Image.fromarray(label).save(folder / f"{index}_label.png")
    lines = [f"{index}.png {index}_label.png\n" for index in range(6)]
    (folder / "train.txt").write_text("".join(lines[:4]))
    (folder / "val.txt").write_text("".join(lines[4:]))
    (folder / "classes.json").write_text('{"classes": ["dark", "light"]}')
    return folder
