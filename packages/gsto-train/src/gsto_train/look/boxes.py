"""Where persons are in a picture: boxes of a file in one of COCO's two formats, or the whole picture."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_train.errors import InputError, nearest_path
from gsto_train.files import read_text
from gsto_train.pose.samples import Person
from gsto_train.pose.skeleton import Skeleton
from gsto_train.pose.transform import are_coordinates, clip_box

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Boxes:
    """A file's boxes, (x, y, width, height, score), by what it calls their picture.

    `clipped`: they are annotated ones, cut to the picture as when they are scored (HRNet's rule); a
    detector's are taken as they are.
    """

    source: str
    clipped: bool
    by_picture: Mapping[str, Sequence[Floats]]

    def of(self, path: Path, size: tuple[int, int]) -> list[Floats]:
        """Return the boxes of a picture of `size` (height, width), found by its file's name or number."""
        found = self.by_picture.get(path.name, self.by_picture.get(_number(path.stem), ()))
        if not self.clipped:
            return list(found)
        cut = [(clip_box(box[:4], size), box[4]) for box in found]
        return [np.array([*box, score]) for box, score in cut if box is not None]


def read_boxes(path: Path) -> Boxes:
    """Read annotations ("images", "annotations") or a detector's list ("bbox", "score", "image_id").

    A row of a list may say "file_name" in place of "image_id". Raises `InputError` for other files.
    """
    try:
        table = json.loads(read_text(path))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file of boxes{nearest_path(path, 'file')}; check its name"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON, found an error: {error}") from None
    found = defaultdict[str, list[Floats]](list)
    for picture, box in _annotated(path, table) if isinstance(table, dict) else _detected(path, table):
        found[picture].append(box)
    if not found:
        raise InputError(f"{path}: expected boxes, found none; give another file, or leave --boxes out")
    return Boxes(str(path), isinstance(table, dict), dict(found))


@dataclass(frozen=True, eq=False)
class OnePicture:
    """A `KeypointDataset` of the boxes of one picture that is read already; a picture without is whole."""

    skeleton: Skeleton
    picture: NDArray[np.uint8]
    boxes: Sequence[Floats] | None
    number: int
    name: str

    @property
    def persons(self) -> list[Person]:
        """A person for each box."""
        height, width = self.picture.shape[:2]
        boxes = [np.array([0, 0, width, height, 1.0])] if self.boxes is None else self.boxes
        joints = np.zeros((len(self.skeleton.joints), 3))
        return [Person(self.number, box[:4], joints, float(box[4]), self.name) for box in boxes]

    @property
    def pictures(self) -> Sequence[int]:
        """The picture's number."""
        return (self.number,)

    @property
    def annotations(self) -> Sequence[dict[str, Any]]:
        """No truth."""
        return ()

    @property
    def box_source(self) -> str:
        """Whose boxes they are."""
        return "whole-picture" if self.boxes is None else "given"

    def image(self, person: Person) -> NDArray[np.uint8]:
        """Return the picture."""
        return self.picture


def _annotated(path: Path, table: Mapping[str, Any]) -> Iterator[tuple[str, Floats]]:
    images, annotations = table.get("images"), table.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise InputError(f'{path}: expected lists "images" and "annotations", or a list of boxes')
    names = {
        image["id"]: Path(image["file_name"]).name
        for image in images
        if isinstance(image, dict)
        and isinstance(image.get("id"), int)
        and isinstance(image.get("file_name"), str)
    }
    for number, annotation in enumerate(annotations):
        image = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(image, int) or image not in names:
            raise InputError(
                f'{path} annotation {number}: expected an "image_id" of one of "images"; mend this annotation'
            )
        if not annotation.get("iscrowd"):
            yield names[image], _box(path, f"annotation {number}", annotation, 1.0)


def _detected(path: Path, rows: object) -> Iterator[tuple[str, Floats]]:
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a list of boxes or COCO's annotations, found neither")
    for number, row in enumerate(rows):
        name = row.get("file_name", row.get("image_id")) if isinstance(row, dict) else None
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise InputError(f'{path} row {number}: expected "image_id" or "file_name"; mend this row')
        if row.get("category_id", 1) == 1:
            box = _box(path, f"row {number}", row, row.get("score", 1.0))
            yield Path(name).name if isinstance(name, str) else str(name), box


def _box(path: Path, where: str, entry: Mapping[str, Any], score: object) -> Floats:
    box = entry.get("bbox")
    values = [*box, score] if isinstance(box, list) else []
    if len(values) != 5 or not are_coordinates(values) or min(values[2:4]) <= 0:
        raise InputError(
            f'{path} {where}: expected "bbox" of x, y, width and height above 0, and a finite score, found '
            f"{box!r:.80}; mend it"
        )
    return np.array(values, np.float64)


def _number(stem: str) -> str:
    """Return a file's number as COCO's boxes call it: 000000000139 is 139."""
    return str(int(stem)) if stem.isdecimal() and len(stem) < 20 else stem
