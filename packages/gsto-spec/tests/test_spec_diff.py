"""`gsto-spec diff`: what differs between two architectures."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gsto_spec import Graph, GraphBuilder, build, cost
from gsto_spec.cli import main
from gsto_spec.ops import BatchNorm

PLAIN, GATED = "hrnetv2-w18-small-v2", "gsto-hrnet-w18-small-v2"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["diff", *arguments])


def facts(*arguments: str, status: int = 1) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == status, result.output
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def test_an_architecture_is_the_same_as_itself_by_any_name(tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text(build(GATED).to_json())
    for other in (GATED, str(tmp_path / "g.json")):
        result = run(GATED, other)
        assert result.exit_code == 0
        assert result.stdout.splitlines()[2] == "the same architecture"
    found = facts(GATED, GATED, status=0)
    assert (found["fields"], found["modules"], found["same"]) == ({}, {}, True)


def test_fields_counts_and_outputs_that_differ_are_told() -> None:
    found = facts(PLAIN, GATED)
    assert found["fields"] == {
        "fusion_gate": {"a": "None", "b": "unsupervised"},
        "supervised_stages": {"a": "()", "b": "(2, 3)"},
        "transition_gate": {"a": "None", "b": "supervised"},
    }
    assert found["parameters"] == [3_939_579, 3_966_276]
    assert found["macs"] == [76_856_885_248, 79_893_372_928]
    assert found["digests"] == [build(PLAIN).digest, build(GATED).digest]
    assert found["outputs"] == [["stage4"], ["stage4", "stage3", "stage2"]]
    text = run(PLAIN, GATED).stdout
    assert "supervised_stages: () -> (2, 3)" in text
    assert "+26,697" in text and "+3,036,487,680" in text


def test_nodes_and_tensors_are_grouped_by_module() -> None:
    modules = facts(PLAIN, GATED)["modules"]
    gates = modules["stage2.*.att_layers"]
    assert len(gates["nodes"]["only_b"]) == 16 and len(gates["parameters"]["only_b"]) == 20
    fused = modules["stage2.*.fuse"]["nodes"]
    assert fused["changed"] == ["stage2.0/fuse.0/sum", "stage2.0/fuse.1/sum"]
    assert modules["transition2"]["nodes"]["changed"] == ["transition2.2.0.0"]
    everything = [name for module in modules.values() for part in module.values() for name in part["only_b"]]
    assert sorted(everything) == sorted(build(GATED).by_name.keys() - build(PLAIN).by_name.keys())
    lines = run(PLAIN, GATED).stdout.splitlines()
    assert len(lines) < 40
    assert any(line.split() == ["stage2.*.att_layers", "-", "16,", "20", "-"] for line in lines)


def test_every_name_is_listed_on_request() -> None:
    lines = run(PLAIN, GATED, "--nodes").stdout.splitlines()
    assert "+ att2.2/gate" in lines
    assert (
        "~ transition2.2.0.0: operands=stage2.0/fuse.1/out, transition2.2.0.0.weight -> "
        "operands=transition2/gated, transition2.2.0.0.weight"
    ) in lines
    assert "- att2.2/gate" in run(GATED, PLAIN, "--nodes").stdout.splitlines()


def test_size_classes_and_forms_are_chosen() -> None:
    found = facts(PLAIN, PLAIN, "--classes", "4", "--size", "64x96", status=0)
    assert found["macs"] == [cost(build(PLAIN, classes=4), (1, 3, 64, 96)).macs] * 2
    forms = facts(GATED, GATED, "--form", "release", "--form", "paper")
    assert forms["fields"] == {"form": {"a": "release", "b": "paper"}}
    assert forms["digests"][1] == build(GATED, form="paper").digest
    assert facts(GATED, GATED, "--form", "paper", status=0)["digests"] == [forms["digests"][1]] * 2


def test_what_only_training_reads_differs_with_equal_digests(tmp_path: Path) -> None:
    builder = GraphBuilder()
    graph = builder.graph({"y": builder.batch_norm("n", builder.input())})
    nodes = [dataclasses.replace(node, op=BatchNorm(momentum=0.5)) if isinstance(node.op, BatchNorm) else node
             for node in graph.nodes]  # fmt: skip
    files = []
    for name, each in (("a", graph), ("b", Graph(tuple(nodes), graph.outputs))):
        files.append(str(tmp_path / f"{name}.json"))
        Path(files[-1]).write_text(each.to_json())
    result = run(*files, "--nodes")
    assert result.exit_code == 1
    assert "different in what inference does not compute; digests are equal" in result.stdout
    assert "~ n: momentum=0.1 -> momentum=0.5" in result.stdout


def test_variants_of_ones_own_are_compared_field_by_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"diffed_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "import dataclasses, gsto_spec\nfrom gsto_spec.forms import PAPER\n"
        f"base = gsto_spec.variant({GATED!r})\n"
        "def my_gate(build, path, x):\n    return build.sigmoid(build.conv2d(f'{path}.0', x, 1))\n"
        "def of(classes):\n    return dataclasses.replace(base, fusion_gate=my_gate, classes=classes or 7)\n"
        "up = dataclasses.replace(base, form=dataclasses.replace(PAPER, gates_identity=True))\n"
        "paper = dataclasses.replace(base, form=PAPER)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert facts(GATED, f"{name}:of")["fields"] == {
        "classes": {"a": "19", "b": "7"},
        "fusion_gate": {"a": "unsupervised", "b": f"{name}.my_gate"},
    }
    changes = facts(f"{name}:paper", f"{name}:up")["fields"]
    assert changes == {"form.gates_identity": {"a": "False", "b": "True"}}


def test_wrong_input_has_status_2_and_one_line() -> None:
    result = run(PLAIN, "gsto-hrnet-w84")
    assert result.exit_code == 2
    assert result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert run(PLAIN, GATED, "--form", "paper", "--form", "paper", "--form", "paper").exit_code == 2


def test_the_order_of_outputs_is_a_difference(tmp_path: Path) -> None:
    builder = GraphBuilder()
    image = builder.input()
    outputs = {"a": builder.conv2d("a", image, 1), "b": builder.conv2d("b", image, 1)}
    for name, order in (("x", "ab"), ("y", "ba")):
        graph = builder.graph({output: outputs[output] for output in order})
        (tmp_path / f"{name}.json").write_text(graph.to_json())
    found = facts(str(tmp_path / "x.json"), str(tmp_path / "y.json"))
    assert (found["modules"], found["outputs"]) == ({}, [["a", "b"], ["b", "a"]])


def test_fields_that_differ_are_told_even_where_the_graphs_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"spelt_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "import dataclasses, gsto_spec\n"
        f"same = dataclasses.replace(gsto_spec.variant({GATED!r}), gated_transitions=(2, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = facts(GATED, f"{name}:same")
    assert found["digests"][0] == found["digests"][1]
    assert found["fields"] == {"gated_transitions": {"a": "None", "b": "(2, 3)"}}
