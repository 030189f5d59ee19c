import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gsto_train.data.cityscapes import label_ids
from gsto_train.errors import InputError
from gsto_train.submission import SubmissionError, submission, write_results

NAME = "leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png"
FILE = "frankfurt_000000_000294_pred_labelIds.png"
CLASSES = np.arange(19, dtype=np.uint8).repeat(2).reshape(2, 19)


def test_classes_are_written_as_label_ids_under_names_that_the_server_finds(tmp_path: Path) -> None:
    with submission(tmp_path / "sent") as files:
        files.add(NAME, CLASSES)
        files.add("berlin_000000_000019_leftImg8bit.png", CLASSES[:1])
    assert sorted(path.name for path in (tmp_path / "sent").iterdir()) == [
        "berlin_000000_000019_pred_labelIds.png",
        FILE,
    ]
    picture = Image.open(tmp_path / "sent" / FILE)
    assert picture.mode == "L"
    np.testing.assert_array_equal(np.asarray(picture), label_ids(CLASSES))


@pytest.mark.parametrize("name", ["scene 3 of val", "frankfurt_294.png", "frankfurt_000000_000294.png"])
def test_a_picture_that_is_none_of_cityscapes_is_refused(tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(InputError, match="expected a picture called CITY_"),
        submission(tmp_path / "x") as files,
    ):
        files.add(name, CLASSES)
    assert list(tmp_path.iterdir()) == []


def test_the_same_picture_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a second prediction"), submission(tmp_path / "sent") as files:
        files.add(NAME, CLASSES)
        files.add("elsewhere/" + Path(NAME).name, CLASSES)
    assert list(tmp_path.iterdir()) == []


def damage_values(path: Path) -> None:
    Image.fromarray(CLASSES).save(path)


def damage_bits(path: Path) -> None:
    Image.fromarray(label_ids(CLASSES)[:, ::-1]).save(path)


def damage_size(path: Path) -> None:
    Image.fromarray(label_ids(CLASSES)[:1]).save(path)


def damage_mode(path: Path) -> None:
    Image.fromarray(label_ids(CLASSES)).convert("RGB").save(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def add_another(path: Path) -> None:
    damage_values(path.with_name("berlin_000000_000019.png"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_values, "other values than the 19 label ids"),
        (damage_bits, "is not what was predicted"),
        (damage_size, r"expected 8-bit grey of \(2, 19\), found L of \(1, 19\)"),
        (damage_mode, "found RGB"),
        (cut, "does not read again"),
        (Path.unlink, "expected exactly the 1 file written"),
        (add_another, r"berlin_000000_000019\.png: expected exactly the 1 file written"),
    ],
)
def test_what_does_not_read_back_is_not_left(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    with pytest.raises(SubmissionError, match=message), submission(tmp_path / "sent") as files:
        files.add(NAME, CLASSES)
        (written,) = tmp_path.rglob(FILE)
        damage(written)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    (tmp_path / "empty").mkdir()
    with submission(tmp_path / "empty") as files:
        files.add(NAME, CLASSES)
    for folder, found in ((tmp_path, "a folder that holds files"), (tmp_path / "kept", "a file")):
        with pytest.raises(InputError, match=f"new or empty folder, found {found}"), submission(folder):
            raise AssertionError
    assert (tmp_path / "kept").read_text() == "mine"
    assert [path.name for path in (tmp_path / "empty").iterdir()] == [FILE]


def pose(**changes: Any) -> dict[str, Any]:
    return {"image_id": 785, "category_id": 1, "keypoints": [1.5, 2.0, 0.9] * 4, "score": 0.5, **changes}


def test_poses_are_written_as_coco_takes_them(tmp_path: Path) -> None:
    write_results(tmp_path / "sent", [pose(), pose(image_id=7)], joints=4)
    (written,) = (tmp_path / "sent").iterdir()
    assert written.name == "keypoints_results.json"
    assert json.loads(written.read_text()) == [pose(), pose(image_id=7)]
    with pytest.raises(InputError, match="new or empty folder"):
        write_results(tmp_path / "sent", [pose()], joints=4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"keypoints": [1.0, 2.0, 0.5]}, "expected 12 numbers, found 3"),
        ({"score": float("inf")}, "not finite"),
        ({"keypoints": [float("inf")] * 12}, "not finite"),
        ({"image_id": "785"}, "no whole image_id"),
        ({"category_id": 2}, "another category_id than 1"),
    ],
)
def test_a_pose_that_the_server_refuses_is_not_left(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(SubmissionError, match=message):
        write_results(tmp_path / "sent", [pose(), pose(**wrong)], joints=4)
    assert list(tmp_path.iterdir()) == []
