"""The paper's tables beside our counts: on the command line, as data, and as the page in docs/."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gsto_spec import architectures, cost, variant
from gsto_spec.catalog import build, entry
from gsto_spec.cli import main
from gsto_spec.published import TABLES
from gsto_spec.tables import UnknownTable, compare, markdown, reductions, table

PAGE = Path(__file__).parents[3] / "docs" / "tables.md"
# Where the printed number is not ours rounded: table 4 prints 65.78M for 65.774 and 714.0 for 713.92.
DIFFERENCES = {(4, "hrnetv2-w48"): (-0.01, 0.0), (4, "gsto-hrnet-w48"): (0.0, -0.1)}
# Convolution parameters, all parameters, multiply-adds in billions: the released definitions.
EXACT = {
    "hrnetv2-w18-small-v2": (3_923_091, 3_939_579, 76.857),
    "hrnetv2-w18-small-v2-gfm": (3_926_493, 3_943_107, 76.937),
    "hrnetv2-w18-small-v2-gfm-gtm3": (3_945_097, 3_961_969, 79.354),
    "gsto-hrnet-w18-small-v2": (3_949_292, 3_966_276, 79.893),
    "hrnetv2-w18-small-v2-gfm-gtm123": (4_020_138, 4_037_636, 89.143),
}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["table", *arguments])


def facts(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def test_the_page_shows_the_tables_as_they_are() -> None:
    command = "gsto-spec table --markdown > docs/tables.md"
    assert markdown() == PAGE.read_text(encoding="utf-8"), f"docs/tables.md is stale: {command}"
    assert run("--markdown").stdout == markdown()


@pytest.mark.parametrize("number", TABLES)
def test_our_counts_are_the_printed_ones(number: int) -> None:
    for item in compare(number):
        wanted = DIFFERENCES.get((number, item.row.architecture or ""), (0.0, 0.0))
        found = (item.parameters_difference, item.giga_difference)
        printed = (item.row.parameters, item.row.giga) if item.ours else ("", "")
        assert found == tuple(d if number else None for d, number in zip(wanted, printed, strict=True))


@pytest.mark.parametrize("name", EXACT)
def test_ablations_are_the_released_definitions_to_the_last_parameter(name: str) -> None:
    counted = cost(build(name))
    assert (counted.conv_parameters, counted.parameters, round(counted.macs / 1e9, 3)) == EXACT[name]


def test_rows_stand_as_they_are_printed() -> None:
    rows = {number: [row.score or row.own_run for row in found.rows] for number, found in TABLES.items()}
    assert rows[1] == ["75.9", "76.3", "76.6", "76.4", "77.0", "76.8", "77.2"]
    assert rows[2] == ["76.6", "76.7", "77.3", "77.2"]
    assert rows[3] == ["75.9", "76.2", "76.1", "76.4", "76.2", "76.8"]
    assert rows[4] == ["76.2", "77.3", "80.9", "82.1"]
    assert rows[6] == ["76.5", "76.9", "77.3", "77.8", "74.9", "75.1", "76.3", "76.9"]
    assert rows[10][-6:] == ["72.0", "74.3", "75.8", "76.3", "76.5", "76.7"]
    assert [row.test for row in TABLES[10].rows[-4:]] == ["74.9", "75.5", "75.5", "75.8"]


def test_rows_that_are_ours_to_build_are_names_of_the_catalogue() -> None:
    rows = [row for found in TABLES.values() for row in found.rows]
    named = [row.architecture for row in rows if row.architecture]
    assert set(named) <= set(architectures())
    assert len(rows) - len(named) == 14  # of table 10
    assert all(row.score or row.own_run or row.test for row in rows)


def test_the_supervision_of_table_1_is_the_same_with_and_without_gates() -> None:
    alone = variant("hrnetv2-w18-small-v2-supervised")
    assert (alone.supervised_stages, alone.transition_gate, alone.fusion_gate) == ((2, 3), None, None)
    assert list(build(alone).outputs) == list(build("gsto-hrnet-w18-small-v2").outputs)


def test_fixed_convolutions_stand_for_reductions_and_are_counted_as_such() -> None:
    name = "hrnetv2-w18-small-v2-spatial-layer"
    (item,) = (item for item in compare(3) if item.row.architecture == name)
    assert item.ours is not None
    assert item.giga == "72.1"
    # A 7x7 convolution of two maps for each gate, on top of the plain network.
    graph, plain = build(name), cost(build("hrnetv2-w18-small-v2"))
    shapes = graph.check((1, 3, *entry(name).size))
    places = sum(shapes[n.name][2] * shapes[n.name][3] for n in graph.nodes if n.op.kind == "sigmoid")
    assert item.ours.multiply_adds == plain.macs + 98 * places
    assert cost(graph, (1, 3, *entry(name).size), counting="every-op").macs > item.ours.multiply_adds


def test_one_reduction_alone_fits_all_of_table_3() -> None:
    fitting = [row[0] for row in reductions() if all(cell.endswith("*") for cell in row[1:])]
    assert fitting == ["64"]
    assert variant("hrnetv2-w18-small-v2-channel-layer").channel_reduction == 64


def lines(number: str) -> list[str]:
    """What is printed, with single spaces."""
    return [" ".join(line.split()) for line in run(number).stdout.splitlines()]


def test_a_table_on_the_command_line() -> None:
    assert "stages 2, 3 gsto-hrnet-w18-small-v2 3.95M 3.95M 0 74.4 74.4 0 77.3" in lines("2")
    assert "Ours, GSTO-HRNet-W48 gsto-hrnet-w48 65.93M 65.93M 0 714.0 713.9 -0.1 82.1" in lines("4")
    assert "Our reading:" in run("3").stdout
    assert "64 3.93* 3.94* 3.94*" in lines("3")


def test_a_table_as_json() -> None:
    found = facts("10")
    assert (found["counted"], found["form"], found["test"]) == (
        "parameters", "release", "COCO test-dev2017 AP, 384x288",
    )  # fmt: skip
    other, ours = found["rows"][0], found["rows"][-1]
    assert (other["label"], other["architecture"], other["ours"]) == ("OpenPose", None, None)
    assert other["printed"] == {
        "parameters": None, "giga": None, "score": None, "own_run": None, "test": "61.8",
    }  # fmt: skip
    assert ours["ours"]["parameters"] == 66_014_682
    assert ours["ours"]["giga"] == ours["ours"]["multiply_adds"] / 2**30
    assert ours["difference"] == {"parameters": 0.0, "giga": 0.0}


def test_the_other_form_is_counted_on_request() -> None:
    assert run("2", "--form", "paper").stdout.splitlines()[0].endswith("(ours in the paper form)")
    assert facts("2", "--form", "paper")["rows"][2]["ours"]["parameters"] == cost(
        build("gsto-hrnet-w18-small-v2", form="paper")
    ).parameters  # fmt: skip


@pytest.mark.parametrize("number", [0, 5, 7, 11])
def test_other_tables_are_refused(number: int) -> None:
    with pytest.raises(UnknownTable, match="expected one of 1, 2, 3, 4, 6, 10"):
        table(number)
    result = run(str(number))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"gsto-spec: table: expected one of 1, 2, 3, 4, 6, 10 (the others add no network), found {number}\n"
    )


@pytest.mark.parametrize(
    "arguments", [[], ["2", "--markdown"], ["--markdown", "--json"], ["--markdown", "--form=paper"]]
)
def test_a_number_or_the_page_is_asked_for(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "expected the NUMBER of a table, or --markdown alone" in result.stderr
