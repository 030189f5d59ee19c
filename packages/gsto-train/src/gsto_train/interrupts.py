"""Ctrl-C and SIGTERM: at once while nothing can be lost, else when the current step is done."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The user or the system asked the run to end; `status` is the exit status that says so."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.status = 128 + signal_number


class Interrupts:
    """Turns SIGINT and SIGTERM into `Interrupted`; the second one is never deferred."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._announce: Callable[[], None] | None = None

    @contextmanager
    def installed(self) -> Iterator["Interrupts"]:
        """Handle the signals in this block; only the main thread can, elsewhere they stay as they are."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self, announce: Callable[[], None]) -> Iterator[None]:
        """Only note the first signal in this block, and call `announce`."""
        self._announce = announce
        try:
            yield
        finally:
            self._announce = None

    @property
    def received(self) -> bool:
        """Whether a signal has been noted."""
        return self._received is not None

    def stop_if_received(self) -> None:
        """Raise `Interrupted` where a signal has been noted."""
        if self._received is not None:
            raise Interrupted(self._received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self._received = self.received, number
        if again or self._announce is None:
            raise Interrupted(number)
        self._announce()
