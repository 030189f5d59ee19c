"""Folders and files that others hand over: bombs, pipes, links that lead elsewhere, code named by data."""

import json
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gsto_train import benchmarks, schema, settings
from gsto_train.commands import evaluate
from gsto_train.data.classes import read_classes
from gsto_train.data.listed import ListedImages
from gsto_train.data.matlab import read_matrix
from gsto_train.data.pictures import read_image
from gsto_train.errors import InputError
from gsto_train.look.boxes import read_boxes
from gsto_train.pose.coco import CocoKeypoints

SHORT = ("train.steps=4", "train.checkpoint_every=2", "train.log_every=1", "train.report=false")

PERSON = {"category_id": 1, "bbox": [4, 4, 12, 16], "area": 190, "keypoints": [8, 6, 2]}


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises(InputError) as refused:
        read()
    assert str(refused.value).isprintable()
    return str(refused.value)


def keypoints(folder: Path, **changed: Any) -> CocoKeypoints:
    Image.new("RGB", (32, 24)).save(folder / "1.png")
    picture = {"id": 1, "file_name": "1.png", "height": 24, "width": 32}
    table = {
        "images": [picture], "annotations": [{"id": 1, "image_id": 1, **PERSON}],
        "categories": [{"id": 1, "keypoints": ["nose"]}],
    }  # fmt: skip
    (folder / "persons.json").write_text(json.dumps({**table, **changed}))
    return CocoKeypoints(folder, "persons.json", ".")


def test_a_picture_that_says_to_be_huge_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    chunks = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks + struct.pack(">I", 0) + b"IDAT" * 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # Pillow only warns of this one.
        assert "expected at most 134217728 pixels" in refusal(lambda: read_image(tmp_path / "bomb.png"))


def test_a_matrix_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    packed = zlib.compress(bytes(2**26), 9)
    content = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed
    (tmp_path / "bomb.mat").write_bytes(content)
    assert "unpacks to more than" in refusal(lambda: read_matrix(tmp_path / "bomb.mat", "LabelMap"))


@pytest.mark.parametrize("odd", ["pipe", "endless"])
def test_pipes_and_devices_in_place_of_files_are_refused_unread(tmp_path: Path, odd: str) -> None:
    for name in ("classes.json", "boxes.json", "list.txt"):
        os.mkfifo(tmp_path / name) if odd == "pipe" else (tmp_path / name).symlink_to("/dev/zero")
    for read in (
        lambda: read_classes(tmp_path),
        lambda: read_boxes(tmp_path / "boxes.json"),
        lambda: ListedImages(tmp_path, "list.txt", classes=2),
    ):
        assert "found a pipe or device" in refusal(read)


def test_a_list_may_name_what_no_file_can_be_called(tmp_path: Path) -> None:
    for name in ("é" * 300, "a\0b", "\x1b[31mred", "../" * 3000):
        (tmp_path / "list.txt").write_text(f"{name} 1.png\n")
        assert "files are not under" in refusal(lambda: ListedImages(tmp_path, "list.txt", classes=2))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"images": [{"id": 1, "file_name": "1.png", "height": 24, "width": 32}] * 2}, 'each "id" once'),
        ({"images": [{"id": 1, "file_name": "x" * 5000, "height": 24, "width": 32}]}, "no file"),
        ({"annotations": [{**PERSON, "image_id": [1]}]}, 'an "image_id" among the pictures'),
        ({"annotations": [{**PERSON, "image_id": 1, "iscrowd": None}]}, 'expected "iscrowd" of 0 or 1'),
        ({"annotations": [{**PERSON, "image_id": 1, "area": 10**400}]}, 'a number "area"'),
        ({"annotations": [{**PERSON, "image_id": 1, "keypoints": [1e300, 0, 2]}]}, 'finite "keypoints"'),
    ],
)
def test_odd_annotations_are_refused_in_a_line(tmp_path: Path, changed: Any, told: str) -> None:
    assert len(keypoints(tmp_path).persons) == 1
    assert told in refusal(lambda: keypoints(tmp_path, **changed))


def test_what_a_benchmark_extends_is_refused_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('extends = "fodler"\n')
    assert "own.toml: 'extends': unknown benchmark" in refusal(
        lambda: benchmarks.load(str(tmp_path / "own.toml"))
    )


@pytest.mark.parametrize("key", ["train.seed", "data.scene_seed", "train.steps"])
def test_a_number_past_the_largest_is_told_what_that_is(key: str) -> None:
    base = benchmarks.load("scenes").values
    told = refusal(lambda: settings.resolve(base, dict([schema.assignment(f"{key}=99999999999999999999")])))
    assert "at most 9223372036854775807" in told and "found 99999999999999999999" in told


def test_code_is_never_named_by_a_folder_or_a_file_alone(command: Any, monkeypatch: Any) -> None:
    Path("evil.py").write_text("open('canary', 'w').close()\nnetwork = backend = None\n")
    command("--output", "run", settings=SHORT)
    config = json.loads(Path("run/config.json").read_text())
    config["settings"]["architecture"]["name"] = "evil:network"
    config["backend"] = "evil:backend"
    Path("run/config.json").write_text(json.dumps(config))
    resumed = command("--output", "run", "--resume", new=False)
    assert resumed.status == 0, resumed.error
    Path("run/graph.json").unlink()
    assert "add --architecture evil:network" in command("--output", "run", "--resume", new=False).failure
    Path("own.toml").write_text('extends = "folder"\narchitecture.name = "evil:network"\n'
                                'record.source = "none"\nrecord.command = "none"\n')  # fmt: skip
    place = ("--benchmark", "own.toml", "--data", "pictures", "--output", "new", "--set", "train.steps=1")
    refused = command(*place, new=False)
    assert refused.status == 2 and "add --architecture evil:network" in refused.failure
    assert not Path("canary").exists() and "evil" not in sys.modules


def test_code_that_a_benchmark_of_the_package_names_may_be_extended(command: Any) -> None:
    Path("own.toml").write_text('extends = "figures"\nrecord.source = "none"\nrecord.command = "none"\n')
    extended = command("--benchmark", "own.toml", "--dry-run", new=False)
    assert extended.status == 0, extended.error
    assert "gsto_train.pose.networks:mini" in extended.error


@pytest.mark.parametrize(
    ("name", "put", "told"),
    [
        ("metrics.jsonl", "folder", "metrics.jsonl: expected a file of the run's own, found a folder"),
        ("metrics.jsonl", "link", "metrics.jsonl: expected a file of the run's own, found a link"),
        ("timings.jsonl", "pipe", "timings.jsonl: expected a file of the run's own, found a pipe or device"),
        ("checkpoints", "file", "checkpoints: expected a folder of the run's own, found a file"),
        ("checkpoints", "link", "checkpoints: expected a folder of the run's own, found a link"),
        ("model", "link", "model: expected a folder of the run's own, found a link"),
    ],
)
def test_what_stands_in_place_of_a_runs_own_is_told(command: Any, name: str, put: str, told: str) -> None:
    command("--output", "run", settings=SHORT)
    place = Path("run", name)
    place.rename("outside")
    kept = sorted((path, path.stat().st_mtime_ns) for path in Path("outside").parent.glob("outside*"))
    puts: dict[str, Callable[[], object]] = {
        "folder": place.mkdir, "link": lambda: place.symlink_to("../outside"),
        "pipe": lambda: os.mkfifo(place), "file": place.touch,
    }  # fmt: skip
    puts[put]()
    refused = command("--output", "run", "--resume", new=False)
    assert refused.status == 2 and told in refused.failure
    assert kept == sorted((path, path.stat().st_mtime_ns) for path in Path("outside").parent.glob("outside*"))


@pytest.mark.parametrize("name", [".config.json.partial", ".environment.json.partial", ".writable"])
def test_links_at_names_that_are_written_for_a_while_are_not_followed(command: Any, name: str) -> None:
    command("--output", "run", settings=SHORT)
    Path("outside").write_text("kept")
    Path("run", name).symlink_to("../outside")
    assert command("--output", "run", "--resume", new=False).status == 0
    assert Path("outside").read_text() == "kept"


def test_a_rate_of_any_size_is_told_in_a_few_digits(command: Any) -> None:
    said = command("--output", "run", settings=(*SHORT, "train.learning_rate=1e30")).error
    assert "learning rate 1.000e+30" in said and "00000000" not in said


def test_what_a_list_of_classes_is_called_reaches_no_terminal(command: Any, pictures: Path) -> None:
    (pictures / "classes.json").write_text(
        json.dumps({"classes": ["red\x1b[31m", "b\x9b", "c"], "ignore_index": 9})
    )
    done = command("--output", "run", settings=SHORT)
    assert done.status == 0
    assert not any(letter in done.out + done.error for letter in "\x1b\x9b")
    assert np.isfinite(json.loads(Path("run/result.json").read_text())["seconds"])


@pytest.mark.parametrize("name", ["config.json", "model/card.json"])
def test_texts_that_no_file_can_hold_are_refused(command: Any, capfd: Any, name: str) -> None:
    command("--output", "run", settings=SHORT)
    path = Path("run", name)
    path.write_text(json.dumps({**json.loads(path.read_text()), "benchmark": "\ud800"}))
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["run", "--output", "scored"])
    assert ended.value.code == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert name in line and line.isprintable() and not Path("scored").exists()
