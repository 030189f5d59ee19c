"""`python -m faults`: kills, full disks and broken files, on every backend given."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from faults import corruption, disk, kills

KINDS = ("kills", "disk", "corruption")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and print a table; returns 1 where a run did not end as the undisturbed one."""
    options = _parser().parse_args(arguments)
    problems = list[str]()
    with tempfile.TemporaryDirectory() as temporary:
        for backend in options.backends:
            for kind in options.only or KINDS:
                folder = Path(temporary, backend, kind)
                folder.mkdir(parents=True)
                problems += _check(kind, backend, folder, options)
    for problem in problems:
        print(f"problem: {problem}")
    print(f"\n{len(problems)} problems")
    return int(bool(problems))


def _check(kind: str, backend: str, folder: Path, options: argparse.Namespace) -> list[str]:
    if kind == "kills":
        return kills.check(backend, folder, options.kills, options.seed, _show)
    if kind == "disk":
        return disk.check(backend, folder, _show)
    return corruption.check(backend, folder, options.seed, _show)


def _show(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m faults", description=__doc__)
    parser.add_argument("backends", nargs="*", default=["torch", "jax"], metavar="NAME")
    parser.add_argument("--only", action="append", choices=KINDS, help="one kind of fault; repeatable")
    parser.add_argument("--kills", type=int, default=25, metavar="N", help="kills of each backend's training")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and bits")
    return parser


if __name__ == "__main__":
    sys.exit(main())
