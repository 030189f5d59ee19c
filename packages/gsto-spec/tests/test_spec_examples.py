"""examples/ and docs/variants.md: what they show is so."""

import ast
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from gsto_spec import Graph, build, features, variant
from gsto_spec.cli import main
from gsto_spec.locate import locate

CHECKOUT = Path(__file__).parents[3]
EXAMPLES = CHECKOUT / "examples"
GUIDE = (CHECKOUT / "docs" / "variants.md").read_text(encoding="utf-8")
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NETWORKS = ("two_layer_gate:network", "gated_unet:network", "nearest_unet.json")


@pytest.fixture(autouse=True)
def in_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a reader of the guide types its commands."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(EXAMPLES)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_example_is_sound_and_trains_at_any_size(name: str) -> None:
    graph = locate(name)
    assert graph.training_form_violation() is None
    graph.check((1, 3, 33, 47))
    assert next(iter(graph.outputs)) == "stage4"
    assert Graph.from_json(graph.to_json()) == graph


def test_the_gate_takes_fifteen_lines_and_is_the_readmes() -> None:
    (code,) = (block for block in BLOCK.findall(README) if "def two_layer_gate" in block)
    assert code in BLOCK.findall(GUIDE)
    example = ast.parse((EXAMPLES / "two_layer_gate.py").read_text(encoding="utf-8"))
    assert [ast.dump(part) for part in example.body[1:]] == [ast.dump(part) for part in ast.parse(code).body]
    (command,) = re.findall(r"^(gsto-train .*two_layer_gate:network.*)$", GUIDE, re.MULTILINE)
    assert len([*code.splitlines(), command]) <= 15


def test_the_gate_stands_wherever_the_variant_had_one() -> None:
    graph = locate("two_layer_gate:network")
    plain = build(variant("gsto-hrnet-w18-small-v2"))
    hidden = {name.removesuffix(".3.weight") for name in graph.parameters
              if "att_layers" in name and name.endswith(".3.weight")}  # fmt: skip
    gated = {name.rpartition(".0.weight")[0] for name in plain.parameters
             if re.search(r"att_layers\.\d\.\d\.0\.weight$", name)}  # fmt: skip
    assert hidden == gated


def test_the_u_net_gates_what_rises_and_keeps_its_skips() -> None:
    graph = locate("gated_unet:network", classes=7)
    assert graph.check((1, 3, 50, 70))["head"] == (1, 7, 25, 35)
    for level in range(3):
        _, lifted = graph.by_name[f"up{level}/united"].operands
        assert lifted == f"transfer{level}/resize"
        gate, source = graph.by_name[f"transfer{level}/gated"].operands
        assert (graph.shapes[gate][1], graph.shapes[gate][2:]) == (1, graph.shapes[source][2:])


def test_the_file_is_the_u_net_with_nearest_up_sampling() -> None:
    shown = CliRunner().invoke(main, ["show", "gated_unet:network", "--classes", "5", "--json"]).stdout
    assert (EXAMPLES / "nearest_unet.json").read_text() == shown.replace('"bilinear"', '"nearest"')
    arguments = ["diff", "gated_unet:network", "nearest_unet.json", "--classes", "5", "--json"]
    found = json.loads(CliRunner().invoke(main, arguments).stdout)
    assert found["changes"] == {
        f"transfer{level}/resize": {"a": "method=bilinear", "b": "method=nearest"} for level in range(3)
    }


def test_the_commands_of_the_guide_run(tmp_path: Path) -> None:
    commands = re.findall(r"^gsto-spec ([^#|>\n]*)", GUIDE, re.MULTILINE)
    assert {command.split()[0] for command in commands} >= {"show", "cost", "draw", "diff", "check"}
    for command in commands:
        given = [str(tmp_path / part) if part.endswith(".svg") else part for part in command.split()]
        result = CliRunner().invoke(main, given)
        assert result.exit_code == (1 if given[0] == "diff" else 0), (command, result.output)


def test_the_code_of_the_guide_runs() -> None:
    for block in BLOCK.findall(GUIDE):
        if "gsto_torch" not in block:
            exec(compile(block, "variants.md", "exec"), {})


def test_a_network_without_stages_gives_features_by_name() -> None:
    graph = locate("gated_unet:network")
    cut = features(graph, nodes={"stride2": "up0.norm/relu", "stride4": "up1.norm/relu"})
    assert list(cut.outputs) == ["stride2", "stride4"]
