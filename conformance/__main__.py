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

ROOT = Path(__file__).parent.parent
PRECISIONS = ("float64", "float32")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every part and print the table. Returns 1 where one failed."""
    options, more = _parser().parse_known_args(arguments)
    options.report.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(options.report / "parts", ignore_errors=True)
    parts = _parts(options, more)
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(_run, parts))
    whole = report.write_report(options.report)
    print(report.to_text(whole))
    print(f"report: {options.report / 'report.html'}, {options.report / 'report.json'}")
    return max(results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m conformance", description=__doc__, allow_abbrev=False)
    parser.add_argument("--backend", action="append", default=[], metavar="NAME")
    parser.add_argument("--profile", choices=list(profiles.PROFILES), default="default")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, default=[])
    parser.add_argument("--report", type=Path, default=Path("conformance-report"), metavar="DIR")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
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
    """Run one part; what it prints is shown when it ends, so that parts do not mix."""
    command = [sys.executable, "-m", "pytest", "-q", *part]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}", flush=True)
    nothing_selected = done.returncode == 5
    return 0 if nothing_selected else int(done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
