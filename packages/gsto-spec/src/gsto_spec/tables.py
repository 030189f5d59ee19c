"""The paper's tables beside our counts: `compare` computes them, `text` and `markdown` print them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from gsto_spec.catalog import Variant, architectures, build, entry
from gsto_spec.cost import cost
from gsto_spec.errors import GstoError
from gsto_spec.forms import FormName
from gsto_spec.published import TABLES, Row, Table
from gsto_spec.resnet import ResNet

GIGA = 2**30


class UnknownTable(GstoError):
    """A table that the paper has no networks in."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a network costs, in the tables' convention: multiply-adds of the convolutions that are learnt.

    Fixed convolutions stand for a mean or a maximum over channels, which other libraries do not compute by
    convolution; the authors' counts leave those out.
    """

    parameters: int
    conv_parameters: int
    multiply_adds: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A row in print and what we count, rounded as printed; differences are ours less the printed."""

    row: Row
    ours: Counts | None
    parameters: str = ""
    giga: str = ""
    parameters_difference: float | None = None
    giga_difference: float | None = None


def table(number: int) -> Table:
    """A table by its number. Raises `UnknownTable`."""
    if number not in TABLES:
        known = ", ".join(map(str, TABLES))
        raise UnknownTable(f"table: expected one of {known} (the others add no network), found {number}")
    return TABLES[number]


def compare(number: int, form: FormName | None = None) -> tuple[Comparison, ...]:
    """Every row of a table beside our counts of its network, in its own form or in `form`."""
    found = table(number)
    return tuple(_comparison(found, row, form) for row in found.rows)


def _comparison(found: Table, row: Row, form: FormName | None) -> Comparison:
    if row.architecture is None:
        return Comparison(row, None)
    ours = count(row.architecture, form)
    whole = ours.parameters if found.counted == "parameters" else ours.conv_parameters
    parameters = f"{whole / 1e6:.{_digits(row.parameters, 2)}f}M"
    giga = f"{ours.multiply_adds / GIGA:.{_digits(row.giga, 1)}f}"
    return Comparison(row, ours, parameters, giga, _difference(parameters, row.parameters),
                      _difference(giga, row.giga))  # fmt: skip


def _digits(printed: str, otherwise: int) -> int:
    return len(printed.rstrip("M").partition(".")[2]) if printed else otherwise


def _difference(ours: str, printed: str) -> float | None:
    if not printed:
        return None
    return round(float(ours.rstrip("M")) - float(printed.rstrip("M")), _digits(printed, 0))


def count(architecture: str, form: FormName | None = None) -> Counts:
    """The counts of a named network at its published size."""
    found = entry(architecture)
    return _count(_in_form(found.variant, form), found.size)


def _in_form(variant: Variant, form: FormName | None) -> Variant:
    return variant if form is None else dataclasses.replace(variant, form=form)


@cache
def _count(variant: Variant, size: tuple[int, int]) -> Counts:
    counted = cost(build(variant), (1, 3, *size))
    return Counts(counted.parameters, counted.conv_parameters, counted.macs)


def facts(number: int, form: FormName | None = None) -> dict[str, Any]:
    """A table as plain data, for JSON; `ours` is null in rows of other methods."""
    found = table(number)
    return {
        "table": found.number, "title": found.title, "score": found.score, "test": found.test or None,
        "counted": found.counted, "giga": found.giga, "form": form or "release",
        "readings": list(found.readings),
        "rows": [_row_facts(item) for item in compare(number, form)],
    }  # fmt: skip


def _row_facts(item: Comparison) -> dict[str, Any]:
    row = item.row
    printed = {name: getattr(row, name) or None for name in _PRINTED}
    ours = item.ours and {**dataclasses.asdict(item.ours), "giga": item.ours.multiply_adds / GIGA}
    difference = {"parameters": item.parameters_difference, "giga": item.giga_difference}
    return {"label": row.label, "architecture": row.architecture, "printed": printed, "ours": ours,
            "difference": difference}  # fmt: skip


_PRINTED = ("parameters", "giga", "score", "own_run", "test")
_HEAD = ("row of the table", "our name", "parameters", "ours", "differs", "2^30", "ours", "differs", "score")


def _cells(found: Table, form: FormName | None) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [(*_HEAD, "test") if found.test else _HEAD]
    for item in compare(found.number, form):
        row = item.row
        score = " / ".join(filter(None, (row.score, row.own_run and f"{row.own_run} (own run)")))
        cells = (
            row.label, row.architecture or "", row.parameters, item.parameters,
            _signed(item.parameters_difference, row.parameters),
            row.giga, item.giga, _signed(item.giga_difference, row.giga), score,
            *([row.test] if found.test else []),
        )  # fmt: skip
        rows.append(tuple(cell or "-" for cell in cells))
    return rows


def _signed(difference: float | None, printed: str) -> str:
    if difference is None:
        return ""
    return f"{difference:+.{_digits(printed, 0)}f}" if difference else "0"


def _measures(found: Table) -> str:
    test = f" Test: {found.test}." if found.test else ""
    return f"Parameters: {found.counted}. 2^30: {found.giga}. Score: {found.score}.{test}"


def text(number: int, form: FormName | None = None) -> str:
    """A table for the terminal."""
    found = table(number)
    title = f"Table {found.number}: {found.title}" + (f" (ours in the {form} form)" if form else "")
    parts = [title, _aligned(_cells(found, form)), _measures(found)]
    if number == 3:
        parts += [_TRIED, _aligned(reductions())]
    return "\n\n".join([*parts, "Our reading:", "\n".join(f"- {line}" for line in found.readings)])


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


_TRIED = "Reductions of channel-wise attention that were tried (parameters in millions, * is as printed):"
REDUCTIONS = (4, 8, 16, 24, 32, 48, 64, 128)
_CHANNEL_ROWS = {
    "after each block": ("hrnetv2-w18-small-v2-channel-module", "3.93"),
    "after each layer": ("hrnetv2-w18-small-v2-channel-layer", "3.94"),
    "combined with ST": ("hrnetv2-w18-small-v2-channel-transfer", "3.94"),
}


def reductions() -> list[tuple[str, ...]]:
    """Table 3's channel-wise rows in millions of parameters, by reduction; * is as printed."""
    rows: list[tuple[str, ...]] = [("reduction", *_CHANNEL_ROWS)]
    for reduction in REDUCTIONS:
        rows.append((str(reduction), *(_reduced(*item, reduction) for item in _CHANNEL_ROWS.values())))
    return [*rows, ("printed", *(printed for _, printed in _CHANNEL_ROWS.values()))]


def _reduced(name: str, printed: str, reduction: int) -> str:
    found = entry(name)
    assert not isinstance(found.variant, ResNet)
    variant = dataclasses.replace(found.variant, channel_reduction=reduction)
    millions = f"{_count(variant, found.size).conv_parameters / 1e6:.2f}"
    return f"{millions}*" if millions == printed else millions


_PAGE = """\
# The paper's tables beside our counts

Made by `gsto-spec table --markdown`; a test fails where this page is stale. Each network's name works
wherever a command or a function takes an architecture. *Differs* is our count, rounded to the digits in
print, less the printed number; `-` is what the paper does not print, and in our columns other methods, which
are numbers to show. Multiply-adds are those of convolutions, divided by 2^30 as the authors do. Counts are of
the `release` form, which the printed numbers mean; `gsto-spec table N --form paper` counts the other.
"""


def markdown() -> str:
    """The page of all tables: `docs/tables.md`."""
    return "\n".join([_PAGE, *(_section(found) for found in TABLES.values()), _every_network()])


def _section(found: Table) -> str:
    parts = [f"## Table {found.number}: {found.title}", _table(_cells(found, None)), _measures(found)]
    if found.number == 3:
        parts += [_TRIED, _table(reductions())]
    return "\n\n".join([*parts, "Our reading:", "\n".join(f"- {line}" for line in found.readings)]) + "\n"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _every_network() -> str:
    head = ("name", "input", "convolution parameters", "parameters", "multiply-adds / 2^30",
            "paper form: parameters", "multiply-adds / 2^30")  # fmt: skip
    rows = [head, *map(_network, architectures())]
    words = "All of the catalogue, in both forms; `=` is a network that is the same in both."
    return "\n\n".join(["## Every network", words, _table(rows)]) + "\n"


def _network(name: str) -> tuple[str, ...]:
    release, paper = count(name, "release"), count(name, "paper")
    size = "{}x{}".format(*entry(name).size)
    other = ("=", "=") if release == paper else (f"{paper.parameters:,}", f"{paper.multiply_adds / GIGA:.2f}")
    return (f"`{name}`", size, f"{release.conv_parameters:,}", f"{release.parameters:,}",
            f"{release.multiply_adds / GIGA:.2f}", *other)  # fmt: skip
