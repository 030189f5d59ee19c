"""Where a run begins: at step 0, or at its newest whole checkpoint if that still belongs to it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from gsto_spec import GstoError
from gsto_spec.graph import Graph
from gsto_train import schema
from gsto_train.errors import InputError
from gsto_train.report import Report
from gsto_train.run import checkpoint, runfolder
from gsto_train.run.checkpoint import Checkpoint, Progress, State
from gsto_train.run.environment import describe_environment
from gsto_train.run.job import Job, describe
from gsto_train.run.keeping import Best, better
from gsto_train.settings import Settings


@dataclass(frozen=True)
class Beginning:
    """What was done before: `state` is a trainer's, None at step 0; the rest as in `Progress`."""

    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    best: Best | None = None
    state: State | None = None


def begin(job: Job, report: Report) -> Beginning:
    """Return where the run begins; of a resumed one what is past that is dropped from its files.

    The first process reads, and tells the others. Raises `InputError` where every checkpoint is broken, or
    graph or data are not those of the run: then nothing in its folder is changed.
    """
    if not job.resumed:
        return Beginning()
    saved, best = None, None
    with job.processes.together():
        if job.processes.first:
            saved = _read(job, report)
            best = _best(job, saved)
    return _begun(saved, best) if job.processes.count == 1 else _shared(job, saved, best)


def owes_evaluation(job: Job, step: int) -> bool:
    """Return whether the network is scored after this step, before the next one."""
    every = job.settings.train.evaluate_every
    return every > 0 and 0 < step < job.total_steps and step % every == 0


def _read(job: Job, report: Report) -> Checkpoint | None:
    saved = checkpoint.newest(job.folder.checkpoints, report.note)
    step = saved.progress.step if saved else 0
    if saved:
        _check_fits(job, saved)
        _tell_changes(saved.progress.environment, rounding_facts(job), report)
    else:
        _check_not_lost(job)
    _check_graph_file(job, saved, report)
    describe(job, report.note)
    report.note(f"going on from step {step} of {job.total_steps}{_if_ended(job, step)}")
    # The evaluation of this very step is made again: it may have been cut off, and its line comes after.
    scored = step - 1 if owes_evaluation(job, step) or step == job.total_steps else step
    for name in (runfolder.METRICS, runfolder.TIMINGS):
        job.folder.truncate(name, step, report.note)
    job.folder.truncate(runfolder.EVALUATIONS, scored, report.note, partial(_are_scores, job))
    return saved


def _if_ended(job: Job, step: int) -> str:
    ended = step == job.total_steps and (job.folder.path / runfolder.RESULT).exists()
    return ": this run has ended already, and is scored again" if ended else ""


def _are_scores(job: Job, line: dict[str, object]) -> bool:
    try:
        score: object = job.task.score(line)
    except (KeyError, TypeError, AttributeError, ValueError):
        return False
    return score is None or (isinstance(score, int | float) and math.isfinite(score))


def _check_not_lost(job: Job) -> None:
    """Raise `InputError` where there is no checkpoint and the metrics tell that there was one."""
    every = _recorded_checkpoint_every(job)
    lines: Any = job.folder.lines(runfolder.METRICS)
    logged = max((line["step"] for line in lines), default=0)
    # The line of a step is written before its checkpoint, so one may have been killed between the two.
    if 0 < every < logged:
        raise InputError(
            f"{job.folder.checkpoints}: expected a checkpoint, as {runfolder.METRICS} has step {logged} and "
            f"one is written every {every}, found none; restore them, or start a new run with another "
            "--output"
        )


def _recorded_checkpoint_every(job: Job) -> int:
    """Return what the run was last going on with, whatever is asked for now."""
    recorded: Any = schema.flatten(job.folder.read(runfolder.CONFIG))
    return int(recorded.get("settings.train.checkpoint_every", job.settings.train.checkpoint_every))


def _best(job: Job, saved: Checkpoint | None) -> Best | None:
    """Return the best evaluation up to a checkpoint: that which it tells, or one of its own step."""
    if saved is None:
        return None
    told = saved.progress
    best = None if told.best_step is None else Best(told.best_step, told.best_score or 0.0)
    for line in job.folder.lines(runfolder.EVALUATIONS):
        if line["step"] == told.step:
            best = better(best, told.step, job.task.score(line))
    return best


def _begun(saved: Checkpoint | None, best: Best | None) -> Beginning:
    if saved is None:
        return Beginning()
    progress = saved.progress
    return Beginning(progress.step, progress.seconds, progress.skipped, best, saved.state)


def _shared(job: Job, saved: Checkpoint | None, best: Best | None) -> Beginning:
    """Return what the first process read, in all of them: machines need not share a disk for it."""
    files = checkpoint.encode(saved.progress, saved.state) if saved else {}
    head = {"sizes": {name: len(data) for name, data in files.items()}, "best": best and vars(best)}
    told = json.loads(job.processes.broadcast(json.dumps(head).encode()))
    received = {name: job.processes.broadcast(files.get(name, b"")) for name in told["sizes"]}
    if not received:
        return Beginning()
    progress, state = checkpoint.decode(received)
    best = None if told["best"] is None else Best(**told["best"])
    return Beginning(progress.step, progress.seconds, progress.skipped, best, state)


def rounding_facts(job: Job) -> dict[str, object]:
    """Return what the last bits of a result depend on: versions, device, threads, processes."""
    environment = describe_environment(job.backend)
    train = job.settings.train
    return {**environment, "device": train.device, "deterministic": train.deterministic,
            "rematerialize": train.rematerialize}  # fmt: skip


def progress_of(job: Job, **counted: Any) -> Progress:
    """Return a checkpoint's description: what was `counted`, and what it belongs to."""
    told = dict(
        samples=counted["step"] * job.settings.train.batch,
        seed=job.settings.train.seed,
        backend=job.backend.name,
        graph_digest=job.graph.digest,
        training_pictures=job.task.training_count,
        settings=schema.nest(schema.values_in_use(job.settings)),
        environment=rounding_facts(job),
    )
    assert {*told, *counted} == {field.name for field in fields(Progress)}
    return Progress(**told, **counted)


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
    _check_same_settings(job, saved)


def _check_same_settings(job: Job, saved: Checkpoint) -> None:
    """Raise `InputError` for a setting that config.json has otherwise than the checkpoint, and must not."""
    before = schema.flatten(saved.progress.settings)
    now: dict[str, object] = json.loads(json.dumps(schema.values_in_use(job.settings)))  # Lists, no tuples.
    for key in (key for key in now if key in before):
        # The digest stands for the architecture, whose file may have moved.
        free = key.startswith("architecture.") or schema.is_free(Settings, key)
        if now[key] != before[key] and not free:
            raise InputError(
                f"{job.folder.path / runfolder.CONFIG}: setting {key!r} is {now[key]}, but {saved.path} was "
                f"trained with {before[key]}; restore it, or start a new run with another --output"
            )


def _check_graph_file(job: Job, saved: Checkpoint | None, report: Report) -> None:
    """Say where graph.json is not the run's; without a checkpoint that knows better, refuse another graph."""
    path = job.folder.path / runfolder.GRAPH
    try:
        found = Graph.from_json(path.read_text(encoding="utf-8")).digest
    except FileNotFoundError:
        return report.note(f"warning: {path} is missing; it is written again from the architecture")
    except (OSError, ValueError, GstoError) as error:
        return report.note(f"warning: {path} does not read ({error}); it is written again")
    if found == job.graph.digest:
        return None
    if saved is None:
        raise InputError(
            f"{path}: cannot go on: the graph's digest was {found} and is {job.graph.digest}; restore the "
            "architecture, or start a new run with another --output"
        )
    return report.note(f"warning: {path} is not the graph of {saved.path}; it is written again")


def _tell_changes(before: Mapping[str, object], now: Mapping[str, object], report: Report) -> None:
    """Say in one line what changed of that which rounding depends on."""
    old, new = schema.flatten(before), schema.flatten(json.loads(json.dumps(now)))
    changed = [f"{key} was {old.get(key, 'not set')} and is {new.get(key, 'not set')}"
               for key in dict.fromkeys((*old, *new)) if old.get(key) != new.get(key)]  # fmt: skip
    if changed:
        report.note(f"the result will differ by rounding from an undisturbed run: {'; '.join(changed)}")
