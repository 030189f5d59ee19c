"""The folder of one run: its configuration, environment, graph, metrics, checkpoints and result."""

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from gsto_train.errors import InputError, nearest_path
from gsto_train.files import naming, write_json

CONFIG, ENVIRONMENT, GRAPH = "config.json", "environment.json", "graph.json"
METRICS, EVALUATIONS, BASELINES, RESULT = (
    "metrics.jsonl",
    "evaluations.jsonl",
    "baselines.json",
    "result.json",
)

INITIALIZATION = "initialization.json"
"""What training starts from, and what of it arrived."""

MODEL = "model"
"""The trained network as a saved model."""

_FILES = (CONFIG, ENVIRONMENT, GRAPH, METRICS, EVALUATIONS, BASELINES, RESULT, INITIALIZATION)

RUNS = Path("runs")
"""Where runs go that were given no folder."""


class RunFolder:
    """A run's folder: made new and empty, or opened to go on with."""

    def __init__(self, path: Path, made: tuple[Path, ...] = ()) -> None:
        self.path = path
        self._made = made

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make the folder; raises `InputError` where it holds something or cannot be written."""
        absent = tuple(folder for folder in (path, *path.parents) if not folder.exists())
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise InputError(
                    f"{path}: this output folder is not empty; add --resume to go on with the run in it, "
                    "or give another --output"
                )
            (path / "checkpoints").mkdir()
        except OSError as error:
            raise _unwritable(path, error) from None
        return cls(path, (path / "checkpoints", *absent))

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open a run to go on with; raises `InputError` where there is none or it cannot be written."""
        if not (path / CONFIG).is_file():
            found = f"no such folder{nearest_path(path)}" if not path.exists() else f"no {CONFIG} in it"
            raise InputError(f"{path}: no run to resume here: {found}; check --output, or leave out --resume")
        try:
            (path / "checkpoints").mkdir(exist_ok=True)
            probe = path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise _unwritable(path, error) from None
        return cls(path)

    def discard(self) -> bool:
        """Remove what a new run wrote, unless it holds a checkpoint; returns whether the way is free again.

        Only the run's own files go, and of the folders those that it made and that are empty then.
        """
        if not self._made or any(self.checkpoints.glob("step-*")):
            return False
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()
        return True

    def write(self, name: str, value: object) -> None:
        """Write a JSON file, whole or not at all."""
        write_json(self.path / name, value)

    def read(self, name: str) -> dict[str, object]:
        """Read a JSON object; raises `InputError` where the file holds something else."""
        path = self.path / name
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: expected a JSON object, found an error: {error}") from None
        if not isinstance(value, dict):
            raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
        return value

    def append(self, name: str, record: Mapping[str, object]) -> None:
        """Append one line of JSON, on the disk before any checkpoint that follows."""
        path = self.path / name
        with naming(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def truncate(self, name: str, step: int) -> None:
        """Drop the lines past `step` and any that was cut off, before a run goes on from there."""
        path = self.path / name
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if (at := _step(line)) is not None and at <= step]
        temporary = path.with_name(f".{name}.partial")
        with naming(path):
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            os.replace(temporary, path)


def default_folder(name: str, *, resume: bool) -> Path:
    """Return runs/NAME, runs/NAME-2, ...: the first that is not there, or with `resume` the last that is.

    Raises `InputError` where there is none to resume.
    """
    numbers = [n for path in RUNS.glob("*") if (n := _number(path.name, name)) is not None]
    if not resume:
        return RUNS / (f"{name}-{max(numbers) + 1}" if numbers else name)
    if not numbers:
        raise InputError(f"{RUNS / name}: no run to resume here; give its folder with --output")
    return RUNS / (name if max(numbers) == 1 else f"{name}-{max(numbers)}")


def _number(found: str, name: str) -> int | None:
    match = re.fullmatch(re.escape(name) + r"(?:-(\d+))?", found)
    return int(match[1] or 1) if match else None


def _step(line: str) -> int | None:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if isinstance(step, int) else None


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{error.filename or path}: cannot write into the output folder ({error.strerror}); "
        "give one that you may write, with --output"
    )
