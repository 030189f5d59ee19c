"""A process that does one task: subjects would else share threads, allocators and one peak of memory.

Only the one that is asked works; the others wait for a message, which takes no processor.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from numpy.typing import NDArray

from gsto_spec.allocator import KEEP, give_back_freed_memory
from gsto_train.absence import Absent
from gsto_train.bench.machine import card_bytes, peak_bytes, resident_bytes
from gsto_train.bench.subjects import PLAIN
from gsto_train.bench.tasks import READERS, Order, Task, make_task


@dataclass(frozen=True)
class Ready:
    """What a worker says once it has done its task for the first and the second time.

    made, first, second: seconds that making the subject and its first two runs took. before: bytes of the
    process before its first run; card: bytes that it took of a GPU's memory.
    """

    made: float
    first: float
    second: float
    items: int
    before: int | None
    card: int | None
    device: str
    environment: dict[str, object]
    answer: dict[str, NDArray[Any]] = field(repr=False)


@dataclass(frozen=True)
class Turn:
    """Seconds of every run of a turn, and the process's peak of memory so far."""

    seconds: tuple[float, ...]
    peak: int | None


@dataclass(frozen=True)
class Failed:
    """Why there is nothing to measure; `absent`: it is not to be had here, which is no failure."""

    reason: str
    absent: bool = False


Reply = Ready | Turn | Failed


def serve(connection: Connection, order: Order) -> None:
    """Do the order's task as often as `connection` asks for, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends this process.
    restrict(order.place.threads)
    allocate(order)
    try:
        task, ready = prepare(order)
        connection.send(ready)
        while True:
            connection.send(turn(task, connection.recv()))
    except Absent as reason:
        connection.send(Failed(str(reason), absent=True))
    except (EOFError, BrokenPipeError):
        pass  # Nobody asks any more.
    except Exception as error:
        with suppress(OSError):
            connection.send(Failed(in_one_line(error)))


def restrict(threads: int) -> None:
    """Keep this process to so many processors, for frameworks that count them and those that read these."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    # Subjects share the card: none may take all of its memory at its start.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def allocate(order: Order) -> None:
    """Have the C library do with freed memory what the order wants; before a framework is there."""
    if order.gives_back:
        give_back_freed_memory()
    elif order.network_subject.manner == PLAIN:
        os.environ[KEEP] = "0"  # The frameworks as they come.


def prepare(order: Order) -> tuple[Task, Ready]:
    """Make the task and run it twice: compilation is in the first run, the second is as all others."""
    card = card_bytes(order.place.device)
    made, task = _timed(lambda: make_task(order))
    before = resident_bytes()
    first, _ = _timed(task.run)
    second, _ = _timed(task.run)
    taken = card_bytes(order.place.device)
    ready = Ready(
        made=made,
        first=first,
        second=second,
        items=task.items,
        before=before,
        card=None if card is None or taken is None else taken - card,
        answer=task.answer(),
        **_told(order),
    )
    return task, ready


def _told(order: Order) -> dict[str, Any]:
    if order.subject in READERS:
        return {"device": "cpu", "environment": {}}
    subject = order.network_subject
    return {"device": subject.device(order.place), "environment": subject.environment()}


def turn(task: Task, runs: int) -> Turn:
    """Run the task once, since others have used the caches in between, then `runs` times by the clock."""
    task.run()
    seconds = tuple(_timed(task.run)[0] / task.items for _ in range(runs))
    return Turn(seconds, peak_bytes())


def _timed(action: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = action()
    return time.perf_counter() - begin, result


def in_one_line(error: BaseException) -> str:
    """Return an error's type and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
