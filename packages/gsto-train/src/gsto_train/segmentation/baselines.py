"""What a network must beat: one class for every pixel, and a histogram of colour and position.

Both are fitted on whole training pictures and scored with the metric that scores the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gsto_train.data.samples import Dataset
from gsto_train.metrics import ConfusionMatrix, SegmentationScores


class Classifier(Protocol):
    """Anything that gives a class to each pixel of a picture."""

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the (H, W) class of each pixel of an (H, W, 3) RGB picture."""


@dataclass(frozen=True)
class ConstantAnswer:
    """The same class everywhere."""

    label: int

    @classmethod
    def fit(cls, dataset: Dataset) -> "ConstantAnswer":
        """Choose the most frequent class of `dataset`, the first of several.

        Of all constants it has the best mIoU there too: every other class scores 0, and its own IoU is
        its frequency.
        """
        pixels = np.zeros(256, np.int64)
        for index in range(len(dataset)):
            pixels += np.bincount(dataset[index].label.ravel(), minlength=256)
        return cls(int(pixels[: len(dataset.classes)].argmax()))

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the class, at every pixel of an (H, W, 3) picture."""
        return np.full(image.shape[:2], self.label, np.uint8)


@dataclass(frozen=True)
class Bins:
    """How finely a histogram tells pixels apart: steps per colour channel, rows and columns of a picture."""

    steps: int
    rows: int
    columns: int = 1

    @property
    def count(self) -> int:
        """Number of bins."""
        return self.steps**3 * self.rows * self.columns

    def of(self, image: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the (H, W) bin of each pixel of an (H, W, 3) picture; positions are shares of its size."""
        height, width = image.shape[:2]
        red, green, blue = np.moveaxis(image.astype(np.int64) * self.steps // 256, -1, 0)
        row = (np.arange(height) * self.rows // height)[:, None]
        column = np.arange(width) * self.columns // width
        colour = (red * self.steps + green) * self.steps + blue
        return np.asarray((colour * self.rows + row) * self.columns + column)


LEVELS = (Bins(steps=4, rows=8), Bins(steps=8, rows=16), Bins(steps=16, rows=32))
"""From coarse to fine; rows alone, because columns made it worse on CamVid and on generated scenes."""


class ColourPositionHistogram:
    """The most frequent training class among pixels of the same colour and place.

    The class of a bin is its most frequent one in training; an empty bin takes the answer of the next
    coarser one, and an empty coarsest bin the most frequent class of all.
    """

    def __init__(
        self, answers: Sequence[tuple[Bins, NDArray[np.uint8], NDArray[np.bool]]], default: int
    ) -> None:
        self._answers = answers
        self._default = default

    @classmethod
    def fit(cls, dataset: Dataset, levels: Sequence[Bins] = LEVELS) -> "ColourPositionHistogram":
        """Count the pixels of `dataset` per bin and class; `levels` go from coarse to fine."""
        classes = len(dataset.classes)
        counts = [np.zeros((bins.count, classes), np.int64) for bins in levels]
        for index in range(len(dataset)):
            sample = dataset[index]
            valid = sample.label < classes
            for bins, count in zip(levels, counts, strict=True):
                cells = bins.of(sample.image)[valid] * classes + sample.label[valid]
                count += np.bincount(cells, minlength=count.size).reshape(count.shape)
        answers = [
            (bins, count.argmax(axis=1).astype(np.uint8), np.asarray(count.any(axis=1)))
            for bins, count in zip(levels, counts, strict=True)
        ]
        return cls(answers, int(counts[0].sum(axis=0).argmax()))

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the class of each pixel's bin, for an (H, W, 3) picture."""
        prediction = np.full(image.shape[:2], self._default, np.uint8)
        for bins, answer, seen in self._answers:
            cells = bins.of(image)
            prediction = np.where(seen[cells], answer[cells], prediction)
        return prediction


def score(classifier: Classifier, dataset: Dataset) -> SegmentationScores:
    """Return the scores of `classifier` on the whole pictures of `dataset`."""
    matrix = ConfusionMatrix(len(dataset.classes))
    for index in range(len(dataset)):
        sample = dataset[index]
        matrix.update(sample.label, classifier.predict(sample.image))
    return matrix.scores()
