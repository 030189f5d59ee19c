"""`gsto-predict --explain`: which maps a network has, their values, and the figures of them."""

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import gsto_spec
from gsto_spec import Graph
from gsto_spec.ops import Mul, Sigmoid
from gsto_spec.weights import save_directory
from gsto_train.commands.predict import main
from gsto_train.data.augment import normalize
from gsto_train.look.anatomy import branches, gates
from gsto_train.look.network import open_network
from gsto_train.look.observing import Observer
from gsto_train.look.predicting import looker
from gsto_train.scoring import ScoringRequest

TINY = gsto_spec.HRNet(
    widths=(2, 2, 3, 3), modules=(1, 1, 1), blocks=1, stem_width=2, layer1_width=1, layer1_blocks=1,
    classes=3, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised",
)  # fmt: skip
PLAIN = dataclasses.replace(TINY, fusion_gate=None, supervised_stages=(), transition_gate=None)


@pytest.mark.parametrize("form", ["release", "paper"])
def test_every_gate_is_found_with_its_way(form: Any) -> None:
    graph = gsto_spec.build("gsto-hrnet-w18-small-v2", form=form)
    found = gates(graph)
    by_name = graph.by_name
    gating = {
        operand
        for node in graph.nodes
        if isinstance(node.op, Mul)
        for operand in node.operands
        if isinstance(by_name[operand].op, Sigmoid)
    }
    assert {gate.node for gate in found} == gating
    assert {gate.least for gate in found if gate.part != "transitions"} == {0.5 if form == "release" else 0.0}
    assert [gate.name for gate in found if gate.part == "transitions"] == ["after stage 2", "after stage 3"]
    last = [gate for gate in found if gate.part == found[-1].part]
    for gate in last:
        source, target = map(int, gate.name.split(" to "))
        assert gate.node == f"stage4.1.att_layers.{target}.{source}/gate"
        assert (gate.source, gate.target) == (4 << source, 4 << target)
    ways = [(source, target) for target in (4, 8, 16, 32) for source in (4, 8, 16, 32)]
    own = [] if form == "release" else [(stride, stride) for stride in (4, 8, 16, 32)]
    assert sorted((gate.source, gate.target) for gate in last) == sorted(set(ways) - set(own))


def test_branches_are_what_every_part_hands_on() -> None:
    found = branches(gsto_spec.build("hrnetv2-w48"))
    rows: dict[str, list[int]] = {}
    for branch in found:
        rows.setdefault(branch.after, []).append(branch.stride)
    assert list(rows) == [
        "stage 1",
        "stage 2, fusion 1",
        *(f"stage 3, fusion {number}" for number in range(1, 5)),
        *(f"stage 4, fusion {number}" for number in range(1, 4)),
    ]
    assert rows["stage 1"] == [4]
    assert rows["stage 3, fusion 4"] == [4, 8, 16]
    assert rows["stage 4, fusion 3"] == [4, 8, 16, 32]
    assert not gates(gsto_spec.build("hrnetv2-w48"))


def test_other_networks_are_looked_into_too() -> None:
    resnet = gsto_spec.build("resnet50-ppm-gsto-unsupervised")
    assert [branch.after for branch in branches(resnet)] == ["stage 1", "stage 2", "stage 3", "stage 4"]
    assert [gate.part for gate in gates(resnet)] == ["other gates"] * 4
    squeezed = gsto_spec.build("hrnetv2-w18-small-v2-channel-module")
    assert not gates(squeezed)  # They have no places.
    build = gsto_spec.GraphBuilder()
    bare = build.graph({"stage4": build.conv2d("head", build.input(), 3)})
    assert (branches(bare), gates(bare)) == ([], [])


class Interpreted:
    """A backend that predicts by the definition of every op."""

    name, precisions, process_index, process_count = "interpreted", ("float32",), 0, 1
    speeds = ("plain",)

    def devices(self) -> tuple[str, ...]:
        return ("cpu",)

    def versions(self) -> dict[str, str]:
        return {}

    def trainer(self, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError

    def sum_over_processes(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def predictor(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], **_: str
    ) -> "InterpretedPredictor":
        return InterpretedPredictor(graph, weights)


@dataclasses.dataclass
class InterpretedPredictor:
    graph: Graph
    weights: Mapping[str, NDArray[Any]]

    def predict(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return dict(gsto_spec.evaluate(self.graph, self.weights, {"image": images}))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two saved models, `gated` and `plain`, a picture, its truth, and the backend."""
    module = ModuleType("interpreted")
    module.__dict__["backend"] = Interpreted
    monkeypatch.setitem(sys.modules, "interpreted", module)
    monkeypatch.chdir(tmp_path)
    for name, variant in (("gated", TINY), ("plain", PLAIN)):
        graph = gsto_spec.build(variant)
        card = {"architecture": name, "classes": ["a <b>", "$x$", "c"], "benchmark": "folder"}
        save_directory(tmp_path / name, graph, gsto_spec.initial_weights(graph), card)
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 255, (17, 23, 3), np.uint8)).save("picture.png")
    Image.fromarray(generator.integers(0, 3, (17, 23), np.uint8)).save("truth.png")
    return tmp_path


def explain(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["picture.png", "--backend", "interpreted:backend", "--output", "seen", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_maps_are_the_values_of_the_networks_nodes(models: Path) -> None:
    network = open_network(ScoringRequest(models / "gated", backend="interpreted:backend"))
    observer = Observer(network, looker(network))
    picture = np.array(Image.open("picture.png"))
    observation = observer.observe(picture)
    assert observation is not None
    assert np.abs(observation.picture.astype(int) - picture).max() <= 1
    nodes = [*(each.node for each in observer.branches), *(each.node for each in observer.gates)]
    assert len(nodes) == len(observation.maps) == 1 + 2 + 3 + 4 + 4 + 9 + 16 + 2
    whole = dataclasses.replace(network.graph, outputs={f"n{k}": node for k, node in enumerate(nodes)})
    values = gsto_spec.evaluate(whole, network.weights, {"image": normalize(picture)[None]})
    for number, node in enumerate(nodes):
        assert np.allclose(observation.maps[node], values[f"n{number}"][0].mean(axis=0), atol=1e-12)


def size(name: str) -> tuple[int, int]:
    with Image.open(f"seen/explain/picture/{name}.png") as figure:
        return figure.size


def test_figures_of_one_network_and_of_two(models: Path) -> None:
    pytest.importorskip("matplotlib")
    assert explain("--model", "gated", "--explain", "--truth", "truth.png") == 0
    (told,) = json.loads(Path("seen/predictions.json").read_text())["pictures"]
    parts = ["branches", "gates-stage-2-fusion-1", "gates-transitions", "gates-stage-3-fusion-1"]
    names = [*parts, "gates-stage-4-fusion-1", "strip"]
    assert told["figures"] == [f"explain/picture/{name}.png" for name in names]
    alone = {name: size(name) for name in names}
    assert explain("--model", "gated", "--explain", "--baseline", "plain", "--force") == 0
    both = {name: size(name) for name in names}
    assert both["branches"][0] > 1.7 * alone["branches"][0]
    assert both["gates-stage-4-fusion-1"] == alone["gates-stage-4-fusion-1"]
    assert (
        both["strip"] == alone["strip"]
    )  # Picture, baseline and network; before, picture, truth and network.


def test_a_baseline_may_be_a_file_of_tensors(models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    Path("plain.json").write_text(gsto_spec.build(PLAIN).to_json())
    arguments = ("--model", "gated", "--explain", "--baseline", "plain/model.safetensors")
    assert explain(*arguments) == 2
    assert "--architecture" in capfd.readouterr().err
    assert explain(*arguments, "--baseline-architecture", "plain.json", "--force") == 0
    file = Path("seen/explain/picture/strip.png").read_bytes()
    assert explain("--model", "gated", "--explain", "--baseline", "plain", "--force") == 0
    assert size("strip")[0] > 0 and file.startswith(b"\x89PNG")
    assert explain("--model", "gated", "--explain", "--baseline-architecture", "plain.json") == 2
    assert "go with --baseline: give it" in capfd.readouterr().err


def test_names_stand_in_the_figures_as_they_are(models: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ("--model", "plain", "--explain", "--truth", "truth.png", "--format", "svg")
    assert explain(*arguments) == 0
    first = Path("seen/explain/picture/strip.svg").read_text()
    assert "a &lt;b&gt;" in first and "$x$" in first and "truth" in first
    assert explain(*arguments, "--force") == 0
    assert Path("seen/explain/picture/strip.svg").read_text() == first


def test_a_missing_matplotlib_is_told_in_a_line(
    models: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert explain("--model", "gated", "--explain") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "pip install 'gsto-train[plot]'" in line
    assert not Path("seen").exists()


def test_a_baseline_of_other_classes_is_refused(models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    graph = gsto_spec.build(PLAIN, classes=4)
    save_directory(models / "other", graph, gsto_spec.initial_weights(graph), {"benchmark": "folder"})
    assert explain("--model", "gated", "--explain", "--baseline", "other") == 2
    assert "expected a network of the same 3 labels" in capfd.readouterr().err


def test_a_truth_that_does_not_fit_costs_no_prediction(
    models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((3, 4), np.uint8)).save("small.png")
    assert explain("--model", "gated", "--truth", "small.png") == 1
    warning, last = capfd.readouterr().err.splitlines()[-2:]
    assert warning.startswith("warning: the truth is left out: small.png: this label is 4x3")
    assert last == "gsto-predict: 1 of 1 truth was left out, named above"
    summary = json.loads(Path("seen/predictions.json").read_text())
    assert len(summary["pictures"]) == len(summary["without_truth"]) == 1
    assert "small.png: this label is 4x3" in summary["without_truth"][0]["reason"]
    assert Path("seen/index/picture.png").exists()


def test_the_ignore_label_of_the_truths_classes_counts(models: Path) -> None:
    label = np.asarray(Image.open("truth.png")).copy()
    label[0] = 11
    Path("labels").mkdir()
    Image.fromarray(label).save("labels/picture.png")
    assert explain("--model", "gated", "--truth", "labels") == 1
    Path("classes.json").write_text(json.dumps({"num_classes": 3, "ignore_index": 11}))
    assert explain("--model", "gated", "--truth", "labels", "--force") == 0
    assert explain("--model", "gated", "--truth", "labels/picture.png", "--force") == 0
