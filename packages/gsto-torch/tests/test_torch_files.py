"""Saved models: written by torch, opened by anyone, and the other way round."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import gsto_torch
from gsto_spec import Graph, GraphBuilder, GraphError, WeightsError, build, golden, initial_weights
from gsto_spec.ops import Mul, Parameter
from gsto_spec.pretrained import inspect_directory
from gsto_spec.weights import load_directory, save_directory
from gsto_torch.backend import TorchBackend

GRAPH = build("hrnetv2-w18-small-v1", classes=2)


def trained() -> gsto_torch.CompiledGraph:
    model = gsto_torch.compile(GRAPH, seed=4)
    model(torch.randn((2, 3, 32, 32)))
    return model.eval()


IMAGE = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 40, 56))).float()


def test_a_model_survives_the_round_trip(tmp_path: Path) -> None:
    model = trained()
    gsto_torch.save(model, tmp_path / "model", {"data": "noise"})
    again = gsto_torch.load(tmp_path / "model").eval()
    assert again.graph == model.graph
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(again.state_dict()[name], tensor)
    assert torch.equal(again(IMAGE)["stage4"], model(IMAGE)["stage4"])
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["data"] == "noise"
    assert card["graph_digest"] == GRAPH.digest


def test_what_torch_saves_is_read_without_torch(tmp_path: Path) -> None:
    model = trained()
    gsto_torch.save(model, tmp_path)
    graph, weights, _ = load_directory(tmp_path)
    assert graph == GRAPH
    assert set(weights) == set(GRAPH.parameters)
    kept = gsto_torch.weights_of(model)
    assert all(np.array_equal(weights[name], kept[name]) for name in kept)


def test_what_was_saved_without_torch_is_opened(tmp_path: Path) -> None:
    weights = initial_weights(GRAPH, seed=9)
    save_directory(tmp_path, GRAPH, weights)
    found = gsto_torch.weights_of(gsto_torch.load(tmp_path))
    assert all(np.array_equal(found[name], array) for name, array in weights.items())


def test_a_model_is_opened_in_the_type_asked_for(tmp_path: Path) -> None:
    model = gsto_torch.compile(GRAPH, dtype=torch.float64)
    gsto_torch.save(model, tmp_path)
    for dtype, wanted in ((None, torch.float32), (torch.float64, torch.float64)):
        assert {p.dtype for p in gsto_torch.load(tmp_path, dtype=dtype).parameters()} == {wanted}


def test_a_folder_that_holds_a_model_is_not_overwritten(tmp_path: Path) -> None:
    gsto_torch.save(trained(), tmp_path)
    with pytest.raises(FileExistsError, match="holds a saved model already"):
        gsto_torch.save(trained(), tmp_path)


def test_a_model_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    model = trained()
    with torch.no_grad():
        model.get_parameter("conv1.weight").fill_(float("nan"))
    with pytest.raises(WeightsError, match=r"^weights: conv1\.weight is not finite$"):
        gsto_torch.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_in_inference_form_is_not_saved(tmp_path: Path) -> None:
    builder = GraphBuilder()
    scale = builder.parameter("scale", Parameter((1, 3, 1, 1)))
    graph: Graph = builder.graph({"y": builder.apply("image/scaled", Mul(), builder.input(), scale)})
    with pytest.raises(GraphError, match="training_c1"):
        gsto_torch.save(gsto_torch.compile(graph), tmp_path / "model")


@pytest.mark.parametrize("missing", ["nothing/graph.json", "graph.json", "model.safetensors", "card.json"])
def test_a_model_that_is_not_there_is_named(missing: str, tmp_path: Path) -> None:
    gsto_torch.save(trained(), tmp_path)
    (tmp_path / missing).unlink(missing_ok=True)
    with pytest.raises(WeightsError) as caught:
        gsto_torch.load((tmp_path / missing).parent)
    assert str(caught.value) == (
        f"{tmp_path / missing}: a saved model has graph.json, model.safetensors and card.json"
    )


def test_a_broken_model_is_named(tmp_path: Path) -> None:
    gsto_torch.save(trained(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"model\.safetensors: expected a safetensors file"):
        gsto_torch.load(tmp_path)


def test_a_model_to_share_survives_the_round_trip_and_predicts_at_once(tmp_path: Path) -> None:
    model = trained()
    gsto_torch.save_pretrained(model, tmp_path / "model", {"licence": "CC0-1.0"})
    again = gsto_torch.from_pretrained(str(tmp_path / "model"))
    assert not again.training
    assert torch.equal(again(IMAGE)["stage4"], model(IMAGE)["stage4"])
    assert 'license: "cc0-1.0"' in (tmp_path / "model" / "README.md").read_text()


def test_save_and_save_pretrained_open_each_other_s_directories(tmp_path: Path) -> None:
    model = trained()
    gsto_torch.save(model, tmp_path / "saved")
    gsto_torch.save_pretrained(model, tmp_path / "shared")
    for again in (
        gsto_torch.from_pretrained(tmp_path / "saved"),
        gsto_torch.load(tmp_path / "shared").eval(),
    ):
        assert torch.equal(again(IMAGE)["stage4"], model(IMAGE)["stage4"])
    wide = gsto_torch.from_pretrained(tmp_path / "saved", dtype=torch.float64)
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float64}


def little() -> Graph:
    build = GraphBuilder()
    x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", build.input(), 8, kernel=3, stride=2)))
    return build.graph({"y": build.resize(build.conv2d("head", x, 2, bias=True), like="image")})


def test_torch_gives_the_golden_answer_and_another_network_does_not(tmp_path: Path) -> None:
    gsto_torch.save_pretrained(gsto_torch.compile(little(), seed=3), tmp_path / "model")
    saved = inspect_directory(tmp_path / "model")
    off = {name: array * np.float32(1 + 1e-4) for name, array in saved.weights.items()}
    for precision in ("float64", "float32"):
        for weights, agrees in ((saved.weights, True), (off, False)):
            predict = (
                TorchBackend().predictor(saved.graph, weights, device="cpu", precision=precision).predict
            )
            (found,) = golden.compare(saved.graph, saved.weights, saved.recorded, predict, precision)
            assert found.agrees is agrees, (precision, found)


def test_what_is_not_here_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"modle: no such directory$"):
        gsto_torch.from_pretrained(tmp_path / "modle")
