"""How weights start, and how a model is kept: a round trip, and every way in which a folder can be wrong."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from gsto_spec import (
    FAN_IN_NORMAL,
    HRNET_NORMAL,
    Graph,
    GraphBuilder,
    GraphError,
    GstoError,
    Initialization,
    WeightsError,
    initial_weights,
)
from gsto_spec.ops import Mul, Parameter
from gsto_spec.weights import check_weights, load_directory, read_safetensors, save_directory

Weights = dict[str, NDArray[Any]]


def small(channels: int = 4, initialization: Initialization = FAN_IN_NORMAL) -> Graph:
    build = GraphBuilder(initialization=initialization)
    x = build.conv2d("conv1", build.input(), channels, kernel=3, stride=2)
    x = build.relu(build.batch_norm("bn1", x))
    return build.graph({"stage4": build.conv2d("head", x, 2, bias=True)}, {"architecture": "small"})


def equal(first: Weights, second: Weights) -> bool:
    return list(first) == list(second) and all(np.array_equal(first[name], second[name]) for name in first)


def test_layers_start_by_their_initialisers() -> None:
    weights = initial_weights(small())
    assert list(weights) == list(small().parameters)
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    for name, value in {"bn1.weight": 1, "bn1.bias": 0, "bn1.running_mean": 0, "bn1.running_var": 1}.items():
        assert_array_equal(weights[name], np.full(4, value))
    assert_array_equal(weights["head.bias"], np.zeros(2))


@pytest.mark.parametrize(
    ("initialization", "deviation"),
    [
        (FAN_IN_NORMAL, math.sqrt(2 / (3 * 9))),
        (HRNET_NORMAL, 0.001),
        (Initialization("fan_in_normal", 1.0), math.sqrt(1 / (3 * 9))),
        (Initialization("normal", 0.5), 0.5),
    ],
)
def test_convolutions_have_the_deviation_asked_for(initialization: Initialization, deviation: float) -> None:
    values = initial_weights(small(2000, initialization))["conv1.weight"].astype(float)
    spread = 5 * deviation / math.sqrt(2 * values.size)
    assert abs(values.std() - deviation) < spread
    assert abs(values.mean()) < 5 * deviation / math.sqrt(values.size)


def test_a_tensor_depends_on_seed_and_name_alone() -> None:
    first = initial_weights(small(), seed=3)
    assert equal(first, initial_weights(small(), seed=3))
    other = GraphBuilder()
    other.conv2d("zzz", other.conv2d("aaa", other.input(), 3), 5)
    other.conv2d("conv1", "image", 4, kernel=3, padding=0)
    again = initial_weights(other.graph({"y": "conv1"}), seed=3)
    assert_array_equal(again["conv1.weight"], first["conv1.weight"])
    assert not np.array_equal(again["aaa.weight"].ravel()[:5], again["zzz.weight"].ravel()[:5])


def test_seeds_give_different_weights() -> None:
    drawn = [initial_weights(small(), seed)["conv1.weight"] for seed in (0, 1, 2)]
    assert len({array.tobytes() for array in drawn}) == 3
    assert_array_equal(initial_weights(small())["conv1.weight"], drawn[0])


def test_the_draw_is_the_same_on_every_machine() -> None:
    found = initial_weights(small())["conv1.weight"].ravel()[:3]
    assert_allclose(found, [-0.43114278, -0.12119799, -0.17271709], rtol=1e-6)


def random_weights(graph: Graph, seed: int = 0) -> Weights:
    draw = np.random.default_rng(seed)
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in graph.parameters.items()}


def saved(folder: Path) -> Path:
    save_directory(folder, small(), random_weights(small()), {"data": "none"})
    return folder


@settings(max_examples=20)
@given(channels=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_model_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, channels: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("model") / "inner" / "model"
    graph, weights = small(channels), random_weights(small(channels), seed)
    save_directory(folder, graph, weights, {"seed": seed})
    loaded, again, card = load_directory(folder)
    assert loaded == graph
    assert set(again) == set(weights)
    assert all(again[name].tobytes() == weights[name].tobytes() for name in weights)
    assert card["seed"] == seed


def test_a_model_is_three_files_and_nothing_is_left_beside_them(tmp_path: Path) -> None:
    saved(tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"graph.json", "model.safetensors", "card.json"}
    assert set(load_file(tmp_path / "model" / "model.safetensors")) == set(small().parameters)


def test_a_card_describes_its_files_whatever_it_was_given(tmp_path: Path) -> None:
    stale = {"graph_digest": "of another", "weights_sha256": "of another", "licence": "CC0"}
    save_directory(tmp_path / "model", small(), random_weights(small()), stale)
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["graph_digest"] == small().digest
    assert card["licence"] == "CC0"
    load_directory(tmp_path / "model")


def test_arrays_of_any_layout_are_kept(tmp_path: Path) -> None:
    weights = {name: np.asfortranarray(array) for name, array in random_weights(small()).items()}
    save_directory(tmp_path / "model", small(), weights)
    assert all(
        np.array_equal(weights[n], array) for n, array in load_directory(tmp_path / "model")[1].items()
    )


def test_a_folder_that_holds_a_model_is_not_overwritten(tmp_path: Path) -> None:
    saved(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="holds a saved model already; choose another directory"):
        save_directory(tmp_path, small(), random_weights(small(), 1))
    assert (tmp_path / "model.safetensors").read_bytes() == before


def changed(**arrays: Any) -> Weights:
    return random_weights(small()) | arrays


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            changed(**{"head.bias": np.ones(3), "extra": np.ones(1)}),
            "weights: extra is not declared; head.bias has shape (3,), expected (2,)",
        ),
        ({}, "weights: conv1.weight is missing; bn1.weight is missing; "),
        (
            changed(**{"head.bias": np.array([1, np.nan]), "bn1.bias": np.full(4, np.inf)}),
            "weights: bn1.bias is not finite; head.bias is not finite",
        ),
    ],
)
def test_weights_that_do_not_fit_are_not_saved(tmp_path: Path, weights: Weights, message: str) -> None:
    with pytest.raises(WeightsError) as caught:
        save_directory(tmp_path / "model", small(), weights)
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "model").exists()


def test_a_graph_in_inference_form_is_not_saved(tmp_path: Path) -> None:
    build = GraphBuilder()
    scaled = build.apply("image/scaled", Mul(), build.input(), build.parameter("s", Parameter((1, 3, 1, 1))))
    with pytest.raises(GraphError, match="training_c1"):
        save_directory(tmp_path / "model", build.graph({"y": scaled}), {"s": np.ones((1, 3, 1, 1))})


def test_a_card_that_is_no_json_leaves_no_half_of_a_model(tmp_path: Path) -> None:
    for value in (object(), float("nan")):
        with pytest.raises(GstoError, match="card: expected what JSON can hold, found"):
            save_directory(tmp_path / "model", small(), random_weights(small()), {"data": value})
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("value", [[1.0], "text", None, np.ones(3, complex), np.ones(3, np.longdouble)])
def test_what_is_no_array_of_real_numbers_is_named(value: Any) -> None:
    weights: dict[str, Any] = random_weights(small())
    name = next(iter(weights))
    with pytest.raises(WeightsError, match=f"{name} is no array of real numbers"):
        check_weights(small(), weights | {name: value})


@pytest.mark.parametrize("weights", [[1], None, "weights"])
def test_what_is_no_mapping_is_told(weights: Any) -> None:
    told = f"weights: expected a mapping of names to arrays, found {type(weights).__name__}"
    with pytest.raises(WeightsError, match=f"^{told}$"):
        check_weights(small(), weights)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_a_card_too_deep_or_too_long_is_one_line(tmp_path: Path, text: str) -> None:
    (saved(tmp_path) / "card.json").write_text(text)
    with pytest.raises(WeightsError, match=r"card.json: expected JSON, found"):
        load_directory(tmp_path)


@pytest.mark.parametrize("name", ["graph.json", "model.safetensors", "card.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (saved(tmp_path) / name).unlink()
    with pytest.raises(WeightsError) as caught:
        load_directory(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / name}: a saved model has graph.json, model.safetensors and card.json"
    )


def rewritten(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def with_tensors(change: Callable[[Weights], Weights]) -> Callable[[Path], object]:
    path = "model.safetensors"
    return lambda folder: save_file(change(load_file(folder / path)), folder / path)


NO_TENSORS = "expected a safetensors file, found "


def without_digest(content: bytes) -> bytes:
    card = json.loads(content)
    del card["graph_digest"]
    return json.dumps(card).encode()


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (rewritten("model.safetensors", lambda b: b[:-5]), "model.safetensors", NO_TENSORS),
        (rewritten("model.safetensors", lambda b: b""), "model.safetensors", NO_TENSORS),
        (rewritten("model.safetensors", lambda b: b"PK\x03\x04" * 9), "model.safetensors", NO_TENSORS),
        (with_tensors(lambda w: {**w, "head.bias": np.ones(3, np.float32)}), "model.safetensors",
         "head.bias has shape (3,), expected (2,)"),
        (with_tensors(lambda w: {n: a for n, a in w.items() if n != "bn1.bias"}), "model.safetensors",
         "bn1.bias is missing"),
        (with_tensors(lambda w: {**w, "head.bias": np.array([1, np.nan], np.float32)}), "model.safetensors",
         "head.bias is not finite"),
        (with_tensors(lambda w: {**w, "head.bias": w["head.bias"] + 1}), "model.safetensors",
         "expected the file that card.json describes, found one of digest "),
        (rewritten("graph.json", lambda b: b[:-5]), "graph.json", "graph: expected JSON text, found "),
        (rewritten("graph.json", lambda b: b"\xff" + b), "graph.json", "expected UTF-8 text, found "),
        (rewritten("graph.json", lambda b: b.replace(b'"conv2d"', b'"conv3d"')), "graph.json",
         "conv1: expected one of the ops input, "),
        (rewritten("graph.json", lambda b: small(5).to_json().encode()), "graph.json",
         "expected the file that card.json describes, found one of digest "),
        (rewritten("card.json", lambda b: b"{"), "card.json", "expected JSON, found "),
        (rewritten("card.json", lambda b: b"[]"), "card.json", "expected a JSON object, found list"),
        (rewritten("card.json", without_digest), "graph.json",
         f"expected the file that card.json describes, found one of digest {small().digest}, not None"),
    ],
)  # fmt: skip
def test_a_file_that_is_broken_or_foreign_is_named(
    tmp_path: Path, damage: Callable[[Path], object], name: str, message: str
) -> None:
    damage(saved(tmp_path))
    with pytest.raises(GstoError) as caught:
        load_directory(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}")
    assert len(str(caught.value).splitlines()) == 1


def test_tensors_are_read_from_any_safetensors_file(tmp_path: Path) -> None:
    save_file({"a": np.arange(3.0)}, tmp_path / "any.safetensors")
    assert read_safetensors(tmp_path / "any.safetensors")["a"].tolist() == [0, 1, 2]
    with pytest.raises(FileNotFoundError):
        read_safetensors(tmp_path / "none.safetensors")
