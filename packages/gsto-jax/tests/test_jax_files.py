"""Saved models: written by JAX, opened by anyone, and the other way round."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gsto_jax
from gsto_jax.backend import JaxBackend
from gsto_spec import Graph, GraphBuilder, GraphError, WeightsError, golden, initial_weights
from gsto_spec.ops import Mul, Parameter
from gsto_spec.pretrained import inspect_directory
from gsto_spec.weights import load_directory, save_directory


def small() -> Graph:
    build = GraphBuilder()
    x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", build.input(), 4, kernel=3, stride=2)))
    return build.graph({"stage4": build.conv2d("last_layer.0", x, 2, bias=True)})


def trained() -> gsto_jax.CompiledGraph:
    model = gsto_jax.compile(small(), seed=4)
    model(jax.random.normal(jax.random.key(0), (2, 8, 6, 3)))
    model.eval()  # type: ignore[no-untyped-call]
    return model


IMAGE = jnp.asarray(np.random.default_rng(0).standard_normal((1, 9, 7, 3)), jnp.float32)


def test_a_model_survives_the_round_trip(tmp_path: Path) -> None:
    model = trained()
    gsto_jax.save(model, tmp_path / "model", {"data": "noise"})
    again = gsto_jax.load(tmp_path / "model")
    again.eval()  # type: ignore[no-untyped-call]
    assert again.graph == model.graph
    for name, array in gsto_jax.weights_of(model).items():
        assert np.array_equal(gsto_jax.weights_of(again)[name], array)
    assert jnp.array_equal(again(IMAGE)["stage4"], model(IMAGE)["stage4"])
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["data"] == "noise"
    assert card["graph_digest"] == small().digest


def test_what_jax_saves_is_read_without_jax(tmp_path: Path) -> None:
    model = trained()
    gsto_jax.save(model, tmp_path)
    graph, weights, _ = load_directory(tmp_path)
    assert graph == small()
    assert {name: array.shape for name, array in weights.items()} == dict(graph.parameters)
    assert not np.array_equal(weights["bn1.running_mean"], initial_weights(graph)["bn1.running_mean"])
    kept = gsto_jax.weights_of(model)
    assert all(np.array_equal(weights[name], kept[name]) for name in kept)


def test_what_was_saved_without_jax_is_opened(tmp_path: Path) -> None:
    weights = initial_weights(small(), seed=9)
    save_directory(tmp_path, small(), weights)
    found = gsto_jax.weights_of(gsto_jax.load(tmp_path))
    assert all(np.array_equal(found[name], array) for name, array in weights.items())


def test_a_model_is_opened_in_the_type_asked_for(tmp_path: Path) -> None:
    gsto_jax.save(trained(), tmp_path)
    with jax.enable_x64(True):
        for dtype, wanted in ((None, np.float32), (np.float64, np.float64)):
            found = gsto_jax.weights_of(gsto_jax.load(tmp_path, dtype=dtype))
            assert {array.dtype for array in found.values()} == {np.dtype(wanted)}


def test_a_folder_that_holds_a_model_is_not_overwritten(tmp_path: Path) -> None:
    gsto_jax.save(trained(), tmp_path)
    with pytest.raises(FileExistsError, match="holds a saved model already"):
        gsto_jax.save(trained(), tmp_path)


def test_a_model_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    model = trained()
    model.variable("conv1.weight").set_value(jnp.full((3, 3, 3, 4), jnp.nan))
    with pytest.raises(WeightsError, match=r"^weights: conv1\.weight is not finite$"):
        gsto_jax.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_in_inference_form_is_not_saved(tmp_path: Path) -> None:
    builder = GraphBuilder()
    scale = builder.parameter("scale", Parameter((1, 3, 1, 1)))
    graph = builder.graph({"y": builder.apply("image/scaled", Mul(), builder.input(), scale)})
    with pytest.raises(GraphError, match="training_c1"):
        gsto_jax.save(gsto_jax.compile(graph), tmp_path / "model")


def test_a_broken_model_is_named(tmp_path: Path) -> None:
    gsto_jax.save(trained(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"model\.safetensors: expected a safetensors file"):
        gsto_jax.load(tmp_path)


def test_a_model_to_share_survives_the_round_trip_and_predicts_at_once(tmp_path: Path) -> None:
    model = trained()
    gsto_jax.save_pretrained(model, tmp_path / "model", {"licence": "CC0-1.0"})
    again = gsto_jax.from_pretrained(str(tmp_path / "model"))
    assert jnp.array_equal(again(IMAGE)["stage4"], model(IMAGE)["stage4"])
    assert 'license: "cc0-1.0"' in (tmp_path / "model" / "README.md").read_text()


def test_save_and_save_pretrained_open_each_other_s_directories(tmp_path: Path) -> None:
    gsto_jax.save(trained(), tmp_path / "saved")
    gsto_jax.save_pretrained(trained(), tmp_path / "shared")
    shared = gsto_jax.load(tmp_path / "shared")
    shared.eval()  # type: ignore[no-untyped-call]
    for model in (gsto_jax.from_pretrained(tmp_path / "saved"), shared):
        assert jnp.array_equal(model(IMAGE)["stage4"], trained()(IMAGE)["stage4"])


def test_jax_gives_the_golden_answer_and_another_network_does_not(tmp_path: Path) -> None:
    gsto_jax.save_pretrained(trained(), tmp_path / "model")
    saved = inspect_directory(tmp_path / "model")
    off = {name: array * np.float32(1 + 1e-4) for name, array in saved.weights.items()}
    for precision in ("float64", "float32"):
        for weights, agrees in ((saved.weights, True), (off, False)):
            predict = JaxBackend().predictor(saved.graph, weights, device="cpu", precision=precision).predict
            (found,) = golden.compare(saved.graph, saved.weights, saved.recorded, predict, precision)
            assert found.agrees is agrees, (precision, found)


def test_what_is_not_here_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"modle: no such directory$"):
        gsto_jax.from_pretrained(tmp_path / "modle")
