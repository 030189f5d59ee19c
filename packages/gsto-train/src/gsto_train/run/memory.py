"""What a step takes of memory, said before the first one, and what to set where there is too little."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast, get_args, runtime_checkable

from gsto_spec.backend import Backend, Trainer, resolve_device
from gsto_spec.memory import advice, estimate
from gsto_spec.precision import Precision
from gsto_train.report import Report
from gsto_train.run.job import Job

_KNOWN = Path("/proc/meminfo")


@runtime_checkable
class KnowsFreeMemory(Protocol):
    """A backend that knows how much memory of a device is free."""

    def free_memory(self, device: str) -> int:
        """Return bytes."""


@runtime_checkable
class KnowsItsMemory(Protocol):
    """A trainer whose compiler knows what a step takes."""

    def memory_analysis(self, shape: tuple[int, int, int, int]) -> Mapping[str, int]:
        """Return bytes on each device for a global batch of N x C x H x W, `peak` among them."""


def tell_estimate(job: Job, report: Report) -> None:
    """Say what a step takes by the graph, and what to set where that is more than is free."""
    train, terms = job.settings.train, job.training_terms()
    if train.precision not in get_args(Precision):  # A backend's own.
        return
    precision = cast(Precision, train.precision)
    shape = (len(job.processes.share(train.batch)), 3, *job.settings.data.crop)
    needed = estimate(job.graph, shape, terms, precision).peak
    free = free_memory(job.backend, resolve_device(job.backend, train.device, precision))
    known = "" if free is None else f", {gibibytes(free)} are free"
    report.note(f"memory: {gibibytes(needed)} for a step of {shape[0]} crops, by the graph{known}")
    if free is not None and needed > free:
        report.note("warning: that will not fit; what makes it less, and how much it is then:")
        for line in advice(job.graph, shape, terms, free, precision, devices=job.processes.count):
            report.note(f"  {line}")


def tell_analysis(job: Job, trainer: Trainer, report: Report) -> None:
    """Say what a step takes by the compiler, where the backend has one that knows."""
    if isinstance(trainer, KnowsItsMemory):
        found = trainer.memory_analysis((job.settings.train.batch, 3, *job.settings.data.crop))
        report.note(f"memory: {gibibytes(found['peak'])} for a step on each device, by the compiler")


def free_memory(backend: Backend, device: str) -> int | None:
    """Return the free bytes of a device; None where nobody tells."""
    if isinstance(backend, KnowsFreeMemory):
        return backend.free_memory(device)
    return free_host_memory() if device == "cpu" else None


def free_host_memory(known: Path = _KNOWN) -> int | None:
    """Return the bytes that programs may still have of this machine, as Linux tells; else None."""
    try:
        lines = dict(line.split(":", 1) for line in known.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pages = {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} & set(getattr(os, "sysconf_names", ()))
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if len(pages) == 2 else None


def gibibytes(count: int) -> str:
    """Return a number of bytes as "1.25 GiB" or "3.1 MiB"."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"
