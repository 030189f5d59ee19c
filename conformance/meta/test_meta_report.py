"""The report: parts add up, nothing is left out, what is over its bound is marked."""

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from conformance.report import COLUMNS, Ledger, Row, table, to_html, to_text, write_part, write_report

ODD = 'mine:<b> & "co"'


def ledger(folder: Path, *lines: tuple[str, str, str, str, float]) -> Ledger:
    """Lines of backend, check, precision, case and ratio, ten values each."""
    made = Ledger(folder=folder)
    for backend, check, precision, case, ratio in lines:
        made.record(backend, check, precision, case, ratio, f"node of {case}", 10)
    return made


class Cells(HTMLParser):
    """Rows of a page's tables: the class and the text of each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("tr", "h2"):
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append((dict(attrs).get("class") or "", ""))

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            kind, text = self.rows[-1][-1]
            self.rows[-1][-1] = (kind, text + data.strip())


def cells(page: str) -> list[list[tuple[str, str]]]:
    reader = Cells()
    reader.feed(page)
    return [row for row in reader.rows if row]


def test_parts_of_two_processes_add_up(tmp_path: Path) -> None:
    first = ledger(
        tmp_path, ("torch", "losses", "float64", "a", 0.2), ("torch", "losses", "float64", "b", 0.1)
    )
    second = ledger(
        tmp_path, ("torch", "losses", "float64", "b", 0.7), ("jax", "losses", "float32", "c", 0.3)
    )
    first.row("torch", "losses", "float64").set_aside["unclear"] += 2
    second.row("torch", "losses", "float64").set_aside["unclear"] += 3
    first.drawn, second.drawn = Counter({"op: relu": 2}), Counter({"op: relu": 1, "op: add": 5})
    first.versions, second.versions = {"torch": "2"}, {"jax": "1"}
    second.skipped = {"jax, CUDA": "no such device here"}
    write_part(first, "first")
    write_part(second, "second")
    whole = write_report(tmp_path)
    assert whole.rows["torch", "losses", "float64"] == Row(
        {"a", "b"}, 30, 0.7, "node of b", Counter(unclear=5)
    )
    assert whole.rows["jax", "losses", "float32"] == Row({"c"}, 10, 0.3, "node of c")
    assert whole.drawn == {"op: relu": 3, "op: add": 5}
    assert whole.versions == {"torch": "2", "jax": "1"}
    assert whole.skipped == {"jax, CUDA": "no such device here"}


def test_a_part_that_is_written_again_replaces_its_last_run(tmp_path: Path) -> None:
    for ratio in (0.9, 0.1):
        write_part(ledger(tmp_path, ("torch", "losses", "float64", "a", ratio)), "float64")
    assert write_report(tmp_path).rows["torch", "losses", "float64"].worst == 0.1
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["float64.json"]


def test_json_and_page_hold_every_line(tmp_path: Path) -> None:
    lines = [
        (backend, check, precision, f"case{number}", number / 10)
        for number, (backend, check, precision) in enumerate(
            (backend, check, precision)
            for backend in ("torch", "jax", "torch = jax")
            for check in ("losses", "each op")
            for precision in ("float64", "float32")
        )
    ]
    write_part(ledger(tmp_path, *lines), "all")
    write_report(tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    wanted = {line[:3]: (1, 10, line[4], f"node of {line[3]}") for line in lines}
    found = {
        (row["backend"], row["check"], row["precision"]): tuple(
            row[column] for column in ("cases", "values", "worst", "where")
        )
        for row in document["rows"]
    }
    assert found == wanted
    shown = cells((tmp_path / "report.html").read_text())
    assert {tuple(text for _, text in row[:3]) for row in shown} == set(wanted)
    assert [[text for _, text in row] for row in shown] == [
        list(row) for row in table(ledger(tmp_path, *lines))
    ]


def test_lines_over_their_bound_are_marked_and_no_others(tmp_path: Path) -> None:
    ratios = {"a": 0.5, "b": 1.0, "c": 1.25, "d": float("inf"), "e": 1.004}
    page = to_html(ledger(tmp_path, *((name, "losses", "float64", "x", r) for name, r in ratios.items())))
    marked = {row[0][1] for row in cells(page) if any("over" in kind.split() for kind, _ in row)}
    assert marked == {name for name, ratio in ratios.items() if ratio > 1}


def test_names_are_escaped(tmp_path: Path) -> None:
    made = ledger(tmp_path, (ODD, "losses <i>", "float64", "<u>", 0.5))
    made.row(ODD, "losses <i>", "float64").set_aside["<s>"] += 1
    made.drawn, made.skipped, made.versions = Counter({"<p>": 1}), {"<q>": "<em>"}, {"<a>": "<tt>"}
    page = to_html(made)
    assert not re.search(r"<(?:b|i|u|s|p|q|em|a|tt)>", page.partition("</h1>")[2].partition("</p>")[2])
    texts = {text for row in cells(page) for _, text in row}
    assert {ODD, "losses <i>", "node of <u>", "1: <s>", "<p>", "<q>", "<em>", "<a>", "<tt>"} <= texts


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    page = to_html(ledger(tmp_path, ("torch", "losses", "float64", "a", 0.5)))
    assert not re.search(r"\b(?:src|href)=|@import|url\(", page)


names = st.text(st.characters(categories=["L", "P", "S"]), min_size=1, max_size=8)
ratios = st.floats(0, 10) | st.just(float("inf"))


@given(st.lists(st.tuples(names, names, names, names, ratios), min_size=1, max_size=6))
def test_a_part_read_again_is_the_ledger_that_wrote_it(lines: list[tuple[str, str, str, str, float]]) -> None:
    made, again = ledger(Path(), *lines), Ledger()
    again.add_json(json.loads(json.dumps(made.to_json())))
    assert again.rows == made.rows
    assert len(to_text(again).split("\n")) == 1 + len(made.rows)
    assert to_text(made).startswith(COLUMNS[0])
