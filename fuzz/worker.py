"""The readers of one module given their cases, in a process of its own."""

from __future__ import annotations

import faulthandler
import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from fuzz.reader import CANARY, MODULE, Answer, Reader
from fuzz.watch import CONTROL, MEBIBYTE, SECONDS, Hang, Measured, Problem, install, limit_memory, watching

EXHAUSTED = re.compile(r"MemoryError|out of memory|(not|unable to|failed to|can't|tried to) allocate", re.I)
"""How numpy, OpenCV, Pillow and torch say that memory is gone; a file may call itself `allocate`."""

MOST_ADDRESSES = 6 * 2**30
"""Bytes that a process may ask for beside what it has at its start."""


@dataclass
class Tally:
    """What became of a reader's cases; `problems` are the smallest cases of each kind of failure."""

    reader: str
    cases: int = 0
    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    peak_bytes: int = 0
    problems: list[str] = field(default_factory=list)


class Bench:
    """Gives a reader cases, each in a folder of its own that is new."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.tally = Tally(reader.name)
        self._reader, self._folder = reader, folder

    def judge(self, case: Any) -> None:
        """Let the reader read a case; raises `Problem` where it does what none may."""
        inside = self._renewed()
        answer, measured = self._read(case, inside)
        self._count(answer, measured)
        if measured.violations:
            raise Problem("; ".join(measured.violations))
        if list(self._folder.rglob(CANARY)):
            raise Problem("runs code of the case")
        if measured.peak_bytes > self._reader.most_bytes:
            raise Problem(f"needs {measured.peak_bytes / MEBIBYTE:.0f} MiB")
        _check_words(answer, self._reader.names)

    def _renewed(self) -> Path:
        os.chdir(self._folder)
        for place in self._folder.iterdir():
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
        inside = self._folder / "case"
        inside.mkdir()
        os.chdir(inside)
        Path("evil.py").write_text(MODULE)
        return inside

    def _read(self, case: Any, inside: Path) -> tuple[Answer, Measured]:
        faulthandler.dump_traceback_later(4 * SECONDS, exit=True)
        try:
            with watching(inside) as measured:
                return self._reader.read(case), measured
        except Hang as hang:
            raise Problem(str(hang)) from hang
        except Exception as error:
            raise Problem(f"a traceback: {type(error).__name__}: {error!s:.300}") from error
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _count(self, answer: Answer, measured: Measured) -> None:
        tally = self.tally
        tally.cases += 1
        tally.accepted += answer.accepted
        tally.refused += not answer.accepted
        tally.slowest = max(tally.slowest, measured.seconds)
        tally.peak_bytes = max(tally.peak_bytes, measured.peak_bytes)


def _check_words(answer: Answer, names: str) -> None:
    """Raise `Problem` unless what was said is safe to print, and a refusal one line that names the file."""
    said, _, line = answer.said.rpartition("\0")
    if found := CONTROL.search(said + line):
        raise Problem(f"prints {found[0]!r}: {said + line!r:.300}")
    if "Traceback" in said or "Warning: " in said:
        raise Problem(f"prints a traceback or a warning: {said!r:.500}")
    if not answer.accepted and (not line or "\n" in line or names not in line):
        raise Problem(f"does not say in one line what is wrong with {names or 'it'}: {line!r:.300}")
    if EXHAUSTED.search(line):
        raise Problem(f"runs out of memory: {line:.300}")


def run(reader: Reader, cases: int, number: int, folder: Path) -> Tally:
    """Give a reader so many cases, drawn from a seed; problems are shrunk and told in the tally."""
    bench = Bench(reader, folder)
    quiet = settings(
        max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink], print_blob=False,
    )  # fmt: skip
    problems: list[BaseException] = []
    try:
        seed(number)(quiet(given(reader.cases)(bench.judge)))()
    except BaseExceptionGroup as group:
        problems += group.exceptions
    except Problem as problem:
        problems.append(problem)
    bench.tally.problems = [_told(problem) for problem in problems]
    os.chdir(folder.parent)
    return bench.tally


def _told(problem: BaseException) -> str:
    notes = [note for note in getattr(problem, "__notes__", []) if note.strip()]
    cause, lines = problem.__cause__, list[str]()
    trace = cause.__traceback__ if cause else None
    while trace is not None:
        lines.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    return "\n  ".join([str(problem), *lines[-4:], *(f"{note:.600}" for note in notes)])


def main() -> None:
    """Give each reader its weight times CASES cases and print its tally as a line of JSON."""
    from fuzz.readers import MODULES

    module, cases, number = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    only = sys.argv[4:]
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory(prefix="gsto-fuzz-") as temporary:
        folder = Path(temporary).resolve()
        readers = list(MODULES[module]().readers())
        install()
        limit_memory(MOST_ADDRESSES)
        for reader in readers:
            if not only or reader.name in only:
                print(
                    json.dumps(asdict(run(reader, round(cases * reader.weight), number, folder))), flush=True
                )


if __name__ == "__main__":
    main()
