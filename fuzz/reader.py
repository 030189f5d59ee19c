"""A reader under test: its cases, how a case is read, and what its refusals must say."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from hypothesis.strategies import SearchStrategy

from gsto_spec import GstoError
from gsto_train.errors import InputError

CANARY = "canary"
"""The file that code hidden in a case would write, if it ran."""

MODULE = f"open({CANARY!r}, 'w').close()\nnetwork = backend = print\n"
"""Of `evil.py`, which lies in every case's folder."""


@dataclass(frozen=True)
class Answer:
    """How a reader took a case: whether it accepted it, and all that it said."""

    accepted: bool
    said: str = ""


@dataclass(frozen=True)
class Reader:
    """Reads cases in the working folder, which is the case's own.

    `weight` is its part of all cases, `names` what a refusal must name. `most_bytes` may be allocated.
    """

    name: str
    weight: int
    cases: SearchStrategy[Any]
    read: Callable[[Any], Answer]
    names: str = ""
    most_bytes: int = 256 * 2**20


def refusing(read: Callable[[], object]) -> Answer:
    """Call what raises one of the two errors for people, or nothing."""
    try:
        read()
    except (GstoError, InputError) as error:
        return Answer(False, str(error))
    return Answer(True)


def command(main: Callable[..., object], arguments: Sequence[str]) -> Answer:
    """Run a command in this process; raises AssertionError for an exit status that none has."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace")]
    status: object = 0
    try:
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]), patch.object(sys, "argv", ["gsto"]):
            main(list(arguments))
    except SystemExit as ended:
        status = ended.code or 0
    assert status in (0, 1, 2), f"exit status {status!r}"
    printed, error = (_written(stream) for stream in streams)
    if status == 2:
        assert error.strip() and not printed, (
            f"wrong input without a line on standard error: {printed!r:.300}"
        )
    last = error.rstrip("\n").rpartition("\n")[2]
    return Answer(status == 0, printed + error if status == 0 else f"{error}\0{last}")


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()
