"""Keypoint files in COCO's format, with any number of joints, and a detector's boxes for them."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_train.data.classes import existing_folder
from gsto_train.data.findings import Finding
from gsto_train.data.pictures import read_image
from gsto_train.errors import InputError, nearest_path
from gsto_train.files import read_text
from gsto_train.pose.samples import Person
from gsto_train.pose.skeleton import Pairs, Skeleton
from gsto_train.pose.transform import are_coordinates, clip_box

_PICTURES_KEPT, _READERS = 16, 8


@dataclass(frozen=True)
class SkeletonChoice:
    """What the user says of the joints; None: their names tell."""

    pairs: Pairs | None = None
    upper: tuple[int, ...] | None = None
    sigmas: tuple[float, ...] | None = None


class CocoKeypoints:
    """Persons (or other things) of a keypoint file in COCO's format.

    The file is `root`/`annotations`, its pictures lie in `root`/`pictures`; exactly one category has
    "keypoints", its joints' names, and a keypoint list holds x, y, v for each. Persons to train on and to
    predict in ground-truth boxes are the annotations with a labelled joint that are no crowds and whose box,
    clipped to the picture, is not empty (HRNet's rule). With `boxes`, a detector's file (image_id, bbox,
    score, category_id), they are its boxes instead, as they are. The truth is the whole file.

    Raises InputError for the first thing that is wrong; with `skip_unreadable` bad annotations and missing
    pictures are left out, and `findings` holds a line for each.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str,
        pictures: str,
        *,
        boxes: str | None = None,
        skeleton: SkeletonChoice | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        self.root = existing_folder(root)
        file = self.root / annotations
        table = _read(file)
        category = _category(file, table)
        choice = skeleton or SkeletonChoice()
        self.skeleton = Skeleton.of(
            category["keypoints"], pairs=choice.pairs, upper=choice.upper, sigmas=choice.sigmas
        )
        reader = _Reader(file, self.root / pictures, len(self.skeleton.joints), skip_unreadable)
        self._entries = reader.pictures(table)
        self.annotations = reader.annotations(table, category["id"], self._entries)
        self.persons = (
            reader.persons(self.annotations, self._entries)
            if boxes is None
            else _detections(self.root / boxes, self._entries, category["id"], len(self.skeleton.joints))
        )
        self.box_source = "ground-truth" if boxes is None else "detector"
        # The boxes of one picture are neighbours.
        self._read = lru_cache(maxsize=_PICTURES_KEPT)(self._read_picture)
        self.findings = tuple(reader.findings)
        if skip_unreadable:
            self._leave_out_unreadable()
        if not self.persons:
            source = file if boxes is None else self.root / boxes
            raise InputError(f"{source}: expected boxes with labelled joints, found none; check the file")

    def _leave_out_unreadable(self) -> None:
        """Read every picture that has a person; what does not read goes, and is a finding."""
        bad: dict[int, str] = {}
        with ThreadPoolExecutor(_READERS) as pool:
            wanted = sorted({person.picture for person in self.persons})
            for picture, problem in zip(wanted, pool.map(self._problem, wanted), strict=True):
                if problem is not None:
                    bad[picture] = problem
        self._entries = {picture: each for picture, each in self._entries.items() if picture not in bad}
        self.annotations = [each for each in self.annotations if each["image_id"] not in bad]
        self.persons = [person for person in self.persons if person.picture not in bad]
        self.findings += tuple(Finding("broken", problem) for problem in bad.values())

    def _problem(self, picture: int) -> str | None:
        try:
            self._read_picture(picture)
        except InputError as error:
            return str(error)
        return None

    @property
    def pictures(self) -> Sequence[int]:
        """The ids of all pictures."""
        return tuple(self._entries)

    def image(self, person: Person) -> NDArray[np.uint8]:
        """Return the person's picture as the annotations' coordinates have it.

        They tell by its size whether it is stored or turned upright by its EXIF orientation. Raises
        InputError where the file does not decode, or has neither size.
        """
        return self._read(person.picture)

    def _read_picture(self, picture: int) -> NDArray[np.uint8]:
        entry = self._entries[picture]
        image = read_image(entry.path, upright_size=entry.size)
        if image.shape[:2] != entry.size:
            raise InputError(
                f"{entry.path}: {image.shape[1]}x{image.shape[0]} (width x height), but its annotation file "
                f"says {entry.size[1]}x{entry.size[0]}; restore the picture, or mend the file"
            )
        return image


@dataclass(frozen=True)
class _Entry:
    path: Path
    size: tuple[int, int]


class _Bad(Exception):
    """Something wrong in the file: what, expected and found, and the mend."""


class _Reader:
    """Reads a file's pictures and annotations; what is bad is an error, or a finding to be counted."""

    def __init__(self, file: Path, folder: Path, joints: int, skip: bool) -> None:
        self._file, self._folder, self._joints, self._skip = file, folder, joints, skip
        self.findings: list[Finding] = []

    def pictures(self, table: Mapping[str, Any]) -> dict[int, _Entry]:
        if not self._folder.is_dir():
            near = nearest_path(self._folder, "folder")
            raise InputError(
                f"{self._folder}: no such folder of pictures{near}; give it with "
                "--set data.train_pictures=... or data.val_pictures=..."
            )
        entries: dict[int, _Entry] = {}

        def read(image: Any) -> None:
            number, entry = self._picture(image)
            if number in entries:
                raise _Bad(f'picture {number}: expected each "id" once, found it twice; remove one of them')
            entries[number] = entry

        self._all(table["images"], read)
        return dict(sorted(entries.items()))

    def _picture(self, image: Any) -> tuple[int, _Entry]:
        name, size = image.get("file_name"), (image.get("height"), image.get("width"))
        if not _is_integer(image.get("id")) or not isinstance(name, str) or not all(map(_is_integer, size)):
            raise _Bad(
                f'picture {image.get("id")!r}: expected whole numbers "id", "height", "width" and a text '
                f'"file_name", found {name!r} of {size[0]!r} x {size[1]!r}; mend this entry'
            )
        path = self._folder / name
        if not isfile(path):
            near = nearest_path(path, "file")
            raise _Bad(f"picture {image['id']}: no file {path}{near}; restore it, or remove its entry")
        return int(image["id"]), _Entry(path, size)

    def annotations(
        self, table: Mapping[str, Any], category: int, entries: Mapping[int, _Entry]
    ) -> list[dict[str, Any]]:
        def read(annotation: Any) -> dict[str, Any]:
            _check_annotation(annotation, self._joints, entries)
            return dict(annotation)

        return self._all((a for a in table["annotations"] if _of(a, category)), read)

    def persons(
        self, annotations: Iterable[Mapping[str, Any]], entries: Mapping[int, _Entry]
    ) -> list[Person]:
        """Return the persons, by picture in the order of the pictures' ids."""
        by_picture = defaultdict[int, list[Person]](list)
        for annotation in annotations:
            picture = annotation["image_id"]
            box = clip_box(np.asarray(annotation["bbox"], np.float64), entries[picture].size)
            joints = np.asarray(annotation["keypoints"], np.float64).reshape(-1, 3)
            if box is None or annotation.get("iscrowd") or not (joints[:, 2] > 0).any():
                continue
            name = f"{entries[picture].path}, annotation {annotation.get('id')}"
            by_picture[picture].append(Person(picture, box, joints, 1.0, name))
        return [person for picture in entries for person in by_picture[picture]]

    def _all(self, items: Iterable[Any], read: Callable[[Any], Any]) -> list[Any]:
        found = []
        for item in items:
            try:
                if not isinstance(item, dict):
                    raise _Bad(f"expected an object, found {item!r:.80}; mend this entry")
                found.append(read(item))
            except _Bad as bad:
                text = f"{self._file}: {bad}"
                if not self._skip:
                    raise InputError(f"{text}; or leave such out with data.skip_unreadable=true") from None
                self.findings.append(Finding("broken", text))
        return found


def _of(annotation: Any, category: int) -> bool:
    return not isinstance(annotation, dict) or annotation.get("category_id", category) == category


def _check_annotation(annotation: Mapping[str, Any], joints: int, entries: Mapping[int, _Entry]) -> None:
    name = f"annotation {annotation.get('id')}"
    picture, keypoints = annotation.get("image_id"), annotation.get("keypoints")
    if not isinstance(picture, int | float) or picture not in entries:
        found = f"found {picture!r:.80}"
        raise _Bad(f'{name}: expected an "image_id" among the pictures, {found}; add its picture')
    if not isinstance(keypoints, list) or len(keypoints) != 3 * joints:
        count = len(keypoints) if isinstance(keypoints, list) else "none"
        raise _Bad(
            f'{name}: expected "keypoints" of {3 * joints} numbers (x, y, v of {joints} joints), '
            f"found {count}; mend this annotation"
        )
    if not are_coordinates(keypoints) or not set(keypoints[2::3]) <= {0, 1, 2}:
        raise _Bad(f'{name}: expected finite "keypoints" with v of 0, 1 or 2; mend this annotation')
    if annotation.get("iscrowd", 0) not in (0, 1):
        crowd = annotation["iscrowd"]
        raise _Bad(f'{name}: expected "iscrowd" of 0 or 1, found {crowd!r:.80}; mend this annotation')
    box, area = annotation.get("bbox"), annotation.get("area")
    if not isinstance(box, list) or len(box) != 4 or not are_coordinates([*box, area]):
        raise _Bad(
            f'{name}: expected a "bbox" of x, y, width, height and a number "area", found {box!r} and '
            f"{area!r}; mend this annotation"
        )


def _detections(file: Path, entries: Mapping[int, _Entry], category: int, joints: int) -> list[Person]:
    """Return a detector's boxes in the pictures there are, by picture; an unscored one is an error."""
    rows = _json(file, "a detector's boxes")
    if not isinstance(rows, list):
        raise InputError(f"{file}: expected a list of boxes, found a {type(rows).__name__}")
    by_picture = defaultdict[int, list[Person]](list)
    for number, row in enumerate(rows):
        box = row.get("bbox") if isinstance(row, dict) else None
        if not isinstance(box, list) or len(box) != 4 or not are_coordinates([*box, row.get("score")]):
            raise InputError(
                f'{file} row {number}: expected "bbox" of x, y, width, height and "score", found '
                f"{row!r:.120}; mend this row"
            )
        picture = row.get("image_id")
        known = isinstance(picture, int | float) and picture in entries
        if known and row.get("category_id", category) == category:
            name = f"{entries[picture].path}, box {number} of {file.name}"
            person = Person(picture, np.asarray(box, np.float64), np.zeros((joints, 3)), row["score"], name)
            by_picture[picture].append(person)
    return [person for picture in entries for person in by_picture[picture]]


def _read(file: Path) -> dict[str, Any]:
    table = _json(file, "keypoints in COCO's format")
    keys = ("images", "annotations", "categories")
    absent = [key for key in keys if not isinstance(table, dict) or not isinstance(table.get(key), list)]
    if absent:
        raise InputError(
            f"{file}: expected lists {', '.join(keys)}, found no {absent[0]!r}; see docs/pose.md"
        )
    return dict(table)


def _json(file: Path, what: str) -> Any:
    try:
        return json.loads(read_text(file))
    except FileNotFoundError:
        raise InputError(
            f"{file}: no such file of {what}{nearest_path(file, 'file')}; check its name"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: expected JSON, found an error: {error}") from None


def _category(file: Path, table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the category with joints; raises InputError for none and for several."""
    found = [c for c in table["categories"] if isinstance(c, dict) and _has_joints(c)]
    if len(found) != 1:
        raise InputError(
            f'{file}: expected one category with "id" and "keypoints", the joints\' names, found '
            f"{len(found)} among {len(table['categories'])}; mend the file"
        )
    return found[0]


def _has_joints(category: Mapping[str, Any]) -> bool:
    names = category.get("keypoints")
    return (
        _is_integer(category.get("id"))
        and isinstance(names, list)
        and bool(names)
        and all(isinstance(name, str) for name in names)
    )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
