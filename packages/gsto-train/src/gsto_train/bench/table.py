"""The results for a person."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]


WIDTH = 160
"""Characters of a line where no terminal says how many there are, and from how many on spreads are shown."""


def console(*, stderr: bool) -> Console:
    """Return where tables go."""
    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=WIDTH)


def show(document: Mapping[str, Any], console: Console) -> None:
    """Print a table for every case, then growth, ceilings, and who did not run."""
    rows: Sequence[Row] = document["rows"]
    cases = dict.fromkeys(row["case"] for row in rows)
    for subject in dict.fromkeys(law["subject"] for law in document["growth"]):
        console.print(_growing(subject, rows))
    for case in cases if not document["growth"] else ():
        tried = [row for row in rows if row["case"] == case and row["state"] != "absent"]
        if tried:
            console.print(_table(case, tried, several=len(cases) > 1, wide=console.width >= WIDTH))
    for line in (*_growth(document), *_roofs(document), *_missing(rows), _conditions(document)):
        console.print(Text(line), soft_wrap=True)


def _table(case: str, rows: Sequence[Row], *, several: bool, wide: bool) -> Table:
    table = Table(title=Text(case), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("subject", no_wrap=True)
    cells = {row["subject"]: _cells(row, several, wide) for row in rows if row["state"] == "ran"}
    for head in next(iter(cells.values()), ()):
        table.add_column(Text(head), justify="right")
    for row in rows:
        table.add_row(row["subject"], *map(Text, cells.get(row["subject"], {"": "failed"}).values()))
    return table


def _growing(subject: str, rows: Sequence[Row]) -> Table:
    """Every case of one subject; memory is what running takes beyond the network at rest."""
    table = Table(title=Text(subject), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("case", "ms", "ns/pixel", "MiB", "KiB/pixel"):
        table.add_column(head, justify="left" if head == "case" else "right")
    for row in (row for row in rows if row["subject"] == subject and row["state"] == "ran"):
        pixels = row["batch"] * row["height"] * row["width"]
        seconds, memory = row["seconds"]["median"], row["card_bytes"] or row["working_bytes"]
        each = "-" if memory is None else f"{memory / 2**10 / pixels:.3g}"
        table.add_row(Text(row["case"]), _number(seconds * 1e3), _number(seconds * 1e9 / pixels),
                      _mebibytes(memory), each)  # fmt: skip
    return table


def _cells(row: Row, several: bool, wide: bool) -> dict[str, str]:
    """Head of a column -> what stands there."""
    spread, roof = row["seconds"], row["roof"]
    low, high = _number(spread["low"] * 1e3), _number(spread["high"] * 1e3)
    return {
        "ms": _number(spread["median"] * 1e3) + (f" ({low}-{high})" if wide else ""),
        "images/s": _number(row["images_per_second"]),
        f"x {row['yardstick']}": _times(row["speedup"], wide),
        "x own plain": _times(row["speedup_of_own_plain"], wide),
        **({"time / first case": _times(row["time_over_first_case"], wide)} if several else {}),
        "compile s": f"{row['compile_seconds']:.1f}",
        "peak MiB": _mebibytes(row["card_bytes"] or row["peak_bytes"]),
        "difference": "-" if row["difference"] is None else f"{row['difference']:.1e}",
        "of roof": f"{roof['reached']:.0%}" if roof and roof["reached"] else "-",
    }


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _times(spread: Mapping[str, float] | None, wide: bool) -> str:
    if spread is None:
        return "-"
    return f"{spread['median']:.2f}" + (f" ({spread['low']:.2f}-{spread['high']:.2f})" if wide else "")


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.0f}"


def _growth(document: Mapping[str, Any]) -> Iterator[str]:
    for law in document["growth"]:
        yield (
            f"{law['subject']}: {law['of']} over {law['over']} grows as pixels^{law['exponent']:.2f}, "
            f"at most {law['worst_over_linear']:.2f} times linear"
        )


def _roofs(document: Mapping[str, Any]) -> Iterator[str]:
    for precision, limits in document["ceilings"].items():
        crossing = limits["crossing"]
        told = [_rate(limits["operations"], "FLOP/s"), _rate(limits["bytes"], "B/s")]
        told += [] if crossing is None else [f"arrays cross in {crossing * 1e3:.3g} ms"]
        yield f"ceilings in {precision}: {', '.join(told)}"
    roofs = {row["case"]: row["roof"] for row in document["rows"] if row.get("roof")}
    for case, roof in roofs.items():
        least = "unknown" if roof["least_seconds"] is None else f"{roof['least_seconds'] * 1e3:.4g} ms"
        yield (
            f"roof of {case}: {roof['operations'] / 1e9:.4g} GFLOP, {roof['bytes'] / 1e9:.3g} GB, "
            f"at least {least}"
        )


def _rate(value: float | None, unit: str) -> str:
    return f"{unit} not measured" if value is None else f"{value / 1e9:.4g} G{unit}"


def _missing(rows: Sequence[Row]) -> Iterator[str]:
    """Who has no figures, and why; once where that is so in every case."""
    words = {"absent": "not measured", "failed": "failed"}
    missing = [row for row in rows if row["state"] in words]
    for state, subject, reason in dict.fromkeys(
        (row["state"], row["subject"], row["reason"]) for row in missing
    ):
        yield f"{words[state]}: {subject}: {reason}"


def _conditions(document: Mapping[str, Any]) -> str:
    machine, threads = document["machine"], document["threads"]
    card = f", {machine['card']}" if machine["card"] else ""
    return f"{machine['processor']}, {threads} of {machine['processors']} processors{card}"
