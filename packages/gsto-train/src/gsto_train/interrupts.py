"""Ctrl-C, SIGTERM, SIGHUP: at once while nothing can be lost, else when the current step is done."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_PATIENCE = 1.0
"""Seconds in which Python's own handler is to run, and what was begun to end; a framework compiles, say."""

_SHOW_CURSOR = "\x1b[?25h"

_cut_short = threading.Event()
"""Whether something was stopped in its middle, a framework perhaps."""

LastWords = Callable[[int], object]
"""Says, given the exit status, that a command is interrupted."""


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
    """Turns the signals into `Interrupted`; the second is never deferred.

    SIGHUP stays as it is where it is ignored, as `nohup` has it.
    """

    def __init__(self) -> None:
        self._noticed, self._left = threading.Event(), threading.Event()
        self._ended = False
        self._told = False
        self._received: int | None = None
        self._announce: Callable[[], None] | None = None

    @contextmanager
    def installed(self, last_words: LastWords | None = None) -> Iterator["Interrupts"]:
        """Handle the signals in this block; only the main thread can, elsewhere they stay as they are.

        With `last_words` the second ends the process even where nothing in Python runs, or where what is
        interrupted does not end: threads may wait for a disk.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        heard = [number for number in _SIGNALS if number != signal.SIGHUP or not _ignored(number)]
        before = {number: signal.signal(number, self._handle) for number in heard}
        try:
            with self._watched(last_words) if last_words else nullcontext():
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
        self._noticed.set()
        if self._ended:  # The stack is being unwound; another exception would cut that short.
            return
        again, self._received = self._received is not None, number
        if again or self._announce is None:
            self._ended = True
            _cut_short.set()
            raise Interrupted(number, at_once=True)
        self._tell()

    def _tell(self) -> None:
        """Announce, once, that the first signal is noted."""
        if self._announce is not None and not self._told:
            self._told = True
            self._announce()

    @contextmanager
    def _watched(self, last_words: LastWords) -> Iterator[None]:
        """Let a thread hear of every signal in this block, whatever the main thread is in."""
        hearing, telling = os.pipe()
        os.set_blocking(telling, False)
        before = signal.set_wakeup_fd(telling, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._watch, args=(hearing, last_words), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._noticed.set()
            self._left.set()
            signal.set_wakeup_fd(before)
            os.close(telling)
            thread.join()
            os.close(hearing)

    def _watch(self, hearing: int, last_words: LastWords) -> None:
        """Do in the main thread's place what the first two signals ask for, where it does not come to it."""
        signals = (told[0] for told in iter(lambda: os.read(hearing, 1), b"") if told[0] in _SIGNALS)
        if next(signals, None) is not None and not self._noticed.wait(_PATIENCE):
            self._tell()
        if (number := next(signals, None)) is not None and not self._left.wait(_PATIENCE):
            _end_at_once(128 + number, last_words)
        for _ in signals:
            pass


def _end_at_once(status: int, last_words: LastWords) -> None:
    """End the process; what was saved is whole, as whatever is written is renamed into place."""
    try:
        if sys.stderr.isatty():  # A progress bar hides the cursor.
            sys.stderr.write(_SHOW_CURSOR)
        last_words(status)
    finally:
        os._exit(status)


def end_unstopped() -> None:
    """Let no signal stop the process in its very end, which Python does without the handlers set until then.

    To be called before anything else wants to be called at the end: of those, the first is the last.
    """
    atexit.register(_set, signal.SIG_IGN)


def settle(status: int) -> None:
    """Let a signal end the process at once, with the exit status that is decided: nothing is left to stop.

    Where something was stopped in its middle it ends now: frameworks crash that are cleared away then.
    """
    _set(lambda number, frame: os._exit(status))
    if _cut_short.is_set():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def _ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


def _set(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, handler)
