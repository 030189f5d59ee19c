"""What a run keeps: checkpoints, on a disk that may fail for a while, and a network at the end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gsto_spec.pretrained import save_pretrained
from gsto_train.files import naming, told, tried_twice, whole_folder
from gsto_train.run import checkpoint, runfolder
from gsto_train.run.checkpoint import BrokenCheckpoint, Progress
from gsto_train.run.job import Job
from gsto_train.run.journal import RunLog

Note = Callable[[str], None]


@dataclass(frozen=True)
class Best:
    """The best evaluation so far."""

    step: int
    score: float


def better(best: Best | None, step: int, score: float | None) -> Best | None:
    """Return the better one; of equal scores the first."""
    if score is None or (best is not None and score <= best.score):
        return best
    return Best(step, score)


class Keeper:
    """Writes checkpoints, lines first; a disk that fails costs no run before its end."""

    def __init__(self, folder: Path, log: RunLog, note: Note) -> None:
        self._folder, self._log, self._note = folder, log, note

    def save(self, progress: Progress, state: Mapping[str, NDArray[Any]], *, must: bool) -> bool:
        """Return whether a checkpoint was written; raises OSError where it `must` be and cannot."""
        try:
            tried_twice(lambda: self._write(progress, state), self._note)
        except OSError as error:
            if must:
                raise
            self._note(
                f"warning: {told(error)}; step {progress.step} is not saved, the next checkpoint may be"
            )
            return False
        return True

    def _write(self, progress: Progress, state: Mapping[str, NDArray[Any]]) -> None:
        self._log.flush()
        checkpoint.save(self._folder, progress, state)


@dataclass(frozen=True)
class Kept:
    """The network that is left: which, of which step, its weights and its scores."""

    keep: str
    step: int
    weights: Mapping[str, NDArray[Any]]
    scores: Mapping[str, Any]


def choose(job: Job, last: Kept, best: Best | None, note: Note) -> Kept:
    """Return the last network, or the best where the settings say so and its checkpoint is whole."""
    if job.settings.train.keep == "last" or best is None:
        return last
    if best.step == last.step:
        return replace(last, keep="best")
    lines = job.folder.lines(runfolder.EVALUATIONS)
    scores = next(({**line} for line in lines if line["step"] == best.step), None)
    path = job.folder.checkpoints / checkpoint.folder_name(best.step)
    try:
        state = checkpoint.read(path).state
    except BrokenCheckpoint as broken:
        note(f"warning: {path}, the best, is broken ({broken}); the last network is left in its place")
        return last
    if scores is None:
        note(f"warning: {runfolder.EVALUATIONS} lacks step {best.step}, the best; the last network is left")
        return last
    for key in ("step", runfolder.CONFUSION):
        scores.pop(key, None)
    return Kept("best", best.step, {name: state[name] for name in job.graph.parameters}, scores)


def save_model(job: Job, kept: Kept, facts: Mapping[str, object], note: Note) -> None:
    """Leave a network in model/, to be shared as it is; `facts` go into its card. Raises OSError."""
    path = job.folder.path / runfolder.MODEL

    def write() -> None:
        with naming(path), whole_folder(path) as folder:
            save_pretrained(folder, job.graph, kept.weights, facts)

    tried_twice(write, note)
