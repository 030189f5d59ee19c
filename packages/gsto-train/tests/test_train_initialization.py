"""Training from weights in a file: what fits is taken, the rest drawn, and all of it is said."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gsto_spec import initial_weights

NO_STEP = ("train.steps=1", "train.learning_rate=1e-30", "train.weight_decay=0")


def trained(folder: str) -> dict[str, Any]:
    weights: dict[str, Any] = load_file(f"{folder}/model/model.safetensors")
    return weights


@pytest.fixture
def weights(linear: Any) -> dict[str, Any]:
    return {name: array + 1 for name, array in initial_weights(linear.graph(3), 0).items()}


def test_a_run_starts_from_the_file_and_says_what_arrived(command: Any, weights: Any) -> None:
    save_file(weights, "start.safetensors")
    done = command("--output", "run", settings=(*NO_STEP, "architecture.initialize_from=start.safetensors"))
    assert done.status == 0, done.error
    assert all(np.allclose(trained("run")[name], weights[name]) for name in weights)
    assert "start.safetensors: 2 of 2 tensors, 100% of parameters" in done.error
    kept = json.loads(Path("run/initialization.json").read_text())
    assert kept["source"] == str(Path("start.safetensors").absolute())
    assert kept["report"][0] == "2 of 2 tensors, 100% of parameters"


def test_what_the_file_lacks_is_drawn_from_the_seed_and_named(command: Any, weights: Any) -> None:
    del weights["head.bias"]
    save_file({**weights, "extra.weight": np.zeros((2, 2), np.float32)}, "start.safetensors")
    done = command("--output", "run", settings=(*NO_STEP, "architecture.initialize_from=start.safetensors"))
    assert done.status == 0, done.error
    assert np.allclose(trained("run")["head.weight"], weights["head.weight"])
    assert "left out 1 tensor that the network does not have: extra.weight" in done.error
    assert "kept as initialised (seed 0), 1 tensor" in done.error


@pytest.mark.parametrize("source", ["first/model", "first"])
def test_a_saved_models_folder_serves_as_well(command: Any, source: str) -> None:
    assert command("--output", "first").status == 0
    done = command("--output", "second", settings=(*NO_STEP, f"architecture.initialize_from={source}"))
    assert done.status == 0, done.error
    first, second = trained("first"), trained("second")
    assert all(np.allclose(first[name], second[name]) for name in first)


def test_a_run_goes_on_without_the_file_from_its_checkpoint(command: Any, weights: Any) -> None:
    save_file(weights, "start.safetensors")
    settings = ("train.steps=4", "train.checkpoint_every=2", "architecture.initialize_from=start.safetensors")
    assert command("--output", "run", settings=settings).status == 0
    whole = trained("run")
    Path("start.safetensors").unlink()
    shutil.rmtree("run/checkpoints/step-000004")
    resumed = command("--output", "run", "--resume", new=False)
    assert resumed.status == 0, resumed.error
    assert all(np.array_equal(whole[name], array) for name, array in trained("run").items())


@pytest.mark.parametrize("content", [None, b"nothing", "other"])
def test_a_file_that_cannot_serve_is_refused_before_anything_is_begun(command: Any, content: Any) -> None:
    if content == "other":
        save_file({"x": np.zeros(3, np.float32)}, "start.safetensors")
    elif content is not None:
        Path("start.safetensors").write_bytes(content)
    done = command("--output", "run", settings=("architecture.initialize_from=start.safetensors",))
    assert done.status == 2 and "start.safetensors" in done.failure
    assert not Path("run").exists()
