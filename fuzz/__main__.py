"""`python -m fuzz`: thousands of hostile cases for every reader, a process for each module of readers."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fuzz.readers import NAMES

CASES = 50.0
"""Cases for each unit of a reader's weight."""

TIMEOUT = 1500.0

_ROW = "{reader:<20}{cases:>8}{accepted:>10}{refused:>9}{slowest:>12}{peak:>14}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and print a table; returns 1 where a reader did what none may."""
    options = _parser().parse_args(arguments)
    tallies = list[dict[str, Any]]()
    print(_ROW.format(reader="reader", cases="cases", accepted="accepted", refused="refused",
                      slowest="slowest, s", peak="memory, MiB"))  # fmt: skip
    with ThreadPoolExecutor(options.processes) as pool:
        for found in pool.map(lambda module: list(_tallies(module, options)), options.modules or NAMES):
            tallies += found
            _show(found)
    problems = [(tally["reader"], problem) for tally in tallies for problem in tally["problems"]]
    for reader, problem in problems:
        print(f"\nproblem: {reader}: {problem}")
    print(f"\n{sum(tally['cases'] for tally in tallies)} cases, {len(problems)} problems")
    return int(bool(problems))


def _tallies(module: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What became of a module's readers; a process that ends otherwise is a problem of its own."""
    command = [sys.executable, "-m", "fuzz.worker", module, str(options.cases), str(options.seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment)
    except subprocess.TimeoutExpired:
        yield _lost(module, f"not done after {TIMEOUT:g} s")
        return
    yield from map(json.loads, ended.stdout.splitlines())
    if ended.returncode:
        yield _lost(module, f"ended with status {ended.returncode}: {ended.stderr[-3000:]}")


def _lost(module: str, problem: str) -> dict[str, Any]:
    nothing: dict[str, Any] = dict.fromkeys(("cases", "accepted", "refused", "slowest", "peak_bytes"), 0)
    return {"reader": module, **nothing, "problems": [problem]}


def _show(tallies: Iterable[dict[str, Any]]) -> None:
    for tally in tallies:
        slowest, peak = f"{tally['slowest']:.2f}", f"{tally['peak_bytes'] / 2**20:.0f}"
        print(_ROW.format(**{**tally, "slowest": slowest, "peak": peak}), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m fuzz", description=__doc__)
    parser.add_argument("modules", nargs="*", choices=[[], *NAMES], metavar="MODULE", help=", ".join(NAMES))
    parser.add_argument("--cases", type=float, default=CASES, metavar="N", help="for each unit of weight")
    parser.add_argument("--seed", type=int, default=0, help="of the cases")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="at the same time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
