"""Torch's files that others hand over: pickles that would run code, tensors larger than their file."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from gsto_spec import GraphBuilder, WeightsError
from gsto_torch import read_checkpoint

BUILD = GraphBuilder()
GRAPH = BUILD.graph({"stage4": BUILD.conv2d("head", BUILD.input(), 2, bias=True)})


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("wrapped", [lambda call: call, lambda call: {"state_dict": {"head.bias": call}}])
@pytest.mark.parametrize("save", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("kind", ["system", "exec", "open"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(
    tmp_path: Path, wrapped: Any, save: str, kind: str
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "file.pth"
    calls = {
        "system": Call(os.system, f"touch {canary}"), "exec": Call(exec, f"open({str(canary)!r}, 'w')"),
        "open": Call(open, str(canary), "w"),
    }  # fmt: skip
    value = wrapped(calls[kind])
    if save == "pickle":
        path.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=save == "zip")
    with pytest.raises(WeightsError, match="a pickle of other things than tensors"):
        read_checkpoint(path, GRAPH)
    assert not canary.exists()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_value_that_stands_for_a_million_million_is_refused(tmp_path: Path, kind: torch.dtype) -> None:
    state = {"head.weight": torch.zeros(1, dtype=kind).expand(10**12), "head.bias": torch.zeros(2)}
    path = tmp_path / "file.pth"
    file = io.BytesIO()
    torch.save(state, file)
    path.write_bytes(file.getvalue())
    with pytest.raises(WeightsError, match="expected tensors of what the file stores"):
        read_checkpoint(path, GRAPH)


def test_tied_weights_are_read(tmp_path: Path) -> None:
    weight = torch.ones(2, 3, 1, 1)
    path = tmp_path / "file.pth"
    torch.save({"head.weight": weight, "head.bias": weight.view(-1)[:2]}, path)
    assert read_checkpoint(path, GRAPH)["head.bias"].tolist() == [1.0, 1.0]
