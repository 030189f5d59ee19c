"""`gsto-spec` list, show, check and cost, and how a user names an architecture."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import gsto_spec
from gsto_spec import Graph, architectures, build, cost
from gsto_spec.catalog import entry
from gsto_spec.cli import main

MODULE = """
import dataclasses
import gsto_spec

small = gsto_spec.variant("hrnetv2-w18-small-v1")
graph = gsto_spec.build(small, classes=4)
wrong = 3

def of_classes(classes):
    return dataclasses.replace(small, classes=classes or 2)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working folder, by a name that no other test imports."""
    name = f"networks_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def facts(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def refusal(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def test_help_is_whole_on_80_columns() -> None:
    told = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["--help"]).output
    assert set(main.commands) <= {line.split()[0] for line in told.splitlines() if line.startswith("  ")}
    assert "..." not in told.replace("COMMAND [ARGS]...", "") and max(map(len, told.splitlines())) <= 80


@pytest.mark.skipif(
    not hasattr(click.exceptions, "NoSuchCommand"), reason="click before 8.4 tells of a command no like ones"
)
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["chek", "hrnetv2-w18"], "No such command 'chek' (nearest: check)"),
        (["check", "hrnetv2-w18", "--sise", "8x8"], "No such option '--sise' (nearest: --size)"),
    ],
)
def test_a_name_that_is_mistyped_is_told_with_the_nearest(arguments: list[str], told: str) -> None:
    refused = run(*arguments)
    assert (refused.exit_code, refused.output) == (2, f"gsto-spec: {told}\n")


def test_completion_that_no_shell_asks_for_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_GSTO_SPEC_COMPLETE", "zsh_complete")
    monkeypatch.delenv("COMP_WORDS", raising=False)
    refused = CliRunner().invoke(main, [], prog_name="gsto-spec")
    (line,) = refused.output.splitlines()
    assert refused.exit_code == 2 and line.startswith("gsto-spec: _GSTO_SPEC_COMPLETE: expected COMP_WORDS")


def test_help_and_version() -> None:
    assert run("-h").output == run("--help").output
    assert run("--version").output == f"gsto-spec, version {gsto_spec.__version__}\n"


def test_list_names_the_catalogue_with_what_was_published() -> None:
    lines = run("list").stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(architectures())
    assert [line for line in lines if not line.startswith("  ")] == [
        f"{family}:" for family in dict.fromkeys(entry(name).family for name in architectures())
    ]
    (gsto,) = (line.split(maxsplit=1) for line in lines if line.startswith("  gsto-hrnet-w18-small-v2 "))
    assert gsto[1] == "Cityscapes val mIoU 77.2 (table 1), 77.3 (table 2), 77.3 (table 4)"
    listed = facts("list")
    assert list(listed) == list(architectures())
    assert listed["pose-hrnet-w32"]["size"] == [384, 288]


@pytest.mark.parametrize(
    ("name", "size", "counts"),
    [
        ("hrnetv2-w18-small-v2", "1024x2048", (3_923_091, 3_939_579, 76.857)),
        ("gsto-hrnet-w18-small-v2", "1024x2048", (3_949_292, 3_966_276, 79.893)),
        ("gsto-hrnet-w48", "1024x2048", (65_930_442, 66_017_124, 766.562)),
        ("pose-gsto-hrnet-w32", "384x288", (29_561_408, 29_620_538, 19.503)),
    ],
)
def test_cost_gives_the_published_counts(name: str, size: str, counts: tuple[int, int, float]) -> None:
    found = facts("cost", name, "--size", size)
    assert (found["conv_parameters"], found["parameters"], round(found["macs"] / 1e9, 3)) == counts
    assert found["graph_digest"] == build(name).digest


def test_cost_takes_size_batch_classes_form_and_counting() -> None:
    name = "gsto-hrnet-w18-small-v2"
    options = (
        "--size",
        "64x96",
        "--batch",
        "2",
        "--classes",
        "5",
        "--form",
        "paper",
        "--counting",
        "every-op",
    )
    found = facts("cost", name, *options)
    counted = cost(build(name, classes=5, form="paper"), (2, 3, 64, 96), counting="every-op")
    assert found["input_shape"] == [2, 3, 64, 96]
    assert (found["macs"], found["activation_bytes"]) == (counted.macs, counted.activation_bytes)
    assert found["by_op"]["resize"]["macs"] == counted.by_op["resize"].macs > 0


def test_cost_is_of_the_published_size_unless_told_otherwise() -> None:
    assert facts("cost", "pose-hrnet-w32")["input_shape"] == [1, 3, 384, 288]
    assert facts("cost", "hrnetv2-w18-small-v1")["input_shape"] == [1, 3, 1024, 2048]


def test_cost_prints_a_table_for_people() -> None:
    text = run("cost", "gsto-hrnet-w18-small-v2").stdout
    assert "3,966,276" in text
    assert text.splitlines()[-1] == "multiply-adds / 2^30: 74.41"


def test_show_prints_the_graph_or_its_file() -> None:
    graph = build("hrnetv2-w18-small-v1")
    assert run("show", "hrnetv2-w18-small-v1").stdout == f"{graph}\n"
    assert Graph.from_json(run("show", "hrnetv2-w18-small-v1", "--json").stdout) == graph


def test_check_says_that_a_graph_is_sound(tmp_path: Path) -> None:
    graph = build("gsto-hrnet-w18-small-v2")
    result = run("check", "gsto-hrnet-w18-small-v2", "--size", "33x65")
    assert result.stdout == f"gsto-hrnet-w18-small-v2: sound, training form, digest {graph.digest}\n"


def test_check_says_what_is_wrong(tmp_path: Path) -> None:
    text = build("hrnetv2-w18-small-v1").to_json().replace('"conv1.weight", "op"', '"conv1.weights", "op"')
    (tmp_path / "broken.json").write_text(text)
    assert refusal("check", str(tmp_path / "broken.json")) == (
        f"gsto-spec: {tmp_path / 'broken.json'}: conv1: expected operands that are nodes, found conv1.weight "
        "(nearest: conv1.weights) [graph_c2]"
    )


def test_an_architecture_is_a_name_a_file_or_an_attribute(tmp_path: Path, mine: str) -> None:
    graph = build("hrnetv2-w18-small-v1", classes=4)
    (tmp_path / "mine.json").write_text(graph.to_json())
    for name in (str(tmp_path / "mine.json"), f"{mine}:graph"):
        assert facts("cost", name)["graph_digest"] == graph.digest
    for name in ("hrnetv2-w18-small-v1", f"{mine}:small", f"{mine}:of_classes"):
        assert facts("cost", name, "--classes", "4")["graph_digest"] == graph.digest


def test_what_names_no_architecture_is_refused_in_one_line(tmp_path: Path, mine: str) -> None:
    assert refusal("show", "gsto-hrnet-w84").startswith(
        "gsto-spec: unknown architecture gsto-hrnet-w84 (nearest: gsto-hrnet-w48)"
    )
    (tmp_path / "mine.json").write_text("{}")
    assert refusal("show", str(tmp_path / "mime.json")) == (
        f"gsto-spec: {tmp_path / 'mime.json'}: cannot be read: No such file or directory (nearest: mine.json)"
    )
    assert refusal("show", str(tmp_path / "mine.json")) == (
        f'gsto-spec: {tmp_path / "mine.json"}: graph: expected a JSON object with "format": "gsto-graph", '
        "found None [json_c1]"
    )
    assert refusal("show", f"{mine}:smal") == f"gsto-spec: {mine}:smal: {mine} has no smal (nearest: small)"
    assert refusal("show", f"{mine}:wrong") == (
        f"gsto-spec: {mine}:wrong: expected a Graph, a variant or a function of classes, found int"
    )
    assert refusal("show", "no_such_module:x").startswith(
        "gsto-spec: no_such_module:x: cannot import no_such_module: "
    )
    assert refusal("show", f"{mine}:graph", "--form", "paper") == (
        f"gsto-spec: {mine}:graph: a graph's form is fixed; leave the form paper out"
    )


@pytest.mark.parametrize("size", ["1024", "0x5", "ax5", "5x5x5", "-1x5"])
def test_a_size_is_height_by_width(size: str) -> None:
    result = run("cost", "hrnetv2-w18-small-v1", f"--size={size}")
    assert result.exit_code == 2
    assert f"expected HxW such as 1024x2048, found {size}" in result.stderr


def test_an_input_too_small_for_a_graph_is_refused(tmp_path: Path) -> None:
    build = gsto_spec.GraphBuilder()
    graph = build.graph({"y": build.conv2d("c", build.input(), 1, kernel=7, padding=0)})
    (tmp_path / "g.json").write_text(graph.to_json())
    assert refusal("cost", str(tmp_path / "g.json"), "--size", "6x9") == (
        "gsto-spec: c: expected a size of at least 1 x 1, found 1 x 1 x 0 x 3 for an input of 1 x 3 x 6 x 9 "
        "[graph_c5]"
    )
