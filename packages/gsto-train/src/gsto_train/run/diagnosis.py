"""Why a step was not finite: which pictures it was on, which of them are odd, and where it began."""

import json
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec.backend import Batch, Trainer
from gsto_spec.graph import Graph
from gsto_train.data.samples import IGNORE_LABEL
from gsto_train.run.job import Job
from gsto_train.task import TrainingBatch

LARGEST = 1e4
"""Of a normalised picture, a heatmap or a visibility: thousands of times what any data hold."""


def diagnose(job: Job, trainer: Trainer, step: int) -> str:
    """Return in words what is known of step number `step`, whose data are loaded again.

    `trainer` is looked into with the weights it has now: those before the step, or where it was noticed
    later, a few steps on. Every process must ask.
    """
    batch = _load(job, step)
    if job.processes.any(batch is None) or batch is None:
        return ""
    own = {
        "odd": odd_samples(batch.inputs, batch.names, len(job.task.labels)),
        "names": batch.names,
        "first": trainer.first_not_finite(batch.inputs),
    }
    found = [json.loads(text) for text in job.processes.gather(json.dumps(own))]
    odd = [line for each in found for line in each["odd"]]
    others = [name for each in found for name in each["names"] if not _among(name, odd)]
    return "; ".join([*_where(job.graph, [each["first"] for each in found]), *_on(odd, others)])


def odd_samples(inputs: Batch, names: tuple[str, ...], classes: int) -> list[str]:
    """Return the samples that hold what no data do: values not finite or huge, labels of no class."""
    return [
        f"{name} ({', '.join(found)})"
        for index, name in enumerate(names)
        if (found := [text for key, array in inputs.items() if (text := _oddity(key, array[index], classes))])
    ]


def _oddity(key: str, array: NDArray[Any], classes: int) -> str | None:
    if array.dtype.kind in "iu":
        odd = array[((array < 0) | (array >= classes)) & (array != IGNORE_LABEL)]
    else:
        odd = array[~(np.abs(array) <= LARGEST)]
    return f"{key} holds {odd[0]:g}" if odd.size else None


def _load(job: Job, step: int) -> TrainingBatch | None:
    """Return the batch of a step once more, None where it does not load any longer."""
    try:
        with closing(job.batches(start_step=step - 1, total_steps=step)) as batches:
            return next(batches)
    except Exception:  # The data have changed since; what is being told matters more.
        return None


def _among(name: str, odd: list[str]) -> bool:
    return any(line.startswith(f"{name} (") for line in odd)


def _where(graph: Graph, first: list[str | None]) -> list[str]:
    places = {node.name: place for place, node in enumerate(graph.order)}
    found = sorted(filter(None, first), key=lambda name: places.get(name, len(places)))
    return [f"the first that is not finite is {found[0]}"] if found else []


def _on(odd: list[str], others: list[str]) -> list[str]:
    if odd and others:
        return [f"on {', '.join(odd)}, beside {', '.join(others)}"]
    return [f"on {', '.join([*odd, *others])}"] if odd or others else []
