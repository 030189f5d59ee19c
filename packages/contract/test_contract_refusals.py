"""Broken weights, states and saved models: refused in one line that names the tensor, field or file."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from contract.framework import Arrays
from contract.networks import equal, normed
from gsto_spec import GraphError, GstoError, WeightsError, initial_weights
from gsto_spec.backend import Backend, Trainer, Training
from gsto_spec.weights import save_directory

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 6, 4)).astype(np.float32)
BATCH: Arrays = {"image": IMAGES, "label": np.zeros((2, 6, 4), np.int64)}


@pytest.fixture(scope="session")
def trainer(backend: Backend) -> Trainer:
    """One that has taken a step, so that it has slots; no test may change it."""
    made = backend.trainer(normed(), initial_weights(normed()), Training(), device="cpu")
    made.step(BATCH, 0.1)
    return made


def without(name: str, tensors: Arrays) -> Arrays:
    return {key: array for key, array in tensors.items() if key != name}


def holding(name: str, array: Any, tensors: Arrays) -> Arrays:
    return {**tensors, name: np.asarray(array, np.float32)}


DAMAGES: list[tuple[Callable[[Arrays], Arrays], str]] = [
    (partial(without, "conv1.weight"), "conv1.weight is missing"),
    (partial(without, "bn1.running_var"), "bn1.running_var is missing"),
    (partial(holding, "extra", [1]), "extra is not declared"),
    (
        partial(holding, "bn1.num_batches_tracked", 3),
        "bn1.num_batches_tracked is not declared",
    ),
    (
        partial(holding, "conv1.weight", np.ones((3, 3, 3, 4))),
        "conv1.weight has shape (3, 3, 3, 4), expected (4, 3, 3, 3)",
    ),
    (partial(holding, "head.bias", [[1, 2]]), "head.bias has shape (1, 2), expected (2,)"),
    (partial(holding, "head.bias", [1, np.nan]), "head.bias is not finite"),
    (partial(holding, "bn1.running_mean", [0, 0, 0, -np.inf]), "bn1.running_mean is not finite"),
]
SLOT_DAMAGES: list[tuple[Callable[[Arrays], Arrays], str]] = [
    (partial(without, "optimizer/momentum/head.bias"), "optimizer/momentum/head.bias is missing"),
    (partial(holding, "optimizer/step", 1), "optimizer/step is not declared"),
    (
        partial(holding, "optimizer/momentum/head.bias", [1, 2, 3]),
        "optimizer/momentum/head.bias has shape (3,), expected (2,)",
    ),
    (
        partial(holding, "optimizer/momentum/head.bias", [0, np.inf]),
        "optimizer/momentum/head.bias is not finite",
    ),
]


@contextmanager
def refused(kind: type[Exception], message: str) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    assert str(caught.value) == message
    assert getattr(caught.value, "__notes__", []) == []


@pytest.mark.parametrize(("damage", "problem"), DAMAGES)
def test_broken_weights_are_refused(
    backend: Backend, package: Any, damage: Callable[[Arrays], Arrays], problem: str
) -> None:
    broken = damage(dict(initial_weights(normed())))
    for opened in (
        package.compile,
        partial(backend.predictor, device="cpu"),
        partial(backend.trainer, training=Training(), device="cpu"),
    ):
        with refused(WeightsError, f"weights: {problem}"):
            opened(normed(), broken)


@pytest.mark.parametrize(("damage", "problem"), DAMAGES + SLOT_DAMAGES)
def test_a_broken_state_is_refused_and_changes_nothing(
    trainer: Trainer, damage: Callable[[Arrays], Arrays], problem: str
) -> None:
    before = trainer.state()
    changed = {name: array + 1 for name, array in before.items()}
    with refused(WeightsError, f"state: {problem}"):
        trainer.load(damage(changed))
    assert equal(trainer.state(), before)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose files tests break for a while."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_directory(folder, normed(), initial_weights(normed()))
    return folder


@contextmanager
def broken(path: Path, contents: bytes) -> Iterator[Path]:
    """The file's folder, with other contents in the file meanwhile."""
    whole = path.read_bytes()
    path.write_bytes(contents)
    try:
        yield path.parent
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(("damage", "problem"), DAMAGES)
def test_a_saved_model_of_broken_weights_is_refused(
    package: Any, saved: Path, damage: Callable[[Arrays], Arrays], problem: str
) -> None:
    path = saved / "model.safetensors"
    contents = save(damage(dict(initial_weights(normed()))))
    with broken(path, contents), refused(WeightsError, f"{path}: {problem}"):
        package.load(saved)


def test_weights_of_another_model_of_this_graph_are_refused(package: Any, saved: Path) -> None:
    path = saved / "model.safetensors"
    with (
        broken(path, save(dict(initial_weights(normed(), seed=1)))),
        pytest.raises(WeightsError, match=rf"^{re.escape(str(path))}: expected the file that card.json desc"),
    ):
        package.load(saved)


@given(name=st.sampled_from(["model.safetensors", "graph.json", "card.json"]), share=st.floats(0, 0.999))
def test_a_truncated_file_is_refused(package: Any, saved: Path, name: str, share: float) -> None:
    path = saved / name
    contents = path.read_bytes()
    assert_not_opened(package, path, contents[: int(share * len(contents))])


@given(
    name=st.sampled_from(["model.safetensors", "graph.json", "card.json"]),
    contents=st.one_of(
        st.binary(max_size=100),
        st.sampled_from([b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"{}", b"[1, 2]", b"\x80\x02}q\x00."]),
    ),
)
def test_a_foreign_file_is_refused(package: Any, saved: Path, name: str, contents: bytes) -> None:
    assert_not_opened(package, saved / name, contents)


def assert_not_opened(package: Any, path: Path, contents: bytes) -> None:
    with broken(path, contents), pytest.raises(GstoError) as caught:
        package.load(path.parent)
    assert str(caught.value).startswith(str(path.parent))
    assert path.name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("missing", ["nothing/graph.json", "graph.json", "model.safetensors", "card.json"])
def test_a_file_that_is_not_there_is_named(package: Any, missing: str, tmp_path: Path) -> None:
    save_directory(tmp_path, normed(), initial_weights(normed()))
    (tmp_path / missing).unlink(missing_ok=True)
    message = f"{tmp_path / missing}: a saved model has graph.json, model.safetensors and card.json"
    with refused(WeightsError, message):
        package.load((tmp_path / missing).parent)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"version": 2}, "graph.version: expected 1, found 2 (a newer gsto-spec wrote it) [json_c2]"),
        (
            {"format": "onnx"},
            'graph: expected a JSON object with "format": "gsto-graph", found onnx [json_c1]',
        ),
        (
            {"output": {}},
            "graph: expected fields format, version, notes, nodes, outputs, "
            "found output (nearest: outputs) [json_c4]",
        ),
    ],
)
def test_a_graph_of_another_format_is_refused_by_its_field(
    package: Any, saved: Path, changes: dict[str, Any], problem: str
) -> None:
    path = saved / "graph.json"
    contents = json.dumps(json.loads(path.read_text()) | changes).encode()
    with broken(path, contents), refused(GraphError, f"{path}: {problem}"):
        package.load(saved)
