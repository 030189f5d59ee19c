"""Pascal Context on the pictures of VOC2010, in each of the three forms that people have it in.

Indices: SegmentationClassContext/NAME.png with 0..59 and ImageSets/SegmentationContext/SPLIT.txt.
Runs: trainval_merged.json (PASCAL in Detail) with masks as run lengths, later ones over earlier ones.
Original: trainval/NAME.mat with 459 ids and VOC2010's own ImageSets/Main/SPLIT.txt.
The first of them that is there is read. Classes are ordered by their id among the 459, which is the order of
their names, not the one that starts with VOC's twenty.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gsto_train.data import matlab, run_length
from gsto_train.data.classes import ClassTable, existing_folder
from gsto_train.data.files import (
    LabelledFiles,
    Listing,
    Pair,
    existing,
    is_list,
    joined,
    list_lines,
    without_pictures,
)
from gsto_train.data.palette import default_palette
from gsto_train.data.pictures import check_values, read_label
from gsto_train.data.samples import IGNORE_LABEL
from gsto_train.errors import InputError, nearest

SPLITS = {"train": 4998, "val": 5105}
"""Number of pictures in each split."""

IDS = (
    0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144,
    158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355,
    360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
"""The 60 ids that are kept of the original 459; the place in this list is the class."""

CLASSES = (
    "background", "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book",
    "bottle", "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow",
    "cup", "curtain", "dog", "door", "fence", "floor", "flower", "food", "grass", "ground", "horse",
    "keyboard", "light", "motorbike", "mountain", "mouse", "person", "plate", "platform", "pottedplant",
    "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow", "sofa", "table", "track", "train",
    "tree", "truck", "tvmonitor", "wall", "water", "window", "wood",
)  # fmt: skip
"""Names of the 60 classes, in the order of `IDS`."""

LARGEST_ID = 459
INDICES, RUNS, ORIGINAL = "SegmentationClassContext", "trainval_merged.json", "trainval"

_CLASS_OF_ID = np.zeros(LARGEST_ID + 1, np.uint8)
_CLASS_OF_ID[list(IDS)] = np.arange(len(IDS))

ReadClasses = Callable[[Pair, Path], NDArray[np.uint8]]


class PascalContext(LabelledFiles):
    """One split of Pascal Context: "train", "val", or a list file of names, in the folder that `root` names.

    `root` is VOC2010, VOCdevkit or the folder that holds it. With 60 classes the background is class 0; with
    59 it is to be ignored and the others move down by one. Raises InputError for an unknown split or a folder
    in none of the forms, and for missing files unless `skip_missing`.
    """

    def __init__(
        self, root: str | Path, split: str, *, classes: Literal[59, 60] = 59, skip_missing: bool = False
    ) -> None:
        base = _base(existing_folder(root))
        listing, read = _form(base, split)
        names = CLASSES[len(CLASSES) - classes :]

        def read_label(pair: Pair, path: Path) -> NDArray[np.uint8]:
            label = read(pair, path)
            return label if classes == len(CLASSES) else _without_background(label)

        table = ClassTable(names, default_palette(classes))
        super().__init__(
            listing, table, read_label, skip_missing=skip_missing, official_count=SPLITS.get(split)
        )


def classes_of_ids(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return the class, 0..59, of ids in 0..459, any shape; what is not kept is background."""
    return np.asarray(_CLASS_OF_ID[ids])


def _without_background(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where((label == 0) | (label == IGNORE_LABEL), IGNORE_LABEL, label - 1).astype(np.uint8)


def _base(root: Path) -> Path:
    choices = (root, root / "VOC2010", root / "VOCdevkit" / "VOC2010")
    found = next((path for path in choices if (path / "JPEGImages").is_dir()), None)
    if found is None:
        raise InputError(
            f"{root}: expected VOC2010 with its JPEGImages, here or in VOCdevkit, found none; give its folder"
        )
    return found


def _form(base: Path, split: str) -> tuple[Listing, ReadClasses]:
    if not is_list(split) and split not in SPLITS:
        known = f"{', '.join(SPLITS)} or a list file (.lst, .txt)"
        hint = nearest(split, SPLITS)
        raise InputError(f"Pascal Context: expected a split of {known}, found {split!r}{hint}")
    if (base / INDICES).is_dir():
        return _named_files(base, split, INDICES, ".png"), _read_indices
    if (base / RUNS).is_file():
        return _from_runs(base, split)
    if (base / ORIGINAL).is_dir():
        return _named_files(base, split, ORIGINAL, ".mat"), _read_original
    raise InputError(
        f"{base}: expected the labels as {INDICES}/*.png, {RUNS} or {ORIGINAL}/*.mat, found none of them; "
        "put one beside JPEGImages"
    )


def _named_files(base: Path, split: str, folder: str, ending: str) -> Listing:
    names = _names(base, split)
    pairs = existing(Pair(_picture(base, name), base / folder / f"{name}{ending}") for name in names)
    labels = sorted((base / folder).glob(f"*{ending}"))
    alone = (path for path in labels if not _picture(base, path.stem).is_file())
    return joined([pairs, without_pictures(alone, "JPEGImages")])


def _names(base: Path, split: str) -> list[str]:
    if is_list(split):
        return [line for _, line in list_lines(base / split)]
    sets = base / "ImageSets"
    choices = (sets / "SegmentationContext" / f"{split}.txt", sets / "Main" / f"{split}.txt")
    return [line for _, line in list_lines(next((path for path in choices if path.is_file()), choices[0]))]


def _picture(base: Path, name: str) -> Path:
    return base / "JPEGImages" / f"{name}.jpg"


def _read_indices(pair: Pair, path: Path) -> NDArray[np.uint8]:
    return read_label(path, classes=len(CLASSES), ignore_label=None)


def _read_original(pair: Pair, path: Path) -> NDArray[np.uint8]:
    ids = matlab.read_matrix(path, "LabelMap")
    expected = f"ids 0..{LARGEST_ID} of labels.txt; restore the file"
    check_values(path, ids, (ids >= 0) & (ids <= LARGEST_ID), expected)
    return classes_of_ids(ids)


def _from_runs(base: Path, split: str) -> tuple[Listing, ReadClasses]:
    path = base / RUNS
    phases, segments = _runs(path, path.stat().st_mtime_ns)
    own = [name for name, phase in phases.items() if phase == split]
    names = _names(base, split) if is_list(split) else own
    if not names:
        raise InputError(f"{path}: expected pictures of phase {split!r}, found none; restore the file")

    def read(pair: Pair, path: Path) -> NDArray[np.uint8]:
        return _painted(path, pair.image.stem, segments.get(pair.image.stem))

    return existing(Pair(_picture(base, name), path) for name in names), read


Segments = dict[str, "tuple[tuple[int, int], list[tuple[int, Any]]]"]


@lru_cache(maxsize=1)
def _runs(path: Path, changed: int) -> tuple[dict[str, str], Segments]:
    """Return name -> phase, and name -> size and its (id, run lengths), of a file as it was `changed`."""
    try:
        merged = json.loads(path.read_bytes())
        names = {each["image_id"]: str(each["file_name"]).rpartition(".")[0] for each in merged["images"]}
        _check_categories(path, merged["categories"])
        segments: Segments = {
            names[each["image_id"]]: ((each["height"], each["width"]), []) for each in merged["images"]
        }
        for number, each in enumerate(merged["annos_segmentation"]):
            if each["image_id"] not in names:
                raise InputError(
                    f"{path}: segment {each.get('id', number)} is of picture {each['image_id']}, which is "
                    "not among its images; restore the file"
                )
            segments[names[each["image_id"]]][1].append((each["category_id"], each["segmentation"]["counts"]))
        return {names[each["image_id"]]: each["phase"] for each in merged["images"]}, segments
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{path}: expected PASCAL in Detail's JSON, found an error: {what}; restore it"
        ) from None


def _check_categories(path: Path, categories: list[dict[str, Any]]) -> None:
    known = dict(zip(IDS, CLASSES, strict=True))
    for each in categories:
        number, name = each["category_id"], each["name"]
        if number in known and known[number] != name:
            raise InputError(
                f"{path}: expected category {number} to be {known[number]!r}, found {name!r}; restore it"
            )


def _painted(
    path: Path, name: str, segments: tuple[tuple[int, int], list[tuple[int, Any]]] | None
) -> NDArray[np.uint8]:
    if segments is None:
        raise InputError(f"{path}: expected the picture {name!r}, found it nowhere; take it off the list")
    size, parts = segments
    label = np.zeros(size, np.uint8)
    for number, counts in parts:
        if number not in range(LARGEST_ID + 1):
            raise InputError(
                f"{path}: {name}: expected ids 0..{LARGEST_ID}, found {number!r}; restore the file"
            )
        try:
            label[run_length.decode(size, counts)] = _CLASS_OF_ID[number]
        except ValueError as error:
            raise InputError(f"{path}: {name}, category {number}: {error}; restore the file") from None
    return label
