"""Results as Markdown, between two markers of a document."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from gsto_train.bench.plot import draw
from gsto_train.errors import InputError

Document = Mapping[str, Any]

FIGURES = "figures"


def insert(place: Path, suite: str, results: Sequence[tuple[str, Document]]) -> None:
    """Put the tables of `results`, each with its file's name, in the place of the suite's former ones.

    Growth is drawn besides, into the folder `figures` beside the document: `Absent` without matplotlib.
    Raises `InputError` for a document without the markers `<!-- speed: SUITE -->` and `<!-- end: SUITE -->`.
    """
    text = place.read_text("utf-8")
    begin, end = f"<!-- speed: {suite} -->", f"<!-- end: {suite} -->"
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise InputError(f"{place}: expected the markers {begin} and {end}, found none; add them")
    for name, document in results:
        if document["growth"]:
            (place.parent / FIGURES).mkdir(exist_ok=True)
            draw(document, place.parent / _figure(name))
    place.write_text(f"{before}{begin}\n\n{markdown(results)}\n{end}{after}", "utf-8")


def _figure(name: str) -> PurePath:
    return PurePath(FIGURES, name).with_suffix(".svg")


def markdown(results: Sequence[tuple[str, Document]]) -> str:
    """Every result as a table under the name of its file, with when and on what it was measured."""
    return "\n".join(line for name, document in results for line in _section(name, document))


def _section(name: str, document: Document) -> Iterator[str]:
    machine = document["machine"]
    processors = f"{machine['processor']}, {document['threads']} of {machine['processors']} processors"
    on, busy = machine["card"] or processors, machine["load_before"]
    yield f"`{name}`, {document['when'][:10]}, {on}, processes busy before: {busy}.\n"
    if document["growth"]:
        yield from _laws(document)
        yield f"\n![Time and memory over pixels]({_figure(name).as_posix()})"
    else:
        yield from _rows(document)
    yield ""
    for precision, limits in document["ceilings"].items():
        operations, traffic = _giga(limits["operations"]), _giga(limits["bytes"])
        yield f"Ceilings in {precision}: {operations} GFLOP/s, {traffic} GB/s.\n"


def _rows(document: Document) -> Iterator[str]:
    yield "| case | subject | ms | times the yardstick | times its own plain | over first case | of roof |"
    yield "|---|---|---|---|---|---|---|"
    for row in document["rows"]:
        if row["state"] == "ran":
            yield f"| {' | '.join(_cells(row))} |"


def _cells(row: Mapping[str, Any]) -> list[str]:
    roof = row["roof"]
    return [
        row["case"], f"`{row['subject']}`", f"{row['seconds']['median'] * 1e3:.4g}",
        _spread(row["speedup"]), _spread(row["speedup_of_own_plain"]), _spread(row["time_over_first_case"]),
        f"{roof['reached']:.0%}" if roof and roof["reached"] else "",
    ]  # fmt: skip


def _spread(ratio: Mapping[str, float] | None) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else ""


def _laws(document: Document) -> Iterator[str]:
    yield "| subject | of | over | grows as pixels to the | at most times linear |"
    yield "|---|---|---|---|---|"
    for law in document["growth"]:
        yield (f"| `{law['subject']}` | {law['of']} | {law['over']} | {law['exponent']:.2f} "
               f"| {law['worst_over_linear']:.2f} |")  # fmt: skip


def _giga(value: float | None) -> str:
    return "unknown" if value is None else f"{value / 1e9:.4g}"
