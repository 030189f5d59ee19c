"""`python -m conformance.mutants`: put every broken backend to the suite, and the sound oracle first.

Each must be stopped by a check that names the node, tensor or fact that is wrong. NAMES choose some of them;
`module:attribute` is a broken backend of one's own, hunted in float64 or in the `precision` that it names.
Exit code 1 if one survives, 2 for a name that is none.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conformance import profiles
from conformance.__main__ import at_least_one
from conformance.mutants import MUTANTS
from conformance.mutants.broken import Mutant
from conformance.mutants.hunt import Outcome, Target, hunt
from gsto_spec.backend import backend
from gsto_spec.errors import nearest
from gsto_spec.precision import LOW

Mutants = Mapping[str, tuple[str, type[Mutant]]]

CONTROL = "conformance.oracle:OracleBackend"
ROUNDED_CONTROL = "conformance.rounded:RoundedOracle"
"""What every mutant would be without its fault; a suite that fails it would prove nothing by failing them."""


def main(arguments: Sequence[str] | None = None, mutants: Mutants = MUTANTS) -> int:
    """Hunt, print the table, write the report. Returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(f"{name:25}  {group:10}  {_fault(one)}" for name, (group, one) in mutants.items()))
        return 0
    try:
        chosen = [_target(name, mutants) for name in options.names or mutants]
    except (ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    start = time.monotonic()
    targets = [*controls(chosen), *chosen]
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(_followed(pool.map(lambda each: hunt(each, options.profile, options.tests), targets)))
    _write(options.report, outcomes)
    print(f"\n{to_text(outcomes)}\n\n{verdict(outcomes)} in {time.monotonic() - start:.0f} s")
    return int(not all(outcome.as_it_should for outcome in outcomes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m conformance.mutants", description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all of them, unless named")
    parser.add_argument("--list", action="store_true", help="say what is wrong with each, and hunt none")
    parser.add_argument("--profile", choices=list(profiles.PROFILES), default="default")
    parser.add_argument("--jobs", type=at_least_one, default=2, help="processes at a time")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the table as JSON")
    parser.add_argument("--tests", nargs="+", default=["conformance"], metavar="PATH",
                        help="put them to these tests alone, and not to the whole suite")  # fmt: skip
    return parser


def _target(name: str, mutants: Mutants) -> Target:
    if ":" in name:
        return Target(name, "your own", name, getattr(backend(name), "precision", "float64"))
    if name not in mutants:
        raise ValueError(f"{name} is no mutant; see --list{nearest(name, mutants)}")
    group, mutant = mutants[name]
    return Target(name, group, f"{mutant.__module__}:{mutant.__qualname__}", mutant.precision)


def controls(chosen: Sequence[Target]) -> list[Target]:
    """The sound oracle, in each precision that a mutant is hunted in."""
    precisions = dict.fromkeys(target.precision for target in chosen)
    return [Target(f"sound, {each}", "control", _control(each), each, sound=True) for each in precisions]


def _control(precision: str) -> str:
    return ROUNDED_CONTROL if precision in LOW else CONTROL


def _fault(mutant: type[Mutant]) -> str:
    return (mutant.__doc__ or "").partition("\n")[0]


def _followed(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """The outcomes, each told of as it comes."""
    for outcome in outcomes:
        print(f"{outcome.target.name}: {outcome.fate} ({outcome.seconds:.0f} s)", flush=True)
        yield outcome


def _write(path: Path | None, outcomes: Sequence[Outcome]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([outcome.to_json() for outcome in outcomes], indent=1))


COLUMNS = ("mutant", "group", "fate", "seconds", "row", "of", "test")


def to_text(outcomes: Sequence[Outcome]) -> str:
    """The table for a terminal; below it what those said that should have been caught otherwise."""
    lines = [COLUMNS, *(_cells(outcome) for outcome in outcomes)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    notes = [f"{each.target.name}: {_wrong(each)}" for each in outcomes if not each.as_it_should]
    return "\n".join([*(row.rstrip() for row in rows), *notes])


def _cells(outcome: Outcome) -> tuple[str, ...]:
    target = outcome.target
    fate = "SURVIVED" if outcome.fate == "passed" and not target.sound else outcome.fate
    seconds = f"{outcome.seconds:.0f}"
    return (target.name, target.group, fate, seconds, outcome.row, outcome.path, outcome.test)


def _wrong(outcome: Outcome) -> str:
    if outcome.fate == "passed":
        return "no check of the suite noticed what is wrong with it"
    if outcome.target.sound:
        return f"the suite fails a sound backend, so its kills prove nothing ({outcome.row or outcome.told})"
    return f"it stopped by an error that no check raised, which proves nothing: {outcome.told}"


def verdict(outcomes: Sequence[Outcome]) -> str:
    """One line: how many of each group were caught."""
    groups = dict.fromkeys(each.target.group for each in outcomes if not each.target.sound)
    parts = []
    for group in groups:
        members = [each for each in outcomes if each.target.group == group]
        parts.append(f"{group} {sum(each.as_it_should for each in members)} of {len(members)}")
    passed = all(each.as_it_should for each in outcomes if each.target.sound)
    return f"caught: {', '.join(parts)}; the sound oracle {'passed' if passed else 'FAILED'};"


if __name__ == "__main__":
    sys.exit(main())
