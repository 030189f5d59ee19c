"""The ledger of a run: what was compared with what, how often, and how close to its bound it came.

Written as JSON and as one HTML page; runs of several processes and precisions add up in one folder.
"""

from __future__ import annotations

import html
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Key = tuple[str, str, str]
"""Backend (or `a = b` for two compared), check, precision."""


@dataclass
class Row:
    """One line of the table. `worst` is the largest error over its bound; `where` says of what."""

    cases: set[str] = field(default_factory=set)
    values: int = 0
    worst: float = 0.0
    where: str = ""
    set_aside: Counter[str] = field(default_factory=Counter)

    def add(self, other: Row) -> None:
        """Count another's cases too."""
        self.cases |= other.cases
        self.values += other.values
        self.set_aside.update(other.set_aside)
        if other.worst >= self.worst:
            self.worst, self.where = other.worst, other.where


@dataclass
class Ledger:
    """All rows, what was drawn, what was left out and why, and the versions of what ran."""

    rows: dict[Key, Row] = field(default_factory=dict)
    drawn: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    folder: Path = Path("conformance-report")

    def row(self, subject: str, check: str, precision: str) -> Row:
        """The line of a backend, check and precision."""
        return self.rows.setdefault((subject, check, precision), Row())

    def record(
        self, subject: str, check: str, precision: str, case: str, ratio: float, where: str, values: int = 1
    ) -> None:
        """One comparison of so many values; `ratio` is its largest error over the bound."""
        self.row(subject, check, precision).add(Row({case}, values, ratio, where))

    def set_aside(self, subject: str, check: str, precision: str, reason: str) -> None:
        """One case that could not be held to anything."""
        self.row(subject, check, precision).set_aside[reason] += 1

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "rows": [
                {"backend": key[0], "check": key[1], "precision": key[2], "cases": sorted(row.cases),
                 "values": row.values, "worst": row.worst, "where": row.where,
                 "set_aside": dict(row.set_aside)}
                for key, row in sorted(self.rows.items())
            ],
            "drawn": dict(sorted(self.drawn.items())),
            "skipped": self.skipped,
            "versions": self.versions,
        }  # fmt: skip

    def add_json(self, document: Mapping[str, Any]) -> None:
        """Add what another process wrote."""
        for entry in document["rows"]:
            other = Row(set(entry["cases"]), entry["values"], entry["worst"], entry["where"],
                        Counter(entry["set_aside"]))  # fmt: skip
            self.row(entry["backend"], entry["check"], entry["precision"]).add(other)
        self.drawn.update(document["drawn"])
        self.skipped |= document["skipped"]
        self.versions |= document["versions"]


LEDGER = Ledger()
"""This process's."""


def write_part(ledger: Ledger, name: str) -> Path:
    """Leave a process's share of the report in the folder, replacing its last one."""
    parts = ledger.folder / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    path = parts / f"{name}.json"
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(ledger.to_json()))
    beside.replace(path)
    return path


def write_report(folder: Path) -> Ledger:
    """Add up every part, and write `report.json` and `report.html`."""
    whole = Ledger(folder=folder)
    for path in sorted((folder / "parts").glob("*.json")):
        whole.add_json(json.loads(path.read_text()))
    (folder / "report.json").write_text(json.dumps(_summary(whole), indent=1))
    (folder / "report.html").write_text(to_html(whole))
    return whole


def _summary(ledger: Ledger) -> dict[str, Any]:
    document = ledger.to_json()
    for row in document["rows"]:
        row["cases"] = len(row["cases"])
    return document


COLUMNS = ("backend", "check", "precision", "cases", "values", "worst error / bound", "of", "set aside")


def table(ledger: Ledger) -> list[tuple[str, ...]]:
    """The lines of the table as text, without the heading."""
    return [
        (*key, str(len(row.cases)), f"{row.values:,}", f"{row.worst:.2g}", row.where, _set_aside(row))
        for key, row in _in_order(ledger)
    ]


def _in_order(ledger: Ledger) -> list[tuple[Key, Row]]:
    return sorted(ledger.rows.items(), key=lambda item: item[0][::-1])


def _set_aside(row: Row) -> str:
    return "; ".join(f"{count}: {reason}" for reason, count in sorted(row.set_aside.items()))


def to_text(ledger: Ledger) -> str:
    """The table for a terminal."""
    lines = [COLUMNS, *table(ledger)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS) - 2)]
    return "\n".join(
        "  ".join(
            [*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), *line[-2:]]
        ).rstrip()
        for line in lines
    )


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Conformance</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; margin: 1rem 0 2rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ccc; vertical-align: top; }}
td.number {{ text-align: right; }} td.over {{ background: #fdd; font-weight: bold; }}
td div {{ background: #cde; height: .3rem; margin-top: .2rem; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #111; color: #eee; }}
td.over {{ background: #622; }} td div {{ background: #357; }} }}
</style>
<h1>Conformance</h1>
<p>Each line compares a backend with the definition, or two backends with each other. The bound of an error is
derived in docs/numerics.md; 1 would touch it, and the bar shows how near the worst case came.</p>
{tables}
"""


def to_html(ledger: Ledger) -> str:
    """One self-contained page."""
    rows = [row for _, row in _in_order(ledger)]
    lines = [_cells(line, row.worst) for line, row in zip(table(ledger), rows, strict=True)]
    tables = [_html_table(COLUMNS, lines)]
    for title, entries in (
        ("Drawn", {name: str(count) for name, count in sorted(ledger.drawn.items())}),
        ("Left out", ledger.skipped),
        ("Versions", ledger.versions),
    ):
        if entries:
            lines = [[_cell(name), _cell(text)] for name, text in entries.items()]
            tables.append(f"<h2>{title}</h2>{_html_table(('what', title.lower()), lines)}")
    return PAGE.format(tables="\n".join(tables))


def _html_table(columns: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}" for column in columns)
    body = "".join("<tr>" + "".join(line) for line in lines)
    return f"<table><tr>{head}{body}</table>"


def _cells(line: tuple[str, ...], ratio: float) -> list[str]:
    bar = f'<div style="width:{min(ratio, 1) * 100:.1f}%"></div>'
    worst = f'<td class="number{" over" if ratio > 1 else ""}">{line[5]}{bar}'
    numbers = [_cell(cell, "number") for cell in line[3:5]]
    return [*(_cell(cell) for cell in line[:3]), *numbers, worst, *(_cell(cell) for cell in line[6:])]


def _cell(text: str, kind: str = "") -> str:
    return f'<td class="{kind}">{html.escape(text)}' if kind else f"<td>{html.escape(text)}"
