"""Cityscapes' official pixel-level scores, over label ids and instance ids.

The definitions are those of cityscapesScripts 2.3.0, evalPixelLevelSemanticLabeling; the tests hold both to
the same numbers. Instances weigh avgSize / size, a fraction; what is summed here are their shares of
correct pixels in units of 2^-42, so that all counts are integers: the order of pictures cannot matter, and
merging is exact.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsto_train.data.cityscapes import CLASSES, LABEL_IDS
from gsto_train.metrics.segmentation import SegmentationScores

NAMES: Mapping[int, str] = {each.id: each.name for each in CLASSES}
"""Label id -> name of the 19 classes that count, in the order of their train ids."""

CATEGORIES: Mapping[str, tuple[int, ...]] = {
    "flat": (7, 8), "construction": (11, 12, 13), "object": (17, 19, 20), "nature": (21, 22), "sky": (23,),
    "human": (24, 25), "vehicle": (26, 27, 28, 31, 32, 33),
}  # fmt: skip
"""Category -> the label ids of its classes that count."""

INSTANCE_CATEGORIES: Mapping[str, tuple[int, ...]] = {
    "human": (24, 25), "vehicle": (26, 27, 28, 29, 30, 31, 32, 33),
}  # fmt: skip
"""Category -> the label ids that are right for its instances: caravan and trailer are vehicles too."""

AVERAGE_SIZES: Mapping[int, float] = {
    24: 3462.4756337644, 25: 3930.4788056518, 26: 12794.0202738185, 27: 27855.1264367816,
    28: 35732.1511111111, 31: 67583.7075812274, 32: 6298.7200839748, 33: 4672.3249222261,
}  # fmt: skip
"""Label id -> mean size of its instances in pixels, as the official tool has them."""

_EVALUATED = [*NAMES]
_WITH_INSTANCES = [*AVERAGE_SIZES]
_SIZES = np.array([*AVERAGE_SIZES.values()])
_UNIT = 2.0**42


@dataclass(frozen=True)
class CityscapesScores(SegmentationScores):
    """The official scores, as fractions; nan where nothing was counted.

    `iou` is of the 19 classes in the order of their train ids; `instance_iou` (the tool's iIoU) by class,
    `category_iou` and `category_instance_iou` by category, each with its mean over those that are defined.
    `pixel_accuracy` and `mean_accuracy`, which the tool does not print, are over the pixels of the 19
    classes.
    """

    mean_instance_iou: float
    mean_category_iou: float
    mean_category_instance_iou: float
    instance_iou: Mapping[str, float]
    category_iou: Mapping[str, float]
    category_instance_iou: Mapping[str, float]


class CityscapesCounts:
    """Pixel counts by label id, and the instances with their correct shares, all int64.

    `pixels` is (34, 34), rows the truth and columns the prediction. `instances` is (8, 3), a row for each
    class of `AVERAGE_SIZES`: how many instances, and the sums of their shares of pixels with the right
    class and the right category, in units of 2^-42 (exact enough for two million instances of a class).
    """

    def __init__(self) -> None:
        self.pixels: NDArray[np.int64] = np.zeros((LABEL_IDS, LABEL_IDS), np.int64)
        self.instances: NDArray[np.int64] = np.zeros((len(_WITH_INSTANCES), 3), np.int64)

    @classmethod
    def from_counts(cls, pixels: NDArray[np.int64], instances: NDArray[np.int64]) -> "CityscapesCounts":
        """Return what holds copies of both arrays, say sums over processes; raises ValueError for a shape."""
        counts = cls()
        found = pixels.shape, instances.shape
        if found != (counts.pixels.shape, counts.instances.shape):
            raise ValueError(
                f"expected counts of shapes (34, 34) and (8, 3), found {found[0]} and {found[1]}"
            )
        counts.pixels, counts.instances = np.array(pixels, np.int64), np.array(instances, np.int64)
        return counts

    def update(
        self,
        label: NDArray[np.integer],
        prediction: NDArray[np.integer],
        instances: NDArray[np.integer] | None = None,
    ) -> None:
        """Count the pixels of `label` and `prediction`, label ids, and the instances of `instances`, if
        given.

        All have one shape. An instance is a value above 1000, label id x 1000 + number, as in an instanceIds
        file. Raises ValueError where shapes differ or a value is no id.
        """
        arrays = [label, prediction, *([] if instances is None else [instances])]
        if len({array.shape for array in arrays}) > 1:
            raise ValueError(f"expected arrays of one shape, found {', '.join(str(a.shape) for a in arrays)}")
        _check_ids("labels", label)
        _check_ids("predictions", prediction)
        cells = label.ravel().astype(np.int64) * LABEL_IDS + prediction.ravel()
        found = None if instances is None else _instances(instances, prediction)
        self.pixels += np.bincount(cells, minlength=LABEL_IDS * LABEL_IDS).reshape(LABEL_IDS, LABEL_IDS)
        if found is not None:
            self.instances += found

    def merge(self, other: "CityscapesCounts") -> None:
        """Add the counts of `other`: the same as having updated with its pictures too."""
        self.pixels += other.pixels
        self.instances += other.instances

    def scores(self) -> CityscapesScores:
        """Return the scores of all that was counted so far."""
        iou = [self._iou((label,)) for label in NAMES]
        instance = {NAMES[label]: self._instance_iou((label,), (label,), 1) for label in _WITH_INSTANCES}
        category = {name: self._iou(labels) for name, labels in CATEGORIES.items()}
        category_instance = {
            name: self._instance_iou(CATEGORIES[name], labels, 2)
            for name, labels in INSTANCE_CATEGORIES.items()
        }
        right, truth = self.pixels[_EVALUATED, _EVALUATED], self.pixels[_EVALUATED].sum(1)
        return CityscapesScores(
            mean_iou=_mean(iou),
            pixel_accuracy=_ratio(int(right.sum()), int(truth.sum())),
            mean_accuracy=_mean(map(_ratio, right.tolist(), truth.tolist())),
            iou=tuple(iou),
            mean_instance_iou=_mean(instance.values()),
            mean_category_iou=_mean(category.values()),
            mean_category_instance_iou=_mean(category_instance.values()),
            instance_iou=instance,
            category_iou=category,
            category_instance_iou=category_instance,
        )

    def _iou(self, labels: tuple[int, ...]) -> float:
        """TP / (TP + FP + FN) of a set of labels taken as one."""
        rows = self.pixels[list(labels)]
        right, truth = int(rows[:, list(labels)].sum()), int(rows.sum())
        return _ratio(right, truth + self._false_positives(labels, labels))

    def _instance_iou(self, labels: tuple[int, ...], right: tuple[int, ...], column: int) -> float:
        """Weighted iTP / (iTP + iFN + FP); all instances of a class weigh its average size together."""
        rows = [_WITH_INSTANCES.index(label) for label in labels]
        shares = self.instances[rows, column] / _UNIT
        false_positives = self._false_positives(labels, right)
        whole = float(_SIZES[rows] @ self.instances[rows, 0]) + false_positives
        return _ratio(float(_SIZES[rows] @ shares), whole)

    def _false_positives(self, labels: tuple[int, ...], predicted: tuple[int, ...]) -> int:
        """Pixels predicted as one of `predicted` whose truth counts and is none of `labels`."""
        others = [label for label in _EVALUATED if label not in labels]
        return int(self.pixels[others][:, list(predicted)].sum())


def _check_ids(what: str, ids: NDArray[np.integer]) -> None:
    if ids.size and (ids.min() < 0 or ids.max() >= LABEL_IDS):
        raise ValueError(f"expected {what} that are ids, 0..{LABEL_IDS - 1}, found {ids.min()}..{ids.max()}")


def _instances(instances: NDArray[np.integer], prediction: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return what one picture adds to `CityscapesCounts.instances`."""
    inside = instances > 1000
    numbers, which, sizes = np.unique(instances[inside], return_inverse=True, return_counts=True)
    labels, predicted = (numbers // 1000).astype(np.int64), prediction[inside]
    _check_labels(numbers, labels)
    right_class = np.bincount(which, predicted == labels[which], len(labels))
    categories = _CATEGORY[predicted] == _CATEGORY[labels][which]
    right_category = np.bincount(which, categories, len(labels))
    units = np.stack([right_class, right_category]) / sizes * _UNIT
    added = np.zeros((len(_WITH_INSTANCES), 3), np.int64)
    for row, label in enumerate(_WITH_INSTANCES):
        own = labels == label
        added[row] = own.sum(), *np.rint(units[:, own]).astype(np.int64).sum(1)
    return added


def _check_labels(numbers: NDArray[np.integer], labels: NDArray[np.int64]) -> None:
    """Raise ValueError for an instance of a class that counts but has no instances, or of no class."""
    wrong = (labels >= LABEL_IDS) | (np.isin(labels, _EVALUATED) & ~np.isin(labels, _WITH_INSTANCES))
    if wrong.any():
        raise ValueError(
            f"expected instances of the labels {', '.join(map(str, _WITH_INSTANCES))} or of ignored ones, "
            f"found {numbers[wrong][0]} (label x 1000 + number)"
        )


def _category_of_ids() -> NDArray[np.int64]:
    category = np.full(LABEL_IDS, -1)
    for index, labels in enumerate(INSTANCE_CATEGORIES.values()):
        category[list(labels)] = index
    return category


_CATEGORY = _category_of_ids()


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _mean(values: Iterable[float]) -> float:
    valid = [value for value in values if not math.isnan(value)]
    return sum(valid) / len(valid) if valid else float("nan")
