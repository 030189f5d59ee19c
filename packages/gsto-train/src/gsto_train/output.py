"""Standard output, which may be full or closed, and standard error, which nobody may read any more."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class OutputError(Exception):
    """Standard output could not be written; nothing else is wrong."""


@contextmanager
def standard_output() -> Iterator[None]:
    """Turn an OSError from printing into `OutputError`, and give up what is not printed yet."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        give_up()
        raise OutputError(f"standard output: {error.strerror}") from None


def open_closed() -> None:
    """Give standard streams that are closed the null device; else the next file opened would become one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def give_up() -> None:
    """Send standard output nowhere, since Python writes the rest of its buffer once more at the end."""
    with suppress(OSError, ValueError):
        _send_nowhere(sys.stdout)


def outlive_reader() -> None:
    """Let nothing end because nobody reads standard error: Ctrl-C ends a `tee` behind it first."""
    sys.stderr = cast(TextIO, _Lasting(sys.stderr))


class _Lasting:
    """A stream that goes nowhere once its reader, or its terminal, is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._lasting():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._lasting():
            self._stream.flush()

    @contextmanager
    def _lasting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            _send_nowhere(self._stream)


def _send_nowhere(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
