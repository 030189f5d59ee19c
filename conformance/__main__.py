"""`python -m conformance`: the whole suite, each precision in a process of its own, and one report.

JAX's types are a setting of the process, and two processes use two cores. Its options are `--backend`
(again for each), `--profile`, `--precision` (again for each), `--report` and `--jobs`; others go to pytest.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conformance import profiles, report
from conformance.profiles import PRECISIONS
from gsto_spec import GstoError
from gsto_spec.backend import backend

ROOT = Path(__file__).parent.parent
NOTHING_SELECTED = 5
"""pytest's exit status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every part and print the table. Returns 1 where one failed, 2 for wrong usage."""
    options, more = _parser().parse_known_args(arguments)
    try:
        _check(options)
    except (GstoError, ImportError, OSError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    parts = _parts(options, more)
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(_run, parts))
    if all(result == NOTHING_SELECTED for result in results):
        print("conformance: no test was selected", file=sys.stderr)
        return 2
    whole = report.write_report(options.report)
    print(report.to_text(whole))
    print(f"report: {options.report / 'report.html'}, {options.report / 'report.json'}")
    return int(any(result not in (0, NOTHING_SELECTED) for result in results))


def _check(options: argparse.Namespace) -> None:
    """What would fail each part, before any is begun. Raises `GstoError`, ImportError or OSError."""
    for name in options.backend:
        backend(name)
    options.report.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(options.report / "parts", ignore_errors=True)


def at_least_one(text: str) -> int:
    """A number of processes, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m conformance", description=__doc__, allow_abbrev=False)
    parser.add_argument("--backend", action="append", default=[], metavar="NAME")
    parser.add_argument("--profile", choices=list(profiles.PROFILES), default="default")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, default=[])
    parser.add_argument("--report", type=Path, default=Path("conformance-report"), metavar="DIR")
    parser.add_argument("--jobs", type=at_least_one, default=2, help="processes at a time")
    return parser


def _parts(options: argparse.Namespace, more: list[str]) -> list[list[str]]:
    """One command line of pytest per process; the long ones first."""
    common = [f"--backend={name}" for name in options.backend]
    common += [f"--profile={options.profile}", f"--report={options.report.resolve()}", "--part", *more]
    precisions = options.precision or PRECISIONS
    drawn = [["conformance", f"--precision={precision}", *common] for precision in precisions]
    compiled = [
        ["conformance/test_compiled.py", f"--precision={precision}", "--compilers=full", *common]
        for precision in precisions
    ]
    return [*drawn, *compiled]


def _run(part: list[str]) -> int:
    """Run one part, and return pytest's status; what it prints is shown when it ends, lest parts mix."""
    print(f"running {' '.join(part[:2])} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pytest", "-q", *part]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}", flush=True)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
