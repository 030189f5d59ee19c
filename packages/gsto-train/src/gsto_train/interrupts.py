"""Ctrl-C and SIGTERM: at once while nothing can be lost, else when the current step is done."""

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The user or the system asked the run to end; `status` is the exit status that says so.

    No `Exception`, so that whoever catches those from foreign code, a user's architecture say, lets it by.
    `at_once`: raised in the middle of something, where nothing may be waited for.
    """

    def __init__(self, signal_number: int, *, at_once: bool = False) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number, self.at_once = signal_number, at_once
        self.status = 128 + signal_number


class Interrupts:
    """Turns SIGINT and SIGTERM into `Interrupted`; the second is never deferred, later ones are ignored."""

    def __init__(self) -> None:
        self._raised = False
        self._received: int | None = None
        self._announce: Callable[[], None] | None = None

    @contextmanager
    def installed(self) -> Iterator["Interrupts"]:
        """Handle the signals in this block; only the main thread can, elsewhere they stay as they are."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
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

    def stop_if_received(self) -> None:
        """Raise `Interrupted` where a signal has been noted."""
        if self._received is not None:
            raise Interrupted(self._received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._raised:  # The stack is being unwound already; another exception would cut that short.
            return
        again, self._received = self._received is not None, number
        if again or self._announce is None:
            self._raised = True
            raise Interrupted(number, at_once=True)
        self._announce()


def end_unstopped() -> None:
    """Let no signal stop the process in its very end, which Python does without the handlers set until then.

    To be called before anything else wants to be called at the end: of those, the first is the last.
    """
    atexit.register(_set, signal.SIG_IGN)


def settle(status: int) -> None:
    """Let a signal end the process at once, with the exit status that is decided: nothing is left to stop."""
    _set(lambda number, frame: os._exit(status))


def _set(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, handler)
