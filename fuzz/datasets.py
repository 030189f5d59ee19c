"""Folders of data: list files, classes.json, COCO's annotations and boxes; links, pipes and odd names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from PIL import Image

from fuzz.mutations import TEXTS, json_bytes, mutated_bytes
from fuzz.reader import Answer, Reader, refusing
from gsto_train.data.cityscapes import Cityscapes
from gsto_train.data.classes import read_classes
from gsto_train.data.lip import Lip
from gsto_train.data.listed import ListedImages
from gsto_train.data.pascal_context import PascalContext
from gsto_train.look.boxes import read_boxes
from gsto_train.metrics.keypoints import oks_scores
from gsto_train.pose.coco import CocoKeypoints

_JOINTS = ["nose", "left_eye", "right_eye"]


def readers() -> Iterator[Reader]:
    """Lists of four kinds, classes, annotations, boxes to score in and boxes to look in."""
    yield Reader("list files", 14, st.tuples(st.sampled_from(sorted(_KINDS)), _lists()), _read_list)
    yield Reader(
        "odd files", 2, st.tuples(st.sampled_from(sorted(_PLACES)), st.sampled_from(sorted(_ODD))), _odd
    )
    classes: Any = {
        "classes": ["a", "b"],
        "num_classes": 2,
        "ignore_index": 9,
        "palette": [[1, 2, 3], [4, 5, 6]],
    }
    yield Reader("classes.json", 8, json_bytes([classes]), _read_classes, names="classes.json")
    yield Reader("COCO annotations", 14, json_bytes([coco_annotations()]), _read_annotations, names="data")
    yield Reader("COCO boxes", 8, json_bytes([coco_boxes()]), _read_detections, names="data")
    yield Reader(
        "boxes to look in", 8, json_bytes([coco_annotations(), coco_boxes()]), _read_boxes, names="boxes.json"
    )


def coco_annotations() -> dict[str, Any]:
    """Two persons on two pictures, as COCO has them."""
    pictures = [{"id": n, "file_name": f"{n}.png", "height": 24, "width": 32} for n in (1, 2)]
    person = {"category_id": 1, "bbox": [4, 4, 12, 16], "area": 190, "iscrowd": 0, "num_keypoints": 3,
              "keypoints": [8, 6, 2, 7, 5, 1, 9, 5, 0]}  # fmt: skip
    persons = [{"id": n, "image_id": n, **person} for n in (1, 2)]
    return {"images": pictures, "annotations": persons,
            "categories": [{"id": 1, "name": "person", "keypoints": _JOINTS}]}  # fmt: skip


def coco_boxes() -> list[dict[str, Any]]:
    """A detector's boxes of them."""
    return [{"image_id": n, "category_id": 1, "bbox": [4.0, 4.0, 12.0, 16.0], "score": 0.9} for n in (1, 2)]


def write_pictures(folder: Path, names: tuple[str, ...] = ("1", "2", "3")) -> None:
    """Write pictures N.png and labels N_label.png of three classes."""
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    for name in names:
        label = draw.integers(0, 3, (6, 8), np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(label).save(folder / f"{name}_label.png")
        Image.fromarray(np.stack([80 * label] * 3, -1)).save(folder / f"{name}.png")


@st.composite
def _lists(draw: DrawFn) -> bytes:
    seeds = [
        b"1.png 1_label.png\n2.png\t2_label.png\n# none\n\n", b"1.png 1_label.png 2_label.png 3_label.png\n",
        b"/1.png /1_label.png\n", b"2008_000002\n2008_000003\n", b"../data/1.png ../data/1_label.png\n",
        b"leftImg8bit/train/a/a_1_1_leftImg8bit.png gtFine/train/a/a_1_1_gtFine_labelIds.png\n",
    ]  # fmt: skip
    data = draw(mutated_bytes(seeds))
    names = draw(st.lists(st.sampled_from(TEXTS), max_size=4))
    return data + b"".join(name.encode("utf-8", "surrogatepass") + b" 1_label.png\n" for name in names)


_KINDS: Mapping[str, Any] = {
    "cityscapes": lambda: Cityscapes("data", "list.lst"),
    "lip": lambda: Lip("data", "list.txt"),
    "listed": lambda: ListedImages("data", "list.txt", classes=3),
    "pascal": lambda: PascalContext("data", "list.txt", classes=59),
}


def _read_list(case: tuple[str, bytes]) -> Answer:
    kind, content = case
    write_pictures(Path("data"))
    for ending in ("txt", "lst"):
        (Path("data") / f"list.{ending}").write_bytes(content)

    def read() -> None:
        dataset = _KINDS[kind]()
        for index in range(min(len(dataset), 4)):
            _ = dataset[index], dataset.inspect(index)

    return refusing(read)


def _read_classes(content: bytes) -> Answer:
    Path("classes.json").write_bytes(content)
    return refusing(lambda: read_classes("."))


def _keypoints(boxes: str | None = None) -> None:
    dataset = CocoKeypoints("data", "persons.json", ".", boxes=boxes)
    for person in dataset.persons:
        dataset.image(person)
    found = [
        {"image_id": each.picture, "keypoints": each.joints.ravel().tolist(), "score": each.score}
        for each in dataset.persons
    ]
    oks_scores(dataset.pictures, dataset.annotations, found, (0.1, 0.1, 0.1))


def _read_annotations(content: bytes) -> Answer:
    write_pictures(Path("data"))
    Path("data/persons.json").write_bytes(content)
    return refusing(_keypoints)


def _read_detections(content: bytes) -> Answer:
    write_pictures(Path("data"))
    Path("data/persons.json").write_text(json.dumps(coco_annotations()))
    Path("data/boxes.json").write_bytes(content)
    return refusing(lambda: _keypoints("boxes.json"))


def _read_boxes(content: bytes) -> Answer:
    Path("boxes.json").write_bytes(content)
    return refusing(lambda: read_boxes(Path("boxes.json")).of(Path("1.png"), (24, 32)))


_ODD: Mapping[str, Any] = {
    "folder": os.mkdir,
    "pipe": os.mkfifo,
    "endless": lambda path: os.symlink("/dev/zero", path),
    "loop": lambda path: os.symlink(path, path),
    "nowhere": lambda path: os.symlink("nowhere", path),
}
"""What stands where a file is expected."""

_PLACES: Mapping[str, Any] = {
    "data/1.png": lambda: ListedImages("data", "list.txt", classes=3)[0],
    "data/1_label.png": lambda: ListedImages("data", "list.txt", classes=3)[0],
    "data/boxes.json": lambda: read_boxes(Path("data/boxes.json")),
    "data/classes.json": lambda: read_classes("data"),
    "data/list.txt": lambda: ListedImages("data", "list.txt", classes=3),
    "data/persons.json": _keypoints,
}


def _odd(case: tuple[str, str]) -> Answer:
    place, odd = case
    write_pictures(Path("data"))
    Path("data/list.txt").write_text("1.png 1_label.png\n")
    Path(place).unlink(missing_ok=True)
    _ODD[odd](place)
    answer = refusing(_PLACES[place])
    assert not answer.accepted, f"takes {odd} for {place}"
    assert Path(place).name in answer.said, f"does not name {place}: {answer.said}"
    return answer


def odd_files() -> SearchStrategy[str]:
    """Names of what may stand where a file is expected; see `put_odd_file`."""
    return st.sampled_from(sorted(_ODD))


def put_odd_file(path: Path, odd: str) -> None:
    """Put something at `path` that is no file."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    _ODD[odd](path)
