"""The program: from a job to its result."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, SupportsFloat

from numpy.typing import NDArray

from gsto_spec.weights import save_directory
from gsto_train import checkpoint, resolve, runfolder, schema
from gsto_train.checkpoint import Checkpoint, Progress
from gsto_train.data.augment import IMAGENET_MEAN, IMAGENET_STD
from gsto_train.errors import InputError
from gsto_train.files import whole_folder
from gsto_train.initialization import initial_weights
from gsto_train.interrupts import Interrupts
from gsto_train.job import Job
from gsto_train.report import CountReport, Report, StepReport, duration
from gsto_train.task import TrainingBatch


class TrainingError(RuntimeError):
    """The run cannot go on; one line that says why, and what is kept."""


@dataclass(frozen=True)
class _Step:
    """A step that was taken, its losses perhaps still on the device."""

    number: int
    epoch: int
    names: tuple[str, ...]
    learning_rate: float
    losses: Mapping[str, SupportsFloat]


class Run:
    """A job under way: a trainer, the number of steps it has taken, and the seconds they took."""

    def __init__(self, job: Job, report: Report, interrupts: Interrupts) -> None:
        self._job, self._report, self._interrupts = job, report, interrupts
        saved = _checkpoint_to_resume(job, report)
        self._step = self._saved_step = saved.progress.step if saved else 0
        self._seconds_before = saved.progress.seconds if saved else 0.0
        self._unread: list[_Step] = []
        self._names: tuple[str, ...] = ()
        self._trainer = job.backend.trainer(
            job.graph,
            _weights_to_start_from(job, saved, report),
            job.training_terms(),
            device=job.settings.train.device,
            precision=job.settings.train.precision,
        )
        if saved:
            self._trainer.load(saved.state)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resumption included."""
        return self._seconds_before + time.monotonic() - self._began

    def train(self) -> float:
        """Take the remaining steps, log, save; returns the seconds that the whole training took.

        Raises `TrainingError` for a loss or state that is not finite, `InputError` for a picture that cannot
        be read, `Interrupted`; what was trained until then is saved, unless it is not finite.
        """
        job = self._job
        batches = job.task.batches(job.graph, start_step=self._step, total_steps=job.total_steps)
        try:
            with closing(batches), self._report.training(self._step, job.total_steps) as steps:
                for batch in batches:
                    self._take(batch, steps)
        except InputError:
            self._save()
            raise
        self._save()
        return self.seconds

    def evaluate(self, count: CountReport) -> dict[str, Any]:
        """Score the validation data as they are predicted now; adds a line to evaluations.jsonl."""
        job = self._job

        def seen(samples: int) -> None:
            count.advance(samples)
            self._interrupts.stop_if_received()

        scores = job.task.evaluate(job.graph, self._trainer, seen)
        job.folder.truncate(runfolder.EVALUATIONS, self._step - 1)
        job.folder.append(runfolder.EVALUATIONS, {"step": self._step, **scores})
        return scores

    def save_model(self, facts: Mapping[str, object]) -> None:
        """Leave the trained network in model/, which every backend opens; `facts` go into its card."""
        state = self._trainer.state()
        weights = {name: state[name] for name in self._job.graph.parameters}
        with whole_folder(self._job.folder.path / runfolder.MODEL) as folder:
            save_directory(folder, self._job.graph, weights, facts)

    def _take(self, batch: TrainingBatch, steps: StepReport) -> None:
        job, train = self._job, self._job.settings.train
        rate = job.schedule.rate(batch.step, job.total_steps)
        losses = self._trainer.step(batch.inputs, rate)
        self._step, self._names = batch.step + 1, batch.names
        self._unread.append(_Step(self._step, batch.epoch, batch.names, rate, losses))
        steps.stepped(self._step)
        if self._step in (1, job.total_steps) or self._step % train.log_every == 0:
            self._log(steps)
        if _due(self._step, train.checkpoint_every) or self._interrupts.received:
            self._save()
        self._interrupts.stop_if_received()
        if _due(self._step, train.evaluate_every) and self._step < job.total_steps:
            self._evaluate_between()

    def _evaluate_between(self) -> None:
        self._save()
        scores = self.evaluate(CountReport())
        self._report.note(f"step {self._step}: {self._job.task.headline(scores)}")

    def _log(self, steps: StepReport) -> None:
        last = self._unread[-1]
        losses = self._read_losses()
        record = {"step": last.number, "epoch": last.epoch, **losses, "learning_rate": last.learning_rate}
        self._job.folder.append(runfolder.METRICS, record)
        steps.logged(record)

    def _read_losses(self) -> dict[str, float]:
        """Wait for the device, check every loss since the last time, and return those of the last step."""
        losses: dict[str, float] = {}
        for step in self._unread:
            losses = {name: float(value) for name, value in step.losses.items()}
            if not all(map(math.isfinite, losses.values())):
                raise self._not_finite(f"loss {losses['loss']}", step.number, step.names)
        self._unread.clear()
        return losses

    def _save(self) -> None:
        """Write a checkpoint of the steps taken, unless there is one; never one that is not finite."""
        if self._step == self._saved_step:
            return
        self._read_losses()
        job = self._job
        progress = Progress(
            step=self._step,
            seconds=self.seconds,
            seed=job.settings.train.seed,
            backend=job.backend.name,
            graph_digest=job.graph.digest,
            training_pictures=job.task.training_count,
            settings=schema.nest(schema.values_in_use(job.settings)),
        )
        try:
            checkpoint.save(job.folder.checkpoints, progress, self._trainer.state())
        except FloatingPointError as error:
            raise self._not_finite(f"tensor {error}", self._step, self._names) from None
        self._saved_step = self._step

    def _not_finite(self, what: str, step: int, names: tuple[str, ...]) -> TrainingError:
        kept = f"that of step {self._saved_step} is kept" if self._saved_step else "none was saved before"
        return TrainingError(
            f"{what} at step {step} is not finite, on {', '.join(names)}; no checkpoint of it is saved, "
            f"{kept}; look at these pictures, or train anew with a smaller train.learning_rate"
        )


def run(job: Job, report: Report, interrupts: Interrupts) -> dict[str, Any]:
    """Train, score, and leave result.json; returns what it holds.

    Raises what `Run.train` does, and OSError, naming the file, where the run folder cannot be written.
    """
    total = job.task.validation_count
    report.note(_title(job))
    with _naming_the_way_on(job):
        baselines = _baselines(job, report)
    with interrupts.deferred(lambda: report.note("finishing this step (once more: stop at once)")):
        with _clearing_a_false_start(job):
            under_way = Run(job, report, interrupts)
        with _naming_the_way_on(job):
            seconds = under_way.train()
        with report.counting(f"scoring {total} {job.task.unit}", total) as count:
            scores = under_way.evaluate(count)
    result = _result(job, seconds, scores, baselines)
    under_way.save_model(_card(job, result))
    job.folder.write(runfolder.RESULT, result)
    _show(job, report, result)
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


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _checkpoint_to_resume(job: Job, report: Report) -> Checkpoint | None:
    """Return the checkpoint to go on from, with what was logged past it dropped; None to start at step 0."""
    if not job.resumed:
        return None
    saved = checkpoint.newest(job.folder.checkpoints, report.note)
    step = saved.progress.step if saved else 0
    if saved:
        _check_fits(job, saved)
    report.note(f"going on from step {step} of {job.total_steps}")
    for name in (runfolder.METRICS, runfolder.EVALUATIONS):
        job.folder.truncate(name, step)
    return saved


def _weights_to_start_from(job: Job, saved: Checkpoint | None, report: Report) -> Mapping[str, NDArray[Any]]:
    """Return the initial weights; where a checkpoint is to be loaded over them, the file is not needed."""
    if saved is not None:
        return {name: saved.state[name] for name in job.graph.parameters}
    initial = initial_weights(job.settings, job.graph)
    for line in initial.report:
        report.note(f"{initial.source}: {line}")
    return initial.weights


def _check_fits(job: Job, saved: Checkpoint) -> None:
    progress = saved.progress
    facts = (
        ("the graph's digest", progress.graph_digest, job.graph.digest),
        (f"the number of training {job.task.unit}", progress.training_pictures, job.task.training_count),
    )
    for what, before, now in facts:
        if before != now:
            raise InputError(
                f"{saved.path}: cannot go on from here: {what} was {before} and is {now}; restore what it "
                "was, or start a new run with another --output"
            )


def _baselines(job: Job, report: Report) -> dict[str, Any]:
    """Score the answers that need no network, before training: so every picture is known to be readable."""
    if job.resumed and (kept := _kept_baselines(job)) is not None:
        return kept
    baselines = job.task.baselines(job.graph, report)
    job.folder.write(runfolder.BASELINES, baselines)
    return baselines


def _kept_baselines(job: Job) -> dict[str, Any] | None:
    """Return the baselines that were scored before, unless they are not scores of these classes."""
    try:
        kept = job.folder.read(runfolder.BASELINES)
    except InputError:
        return None
    return kept if job.task.are_baselines(kept) else None


def _result(
    job: Job, seconds: float, scores: Mapping[str, object], baselines: Mapping[str, object]
) -> dict[str, Any]:
    train, facts = job.settings.train, job.task.facts()
    return {
        "backend": job.backend.name,
        "architecture": job.settings.architecture.name,
        "benchmark": job.plan.benchmark,
        "protocol": job.task.protocol,
        "graph_digest": job.graph.digest,
        "metrics": scores,
        "baselines": baselines,
        "steps": job.total_steps,
        "batch": train.batch,
        "precision": train.precision,
        "device": train.device,
        "seconds": seconds,
        **facts,
        "seeds": {"train": train.seed, **facts["seeds"]},
        "environment": job.folder.read(runfolder.ENVIRONMENT),
    }


def _card(job: Job, result: Mapping[str, object]) -> dict[str, object]:
    """What goes with the weights: what they were trained on and how, what they score, what they take."""
    told = ("architecture", "benchmark", "protocol", "metrics", "steps", "batch", "seeds")
    preprocessing = {"channels": "RGB / 255", "mean": IMAGENET_MEAN, "deviation": IMAGENET_STD}
    return {**{key: result[key] for key in told}, "classes": job.task.labels,
            "preprocessing": preprocessing}  # fmt: skip


def _title(job: Job) -> str:
    train, crop, task = job.settings.train, job.settings.data.crop, job.task
    parameters = sum(map(math.prod, job.graph.trainable.values()))
    return (
        f"{job.settings.architecture.name} ({parameters / 1e6:.2f} M parameters) on {job.plan.benchmark}: "
        f"{task.training_count} training and {task.validation_count} validation {task.unit}, "
        f"{len(task.labels)} {task.label_unit}; {job.total_steps} steps of {train.batch} crops of "
        f"{crop[0]}x{crop[1]}; {job.backend.name}, {train.precision}; run folder {job.folder.path}"
    )


def _show(job: Job, report: Report, result: Mapping[str, Any]) -> None:
    columns = {"network": result["metrics"], **result["baselines"]}
    architecture = resolve.title(job.settings.architecture.name)
    job.task.show(report, f"{architecture} on {job.plan.benchmark}: {job.task.protocol}", columns)
    report.say(f"the recipe's record: {job.plan.record}")
    report.say(f"trained in {duration(result['seconds'])}; everything is in {job.folder.path}")
