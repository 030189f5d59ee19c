"""Semantic segmentation: one confusion matrix pooled over all pixels, and the scores read from it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

AbsentClasses = Literal["left out", "zero"]
"""What a class that occurs neither in the truth nor in the prediction is to a mean over classes."""


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of a confusion matrix, as fractions; nan where nothing was counted.

    `iou` of class c is TP / (TP + FP + FN), nan where c occurs neither in the truth nor in the
    prediction. `mean_iou` is the mean over the other classes, `pixel_accuracy` the share of correct
    pixels, `mean_accuracy` the mean of TP / (TP + FN) over the classes that occur in the truth.
    """

    mean_iou: float
    pixel_accuracy: float
    mean_accuracy: float
    iou: tuple[float, ...]


class ConfusionMatrix:
    """Pixel counts, rows the truth and columns the prediction, int64 so that no data set overflows it."""

    def __init__(self, classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)

    @classmethod
    def from_counts(cls, counts: ArrayLike) -> "ConfusionMatrix":
        """Return the matrix that holds a copy of `counts`, (K, K); raises ValueError for another shape."""
        array = np.array(counts, np.int64)
        if array.ndim != 2 or array.shape[0] != array.shape[1]:
            raise ValueError(f"confusion matrix: expected (K, K) counts, found shape {array.shape}")
        matrix = cls(len(array))
        matrix.counts = array
        return matrix

    def update(self, label: NDArray[np.integer], prediction: NDArray[np.integer]) -> None:
        """Count the pixels of `label` and `prediction`, integer arrays of one shape.

        Labels outside 0..K-1, such as 255 for ignore, are not counted. Raises ValueError where the shapes
        differ or a prediction is outside 0..K-1.
        """
        classes = len(self.counts)
        if label.shape != prediction.shape:
            shapes = f"{label.shape} and {prediction.shape}"
            raise ValueError(f"expected label and prediction of one shape, found {shapes}")
        if prediction.size and (prediction.min() < 0 or prediction.max() >= classes):
            found = f"{prediction.min()}..{prediction.max()}"
            raise ValueError(f"expected predictions of 0..{classes - 1}, found {found}")
        counted = (label >= 0) & (label < classes)
        cells = label[counted].astype(np.int64) * classes + prediction[counted]
        self.counts += np.bincount(cells, minlength=classes * classes).reshape(classes, classes)

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add the counts of `other`: the same as having updated with its pixels too."""
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"expected {len(self.counts)} classes, found {len(other.counts)}")
        self.counts += other.counts

    def scores(self, *, absent: AbsentClasses = "left out") -> SegmentationScores:
        """Return the scores of all that was counted so far.

        `absent` classes, those without a score, are left out of the means, as cityscapesScripts does, or
        count as "zero" in them, as the code of HRNet (and SCHP, for LIP) does: TP / max(1, TP + FP + FN)
        over all K.
        """
        correct, truth, predicted = self.counts.diagonal(), self.counts.sum(1), self.counts.sum(0)
        iou = _ratio(correct, truth + predicted - correct)
        return SegmentationScores(
            mean_iou=_mean(iou, absent),
            pixel_accuracy=float(_ratio(correct.sum(), truth.sum())),
            mean_accuracy=_mean(_ratio(correct, truth), absent),
            iou=tuple(map(float, iou)),
        )


def _ratio(part: NDArray[np.int64] | np.int64, whole: NDArray[np.int64] | np.int64) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(part / whole)


def _mean(values: NDArray[np.float64], absent: AbsentClasses) -> float:
    missing = np.isnan(values)
    if absent == "zero" and not missing.all():
        return float(np.where(missing, 0, values).mean())
    valid = values[~missing]
    return float(valid.mean()) if valid.size else float("nan")
