"""Processes that train together: who writes, who reads which samples, and that none is left waiting.

All that they tell each other goes through `Backend.sum_over_processes`, a sum of arrays that every process
takes part in. So each of them must come to the same sums in the same order, whatever happens to one: that is
what `Processes.together` is for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec.backend import Backend, share
from gsto_train.interrupts import Interrupted

Sum = Callable[[NDArray[Any]], NDArray[Any]]

_FINE, _FAILED = 0, -1
"""What a process says of a block's end; the number of a signal where that ended it."""

_PIECE = 2**24
"""Bytes that are sent at once."""


class Elsewhere(Exception):
    """Another process failed, and says itself why."""


@dataclass(frozen=True)
class Processes:
    """This process among `count`; `sum_arrays` gives the sum of every process's array to all of them."""

    index: int
    count: int
    sum_arrays: Sum

    @classmethod
    def of(cls, backend: Backend) -> "Processes":
        """Return the processes that a backend was started in."""
        return cls(backend.process_index, backend.process_count, backend.sum_over_processes)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.index == 0

    def share(self, count: int) -> range:
        """Return which of `count` samples are this process's."""
        return share(count, self.index, self.count)

    def sum(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of every process's array, all of one shape and type."""
        return array if self.count == 1 or not array.size else np.asarray(self.sum_arrays(array), array.dtype)

    def any(self, fact: bool) -> bool:
        """Return whether `fact` holds in a process."""
        return bool(self.sum(np.array([fact], np.int64))[0])

    @contextmanager
    def together(self) -> Iterator[None]:
        """End a block in every process as in the one that fared worst, once all are at its end.

        Where one raises, it raises that still, and the others `Elsewhere`; where signals ended it somewhere,
        all raise `Interrupted`. A second signal waits for nobody.
        """
        if self.count == 1:
            yield
            return
        try:
            yield
        except Interrupted as interrupted:
            if not interrupted.at_once:
                self._end(interrupted.signal_number)
            raise
        except Exception:
            self._end(_FAILED)
            raise
        self._end(_FINE)

    def _end(self, how: int) -> None:
        said = np.zeros(self.count, np.int64)
        said[self.index] = how
        ends = self.sum(said)
        if _FAILED in ends and how != _FAILED:
            raise Elsewhere from None
        if how == _FINE and ends.any():
            raise Interrupted(int(ends.max()))

    def broadcast(self, data: bytes = b"") -> bytes:
        """Return the first process's `data`; the others' does not matter."""
        size = int(self.sum(np.array([len(data) if self.first else 0], np.int64))[0])
        given = np.frombuffer(data, np.uint8) if self.first else np.zeros(size, np.uint8)
        return b"".join(self.sum(given[at : at + _PIECE]).tobytes() for at in range(0, size, _PIECE))

    def gather(self, text: str) -> list[str]:
        """Return every process's `text`, in their order."""
        mine = np.frombuffer(text.encode(), np.uint8)
        sizes = np.zeros(self.count, np.int64)
        sizes[self.index] = len(mine)
        ends = np.cumsum(self.sum(sizes))
        joined = np.zeros(ends[-1], np.uint8)
        joined[ends[self.index] - len(mine) : ends[self.index]] = mine
        parts = np.split(self.sum(joined), ends[:-1])
        return [part.tobytes().decode() for part in parts]


ALONE = Processes(0, 1, lambda array: array)
"""A process that works by itself."""
