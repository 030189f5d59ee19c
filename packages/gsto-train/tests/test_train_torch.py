"""The same program on a real framework, found like any other backend."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from gsto_spec.backend import backends

pytestmark = pytest.mark.skipif("torch" not in backends(), reason="the backend torch is not installed")

SMALL = ("train.steps=3", "train.batch=2", "train.log_every=1", "data.crop=[32,32]")


def test_a_network_of_the_catalogue_trains_and_is_scored(command: Any, read_lines: Any) -> None:
    command.backend, command.base = "torch", SMALL
    done = command("--output", "run", "--architecture", "gsto-hrnet-w18-small-v2")
    assert done.status == 0, done.error
    lines = read_lines(Path("run/metrics.jsonl"))
    assert list(lines[0]) == [
        "step", "epoch", "loss", "loss_stage4", "loss_stage3", "loss_stage2", "learning_rate",
    ]  # fmt: skip
    result = json.loads(Path("run/result.json").read_text())
    assert result["environment"]["backend"]["versions"]["torch"]
    assert 0 <= result["metrics"]["mean_iou"] <= 1


def test_a_run_goes_on_where_it_was_on_another_backend(command: Any) -> None:
    command.base = ("train.steps=4", "train.checkpoint_every=2", "data.crop=[16,16]")
    assert command("--output", "run").status == 0
    linear = load_file("run/checkpoints/step-000004/state.safetensors")
    for path in Path("run/checkpoints/step-000004").iterdir():
        path.unlink()
    command.backend = "torch"
    resumed = command("--output", "run", "--resume", new=False)
    assert resumed.status == 0, resumed.error
    assert "going on from step 2 of 4" in resumed.error
    torch = load_file("run/checkpoints/step-000004/state.safetensors")
    assert {name: array.shape for name, array in torch.items()} == {
        name: array.shape for name, array in linear.items()
    }
    result = json.loads(Path("run/result.json").read_text())
    assert result["backend"] == "torch"
    assert result["environment"]["earlier"][0]["backend"]["name"] == "linear"
