"""Standard output, which may be full or closed."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


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
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
