"""What a step takes of memory, said before the first one, and what to set where there is too little."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast, get_args, runtime_checkable

from gsto_spec.backend import Backend, Trainer, resolve_device
from gsto_spec.memory import advice, estimate
from gsto_spec.precision import Precision
from gsto_train.report import Report
from gsto_train.run.host import free_host_memory
from gsto_train.run.job import Job
from gsto_train.wording import counted


@runtime_checkable
class KnowsFreeMemory(Protocol):
    """A backend that knows how much memory of a device is free."""

    def free_memory(self, device: str) -> int | None:
        """Return bytes; None where its framework does not say, which of a CPU it need not."""


@runtime_checkable
class KnowsItsMemory(Protocol):
    """A trainer whose compiler knows what a step takes."""

    def memory_analysis(self, shape: tuple[int, int, int, int]) -> Mapping[str, int]:
        """Return bytes on each device for a global batch of N x C x H x W, `peak` among them."""


@dataclass(frozen=True)
class Needed:
    """Bytes of a step by the graph, for crops N x 3 x H x W of one process; None where nobody knows."""

    step_bytes: int
    free_bytes: int | None
    shape: tuple[int, int, int, int]
    precision: Precision

    @property
    def fits(self) -> bool:
        """Whether nothing is known that speaks against it."""
        return self.free_bytes is None or self.step_bytes <= self.free_bytes


def needed(job: Job) -> Needed | None:
    """Return what a step takes; None for a precision of the backend's own."""
    train = job.settings.train
    if train.precision not in get_args(Precision):
        return None
    precision = cast(Precision, train.precision)
    shape = (len(job.processes.share(train.batch)), 3, *job.settings.data.crop)
    free = free_memory(job.backend, resolve_device(job.backend, train.device, precision))
    return Needed(estimate(job.graph, shape, job.training_terms(), precision).peak, free, shape, precision)


def tell_estimate(job: Job, report: Report) -> Needed | None:
    """Say and return what a step takes by the graph; say what to set where that is more than is free."""
    found = needed(job)
    if found is None:
        return None
    known = "" if found.free_bytes is None else f", {gibibytes(found.free_bytes)} are free"
    told = (
        f"{gibibytes(found.step_bytes)} for a step of {counted(found.shape[0], 'crop')}, by the graph{known}"
    )
    report.note(f"memory: {told}")
    if found.free_bytes is not None and not found.fits:
        report.note("warning: that will not fit; what makes it less, and how much it is then:")
        for line in advice(
            job.graph, found.shape, job.training_terms(), found.free_bytes, found.precision,
            devices=job.processes.count,
        ):  # fmt: skip
            report.note(f"  {line}")
    return found


def tell_analysis(job: Job, trainer: Trainer, report: Report) -> None:
    """Say what a step takes by the compiler, where the backend has one that knows."""
    if isinstance(trainer, KnowsItsMemory):
        report.note("compiling a step, which may take minutes")
        found = trainer.memory_analysis((job.settings.train.batch, 3, *job.settings.data.crop))
        report.note(f"memory: {gibibytes(found['peak'])} for a step on each device, by the compiler")


def free_memory(backend: Backend, device: str) -> int | None:
    """Return the free bytes of a device; None where nobody tells."""
    told = backend.free_memory(device) if isinstance(backend, KnowsFreeMemory) else None
    return free_host_memory() if told is None and device == "cpu" else told


def gibibytes(count: int) -> str:
    """Return a number of bytes as "1.25 GiB" or "3.1 MiB"."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"
