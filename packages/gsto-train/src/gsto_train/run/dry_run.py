"""A run that is only resolved: what it would do and need, with nothing written."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from gsto_train import schema
from gsto_train.report import Report
from gsto_train.run import checkpoint
from gsto_train.run.initialization import initial_weights
from gsto_train.run.job import Job
from gsto_train.run.memory import Needed, tell_estimate
from gsto_train.run.result import identity, title, warning_of_purpose
from gsto_train.wording import counted, counted_units, noun_of


def dry_run(job: Job, report: Report) -> dict[str, Any]:
    """Check what `run` would begin with, its first batch read, and say what it would do.

    `job` is one that is only `resolved`. Raises as `prepare` and `begin` do for what is wrong, and what
    reading a picture raises.
    """
    job.folder.check(resume=job.resumed)
    step = _first_step(job, report)
    if step == 0:
        initial_weights(job.settings, job.graph)
    report.note(title(job))
    if warning := warning_of_purpose(job):
        report.note(warning)
    memory = tell_estimate(job, report)
    _read_first_batch(job, step)
    told = _described(job, step, memory)
    for line in _lines(job, told):
        report.say(line)
    return told


def _described(job: Job, step: int, memory: Needed | None) -> dict[str, Any]:
    train = job.settings.train
    return {
        **identity(job),
        "parameters": sum(map(math.prod, job.graph.trainable.values())),
        job.task.unit: {"training": job.task.training_count, "validation": job.task.validation_count},
        job.task.label_unit: list(job.task.labels),
        "first_step": step,
        "steps": job.total_steps,
        "epochs": job.total_steps * train.batch / job.task.training_count,
        "batch": train.batch,
        "precision": train.precision,
        "processes": job.processes.count,
        "memory": None if memory is None else dataclasses.asdict(memory),
        "output": str(job.folder.path),
        "go_on_with": job.resume_command,
        "settings": schema.nest(schema.values_in_use(job.settings)),
    }


def _lines(job: Job, told: Mapping[str, Any]) -> list[str]:
    steps, batch = told["steps"] - told["first_step"], told["batch"]
    begun = f" from step {told['first_step']} on" if told["first_step"] else ""
    crops, count = steps * batch, job.task.training_count
    epochs = f"{crops / count:.3g} {noun_of(crops / count, 'epoch')}"
    return [
        f"would take {counted(steps, 'step')}{begun}: {counted(crops, 'crop')}, {epochs} of "
        f"{counted_units(count, job.task.unit)}",
        f"would score {counted_units(job.task.validation_count, job.task.unit)}: {told['protocol']}",
        f"would write into {told['output']}, and go on after an interrupt with: {told['go_on_with']}",
        "nothing was written; the first batch was read, and gsto-data check reads every picture",
    ]


def _first_step(job: Job, report: Report) -> int:
    saved = checkpoint.newest(job.folder.checkpoints, report.note) if job.resumed else None
    return 0 if saved is None else saved.progress.step


def _read_first_batch(job: Job, step: int) -> None:
    batches = job.batches(start_step=step, total_steps=min(step + 1, job.total_steps))
    try:
        next(batches, None)
    finally:
        batches.close()
