"""The program: from a job to its result."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gsto_spec.backend import Trainer
from gsto_train.errors import InputError
from gsto_train.files import tried_twice
from gsto_train.finite import NotFiniteError
from gsto_train.interrupts import Interrupted, Interrupts
from gsto_train.processes import Elsewhere
from gsto_train.report import CountReport, Report, StepReport
from gsto_train.run import checkpoint, runfolder
from gsto_train.run.beginning import Beginning, begin, owes_evaluation, progress_of
from gsto_train.run.diagnosis import diagnose
from gsto_train.run.initialization import initial_weights
from gsto_train.run.job import Job
from gsto_train.run.journal import RunLog
from gsto_train.run.keeping import Keeper, Kept, better, choose, save_model
from gsto_train.run.losses import Losses, NotFinite, Taken
from gsto_train.run.memory import tell_analysis, tell_estimate
from gsto_train.run.result import card, describe_result, show, title, warning_of_purpose
from gsto_train.run.runfolder import CONFUSION
from gsto_train.run.tensorboard import Board
from gsto_train.stopwatch import Stopwatch
from gsto_train.task import TrainingBatch
from gsto_train.wording import counted_units


class TrainingError(RuntimeError):
    """The run cannot go on; one line that says why, and what is kept."""


class Run:
    """A job under way: a trainer, the number of steps it has taken, and what is known of them.

    Every process of several runs the same; the first alone writes.
    """

    def __init__(self, job: Job, report: Report, interrupts: Interrupts, beginning: Beginning) -> None:
        self._job, self._report, self._interrupts = job, report, interrupts
        self._step = self._saved_step = self._logged_step = beginning.step
        self._best = beginning.best
        self._losses = Losses(job.settings.train, beginning.skipped, report.note)
        self._log = RunLog(job.folder.path, runfolder.JOURNALS, report.note)
        self._keeper = Keeper(job.folder.checkpoints, self._log, report.note)
        wanted = job.settings.train.tensorboard and job.processes.first
        self._board = Board(job.folder.path / runfolder.TENSORBOARD if wanted else None, beginning.step)
        self.watch = Stopwatch(beginning.seconds)
        with self.watch.measuring("preparation"):
            self._trainer = _trainer(job, beginning, report)
            tell_analysis(job, self._trainer, report)

    def train(self) -> None:
        """Take the remaining steps, log, score along the way, save.

        Raises `TrainingError` for a step or state that is not finite, what a picture that cannot be read
        raises, `Interrupted`, and `OSError` where the end cannot be saved. What was trained until then is
        saved, unless it is not finite.
        """
        job = self._job
        batches = job.batches(start_step=self._step, total_steps=job.total_steps)
        try:
            with closing(batches), self._report.training(self._step, job.total_steps) as steps:
                self._score_if_due()
                while (batch := self._next(batches)) is not None:
                    self._take(batch, steps)
            self._save(must=True)
            self._losses.tell_end(job.total_steps)
        except NotFinite as bad:
            raise self._explained(bad) from None

    def evaluate(self, count: CountReport) -> dict[str, Any]:
        """Score the validation data as they are predicted now; adds a line to evaluations.jsonl.

        The line has the confusion of classes besides. Raises `TrainingError` where nothing that is predicted
        is finite.
        """
        job = self._job
        confusion: dict[str, object] = {}

        def seen(samples: int) -> None:
            count.advance(samples)
            self._interrupts.stop_if_received()

        with self.watch.measuring("evaluation"):
            try:
                scores = job.task.evaluate(
                    job.graph, self._trainer, seen, processes=job.processes,
                    on_confusion=lambda counts: confusion.update({CONFUSION: counts.tolist()}),
                )  # fmt: skip
            except NotFiniteError as error:
                raise self._unscored(error) from None
        self._best = better(self._best, self._step, job.task.score(scores))
        self._append(runfolder.EVALUATIONS, {"step": self._step, **scores, **confusion})
        return scores

    def finish(self, scores: Mapping[str, Any], baselines: Mapping[str, object]) -> dict[str, Any]:
        """Leave model/ and result.json, and return what the latter holds; raises OSError."""
        job, note = self._job, self._report.note
        state = self._trainer.state()
        with job.processes.together():
            if not job.processes.first:
                return {}
            self._log.flush()
            last = Kept("last", self._step, {name: state[name] for name in job.graph.parameters}, scores)
            kept = choose(job, last, self._best, note)
            result = describe_result(job, kept, self.watch, self._losses.skipped, baselines)
            save_model(job, kept, card(job, result), note)
            tried_twice(lambda: job.folder.write(runfolder.RESULT, result), note)
        return result

    def _next(self, batches: Generator[TrainingBatch]) -> TrainingBatch | None:
        """Return the next batch, None at the end; where there is none for a process, all stop and save."""
        try:
            with self.watch.measuring("data"), self._job.processes.together():
                self._interrupts.stop_if_received()
                return next(batches, None)
        except Interrupted as interrupted:
            if not interrupted.at_once:
                self._save()
            raise
        except Exception:
            self._save()
            raise

    def _take(self, batch: TrainingBatch, steps: StepReport) -> None:
        job, train = self._job, self._job.settings.train
        rate = job.schedule.rate(batch.step, job.total_steps)
        with self.watch.measuring("step"):
            losses = self._trainer.step(batch.inputs, rate)
        self._step = batch.step + 1
        self._losses.add(Taken(self._step, batch.epoch, rate, losses))
        steps.stepped(self._step)
        if self._step in (1, job.total_steps) or self._step % train.log_every == 0:
            self._log_step(batch.epoch, rate, steps)
        if train.checkpoint_every and self._step % train.checkpoint_every == 0:
            self._save()
        self._score_if_due()

    def _score_if_due(self) -> None:
        """Score between two steps; a run that was killed there owes it when it goes on."""
        if owes_evaluation(self._job, self._step):
            self._save()
            scores = self.evaluate(CountReport())
            self._report.note(f"step {self._step}: {self._job.task.headline(scores)}")

    def _log_step(self, epoch: int, rate: float, steps: StepReport) -> None:
        with self.watch.measuring("step"):
            losses = self._losses.read()
        record = {"step": self._step, "epoch": epoch, **losses, "learning_rate": rate}
        pace = self.watch.pace((self._step - self._logged_step) * self._job.settings.train.batch)
        self._logged_step = self._step
        self._append(runfolder.METRICS, record)
        self._append(runfolder.TIMINGS, {"step": self._step, "seconds": self.watch.seconds, **vars(pace)})
        steps.logged(record, pace)

    def _append(self, name: str, record: Mapping[str, object]) -> None:
        if self._job.processes.first:
            self._log.append(name, record)
            self._board.add(self._step, Path(name).stem, record)

    def _save(self, *, must: bool = False) -> None:
        """Write a checkpoint of the steps taken, unless there is one; never one that is not finite."""
        if self._step == self._saved_step:
            return
        with self.watch.measuring("step"):
            self._losses.read()
        with self.watch.measuring("checkpoint"):
            state = self._finite_state()
            with self._job.processes.together():
                written = self._job.processes.first and self._write(state, must)
        if self._job.processes.any(written):
            self._saved_step = self._step

    def _write(self, state: Mapping[str, NDArray[Any]], must: bool) -> bool:
        """Return whether the step is saved."""
        progress = progress_of(
            self._job,
            step=self._step,
            seconds=self.watch.seconds,
            skipped=self._losses.skipped,
            best_step=self._best and self._best.step,
            best_score=self._best and self._best.score,
        )
        return self._keeper.save(progress, state, must=must)

    def _finite_state(self) -> dict[str, NDArray[Any]]:
        state = self._trainer.state()
        try:
            checkpoint.check_finite(state)
        except FloatingPointError as error:
            raise NotFinite(f"tensor {error}", self._step) from None
        return state

    def _unscored(self, error: NotFiniteError) -> Exception:
        """Return what to raise where the network predicts nothing finite; every process comes here."""
        if not self._job.processes.first:
            return Elsewhere()
        kept = f"the checkpoints in {self._job.folder.checkpoints} are kept"
        return TrainingError(f"scoring at step {self._step}: {error}; {kept}")

    def _explained(self, bad: NotFinite) -> Exception:
        """Return what to raise for a step that is not finite, once every process has looked into it."""
        found = diagnose(self._job, self._trainer, bad.step)
        if not self._job.processes.first:
            return Elsewhere()
        kept = f"that of step {self._saved_step} is kept" if self._saved_step else "none was saved before"
        where = found and f", {found}"
        return TrainingError(
            f"{bad}{where}; no checkpoint of it is saved, {kept}; look at these pictures, or "
            f"train anew with a smaller train.learning_rate; {self._leaving_out()}"
        )

    def _leaving_out(self) -> str:
        """Return how to go on without steps that are not finite, in words."""
        train, command = self._job.settings.train, self._job.resume_command
        if train.not_finite == "stop":
            return f"to leave such steps out, go on with: {command} --set train.not_finite=skip"
        return (
            f"train.not_finite_limit of {train.not_finite_limit} such steps is reached; to leave out more, "
            f"go on with: {command} --set train.not_finite_limit={2 * train.not_finite_limit + 1}"
        )


def run(job: Job, report: Report, interrupts: Interrupts) -> dict[str, Any]:
    """Train, score, and leave result.json; returns what it holds.

    Raises what `begin` and `Run.train` do, and OSError, naming the file, where the run folder cannot be
    written.
    """
    total = job.task.validation_count
    scoring = f"scoring {counted_units(total, job.task.unit)}"
    report.note(title(job))
    if warning := warning_of_purpose(job):
        report.note(warning)
    tell_estimate(job, report)
    beginning = begin(job, report)
    with _naming_the_way_on(job), job.processes.together():
        baselines = _baselines(job, report)
    with interrupts.deferred(lambda: report.note("finishing this step (once more: stop at once)")):
        with _clearing_a_false_start(job):
            under_way = Run(job, report, interrupts, beginning)
        del beginning  # Its state is as large as the trainer's.
        with _naming_the_way_on(job):
            under_way.train()
        with report.counting(scoring, len(job.processes.share(total))) as count:
            scores = under_way.evaluate(count)
    result = under_way.finish(scores, baselines)
    if job.processes.first:
        show(job, report, result, under_way.watch)
    return result


@contextmanager
def _clearing_a_false_start(job: Job) -> Iterator[None]:
    """Remove a new run's folder where it fails before a checkpoint: the mended command needs its place."""
    try:
        yield
    except (ValueError, MemoryError):
        job.folder.discard()
        raise


@contextmanager
def _naming_the_way_on(job: Job) -> Iterator[None]:
    try:
        with _clearing_a_false_start(job):
            yield
    except InputError as error:
        if not job.folder.path.exists():
            raise InputError(f"{error}; then run the same command again") from error
        raise InputError(f"{error}; then go on with: {job.resume_command}") from error


def _trainer(job: Job, beginning: Beginning, report: Report) -> Trainer:
    """Return a trainer that goes on from the beginning."""
    train = job.settings.train
    weights = _weights_to_start_from(job, beginning, report)
    terms = job.training_terms()
    trainer = job.backend.trainer(job.graph, weights, terms, device=train.device, precision=train.precision)
    if beginning.state is not None:
        trainer.load(beginning.state)
    return trainer


def _weights_to_start_from(job: Job, beginning: Beginning, report: Report) -> Mapping[str, NDArray[Any]]:
    """Return the initial weights; where a checkpoint is to be loaded over them, the file is not needed."""
    if beginning.state is not None:
        return {name: beginning.state[name] for name in job.graph.parameters}
    initial = initial_weights(job.settings, job.graph)
    for line in initial.report:
        report.note(f"{initial.source}: {line}")
    return initial.weights


def _baselines(job: Job, report: Report) -> dict[str, Any]:
    """Score the answers that need no network, before training: so every picture is known to be readable."""
    if not job.processes.first:
        return {}
    if job.resumed and (kept := _kept_baselines(job)) is not None:
        return kept
    baselines = job.task.baselines(job.graph, report)
    tried_twice(lambda: job.folder.write(runfolder.BASELINES, baselines), report.note)
    return baselines


def _kept_baselines(job: Job) -> dict[str, Any] | None:
    """Return the baselines that were scored before, unless they are not scores of these classes."""
    try:
        kept = job.folder.read(runfolder.BASELINES)
    except InputError:
        return None
    return kept if job.task.are_baselines(kept) else None
