"""Interleaved measuring: in every round each process has one turn, so that what drifts drifts for all."""

import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import ceil
from types import TracebackType
from typing import cast

from gsto_train.bench.tasks import Order
from gsto_train.bench.worker import Failed, Ready, Reply, Turn, serve

TURN_SECONDS = 0.5
FEWEST_RUNS, MOST_RUNS = 2, 100
_PATIENCE = 5.0


@dataclass
class Measured:
    """What came of an order: a turn of every round, or why there is none."""

    order: Order
    ready: Ready | None = None
    turns: list[Turn] = field(default_factory=list)
    failure: Failed | None = None

    @property
    def ran(self) -> bool:
        """Whether it was measured in every round."""
        return self.failure is None and bool(self.turns)

    def with_memory_of(self, other: "Measured") -> "Measured":
        """Return this with the memory that another process took for the same; both ran."""
        assert self.ready is not None and other.ready is not None
        peak = max((turn.peak for turn in other.turns if turn.peak is not None), default=None)
        ready = replace(self.ready, before=other.ready.before)
        return replace(self, ready=ready, turns=[replace(turn, peak=peak) for turn in self.turns])


def measure(
    orders: Sequence[Order], *, rounds: int, runs: int | None, note: Callable[[str], None]
) -> list[Measured]:
    """Start a process for every order, one after another, then give each its turn in every round.

    A turn is `runs` runs, without a number as many as fill half a second. The sequence is turned from round
    to round and every other one goes backwards, so that no subject always follows the same one.
    """
    found = [Measured(order) for order in orders]
    with ExitStack() as processes:
        pairs = [(each, processes.enter_context(Process(each.order))) for each in found]
        for each, process in pairs:
            note(f"preparing {each.order.subject}: {each.order.case}")
            _take(each, process.prepare())
        for number in range(rounds):
            note(f"round {number + 1} of {rounds}")
            for each, process in _sequence(pairs, number):
                if each.failure is None:
                    _take(each, process.ask(runs or _runs(each)))
    return found


def _sequence(pairs: list[tuple[Measured, "Process"]], number: int) -> Sequence[tuple[Measured, "Process"]]:
    start = number % max(len(pairs), 1)
    turned = pairs[start:] + pairs[:start]
    return turned[::-1] if number % 2 else turned


def _runs(each: Measured) -> int:
    assert each.ready is not None
    return min(MOST_RUNS, max(FEWEST_RUNS, ceil(TURN_SECONDS / max(each.ready.second, 1e-9))))


def _take(each: Measured, reply: Reply) -> None:
    match reply:
        case Ready():
            each.ready = reply
        case Turn():
            each.turns.append(reply)
        case Failed():
            each.failure = reply


class Process:
    """The other end of a worker, which ends with the block.

    Spawned, not forked: a fork would share the threads and the memory of this process.
    """

    def __init__(self, order: Order) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, self._theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(self._theirs, order))

    def __enter__(self) -> "Process":
        return self

    def prepare(self) -> Reply:
        """Start the process, and wait until it has done its task twice."""
        self._process.start()
        self._theirs.close()  # Else the end of the process would not be the end of the pipe.
        return self._receive()

    def ask(self, runs: int) -> Reply:
        """Let it have a turn of so many runs."""
        try:
            self._connection.send(runs)
        except OSError:
            return self._ended()
        return self._receive()

    def _receive(self) -> Reply:
        try:
            return cast(Reply, self._connection.recv())
        except (EOFError, OSError):
            return self._ended()

    def _ended(self) -> Failed:
        self._process.join(_PATIENCE)
        status = self._process.exitcode
        killed = status is not None and status < 0
        by = f"by signal {-(status or 0)}" if killed else f"with status {status}"
        return Failed(f"its process ended {by}" + ("; out of memory?" if status == -9 else ""))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        if self._process.pid is None:
            self._theirs.close()
            return
        if kind is None:
            self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_PATIENCE)
