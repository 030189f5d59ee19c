"""Cityscapes, as its archives unpack: leftImg8bit/ and gtFine/, or HRNet's list files of it.

Ids, names and colours are those of the data set's own tools; labels are read as train ids, converted on
the fly, so that no folder of converted labels is needed.
"""

from dataclasses import dataclass
from os.path import isfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gsto_train.data.classes import ClassTable, existing_folder
from gsto_train.data.files import (
    LabelledFiles,
    Listing,
    Pair,
    columns,
    existing,
    is_list,
    joined,
    list_lines,
    without_pictures,
)
from gsto_train.data.findings import Finding
from gsto_train.data.pictures import check_values, read_label, read_values
from gsto_train.data.samples import IGNORE_LABEL
from gsto_train.errors import InputError, nearest

SPLITS = {"train": 2975, "val": 500, "trainval": 3475, "test": 1525}
"""Number of pictures in each split."""

PICTURES, LABELS = "leftImg8bit", "gtFine"


@dataclass(frozen=True)
class TrainingClass:
    """A class that is scored: its id in label files, its name, and its colour in drawings."""

    id: int
    name: str
    colour: tuple[int, int, int]


CLASSES = (
    TrainingClass(7, "road", (128, 64, 128)),
    TrainingClass(8, "sidewalk", (244, 35, 232)),
    TrainingClass(11, "building", (70, 70, 70)),
    TrainingClass(12, "wall", (102, 102, 156)),
    TrainingClass(13, "fence", (190, 153, 153)),
    TrainingClass(17, "pole", (153, 153, 153)),
    TrainingClass(19, "traffic light", (250, 170, 30)),
    TrainingClass(20, "traffic sign", (220, 220, 0)),
    TrainingClass(21, "vegetation", (107, 142, 35)),
    TrainingClass(22, "terrain", (152, 251, 152)),
    TrainingClass(23, "sky", (70, 130, 180)),
    TrainingClass(24, "person", (220, 20, 60)),
    TrainingClass(25, "rider", (255, 0, 0)),
    TrainingClass(26, "car", (0, 0, 142)),
    TrainingClass(27, "truck", (0, 0, 70)),
    TrainingClass(28, "bus", (0, 60, 100)),
    TrainingClass(31, "train", (0, 80, 100)),
    TrainingClass(32, "motorcycle", (0, 0, 230)),
    TrainingClass(33, "bicycle", (119, 11, 32)),
)
"""The 19 classes in the order of their train ids."""

LABEL_IDS = 34
"""Label files hold 0..33; the licence plate's -1 is never drawn."""

TABLE = ClassTable(tuple(each.name for each in CLASSES), tuple(each.colour for each in CLASSES))


def train_ids(label_ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return the train ids of label ids in 0..33 or 255, any shape; 255 for those that are not scored."""
    return np.asarray(_TRAIN_IDS[label_ids])


def label_ids(train_ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return the label ids of train ids in 0..18, any shape, as a submission to the test server has them."""
    return np.asarray(_LABEL_IDS[train_ids])


_TRAIN_IDS = np.full(256, IGNORE_LABEL, np.uint8)
_TRAIN_IDS[[each.id for each in CLASSES]] = np.arange(len(CLASSES))
_LABEL_IDS = np.array([each.id for each in CLASSES], np.uint8)


class Cityscapes(LabelledFiles):
    """One split of Cityscapes: "train", "val", "trainval", "test", or a list file of `image<TAB>label` lines.

    A label file is one of label ids, or of train ids where its name ends in labelTrainIds.png; without a
    list, train ids are read only where there is no file of label ids. Pictures of the test split have no
    label: all of it is to ignore, whatever lies in gtFine/test. Raises InputError for an unknown split, and
    for missing files unless `skip_missing`.
    """

    def __init__(self, root: str | Path, split: str, *, skip_missing: bool = False) -> None:
        listing = _listing(existing_folder(root), split)
        super().__init__(
            listing,
            TABLE,
            lambda pair, path: _read(path),
            skip_missing=skip_missing,
            official_count=SPLITS.get(split),
        )

    def label_ids(self, index: int) -> NDArray[np.uint8]:
        """Return the (H, W) label ids of a picture, as the official scores count them.

        Raises InputError where the picture has a file of train ids alone, or no label.
        """
        return read_label_ids(_sibling(self._label(index), "labelIds"))

    def instance_ids(self, index: int) -> NDArray[np.int32]:
        """Return the (H, W) instance ids of a picture: a label id, or label id x 1000 + the object's number.

        Raises InputError where there is no readable file of them.
        """
        return read_instance_ids(_sibling(self._label(index), "instanceIds"))

    def inspect(self, index: int) -> tuple[Finding, ...]:
        """Compare the files of instances and of train ids, where there are any, with that of label ids."""
        label = self.listing.pairs[index].label
        if label is None or not isfile(_sibling(label, "labelIds")):
            return ()
        ids = read_label_ids(_sibling(label, "labelIds"))
        return (*_train_id_findings(label, ids), *_instance_findings(label, ids))

    def _label(self, index: int) -> Path:
        pair = self.listing.pairs[index]
        if pair.label is None:
            raise InputError(f"{pair.image}: a picture of the test split has no label; score another split")
        return pair.label


def read_label_ids(path: Path) -> NDArray[np.uint8]:
    """Read a file of label ids, (H, W) uint8 of 0..33; raises InputError for any other value but 255."""
    values = read_values(path)
    known = ((values >= 0) & (values < LABEL_IDS)) | (values == IGNORE_LABEL)
    mend = "is this a file of gtFine_labelIds?"
    check_values(path, values, known, f"label ids 0..{LABEL_IDS - 1}; {mend}")
    return values.astype(np.uint8)


def read_instance_ids(path: Path) -> NDArray[np.int32]:
    """Read a 16-bit file of instance ids, (H, W) int32; raises InputError for ids of no label."""
    values = read_values(path).astype(np.int32)
    labels = np.where(values < 1000, values, values // 1000)
    known = (labels >= 0) & (labels < LABEL_IDS)
    expected = f"a label id of 0..{LABEL_IDS - 1}, or 1000 times one plus a number; restore the 16-bit file"
    check_values(path, values, known, expected)
    return values


def _read(path: Path) -> NDArray[np.uint8]:
    if path.name.endswith("labelTrainIds.png"):
        return read_label(path, classes=len(CLASSES), ignore_label=None)
    return np.asarray(cv2.LUT(read_label_ids(path), _TRAIN_IDS), np.uint8)  # A fifth of the time of indexing.


def _listing(root: Path, split: str) -> Listing:
    if is_list(split):
        return _from_list(root, root / split)
    if split not in SPLITS:
        known = f"{', '.join(SPLITS)} or a list file (.lst, .txt)"
        raise InputError(f"Cityscapes: expected a split of {known}, found {split!r}{nearest(split, SPLITS)}")
    return joined([_from_tree(root, each) for each in ({"trainval": ("train", "val")}.get(split, (split,)))])


def _from_list(root: Path, path: Path) -> Listing:
    rows = [columns(path, number, line, least=1) for number, line in list_lines(path)]
    return existing(Pair(root / row[0], root / row[1] if len(row) == 2 else None) for row in rows)


def _from_tree(root: Path, split: str) -> Listing:
    suffix = f"_{PICTURES}.png"
    images = sorted((root / PICTURES / split).glob(f"*/*{suffix}"))
    if not images:
        raise InputError(
            f"{root / PICTURES / split}: expected CITY/CITY_000000_000019{suffix}, found none; give the "
            f"folder that holds {PICTURES} and {LABELS}"
        )
    if split == "test":
        return Listing(tuple(Pair(image, None) for image in images))
    stems = {image.name.removesuffix(suffix): image for image in images}
    labels = root / LABELS / split
    pairs = existing(Pair(image, _label_file(labels, stem)) for stem, image in stems.items())
    return joined([pairs, _without_picture(labels, stems)])


def _label_file(labels: Path, stem: str) -> Path:
    path = labels / stem.partition("_")[0] / f"{stem}_{LABELS}_labelIds.png"
    converted = _sibling(path, "labelTrainIds")
    return converted if not isfile(path) and isfile(converted) else path


def _without_picture(labels: Path, stems: dict[str, Path]) -> Listing:
    suffix = f"_{LABELS}_labelIds.png"
    alone = (
        path for path in sorted(labels.glob(f"*/*{suffix}")) if path.name.removesuffix(suffix) not in stems
    )
    return without_pictures(alone, PICTURES)


def _sibling(label: Path, kind: str) -> Path:
    return label.with_name(f"{label.stem.rpartition('_')[0]}_{kind}.png")


def _train_id_findings(label: Path, ids: NDArray[np.uint8]) -> list[Finding]:
    path = _sibling(label, "labelTrainIds")
    if not isfile(path):
        return []
    try:
        converted = read_label(path, classes=len(CLASSES), ignore_label=None)
    except InputError as error:
        return [Finding("broken", str(error))]
    if converted.shape == ids.shape and np.array_equal(converted, train_ids(ids)):
        return []
    return [
        Finding("odd", f"{path}: differs from the train ids of its labelIds; convert it anew or remove it")
    ]


def _instance_findings(label: Path, ids: NDArray[np.uint8]) -> list[Finding]:
    path = _sibling(label, "instanceIds")
    if not isfile(path):
        return []
    try:
        instances = read_instance_ids(path)
    except InputError as error:
        return [Finding("broken", str(error))]
    labels = np.where(instances < 1000, instances, instances // 1000)
    if labels.shape == ids.shape and np.array_equal(labels, ids):
        return []
    return [Finding("broken", f"{path}: its ids are not those of labelIds; restore both from one archive")]
