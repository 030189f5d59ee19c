"""`gsto-train --dry-run`: it says what a run would do, writes nothing, and refuses what a run would."""

import json
import os
from pathlib import Path
from typing import Any

import pytest


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below, with its size and the time of its last change."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def test_it_says_what_would_run_and_writes_nothing(command: Any, tmp_path: Path) -> None:
    before = everything(tmp_path)
    done = command("--dry-run")
    assert done.status == 0, done.error
    assert everything(tmp_path) == before
    lines = done.out.splitlines()
    assert lines[0] == "would take 20 steps: 80 crops, 20 epochs of 4 pictures"
    assert lines[1].startswith("would score 2 pictures: whole pictures")
    assert "--output runs/folder-linear_backend-graph-linear --resume" in lines[2]
    assert "memory: " in done.error and "12 M parameters" not in done.error


def test_one_of_a_thing_is_told_in_the_singular(command: Any, pictures: Path) -> None:
    for part, index in (("train", 0), ("val", 1)):
        (pictures / f"{part}.txt").write_text(f"{index}.png {index}_label.png\n")
    one = ("train.steps=1", "train.batch=1")
    done = command("--dry-run", settings=one)
    lines = done.out.splitlines()
    assert lines[0] == "would take 1 step: 1 crop, 1 epoch of 1 picture"
    assert lines[1].startswith("would score 1 picture: ")
    assert "for a step of 1 crop, by the graph" in done.error
    run = command("--output", "run", settings=one)
    assert "1 training and 1 validation picture, 3 classes; 1 step of 1 crop of 16x16; " in run.error
    assert "scoring 1 picture\n" in run.error


def test_json_has_all_that_is_resolved(command: Any) -> None:
    done = command("--dry-run", "--json", "--output", "run", settings=("train.batch=2",))
    told = json.loads(done.out)
    assert done.status == 0
    assert (told["backend"], told["benchmark"], told["steps"], told["epochs"]) == ("linear", "folder", 20, 10)
    assert told["pictures"] == {"training": 4, "validation": 2}
    assert told["classes"] == ["red", "green", "blue"]
    assert told["parameters"] == 3 * 3 + 3
    assert told["memory"]["step_bytes"] > 0
    assert (told["output"], told["first_step"]) == ("run", 0)
    assert told["settings"]["train"]["batch"] == 2
    assert command("--output", "run", settings=("train.batch=2",)).status == 0
    result = json.loads(Path("run/result.json").read_text())
    assert {key: told[key] for key in ("protocol", "graph_digest", "steps")} == {
        key: result[key] for key in ("protocol", "graph_digest", "steps")
    }


def test_a_run_to_go_on_with_is_told_from_its_checkpoint(command: Any, tmp_path: Path, linear: Any) -> None:
    def stop(step: int) -> None:
        if step == 8:
            raise OSError(28, "No space left on device")

    linear.events.before_step = stop
    assert command("--output", "run", settings=("train.checkpoint_every=5",)).status == 1
    before = everything(tmp_path)
    done = command("--dry-run", "--output", "run", "--resume", new=False)
    assert done.status == 0, done.error
    assert everything(tmp_path) == before
    assert done.out.startswith("would take 15 steps from step 5 on: 60 crops, 15 epochs")


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("--set", "train.bach=4"), "nearest: train.batch"),
        (("--benchmark", "foldr"), "nearest: folder"),
        (("--architecture", "gsto-hrnet-w49"), "gsto-hrnet-w48"),
        (("--data", "pictures-absent"), "no such folder of data"),
        (("--output", "full"), "this output folder is not empty"),
        (("--output", "full/file/run"), "cannot write into the output folder (Not a directory)"),
        (("--resume", "--output", "full"), "no run to resume here"),
    ],
)
def test_what_a_run_would_refuse_is_refused(command: Any, arguments: tuple[str, ...], told: str) -> None:
    os.mkdir("full")
    Path("full/file").write_text("")
    done = command("--dry-run", *arguments)
    assert (done.status, done.out) == (2, "")
    assert told in done.failure
    assert os.listdir("full") == ["file"]


def test_a_picture_of_the_first_batch_that_does_not_read_is_named(command: Any, pictures: Path) -> None:
    (pictures / "2.png").write_bytes(b"broken")
    done = command("--dry-run", "--output", "run")
    assert done.status == 2
    assert "2.png" in done.failure
    assert not Path("run").exists()
