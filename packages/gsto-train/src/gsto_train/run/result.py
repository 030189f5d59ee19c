"""What a run leaves and says at its end: result.json, the model's card, a table."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsto_spec.catalog import architectures, entry
from gsto_train import benchmarks, resolve, schema
from gsto_train.cards import PREPROCESSING
from gsto_train.report import Report, duration
from gsto_train.run import runfolder
from gsto_train.run.job import Job
from gsto_train.run.keeping import Kept
from gsto_train.segmentation.task import Segmentation
from gsto_train.settings import KEYPOINTS, OFFICIAL
from gsto_train.stopwatch import Stopwatch
from gsto_train.wording import counted, counted_units, unit_of

_POSE_NETWORKS = "gsto_train.pose.networks:"


def title(job: Job) -> str:
    """Return what is about to be trained, in a line."""
    train, crop, task = job.settings.train, job.settings.data.crop, job.task
    parameters = sum(map(math.prod, job.graph.trainable.values()))
    tuned = f"; {job.fine_tuning}" if str(job.fine_tuning) else ""
    several = f" in {job.processes.count} processes" if job.processes.count > 1 else ""
    return (
        f"{job.settings.architecture.name} ({parameters / 1e6:.2f} M parameters) on {job.plan.benchmark}: "
        f"{task.training_count} training and {task.validation_count} validation "
        f"{unit_of(task.validation_count, task.unit)}, "
        f"{counted_units(len(task.labels), task.label_unit)}; {counted(job.total_steps, 'step')} of "
        f"{counted(train.batch, 'crop')} of {crop[0]}x{crop[1]}{tuned}; "
        f"{job.backend.name}, {train.precision}{several}; run folder {job.folder.path}"
    )


def warning_of_purpose(job: Job) -> str | None:
    """Return what to say of a network made for joints where the data have classes, or the reverse."""
    name, joints = job.settings.architecture.name, job.settings.data.kind in KEYPOINTS
    if name in architectures():
        made_for_joints = entry(name).family.startswith("pose")
    elif name.startswith(_POSE_NETWORKS):
        made_for_joints = True
    else:
        return None
    if made_for_joints == joints:
        return None
    found, wanted = ("classes", "joints") if made_for_joints else ("joints", "classes")
    return (
        f"warning: architecture {name} is made to find {wanted}, and these data have {found}; --list names "
        "the others"
    )


def identity(job: Job) -> dict[str, Any]:
    """Return what is trained, by what and for what, ready for JSON."""
    return {
        "backend": job.backend.name,
        "architecture": job.settings.architecture.name,
        "benchmark": job.plan.benchmark,
        "protocol": job.task.protocol(job.graph),
        "graph_digest": job.graph.digest,
    }


def describe_result(
    job: Job, kept: Kept, watch: Stopwatch, skipped: int, baselines: Mapping[str, object]
) -> dict[str, Any]:
    """Return what result.json holds; `seconds`, `seconds_by_part` and `environment` alone vary by run."""
    train, facts = job.settings.train, job.task.facts()
    return {
        **identity(job),
        "metrics": kept.scores,
        "model": {"keep": kept.keep, "step": kept.step},
        "baselines": baselines,
        "steps": job.total_steps,
        "skipped_steps": skipped,
        "batch": train.batch,
        "precision": train.precision,
        "device": train.device,
        "seconds": watch.seconds,
        "seconds_by_part": watch.parts,
        **facts,
        "seeds": {"train": train.seed, **facts["seeds"]},
        "environment": job.folder.read(runfolder.ENVIRONMENT),
    }


_TOLD = ("benchmark", "protocol", "metrics", "model", "steps", "batch", "seeds", "backend",
         "precision", "environment")  # fmt: skip


def card(job: Job, result: Mapping[str, object]) -> dict[str, object]:
    """What goes with the weights: what they were trained on and how, what they score, what they take.

    The licence is for whoever shares them to state.
    """
    task, settings = job.task, schema.values_in_use(job.settings)
    counts = {"training": task.training_count, "validation": task.validation_count}
    started_from = job.settings.architecture.initialize_from
    settings["architecture.name"] = architecture = _without_folder(job.settings.architecture.name)
    return {
        **{key: result[key] for key in _TOLD},
        "architecture": architecture,
        "datasets": _public_data(job),
        "data": {"benchmark": job.plan.benchmark, "kind": job.settings.data.kind, task.unit: counts},
        "classes": task.labels,
        "palette": task.training.palette if isinstance(task, Segmentation) else None,
        "preprocessing": PREPROCESSING,
        "initialized_from": started_from and Path(started_from).name,
        "settings": schema.nest(
            {key: _name_alone(value) for key, value in settings.items() if key not in benchmarks.PLACES}
        ),
        "licence": None,
    }


def _public_data(job: Job) -> list[str]:
    """The data set by the name that the public knows; none of data that are generated or one's own."""
    kind = job.settings.data.kind
    name = kind if kind in OFFICIAL else job.plan.record.data_set
    return [] if name is None else [name]


def _name_alone(value: object) -> object:
    """A setting, of an absolute path the last part."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _without_folder(architecture: str) -> str:
    return Path(architecture).name if architecture.endswith(".json") else architecture


def show(job: Job, report: Report, result: Mapping[str, Any], watch: Stopwatch) -> None:
    """Print the scores beside the baselines', and where the time went."""
    columns = {"network": result["metrics"], **result["baselines"]}
    architecture = resolve.title(job.settings.architecture.name)
    job.task.show(report, f"{architecture} on {job.plan.benchmark}: {result['protocol']}", columns)
    if job.plan.as_recorded:
        report.say(f"the recipe's record: {job.plan.record}")
    kept = result["model"]
    if kept["step"] != result["steps"]:
        report.say(f"the model is the best one, of step {kept['step']}")
    if result["skipped_steps"]:
        report.say(f"steps left out for not being finite: {result['skipped_steps']}")
    report.say(watch.summary(job.settings.train))
    report.say(f"trained in {duration(result['seconds'])}; everything is in {job.folder.path}")
