"""Saved models: written by one backend, opened by anyone, and the other way round."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.framework import Arrays, Framework
from contract.networks import equal, normed
from gsto_spec import GraphBuilder, GraphError, WeightsError, golden, initial_weights
from gsto_spec.backend import Backend
from gsto_spec.ops import Mul, Parameter
from gsto_spec.pretrained import inspect_directory
from gsto_spec.weights import load_directory, save_directory

DRAW = np.random.default_rng(0)
IMAGE = DRAW.standard_normal((1, 3, 9, 7)).astype(np.float32)


@pytest.fixture
def trained(package: Any, framework: Framework) -> Any:
    """A model in inference mode whose statistics have moved."""
    model = package.compile(normed(), seed=4)
    framework.compute(model, np.random.default_rng(1).standard_normal((2, 3, 8, 6)).astype(np.float32))
    model.eval()
    return model


@pytest.fixture
def output(framework: Framework) -> Any:
    return lambda model: framework.compute(model, IMAGE)["stage4"]


def test_a_model_survives_the_round_trip(package: Any, trained: Any, output: Any, tmp_path: Path) -> None:
    package.save(trained, tmp_path / "model", {"data": "noise"})
    again = package.load(tmp_path / "model")
    again.eval()
    assert again.graph == trained.graph
    assert equal(package.weights_of(again), package.weights_of(trained))
    assert np.array_equal(output(again), output(trained))
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["data"] == "noise"
    assert card["graph_digest"] == normed().digest


def test_what_a_backend_saves_is_read_without_it(package: Any, trained: Any, tmp_path: Path) -> None:
    package.save(trained, tmp_path)
    graph, weights, _ = load_directory(tmp_path)
    assert graph == normed()
    assert {name: array.shape for name, array in weights.items()} == dict(graph.parameters)
    assert not np.array_equal(weights["bn1.running_mean"], initial_weights(graph)["bn1.running_mean"])
    kept: Arrays = package.weights_of(trained)
    assert all(np.array_equal(weights[name], kept[name]) for name in kept)


def test_what_was_saved_without_a_backend_is_opened(package: Any, tmp_path: Path) -> None:
    weights = initial_weights(normed(), seed=9)
    save_directory(tmp_path, normed(), weights)
    found = package.weights_of(package.load(tmp_path))
    assert all(np.array_equal(found[name], array) for name, array in weights.items())


@pytest.mark.parametrize("saved", ["float32", "float64"])
def test_a_model_is_opened_in_the_type_asked_for(
    package: Any, framework: Framework, saved: str, tmp_path: Path
) -> None:
    with framework.float64():
        package.save(package.compile(normed(), dtype=framework.dtype(saved)), tmp_path)
        for opened in (package.load, package.from_pretrained):
            for dtype, wanted in ((None, "float32"), (framework.dtype("float64"), "float64")):
                found = package.weights_of(opened(tmp_path, dtype=dtype))
                assert {array.dtype for array in found.values()} == {np.dtype(wanted)}


def test_a_folder_that_holds_a_model_is_not_overwritten(package: Any, trained: Any, tmp_path: Path) -> None:
    package.save(trained, tmp_path)
    with pytest.raises(FileExistsError, match="holds a saved model already"):
        package.save(trained, tmp_path)


def test_a_model_that_is_not_finite_is_not_saved(
    package: Any, framework: Framework, trained: Any, tmp_path: Path
) -> None:
    framework.assign(trained, "conv1.weight", np.nan)
    with pytest.raises(WeightsError, match=r"^weights: conv1\.weight is not finite$"):
        package.save(trained, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_in_inference_form_is_not_saved(package: Any, tmp_path: Path) -> None:
    builder = GraphBuilder()
    scale = builder.parameter("scale", Parameter((1, 3, 1, 1)))
    graph = builder.graph({"y": builder.apply("image/scaled", Mul(), builder.input(), scale)})
    with pytest.raises(GraphError, match="training_c1"):
        package.save(package.compile(graph), tmp_path / "model")


def test_a_broken_model_is_named(package: Any, trained: Any, tmp_path: Path) -> None:
    package.save(trained, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"model\.safetensors: expected a safetensors file"):
        package.load(tmp_path)


def test_a_model_to_share_survives_the_round_trip_and_predicts_at_once(
    package: Any, trained: Any, output: Any, tmp_path: Path
) -> None:
    package.save_pretrained(trained, tmp_path / "model", {"licence": "CC0-1.0"})
    again = package.from_pretrained(str(tmp_path / "model"))
    assert np.array_equal(output(again), output(trained))
    assert equal(package.weights_of(again), package.weights_of(trained))
    assert 'license: "cc0-1.0"' in (tmp_path / "model" / "README.md").read_text()


def test_save_and_save_pretrained_open_each_other_s_directories(
    package: Any, trained: Any, output: Any, tmp_path: Path
) -> None:
    package.save(trained, tmp_path / "saved")
    package.save_pretrained(trained, tmp_path / "shared")
    shared = package.load(tmp_path / "shared")
    shared.eval()
    for model in (package.from_pretrained(tmp_path / "saved"), shared):
        assert np.array_equal(output(model), output(trained))


def test_it_gives_the_golden_answer_and_another_network_does_not(
    backend: Backend, package: Any, tmp_path: Path
) -> None:
    build = GraphBuilder()
    x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", build.input(), 8, kernel=3, stride=2)))
    little = build.graph({"y": build.resize(build.conv2d("head", x, 2, bias=True), like="image")})
    package.save_pretrained(package.compile(little, seed=3), tmp_path / "model")
    saved = inspect_directory(tmp_path / "model")
    off = {name: array * np.float32(1 + 1e-4) for name, array in saved.weights.items()}
    for precision in ("float64", "float32"):
        for weights, agrees in ((saved.weights, True), (off, False)):
            predict = backend.predictor(saved.graph, weights, device="cpu", precision=precision).predict
            (found,) = golden.compare(saved.graph, saved.weights, saved.recorded, predict, precision)
            assert found.agrees is agrees, (precision, found)


def test_what_is_not_here_is_told_in_one_line(package: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"modle: no such directory$"):
        package.from_pretrained(tmp_path / "modle")


def test_a_bfloat16_model_is_saved_as_what_any_backend_reads(
    package: Any, framework: Framework, tmp_path: Path
) -> None:
    model = package.compile(normed(), dtype=framework.dtype("bfloat16"))
    package.save(model, tmp_path)
    again, kept = package.weights_of(package.load(tmp_path)), package.weights_of(model)
    for name, array in kept.items():
        assert np.array_equal(again[name], array.astype(np.float32))


CARD: dict[str, Any] = {
    "classes": ["sky", "road"], "palette": [[1, 2, 3], [4, 5, 6]],
    "preprocessing": {"mean": [0.5, 0.5, 0.5]}, "metrics": {"mean_iou": 0.5}, "licence": "MIT",
}  # fmt: skip


@pytest.fixture
def shared(package: Any, trained: Any, tmp_path: Path) -> Path:
    """A directory to share whose card tells everything."""
    package.save_pretrained(trained, tmp_path / "shared", CARD)
    return tmp_path / "shared"


def card_of(folder: Path) -> dict[str, Any]:
    found = inspect_directory(folder)
    return {**found.card, "problems": found.problems}


def test_a_model_that_came_from_a_directory_keeps_its_card(
    package: Any, trained: Any, shared: Path, tmp_path: Path
) -> None:
    assert trained.card is None
    for index, opened in enumerate((package.from_pretrained, package.load)):
        model = opened(shared)
        assert {key: model.card[key] for key in CARD} == CARD
        package.save_pretrained(model, tmp_path / f"{index}", {"licence": "CC0-1.0"})
        assert card_of(tmp_path / f"{index}") == card_of(shared) | {"licence": "CC0-1.0"}


def test_the_scores_of_other_weights_are_not_kept(
    package: Any, framework: Framework, shared: Path, tmp_path: Path
) -> None:
    model = package.from_pretrained(shared)
    framework.assign(model, "bn1.bias", 0.25)
    package.save_pretrained(model, tmp_path / "other")
    package.save_pretrained(model, tmp_path / "scored", {"metrics": {"mean_iou": 0.75}})
    kept = card_of(tmp_path / "other")
    assert kept["problems"] == () and "metrics" not in kept
    assert all(kept[key] == CARD[key] for key in CARD if key != "metrics")
    assert kept["weights_sha256"] != card_of(shared)["weights_sha256"]
    assert card_of(tmp_path / "scored")["metrics"] == {"mean_iou": 0.75}


def test_of_a_run_s_folder_the_model_in_it_is_opened(
    package: Any, trained: Any, output: Any, tmp_path: Path
) -> None:
    package.save_pretrained(trained, tmp_path / "run" / "model")
    (tmp_path / "run" / "graph.json").write_text(trained.graph.to_json())
    for opened in (package.load, package.from_pretrained):
        model = opened(tmp_path / "run")
        model.eval()
        assert np.array_equal(output(model), output(trained))
    found = package.read_checkpoint(tmp_path / "run", trained.graph)
    assert equal(found, package.weights_of(trained))


def test_a_name_that_was_not_built_is_refused_with_what_builds_it(package: Any) -> None:
    name = "gsto-hrnet-w16-mini"
    mend = rf"^graph: expected a Graph, found the name '{name}': build it by gsto_spec\.build\('{name}'\)$"
    with pytest.raises(TypeError, match=mend):
        package.compile(name)
    with pytest.raises(TypeError, match=r"^graph: expected a Graph, found int; gsto_spec\.build makes one$"):
        package.compile(3)
