"""Models to share: what lies in their directory, what a page says of them, and what a golden answer finds."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from gsto_spec import Graph, GraphBuilder, GstoError, WeightsError, build, evaluate, golden, initial_weights
from gsto_spec.ops import BatchNorm, Resize
from gsto_spec.pretrained import FILES, inspect_directory, load_pretrained, save_pretrained
from gsto_spec.weights import load_directory, save_directory

Weights = dict[str, NDArray[Any]]
CARD = {
    "architecture": "small", "benchmark": "scenes",
    "classes": ["sky", "road"], "palette": [[1, 2, 3], [4, 5, 6]],
    "metrics": {"mean_iou": 0.5, "iou": {"sky": 0.25, "road": None}}, "protocol": "whole pictures",
    "licence": "MIT", "settings": {"train": {"seed": 3, "epochs": None}}, "data": {"pictures": 4},
}  # fmt: skip


def small() -> Graph:
    build = GraphBuilder()
    x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", build.input(), 4, kernel=3, stride=2)))
    x = build.add([x, build.resize(build.conv2d("conv2", x, 4, kernel=3, stride=2), like=x)])
    return build.graph({"stage4": build.conv2d("head", x, 2, bias=True), "aside": build.conv2d("side", x, 3)})


def changed(kind: type, **fields: Any) -> Graph:
    """`small` with other fields of one kind of op."""
    nodes = [
        dataclasses.replace(node, op=dataclasses.replace(node.op, **fields))
        if isinstance(node.op, kind)
        else node
        for node in small().nodes
    ]
    return Graph(tuple(nodes), small().outputs)


def drawn(graph: Graph, seed: int = 0) -> Weights:
    draw = np.random.default_rng(seed)
    weights: Weights = {}
    for name, shape in graph.parameters.items():
        value = draw.uniform(0.5, 1.5, shape) if "running_var" in name else draw.standard_normal(shape)
        weights[name] = value.astype(np.float32)
    return weights


def saved(folder: Path, card: Mapping[str, Any] = CARD) -> Path:
    save_pretrained(folder, small(), drawn(small()), card)
    return folder


def predictor(graph: Graph, weights: Mapping[str, Any], dtype: Any = np.float64) -> golden.Predict:
    return lambda images: evaluate(graph, weights, {"image": images}, dtype)


def agree(graph: Graph, predict: golden.Predict, precision: str = "float64") -> bool:
    weights = drawn(graph)
    found = golden.compare(graph, weights, golden.record(graph, weights), predict, precision)
    return all(each.agrees for each in found)


def test_a_directory_to_share_is_a_saved_model_with_a_page_a_configuration_and_an_answer(
    tmp_path: Path,
) -> None:
    folder = saved(tmp_path / "new" / "model")
    assert {path.name for path in folder.iterdir()} == {*FILES}
    graph, weights, card = load_directory(folder)
    assert graph == small()
    assert all(np.array_equal(weights[name], array) for name, array in drawn(small()).items())
    assert {key: card[key] for key in CARD} == CARD
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "sky", "1": "road"}
    assert inspect_directory(folder).problems == ()


def test_each_opens_what_the_other_wrote(tmp_path: Path) -> None:
    save_directory(tmp_path / "saved", small(), drawn(small()), {"data": "none"})
    graph, _, card = load_pretrained(tmp_path / "saved")
    assert (graph, card["data"]) == (small(), "none")
    again, _, _ = load_pretrained(str(saved(tmp_path / "shared")))
    assert again == graph


@pytest.mark.parametrize("name", [*FILES, "notes.txt", ".git"])
def test_a_directory_that_holds_anything_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=r"already; choose another directory"):
        saved(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


@pytest.mark.parametrize("name", ["model.safetensors", "card.json"])
def test_save_leaves_files_of_its_names_and_links_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "there" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(FileExistsError, match="exists already; choose another directory"):
        save_directory(tmp_path / "there", small(), drawn(small()))
    assert (tmp_path / "outside").read_text() == "mine"
    assert os.listdir(tmp_path / "there") == [name]


def test_nothing_is_written_through_a_link_that_lies_where_a_file_is_made(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "there" / "graph.json.partial").symlink_to(tmp_path / "outside")
    save_directory(tmp_path / "there", small(), drawn(small()))
    assert (tmp_path / "outside").read_text() == "mine"
    load_directory(tmp_path / "there")


def test_what_cannot_be_saved_leaves_nothing(tmp_path: Path) -> None:
    for weights, card in (({}, CARD), (drawn(small()), {"data": float("nan")})):
        with pytest.raises(GstoError):
            save_pretrained(tmp_path / "model", small(), weights, card)
    assert not (tmp_path / "model").exists()


def test_other_than_a_name_for_each_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GstoError, match="of the 2 channels of output stage4, found 1; name all") as refused:
        save_pretrained(tmp_path / "model", small(), drawn(small()), {"classes": ["a"]})
    assert "\n" not in str(refused.value) and not (tmp_path / "model").exists()


def front_matter(text: str) -> Any:
    yaml = pytest.importorskip("yaml")
    _, matter, _ = text.split("---\n", 2)
    return yaml.safe_load(matter)


def test_the_page_tells_the_hub_and_people_what_the_card_says(tmp_path: Path) -> None:
    page = (saved(tmp_path / "model") / "README.md").read_text()
    for text in (
        "| sky | [1, 2, 3] |",
        "| IoU of sky | 0.2500 |",
        "whole pictures",
        "train.seed = 3",
        small().digest,
    ):
        assert text in page
    matter = front_matter(page)
    told = ("library_name", "pipeline_tag", "license", "datasets", "metrics")
    assert [matter[key] for key in told] == ["gsto", "image-segmentation", "mit", ["scenes"], ["mean_iou"]]
    (result,) = matter["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.5
    assert result["dataset"]["type"] == "scenes"


def test_a_pose_network_is_told_as_one(tmp_path: Path) -> None:
    save_pretrained(
        tmp_path / "model", small(), drawn(small()), {"metrics": {"AP": 0.7}, "licence": "for reading"}
    )
    matter = front_matter((tmp_path / "model" / "README.md").read_text())
    assert (matter["pipeline_tag"], matter["license"]) == ("keypoint-detection", "other")


@settings(max_examples=40, deadline=None)
@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ),
    key=st.sampled_from([*CARD, "preprocessing"]),
)
def test_any_card_makes_a_page_that_a_yaml_reader_takes(
    tmp_path_factory: pytest.TempPathFactory, value: Any, key: str
) -> None:
    folder = tmp_path_factory.mktemp("card") / "model"
    try:
        save_pretrained(folder, small(), drawn(small()), {**CARD, key: value})
    except GstoError as error:
        wrong = "card: classes: expected a name for each" if key == "classes" else ""
        assert "card: expected what JSON can hold" in str(error) or (wrong and wrong in str(error))
        return
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert front_matter(page)["library_name"] == "gsto"
    assert load_directory(folder)[0] == small()


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_definition_gives_its_own_answer(precision: str) -> None:
    graph = small()
    dtype = np.float64 if precision == "float64" else np.float32
    assert agree(graph, predictor(graph, drawn(graph), dtype), precision)


@pytest.mark.parametrize(
    "wrong", [changed(BatchNorm, eps=1.001e-5), changed(Resize, align_corners=True)], ids=["eps", "corners"]
)
def test_another_operation_is_found(wrong: Graph) -> None:
    assert not agree(small(), predictor(wrong, drawn(small())))


def test_float32_is_not_taken_for_float64_nor_ten_bits_for_float32() -> None:
    graph = small()
    assert not agree(graph, predictor(graph, drawn(graph), np.float32), "float64")
    short = {name: array.astype(np.float16).astype(np.float32) for name, array in drawn(graph).items()}
    assert not agree(graph, predictor(graph, short, np.float32), "float32")


@pytest.mark.parametrize("value", [0.0, np.inf])
def test_no_answer_agrees_where_float32_overflows(value: float) -> None:
    graph, weights = small(), drawn(small())
    weights["bn1.weight"] = np.full_like(weights["bn1.weight"], 1e30)
    weights["head.weight"] = weights["head.weight"] * np.float32(1e30)
    recorded = golden.record(graph, weights)
    exact = predictor(graph, weights)(golden.picture(graph))
    answer = {name: np.full_like(output, value) for name, output in exact.items()}
    found = golden.compare(graph, weights, recorded, lambda images: answer, "float64")
    assert [each.agrees for each in found] == [False, False]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_value_that_changes_is_named(data: st.DataObject) -> None:
    graph = small()
    weights = drawn(graph)
    recorded = golden.record(graph, weights)
    name = data.draw(st.sampled_from(sorted(weights)))
    place = data.draw(st.integers(0, weights[name].size - 1))
    weights[name].flat[place] = np.nextafter(weights[name].flat[place], np.float32(9))
    assert golden.changed_tensors(recorded, weights) == [name]


def test_a_record_is_the_same_on_every_machine() -> None:
    asked = golden.picture(small())
    assert np.allclose(asked.ravel()[:2], [0.12573022, -0.13210486], rtol=1e-6)
    found = golden.record(small(), {name: np.ones_like(a) for name, a in drawn(small()).items()})
    assert len(found["outputs"]["stage4"]) == 2
    assert [len(channel) for channel in found["outputs"]["aside"]] == [22, 22, 22]


def two_inputs() -> Graph:
    build = GraphBuilder()
    return build.graph({"y": build.conv2d("head", build.concat([build.input("a"), build.input("b")]), 2)})


def enormous() -> Graph:
    build = GraphBuilder()
    tall = build.apply("image/tall", Resize("nearest", size=(60_000, 60_000)), build.input())
    return build.graph({"y": build.conv2d("head", tall, 2)})


@pytest.mark.parametrize("make", [two_inputs, enormous])
def test_a_network_that_cannot_be_asked_has_no_answer(make: Callable[[], Graph], tmp_path: Path) -> None:
    graph = make()
    save_pretrained(tmp_path / "model", graph, drawn(graph))
    found = inspect_directory(tmp_path / "model")
    assert found.recorded["outputs"] is None
    assert found.problems == ()
    with pytest.raises(WeightsError, match="no answer is recorded"):
        golden.compare(graph, found.weights, found.recorded, predictor(graph, found.weights), "float64")


def test_an_answer_that_is_not_finite_is_not_recorded() -> None:
    weights = drawn(small())
    weights["head.weight"] = np.full_like(weights["head.weight"], 3e38)
    huge = {
        **weights,
        "bn1.weight": np.full(4, 3e38, np.float32),
        "conv1.weight": weights["conv1.weight"] * 1e38,
    }
    assert (
        golden.record(small(), {name: array.astype(np.float64) ** 8 for name, array in huge.items()})[
            "outputs"
        ]
        is None
    )


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object], name: str = "golden.json") -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def test_what_was_changed_in_a_directory_is_told(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "head.bias": tensors["head.bias"] + 1}, folder / "model.safetensors")
    rewritten(folder, lambda card: card.update(graph_digest="0"), "card.json")
    assert inspect_directory(folder).problems == (
        f"graph.json is of digest {small().digest[:12]}, card.json tells of another",
        "model.safetensors is not the file that card.json describes",
        "tensor head.bias is not the one recorded",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(outputs=[1]), "no answer is recorded"),
        (lambda record: record["outputs"].pop("aside"), "expected answers of stage4, aside, found stage4"),
        (
            lambda record: record["outputs"].update(stage4=[[1.0]]),
            r"expected \(2, 32\) finite numbers, found",
        ),
        (lambda record: record["outputs"].update(stage4="x"), "expected numbers, found something else"),
        (
            lambda record: record["outputs"].update(stage4=[[1], [1, 2]]),
            "expected numbers, found something else",
        ),
        (lambda record: record["picture"].update(sha256="0"), "draws another picture"),
    ],
)
def test_a_foreign_record_is_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    folder = saved(tmp_path / "model")
    rewritten(folder, change)
    found = inspect_directory(folder)
    with pytest.raises(WeightsError, match=message) as caught:
        golden.compare(
            found.graph, found.weights, found.recorded, predictor(found.graph, found.weights), "float64"
        )
    assert len(str(caught.value).splitlines()) == 1


def test_a_record_without_tensors_or_not_there_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    rewritten(folder, lambda record: record.update(tensors=7))
    with pytest.raises(WeightsError, match=r"golden.json: expected tensors: name -> digest, found int"):
        inspect_directory(folder)
    (folder / "golden.json").unlink()
    with pytest.raises(WeightsError, match="save the network again with save_pretrained"):
        inspect_directory(folder)


def test_a_network_of_the_catalogue_has_room_in_float32_and_in_float64() -> None:
    graph = build("hrnetv2-w18-small-v1", classes=2)
    weights = initial_weights(graph)
    recorded = golden.record(graph, weights)
    moved = {name: np.float32(1 + 1e-4) * array for name, array in weights.items()}
    for weighted, agrees in ((weights, True), (moved, False)):
        predict = predictor(graph, weighted, np.float32)
        (found,) = golden.compare(graph, weights, recorded, predict, "float32")
        assert found.agrees is agrees
    assert dataclasses.astuple(found)[3] == 0.0
    assert any(isinstance(node.op, BatchNorm) for node in graph.nodes)
