"""Every kind of bad data: named, with what was found and the mend, by gsto-data check and by a run."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gsto_train.commands.data import main as data_main
from gsto_train.wording import counted

Spoil = Callable[[Path], object]


def save(path: Path, array: np.ndarray[Any, Any], **options: Any) -> None:
    Image.fromarray(array).save(path, **options)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def as_jpeg(path: Path, mode: str, **options: Any) -> None:
    """Put a JPEG in the place of a PNG: what a file is, its content says and not its name."""
    with Image.open(path) as picture:
        content = io.BytesIO()
        picture.convert(mode).save(content, "JPEG", **options)
    path.write_bytes(content.getvalue())


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    as_jpeg(path, "RGB", exif=exif)


BAD_FILES: dict[str, tuple[str, Spoil, str]] = {
    "unreadable picture": ("1.png", lambda path: path.write_bytes(b"no picture"), "does not decode"),
    "empty picture": ("1.png", lambda path: path.write_bytes(b""), "does not decode"),
    "truncated picture": ("1.png", truncate, "does not decode"),
    "truncated label": ("1_label.png", truncate, "does not decode"),
    "missing picture": ("1.png", Path.unlink, "1.png (line 2)"),
    "missing label": ("1_label.png", Path.unlink, "1_label.png (line 2)"),
    "label of another size": ("1_label.png", lambda path: save(path, np.zeros((3, 5), np.uint8)), "is 5x3"),
    "unknown label": (
        "1_label.png", lambda path: save(path, np.full((24, 32), 3, np.uint8)), "value 3 out of range",
    ),
    "unknown label of 16 bits": (
        "1_label.png", lambda path: save(path, np.full((24, 32), 300, np.uint16)), "value 300 out of range",
    ),
    "label in colours": (
        "1_label.png", lambda path: save(path, np.zeros((24, 32, 3), np.uint8)), "mode RGB with 3 channels",
    ),
    "label with transparency": (
        "1_label.png", lambda path: save(path, np.zeros((24, 32, 2), np.uint8)), "mode LA with 2 channels",
    ),
    "turned picture, label as it is stored": ("1.png", turned, "is 24x32 (width x height, upright)"),
}  # fmt: skip


def checked(benchmark: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        data_main(["check", benchmark, "--data", str(folder), "--json", "--threads", "1"])
    assert isinstance(ended.value.code, int)
    report: dict[str, Any] = json.loads(capfd.readouterr().out)
    return ended.value.code, report


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_named_by_the_check_and_by_a_run(
    kind: str, pictures: Path, command: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    name, spoil, problem = BAD_FILES[kind]
    spoil(pictures / name)
    status, report = checked("folder", pictures, capfd)
    (text,) = [finding["text"] for finding in report["train"]["findings"] if finding["kind"] != "odd"]
    assert (status, report["problems"], report["val"]["findings"]) == (1, 1, [])
    refused = command("--output", "run")
    assert (refused.status, Path("run").exists()) == (2, False)
    for told in (text, refused.failure):
        assert problem in told and name in told and ("; " in told)
    done = command("--output", "run", settings=("data.skip_unreadable=true", "train.steps=1"))
    assert done.status == 0, done.error
    assert json.loads(Path("run/result.json").read_text())["left_out"] == {"training": 1, "validation": 0}
    assert "train: left out 1 unreadable file, 3 pictures remain" in done.error and name in done.error


GOOD_FILES: dict[str, tuple[str, Spoil]] = {
    "CMYK picture": ("1.png", lambda path: as_jpeg(path, "CMYK")),
    "grey picture": ("1.png", lambda path: as_jpeg(path, "L")),
    "picture of 16 bits": ("1.png", lambda path: save(path, np.full((24, 32), 40000, np.uint16))),
    "label of 16 bits": ("1_label.png", lambda path: save(path, np.full((24, 32), 2, np.uint16))),
}


@pytest.mark.parametrize("kind", GOOD_FILES)
def test_an_unusual_file_is_read(kind: str, pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name, spoil = GOOD_FILES[kind]
    spoil(pictures / name)
    assert checked("folder", pictures, capfd)[0] == 0


def spoiled(table: dict[str, Any], kind: str) -> None:
    annotation = table["annotations"][0]
    match kind:
        case "keypoint list of the wrong length":
            annotation["keypoints"].pop()
        case "annotation without a picture":
            annotation["image_id"] = 99
        case "visibility that is none":
            annotation["keypoints"][2] = 5
        case "keypoint that is no number":
            annotation["keypoints"][0] = None
        case "box of three numbers":
            annotation["bbox"].pop()
        case "picture that is listed and not there":
            table["images"][0]["file_name"] = "9.png"
        case "picture of another size":
            table["images"][0]["width"] = 47
        case _:
            raise AssertionError(kind)


BAD_ENTRIES = {
    "keypoint list of the wrong length": 'expected "keypoints" of 9 numbers (x, y, v of 3 joints), found 8',
    "annotation without a picture": 'expected an "image_id" among the pictures, found 99',
    "visibility that is none": 'expected finite "keypoints" with v of 0, 1 or 2',
    "keypoint that is no number": 'expected finite "keypoints"',
    "box of three numbers": 'expected a "bbox" of x, y, width, height',
    "picture that is listed and not there": "9.png",
    "picture of another size": "47x48",
}


@pytest.fixture
def dots(tmp_path: Path) -> Path:
    """Three pictures to train on and one to score on, each with three joints, as a keypoints folder."""
    root = tmp_path / "dots"
    root.mkdir()
    for part, count in (("train", 3), ("val", 1)):
        images, annotations = [], []
        for number in range(1, count + 1):
            save(root / f"{part}{number}.png", np.full((48, 48, 3), 60 * number, np.uint8))
            images.append({"id": number, "file_name": f"{part}{number}.png", "height": 48, "width": 48})
            annotations.append({
                "id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 900.0,
                "bbox": [4, 4, 40, 40], "keypoints": [10, 10, 2, 20, 30, 2, 30, 20, 1],
            })  # fmt: skip
        category = {"id": 1, "name": "animal", "keypoints": ["snout", "left_ear", "right_ear"]}
        table = {"images": images, "annotations": annotations, "categories": [category]}
        (root / f"{part}.json").write_text(json.dumps(table))
    return root


@pytest.mark.parametrize("kind", BAD_ENTRIES)
def test_a_bad_entry_of_a_keypoint_file_is_named_by_the_check_and_by_a_run(
    kind: str, dots: Path, command: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    file = dots / "train.json"
    table = json.loads(file.read_text())
    spoiled(table, kind)
    file.write_text(json.dumps(table))
    status, report = checked("keypoints-folder", dots, capfd)
    text = report["train"]["findings"][0]["text"]
    assert status == 1 and report["val"]["findings"] == []
    place = ("--data", str(dots), "--architecture", "linear_backend:graph", "--output", "run")
    small = ("data.crop=[32,32]", "train.steps=1", "train.batch=1")
    sets = [part for each in small for part in ("--set", each)]
    refused = command("--benchmark", "keypoints-folder", *place, *sets, new=False)
    assert (refused.status, Path("run").exists()) == (2, False)
    for told in (text, refused.failure):
        assert BAD_ENTRIES[kind] in told and "; " in told and str(dots) in told
    skipping = ("--set", "data.skip_unreadable=true")
    done = command("--benchmark", "keypoints-folder", *place, *sets, *skipping, new=False)
    assert done.status == 0, done.error
    left_out = json.loads(Path("run/result.json").read_text())["left_out"]
    assert left_out["training"] >= 1 and left_out["validation"] == 0
    bad = counted(left_out["training"], "bad entry", "bad entries")
    assert f"left out {bad}, the first: " in done.error
