"""`gsto-train --list`, and what a run says beside the record of its benchmark."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import gsto_spec
from gsto_train import benchmarks
from gsto_train.commands.train import main


@pytest.fixture
def listed(linear: ModuleType, invoke: Any) -> Callable[..., str]:
    """What `gsto-train --list` prints."""

    def run(*arguments: str) -> str:
        status, out, error = invoke(main, "--list", *arguments)
        assert (status, error) == (0, "")
        return str(out)

    return run


def test_list_shows_what_the_options_take(listed: Any) -> None:
    text = listed()
    for name in (*benchmarks.names(), *gsto_spec.architectures(), "linear", "train.learning_rate"):
        assert f"  {name}" in text
    table = json.loads(listed("--json"))
    assert set(table["benchmarks"]) == set(benchmarks.names())
    assert tuple(table["architectures"]) == gsto_spec.architectures()
    assert "linear" in table["backends"]
    assert table["settings (--set KEY=VALUE)"]["train.keep"] == 'one of last, best; default "last"'


def test_every_line_of_the_list_has_the_name_it_belongs_to(listed: Any) -> None:
    lines = listed().splitlines()
    (threshold,) = (line for line in lines if line.startswith("  loss.ohem_kept_per_image "))
    assert "pixels" in threshold and threshold.endswith("at most 268435456; default 43690.667]")
    keys = {line.split()[0] for line in lines if " [" in line and line.split()[0].count(".")}
    assert keys == set(json.loads(listed("--json"))["settings (--set KEY=VALUE)"])
    assert all(re.fullmatch(r"  \S+ +\S.* \[.+\]", line) for line in lines if line.split()[0] in keys)


def test_the_list_of_one_benchmark_has_its_settings(listed: Any, invoke: Any) -> None:
    text = listed("--benchmark", "lip")
    assert "  lip  command" in text and "cityscapes-w18" not in text
    assert "[a list of 2 whole numbers, at least 1 and at most 65536 or none; here [473, 473]]" in text
    refused = invoke.refused(main, "--list", "--benchmark", "lop")
    assert "unknown benchmark 'lop' (nearest: lip)" in refused


@pytest.mark.parametrize(
    ("benchmark", "read", "unread"),
    [
        (
            "folder",
            "data.train_list train.beta1 data.flip_pairs loss.ohem_threshold",
            "data.scene_size pose.nms",
        ),
        ("figures", "data.figure_size pose.nms", "data.folder evaluation.flip loss.ohem loss.ohem_threshold"),
    ],
)
def test_the_settings_of_one_benchmark_are_those_that_its_kind_of_data_reads(
    listed: Any, benchmark: str, read: str, unread: str
) -> None:
    shown = {line.split()[0] for line in listed("--benchmark", benchmark).splitlines()}
    assert {*read.split()} <= shown and shown.isdisjoint(unread.split())


def test_a_terminal_gets_the_list_folded(listed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    shown = re.sub("\x1b\\[[0-9;]*m", "", listed()).splitlines()
    assert max(map(len, shown)) <= 60
    assert shown.index("  scenes") < shown.index("  camvid") < shown.index("  gsto-hrnet-w48")


def test_the_list_shows_what_each_benchmark_records(listed: Any) -> None:
    lines = listed().splitlines()
    told = {line.split()[1]: line.split(maxsplit=2)[2] for line in lines if line.startswith("  lip  ")}
    assert told["expected"] == "mean IoU 0.5737, pixel accuracy 0.8838, mean accuracy 0.6836"
    assert told["conditions"].startswith("val; ")
    assert told["source"].startswith("table 9, section 4.3; scales and flip pairs from HRNet's training code")
    assert told["command"].endswith(
        "--benchmark lip --data DIR --set architecture.initialize_from=IMAGENET.pth"
    )
    assert told["data"] == "GSTO_DATA_LIP"


OWN = """extends = "folder"
[record]
source = "me"
command = "-"
mean_iou = 0.25
[architecture]
name = "linear_backend:graph"
[data]
crop = [16, 16]
[train]
epochs = 2
batch = 2
learning_rate = 0.02
"""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([], True),
        (["--set", "train.seed=3", "--set", "train.log_every=1"], True),
        (["--set", "train.epochs=1"], False),
        (["--set", "data.crop=[8,8]"], False),
        (["--set", "train.keep=best"], False),
    ],
)
def test_a_record_is_told_beside_what_was_trained_as_it_says(
    command: Any, pictures: Path, changes: list[str], told: bool
) -> None:
    Path("mine.toml").write_text(OWN)
    given = ["--benchmark", "mine.toml", "--architecture", "linear_backend:graph", "--data", str(pictures)]
    done = command(*given, "--output", "run", *changes, new=False)
    assert done.status == 0
    assert ("the recipe's record: mean IoU 0.25" in done.out) == told
