"""Speeds written into a document, and the list of what is measured for it."""

import json
from pathlib import Path
from typing import Any

import pytest

from gsto_train.bench import suites
from gsto_train.bench.document import insert
from gsto_train.errors import InputError

SPREAD = {"median": 2.0, "low": 1.5, "high": 2.5}


def document(**changed: Any) -> dict[str, Any]:
    row = {
        "case": "net, 1 x 8x8, float32", "subject": "mine-fast", "state": "ran",
        "seconds": {"median": 0.0125, "low": 0.01, "high": 0.02}, "speedup": SPREAD,
        "speedup_of_own_plain": None, "time_over_first_case": SPREAD, "roof": {"reached": 0.25},
    }  # fmt: skip
    machine = {"card": None, "processor": "a processor", "processors": 4, "load_before": 0.1}
    absent = {"state": "absent", "subject": "other-plain", "case": "net", "reason": "not installed"}
    return {
        "machine": machine, "threads": 2, "when": "2026-01-02T03:04:05+00:00", "rows": [row, absent],
        "growth": [], "ceilings": {"float32": {"operations": 2e11, "bytes": None}}, **changed,
    }  # fmt: skip


def test_tables_take_the_place_of_the_former_ones_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "speed.md"
    place.write_text("before\n<!-- speed: cpu -->\nold\n<!-- end: cpu -->\nafter\n")
    for _ in range(2):
        insert(place, "cpu", [("speed-a.json", document())])
    text = place.read_text()
    assert text.startswith("before\n<!-- speed: cpu -->\n") and text.endswith("<!-- end: cpu -->\nafter\n")
    assert "old" not in text and "other-plain" not in text
    assert text.count("2.00 (1.50 to 2.50) |  | 2.00 (1.50 to 2.50) | 25% |") == 1
    assert "`speed-a.json`, 2026-01-02, a processor, 2 of 4 processors, processes busy before: 0.1." in text
    assert "Ceilings in float32: 200 GFLOP/s, unknown GB/s." in text


def test_growth_is_told_by_its_law(tmp_path: Path) -> None:
    law = {"over": "size", "subject": "mine-fast", "of": "time", "exponent": 0.98, "worst_over_linear": 1.1}
    place = tmp_path / "speed.md"
    place.write_text("<!-- speed: cpu --><!-- end: cpu -->")
    sizes = [(8, 0.01, 1000), (16, 0.04, 4000)]
    rows = [
        {"case": str(side), "subject": "mine-fast", "state": "ran", "seconds": {"median": seconds},
         "batch": 1, "height": side, "width": side, "card_bytes": None, "working_bytes": memory}
        for side, seconds, memory in sizes
    ]  # fmt: skip
    grown = document(growth=[law], rows=rows, groups={"size": ["8", "16"]})
    drawn = []
    for _ in range(2):
        insert(place, "cpu", [("speed-growth.json", grown)])
        drawn.append((tmp_path / "figures" / "speed-growth.svg").read_bytes())
    assert "| `mine-fast` | time | size | 0.98 | 1.10 |" in place.read_text()
    assert "(figures/speed-growth.svg)" in place.read_text()
    assert drawn[0] == drawn[1] and drawn[0].startswith(b"<?xml")


def test_a_document_without_markers_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "speed.md"
    place.write_text("nothing")
    with pytest.raises(InputError, match=r"expected the markers <!-- speed: cpu -->"):
        insert(place, "cpu", [("a", document())])


def test_tables_are_made_of_what_was_measured_before(tmp_path: Path) -> None:
    place = tmp_path / "speed.md"
    place.write_text("<!-- speed: cuda -->\n<!-- end: cuda -->\n")
    (tmp_path / "speed-cuda-step-w48.json").write_text(json.dumps(document()))
    assert suites.main(["cuda", str(tmp_path), "--document", str(place), "--tables-only"]) == 0
    assert "`speed-cuda-step-w48.json`" in place.read_text()


def test_every_run_is_a_command_line_that_the_command_takes() -> None:
    from gsto_train.commands.bench import command

    for runs in suites.SUITES.values():
        for options in runs.values():
            command.make_context("gsto-bench", list(options))


def test_a_folder_or_document_that_does_not_serve_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert suites.main(["cpu", str(tmp_path / "file")]) == 2
    (tmp_path / "speed-step.json").write_text(json.dumps(document()))
    absent = ["--document", str(tmp_path / "absent.md")]
    assert suites.main(["cpu", str(tmp_path), "--tables-only", *absent]) == 2
    assert suites.main(["cpu", str(tmp_path / "nowhere"), "--tables-only", *absent]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("gsto_train.bench.suites: ") for line in lines)
    assert "file" in lines[0] and "absent.md" in lines[1] and "nowhere" in lines[2]
