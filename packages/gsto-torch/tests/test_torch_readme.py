"""README.md: what it shows of gsto_torch runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import gsto_spec
import gsto_torch

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_network_of_the_readme_runs_and_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in BLOCKS if "gsto_torch.compile" in block)
    names: dict[str, Any] = {}
    exec(block, names)
    shapes = {name: tuple(output.shape) for name, output in names["outputs"].items()}
    assert shapes == dict.fromkeys(("stage4", "stage3", "stage2"), (1, 11, 48, 64))
    again = gsto_torch.load("saved").eval()
    image = torch.ones(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(again(image)["stage4"], names["model"](image)["stage4"])
    assert again.graph == gsto_spec.build("gsto-hrnet-w18-small-v2", classes=11)
