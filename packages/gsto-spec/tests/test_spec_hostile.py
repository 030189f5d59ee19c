"""Declarations that others hand over, meant to be obeyed by a terminal, or never to be done with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gsto_spec import Graph, GraphError, GstoError
from gsto_spec.cli import main
from gsto_spec.errors import printable
from gsto_spec.locate import locate


@pytest.mark.parametrize("letter", ["\x1b", "\x9b", "\x07", "\0", "\u202e", "\ud800"])
def test_an_error_holds_nothing_that_a_terminal_obeys(letter: str) -> None:
    with pytest.raises(GraphError) as refused:
        Graph.from_json(json.dumps({"format": f"{letter}[31mred"}))
    assert letter not in str(refused.value)
    assert ascii(letter)[1:-1] in str(refused.value)
    assert str(GstoError("two\nlines")) == "two lines"


def test_what_prints_stays_as_it_is() -> None:
    assert printable("Straße 5 × 7") == "Straße 5 × 7"
    assert printable(Path("a\x1bb")) == "a\\x1bb"


def test_many_fields_of_which_one_comes_twice_are_refused_at_once() -> None:
    fields = "".join(f'"{number}": 1, ' for number in range(100_000))
    with pytest.raises(GraphError, match="found 99999 twice"):
        Graph.from_json(f'{{{fields}"99999": 2}}')


def test_a_convolution_of_a_million_channels_is_read_without_its_weights(tmp_path: Path) -> None:
    shape = [10**6, 10**6, 3, 3]
    nodes = [
        {"name": "image", "op": "input", "channels": 10**6},
        {"name": "a.weight", "op": "parameter", "shape": shape, "initial": "constant", "scale": 1.0},
        {"name": "a", "op": "conv2d", "operands": ["image", "a.weight"], "padding": [1, 1, 1, 1]},
    ]
    file = tmp_path / "huge.json"
    document = {"format": "gsto-graph", "version": 1, "nodes": nodes, "outputs": {"stage4": "a"}}
    file.write_text(json.dumps(document))
    assert locate(str(file)).parameters == {"a.weight": tuple(shape)}


@pytest.mark.parametrize(
    "arguments",
    [
        ["diff", "a", "b", "--size", "\x1b[31m"],
        ["no\x1bsuch"],
        ["show", "--\x07"],
        ["list", "x\ny"],
        ["cost"],
    ],
)
def test_wrong_usage_is_one_line_without_control_characters(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    line = result.stderr.removesuffix("\n")
    assert line.startswith("gsto-spec: ") and line.isprintable()


def test_the_command_alone_prints_its_help() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2 and "Commands:" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_standard_output_is_one_line() -> None:
    command = [sys.executable, "-m", "gsto_spec.cli", "list"]
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (1, "gsto-spec: standard output: No space left on device\n")


def test_a_pipe_or_device_in_place_of_a_graph_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "endless.json"):
        with pytest.raises(GstoError, match=rf"{name}: expected a graph's file, found a pipe or device"):
            locate(str(tmp_path / name))
