import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gsto_train.errors import InputError
from gsto_train.pose.coco import CocoKeypoints, SkeletonChoice
from gsto_train.pose.figures import GeneratedFigures
from gsto_train.pose.transform import clip_box

JOINTS = ["nose", "left_hand", "right_hand"]


def table(folder: Path) -> dict[str, Any]:
    """Three pictures: two persons, a crowd and one without joints; nobody; one person."""
    for number in (1, 2, 3):
        Image.fromarray(np.full((40, 60, 3), 50 * number, np.uint8)).save(folder / f"{number}.png")
    person = {"category_id": 7, "iscrowd": 0, "area": 200.0, "bbox": [10.0, 5.0, 20.0, 30.0]}
    labelled = [12, 10, 2, 20, 20, 1, 0, 0, 0]
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 40, "width": 60} for n in (3, 1, 2)],
        "categories": [{"id": 1, "name": "tree"}, {"id": 7, "name": "thing", "keypoints": JOINTS}],
        "annotations": [
            {**person, "id": 0, "image_id": 3, "keypoints": labelled},
            {**person, "id": 5, "image_id": 1, "keypoints": labelled},
            {**person, "id": 6, "image_id": 1, "keypoints": [0] * 9},
            {**person, "id": 7, "image_id": 1, "keypoints": labelled, "iscrowd": 1},
            {**person, "id": 8, "image_id": 1, "keypoints": labelled, "bbox": [70.0, 5.0, 20.0, 30.0]},
            {"id": 9, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]},
        ],
    }


def opened(folder: Path, content: Any, **options: Any) -> CocoKeypoints:
    (folder / "train.json").write_text(json.dumps(content))
    return CocoKeypoints(folder, "train.json", ".", **options)


def test_persons_are_what_hrnet_trains_on(tmp_path: Path) -> None:
    data = opened(tmp_path, table(tmp_path))
    assert data.skeleton.joints == tuple(JOINTS)
    assert data.skeleton.pairs == ((1, 2),)
    assert [person.picture for person in data.persons] == [1, 3]
    assert data.persons[0].box.tolist() == [10, 5, 19, 29]
    assert data.persons[0].joints.tolist() == [[12, 10, 2], [20, 20, 1], [0, 0, 0]]
    assert data.persons[0].name.endswith("1.png, annotation 5")
    assert (data.box_source, data.persons[0].score) == ("ground-truth", 1)
    assert data.image(data.persons[1]).shape == (40, 60, 3)
    assert (data.image(data.persons[1]) == 150).all()


def test_the_truth_is_the_whole_file(tmp_path: Path) -> None:
    data = opened(tmp_path, table(tmp_path))
    assert tuple(data.pictures) == (1, 2, 3)
    assert [each["id"] for each in data.annotations] == [0, 5, 6, 7, 8]


def test_a_detectors_boxes_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = [
        {"image_id": 3, "category_id": 7, "bbox": [-5, 2.5, 100, 30], "score": 0.25},
        {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5},
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5},
        {"image_id": 99, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    data = opened(tmp_path, table(tmp_path), boxes="boxes.json")
    assert data.box_source == "detector"
    assert [(person.picture, person.score) for person in data.persons] == [(1, 0.5), (3, 0.25)]
    assert data.persons[1].box.tolist() == [-5, 2.5, 100, 30]
    assert not data.persons[0].joints.any() and data.persons[0].joints.shape == (3, 3)
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": 1, "bbox": [1, 2, 3]}]))
    with pytest.raises(InputError, match=r'boxes\.json row 0: expected "bbox" of x, y, width, height'):
        opened(tmp_path, table(tmp_path), boxes="boxes.json")


def test_a_picture_is_turned_only_where_the_file_means_it_so(tmp_path: Path) -> None:
    """COCO's coordinates are those of the stored pixels, whatever the EXIF orientation says."""
    pixels = np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    content = table(tmp_path)
    content["images"][0]["file_name"] = "turned.png"
    stored = opened(tmp_path, content)
    np.testing.assert_array_equal(stored.image(stored.persons[1])[..., 0], pixels)
    content["images"][0] |= {"height": 60, "width": 40}
    upright = opened(tmp_path, content)
    np.testing.assert_array_equal(upright.image(upright.persons[1])[..., 0], np.rot90(pixels, -1))


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], dict[str, Any]]:
    def content(folder: Path) -> dict[str, Any]:
        found = table(folder)
        change(found)
        return found

    return content


BAD = {
    "annotation 5: expected an \"image_id\" among the pictures, found 44; add its picture": edited(
        lambda t: t["annotations"][1].update(image_id=44)
    ),
    'annotation 5: expected "keypoints" of 9 numbers (x, y, v of 3 joints), found 8': edited(
        lambda t: t["annotations"][1].update(keypoints=[1] * 8)
    ),
    'annotation 5: expected "keypoints" of 9 numbers (x, y, v of 3 joints), found none': edited(
        lambda t: t["annotations"][1].pop("keypoints")
    ),
    'annotation 5: expected finite "keypoints" with v of 0, 1 or 2': edited(
        lambda t: t["annotations"][1].update(keypoints=[1, 1, 3] * 3)
    ),
    'annotation 5: expected a "bbox" of x, y, width, height and a number "area", found [1, 2]': edited(
        lambda t: t["annotations"][1].update(bbox=[1, 2])
    ),
    "picture 1: no file": edited(lambda t: t["images"][1].update(file_name="11.png")),
    'picture None: expected whole numbers "id"': edited(lambda t: t["images"][1].update(id=None)),
    "expected an object, found 3; mend this entry": edited(lambda t: t["annotations"].append(3)),
}  # fmt: skip


@pytest.mark.parametrize("problem", BAD)
def test_what_is_bad_in_a_file_is_named_with_its_mend(tmp_path: Path, problem: str) -> None:
    content = BAD[problem](tmp_path)
    with pytest.raises(InputError) as raised:
        opened(tmp_path, content)
    assert str(raised.value).startswith(f"{tmp_path / 'train.json'}: {problem}")
    assert str(raised.value).endswith("or leave such out with data.skip_unreadable=true")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("problem", BAD)
def test_what_is_bad_is_left_out_and_counted_where_asked_for(tmp_path: Path, problem: str) -> None:
    data = opened(tmp_path, BAD[problem](tmp_path), skip_unreadable=True)
    assert problem in data.findings[0].text
    assert 3 in [person.picture for person in data.persons]


def test_a_picture_that_does_not_read_is_named_or_left_out_with_its_truth(tmp_path: Path) -> None:
    content = table(tmp_path)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    data = opened(tmp_path, content)
    with pytest.raises(InputError, match=r"1\.png: this picture does not decode"):
        data.image(data.persons[0])
    data = opened(tmp_path, content, skip_unreadable=True)
    assert [person.picture for person in data.persons] == [3]
    assert tuple(data.pictures) == (2, 3)
    assert [each["image_id"] for each in data.annotations] == [3]
    assert "1.png: this picture does not decode" in data.findings[0].text


def test_a_picture_of_another_size_than_its_file_says_is_named(tmp_path: Path) -> None:
    content = table(tmp_path)
    content["images"][1]["width"] = 61
    data = opened(tmp_path, content)
    with pytest.raises(InputError, match=r"1\.png: 60x40 \(width x height\), but .* says 61x40"):
        data.image(data.persons[0])


def test_a_file_that_is_no_keypoint_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"expected lists images, annotations, categories, found no 'images'"
    ):
        opened(tmp_path, {"annotations": [], "categories": []})
    content = table(tmp_path)
    content["categories"] = content["categories"][:1]
    with pytest.raises(InputError, match=r'expected one category with "id" and "keypoints".*found 0 among 1'):
        opened(tmp_path, content)
    content = table(tmp_path)
    content["annotations"] = content["annotations"][2:3]
    with pytest.raises(InputError, match=r"train\.json: expected boxes with labelled joints, found none"):
        opened(tmp_path, content)
    with pytest.raises(InputError, match=r"tran\.json: no such file of keypoints .*nearest: train\.json"):
        CocoKeypoints(tmp_path, "tran.json", ".")
    with pytest.raises(InputError, match=r"no such folder of pictures"):
        CocoKeypoints(tmp_path, "train.json", "images")


def test_the_joints_may_be_told_more_of(tmp_path: Path) -> None:
    choice = SkeletonChoice(pairs=((0, 1),), upper=(0,), sigmas=(0.1, 0.2, 0.3))
    skeleton = opened(tmp_path, table(tmp_path), skeleton=choice).skeleton
    assert (skeleton.pairs, skeleton.upper, skeleton.sigmas) == (((0, 1),), (0,), (0.1, 0.2, 0.3))


def test_a_figure_is_a_function_of_seed_split_and_number() -> None:
    few, many = GeneratedFigures(3), GeneratedFigures(5)
    np.testing.assert_array_equal(few.image(few.persons[2]), many.image(many.persons[2]))
    np.testing.assert_array_equal(few.persons[2].joints, many.persons[2].joints)
    for other in (GeneratedFigures(3, seed=1), GeneratedFigures(3, split="val")):
        assert (other.image(other.persons[2]) != few.image(few.persons[2])).any()
        assert (other.persons[2].joints != few.persons[2].joints).any()


def test_figures_have_coco_joints_inside_their_picture_and_box() -> None:
    figures = GeneratedFigures(40, size=(64, 80))
    assert len(figures.persons) == len(figures.annotations) == len(figures.pictures) == 40
    for person in figures.persons:
        assert figures.image(person).shape == (64, 80, 3)
        labelled = person.joints[person.joints[:, 2] > 0, :2]
        assert len(labelled) > 8
        low, size = person.box[:2], person.box[2:]
        assert ((labelled >= np.maximum(low, 0)) & (labelled <= np.minimum(low + size, [79, 63]))).all()
        assert clip_box(person.box, (64, 80)) is not None


def test_a_figures_limbs_are_where_its_joints_are() -> None:
    """Along a limb that is drawn last the picture has one colour, another one than beside it."""
    figures = GeneratedFigures(60, size=(256, 192))
    seen = 0
    for person in figures.persons:
        image = figures.image(person).astype(float)
        joints = person.joints
        for upper, lower in ((7, 9), (8, 10), (13, 15), (14, 16)):
            if joints[[upper, lower], 2].min() > 0:
                shares = np.array([0.3, 0.5, 0.7])[:, None]
                points = joints[upper, :2] * (1 - shares) + joints[lower, :2] * shares
                columns, rows = np.rint(points).astype(int).T
                seen += np.ptp(image[rows, columns], axis=0).max() < 60
    assert seen > 0.6 * 4 * 60
