"""LIP (Look into Person, one person a picture), as its archives unpack, or list files of it.

TrainVal_images/{train,val}_images/ID.jpg and TrainVal_parsing_annotations/{train,val}_segmentations/ID.png;
also the lists of HRNet and GSTO (`image label [reversed label [edges]]`, relative to those two folders) and
of JPPNet (`/images/ID.jpg /labels/ID.png /labels_rev/ID.png`, relative to the data set's folder).
"""

from dataclasses import replace
from os.path import isfile
from pathlib import Path

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
from gsto_train.data.palette import default_palette
from gsto_train.data.pictures import read_label
from gsto_train.data.samples import Sample
from gsto_train.errors import InputError, nearest

SPLITS = {"train": 30462, "val": 10000}
"""Number of pictures in each split; the labels of the test split are not public."""

PICTURES, LABELS = "TrainVal_images", "TrainVal_parsing_annotations"

CLASSES = (
    "Background", "Hat", "Hair", "Glove", "Sunglasses", "Upper-clothes", "Dress", "Coat", "Socks", "Pants",
    "Jumpsuits", "Scarf", "Skirt", "Face", "Left-arm", "Right-arm", "Left-leg", "Right-leg", "Left-shoe",
    "Right-shoe",
)  # fmt: skip

FLIP_PAIRS = ((14, 15), (16, 17), (18, 19))
"""Classes that swap when a picture is mirrored: arms, legs, shoes."""

TABLE = ClassTable(CLASSES, default_palette(len(CLASSES)))


class Lip(LabelledFiles):
    """One split of LIP: "train", "val", or a list file.

    Where the data set gives a label reversed (mirrored, left and right swapped), it is the sample's
    `mirrored_label`; `inspect` compares it with what mirroring by `FLIP_PAIRS` gives. Raises InputError for
    an unknown split, and for missing files unless `skip_missing`.
    """

    def __init__(self, root: str | Path, split: str, *, skip_missing: bool = False) -> None:
        self._root = existing_folder(root)
        self._reversed: dict[Path, Path] = {}
        listing = self._from_list(self._root / split) if is_list(split) else self._from_tree(split)
        super().__init__(
            listing,
            TABLE,
            lambda pair, path: _read(path),
            skip_missing=skip_missing,
            official_count=SPLITS.get(split),
        )

    def __getitem__(self, index: int) -> Sample:
        """Read pair `index`, its reversed label too; raises InputError as `LabelledFiles` does."""
        sample, path = super().__getitem__(index), self._reversed_label(index)
        if path is None:
            return sample
        given = _read(path)
        if given.shape != sample.label.shape:
            raise InputError(
                f"{path}: this reversed label is {_told(given)}, its label {_told(sample.label)} (width x "
                "height); expected the same size: restore it, or remove it"
            )
        return replace(sample, mirrored_label=given)

    def inspect(self, index: int) -> tuple[Finding, ...]:
        """Compare a picture's reversed label, where there is one, with its label mirrored and swapped."""
        label, path = self.listing.pairs[index].label, self._reversed_label(index)
        if label is None or path is None or np.array_equal(_read(path), mirrored(_read(label))):
            return ()
        text = f"{path}: is not its label mirrored with left and right swapped; training takes it as it is"
        return (Finding("odd", f"{text}, remove it to have the label itself mirrored"),)

    def _reversed_label(self, index: int) -> Path | None:
        label = self.listing.pairs[index].label
        path = self._reversed.get(label) if label else None
        return path if path is not None and isfile(path) else None

    def _from_list(self, path: Path) -> Listing:
        pairs = list[Pair]()
        for number, line in list_lines(path):
            names = columns(path, number, line, most=4)
            pair = Pair(self._find(PICTURES, names[0]), self._find(LABELS, names[1]))
            pairs.append(pair)
            if len(names) > 2 and pair.label:
                self._reversed[pair.label] = self._find(LABELS, names[2])
        return existing(pairs)

    def _find(self, folder: str, name: str) -> Path:
        within = name.lstrip("/")
        choices = (self._root / folder / within, self._root / within)
        return next((path for path in choices if isfile(path)), choices[name.startswith("/")])

    def _from_tree(self, split: str) -> Listing:
        if split not in SPLITS:
            hint = nearest(split, SPLITS)
            known = f"{', '.join(SPLITS)} or a list file (.lst, .txt)"
            raise InputError(f"LIP: expected a split of {known}, found {split!r}{hint}")
        folder = self._root / PICTURES / f"{split}_images"
        labels = self._root / LABELS / f"{split}_segmentations"
        images = sorted(folder.glob("*.jpg"))
        if not images:
            mend = f"give the folder that holds {PICTURES} and {LABELS}"
            raise InputError(f"{folder}: expected pictures ID.jpg, found none; {mend}")
        pairs = [Pair(image, labels / f"{image.stem}.png") for image in images]
        if backwards := self._reversed_folder(split):
            self._reversed = {pair.label: backwards / pair.label.name for pair in pairs if pair.label}
        stems = {image.stem for image in images}
        alone = (path for path in sorted(labels.glob("*.png")) if path.stem not in stems)
        return joined([existing(pairs), without_pictures(alone, PICTURES)])

    def _reversed_folder(self, split: str) -> Path | None:
        """Return where reversed labels lie: beside the labels, or beside their folder."""
        name = f"{split}_segmentations_reversed"
        return next((path for path in (self._root / LABELS / name, self._root / name) if path.is_dir()), None)


def mirrored(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an (H, W) label of the mirrored picture: columns reversed, left and right parts swapped."""
    swapped = np.arange(256, dtype=np.uint8)
    for left, right in FLIP_PAIRS:
        swapped[[left, right]] = right, left
    return np.asarray(swapped[label[:, ::-1]])


def _told(label: NDArray[np.uint8]) -> str:
    return f"{label.shape[1]}x{label.shape[0]}"


def _read(path: Path) -> NDArray[np.uint8]:
    return read_label(path, classes=len(CLASSES), ignore_label=None)
