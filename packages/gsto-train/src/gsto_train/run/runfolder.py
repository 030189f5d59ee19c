"""The folder of one run: its configuration, environment, graph, metrics, checkpoints and result."""

import contextlib
import errno
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from gsto_spec.weights import WEIGHTS_FILE
from gsto_train.errors import InputError, nearest_path
from gsto_train.files import claim, partial, read_bytes, read_text, replace, write_json

CONFIG, ENVIRONMENT, GRAPH = "config.json", "environment.json", "graph.json"
METRICS, EVALUATIONS, BASELINES, RESULT = (
    "metrics.jsonl",
    "evaluations.jsonl",
    "baselines.json",
    "result.json",
)

CONFUSION = "confusion"
"""A key of evaluations.jsonl that no score is: the pixels of each class, rows the truth."""

TIMINGS = "timings.jsonl"
"""What took how long, apart from metrics.jsonl, which is the same whenever the run is."""

JOURNALS = (METRICS, EVALUATIONS, TIMINGS)
"""Files with a line per step that was logged or scored."""

TENSORBOARD = "tensorboard"
"""What TensorBoard reads, on request."""

INITIALIZATION = "initialization.json"
"""What training starts from, and what of it arrived."""

MODEL = "model"
"""The trained network as a saved model."""

_FILES = (CONFIG, ENVIRONMENT, GRAPH, *JOURNALS, BASELINES, RESULT, INITIALIZATION)

_FOLDERS = ("checkpoints", TENSORBOARD, MODEL)

RUNS = Path("runs")
"""Where runs go that were given no folder."""


class RunFolder:
    """A run's folder: made new and empty, or opened to go on with, by one process at a time."""

    def __init__(self, path: Path, made: tuple[Path, ...] = (), claimed: int | None = None) -> None:
        self.path = path
        self._made, self._claimed = made, claimed

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make the folder; raises `InputError` where it holds something, is in use or cannot be written."""
        absent = tuple(folder for folder in (path, *path.parents) if not folder.exists())
        try:
            path.mkdir(parents=True, exist_ok=True)
            with _claiming(path) as claimed:
                _check_empty(path)
                (path / "checkpoints").mkdir(exist_ok=True)
        except OSError as error:
            raise _unwritable(path, error) from None
        return cls(path, (path / "checkpoints", *absent), claimed)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open a run to go on with; raises `InputError` where there is none, or as `create` does."""
        cls.existing(path)
        try:
            with _claiming(path) as claimed:
                (path / "checkpoints").mkdir(exist_ok=True)
                probe = path / ".writable"
                probe.unlink(missing_ok=True)
                probe.touch(exist_ok=False)
                probe.unlink()
        except OSError as error:
            raise _unwritable(path, error) from None
        return cls(path, claimed=claimed)

    def release(self) -> None:
        """Let other processes make or open the folder; the end of this one does too."""
        if self._claimed is not None:
            os.close(self._claimed)
            self._claimed = None

    @classmethod
    def existing(cls, path: Path) -> "RunFolder":
        """Return a run's folder to read; raises `InputError` where there is none."""
        if not is_run(path):
            mend = belongs(path) or "; check --output, or leave out --resume"
            raise InputError(f"{path}: no run to resume here: {instead_of_run(path)}{mend}")
        for name in (*_FILES, *_FOLDERS):
            _check_own(path / name, folder=name in _FOLDERS)
        return cls(path)

    def check(self, *, resume: bool) -> None:
        """Raise `InputError` where `open` or `create` would; nothing is written."""
        place = next(each for each in (self.path.absolute(), *self.path.absolute().parents) if each.exists())
        try:
            if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
                number = errno.EACCES if place.is_dir() else errno.ENOTDIR
                raise OSError(number, os.strerror(number), str(place))
            if not resume and self.path.exists():
                _check_empty(self.path)
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def discard(self) -> bool:
        """Remove what a new run wrote, unless it holds a checkpoint; returns whether the way is free again.

        Only the run's own files go, and of the folders those that it made and that are empty then.
        """
        if not self._made or any(self.checkpoints.glob("step-*")):
            return False
        with contextlib.suppress(OSError):
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)
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
            value = json.loads(read_text(path))
            json.dumps(value, ensure_ascii=False).encode()  # What no file can hold could not be told again.
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: expected a JSON object, found an error: {error}") from None
        if not isinstance(value, dict):
            raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
        return value

    def lines(self, name: str) -> list[dict[str, object]]:
        """Return the whole lines of a file of them; none where there is no such file."""
        return [json.loads(line) for line in self.text(name).splitlines() if _step(line) is not None]

    def text(self, name: str) -> str:
        """Return what a file holds, as far as it is text; nothing where there is no such file."""
        path = self.path / name
        return read_bytes(path).decode(errors="replace") if path.exists() else ""

    def truncate(
        self,
        name: str,
        step: int,
        note: Callable[[str], None] = lambda text: None,
        reads: Callable[[dict[str, object]], bool] = lambda line: True,
    ) -> list[dict[str, object]]:
        """Drop the lines past `step` and any that does not read, before a run goes on from there.

        `note` hears of the latter, among them those that are not what the file holds, as `reads` knows.
        Returns the lines that remain.
        """
        path = self.path / name
        if not path.exists():
            return []
        kept = []
        for number, line in enumerate(self.text(name).splitlines(), 1):
            at = _step(line)
            if at is None or not reads(json.loads(line)):
                note(f"warning: {path}: line {number} does not read and is dropped")
            elif at <= step:
                kept.append(line)
        replace(path, "".join(f"{line}\n" for line in kept).encode())
        return [json.loads(line) for line in kept]


@contextlib.contextmanager
def _claiming(path: Path) -> Iterator[int | None]:
    """Keep a folder from other runs, unless the block fails; raises `InputError` where one is under way."""
    try:
        claimed = claim(path)
    except BlockingIOError:
        raise InputError(
            f"{path}: another process trains in this output folder; wait for its end or stop it, or give "
            "another --output"
        ) from None
    try:
        yield claimed
    except BaseException:
        if claimed is not None:
            os.close(claimed)
        raise


def _check_own(path: Path, *, folder: bool) -> None:
    """Raise `InputError` for what is there and no run leaves; a link may lead out of its folder."""
    right = path.is_dir() if folder else path.is_file()
    if path.is_symlink() or (path.exists() and not right):
        wanted = "folder" if folder else "file"
        found = "a link" if path.is_symlink() else _kind(path)
        expected = f"expected a {wanted} of the run's own, found {found}"
        raise InputError(f"{path}: {expected}; put the {wanted} there")


def _kind(path: Path) -> str:
    return "a folder" if path.is_dir() else "a file" if path.is_file() else "a pipe or device"


def is_run(path: Path) -> bool:
    """Return whether a folder is a run's: a saved model has such a file too, its weights beside it."""
    return (path / CONFIG).is_file() and not (path / WEIGHTS_FILE).exists()


def instead_of_run(path: Path) -> str:
    """Return what is there where a run's folder was expected, in words."""
    if not path.exists():
        return f"no such folder{nearest_path(path, 'folder')}"
    return "a saved model" if (path / CONFIG).is_file() else f"no {CONFIG} in it"


def belongs(path: Path) -> str:
    """Return the mend for a folder inside a run's, its model or checkpoints: the run; nothing for others."""
    around = (Path(os.path.normpath(path / up)) for up in ("..", "../.."))
    run = next(filter(is_run, around), None)
    return f"; it belongs to the run {run}: give that" if run else ""


def saved_model(path: Path) -> Path:
    """Return the saved model that a path names: a run's own, else what is there.

    Raises `InputError` for a run that has none yet, and for other folders inside one.
    """
    if is_run(path):
        if not (path / MODEL).exists():
            way = shlex.join(["gsto-train", "--output", str(path), "--resume"])
            raise InputError(f"{path}: this run has no {MODEL}/ yet, as it has not ended; go on with: {way}")
        return path / MODEL
    if path.is_dir() and not (path / WEIGHTS_FILE).exists() and (mend := belongs(path)):
        raise InputError(f"{path}: expected a saved model, found none{mend}")
    return path


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


def _check_empty(path: Path) -> None:
    if not all(map(_is_false_start, path.iterdir())):
        raise InputError(
            f"{path}: this output folder is not empty; add --resume to go on with the run in it, or give "
            "another --output"
        )


def _is_false_start(path: Path) -> bool:
    """Return whether this is what a run leaves that was killed before its configuration was written."""
    if path.name == "checkpoints":
        return path.is_dir() and not any(path.iterdir())
    first = (ENVIRONMENT, GRAPH, INITIALIZATION)
    return path.name in (*first, *(partial(path.with_name(name)).name for name in (*first, CONFIG)))


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
