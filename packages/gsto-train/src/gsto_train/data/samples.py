"""What a data set is: a sequence of pictures with one class index per pixel."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

IGNORE_LABEL = 255
"""Label of the pixels that neither the loss nor a metric counts."""

MAX_CLASSES = 254
"""Largest number of classes that 8-bit labels hold beside the ignore label."""

Palette = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture and its labels.

    `image` is (H, W, 3) RGB; `label` is (H, W) with class indices and 255 for ignore; `name` tells a
    person which picture it is: a file path, or "scene 12 of train". `mirrored_label` is the label of the
    mirrored picture where the data set gives one; elsewhere it follows from `label`.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    name: str
    mirrored_label: NDArray[np.uint8] | None = None


class Dataset(Protocol):
    """A finite sequence of samples; reading one is thread-safe and depends on its index alone.

    A data set without `__iter__` on purpose: `dataset[i]` is called for i in range(len(dataset)).
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices."""

    @property
    def palette(self) -> Palette:
        """One RGB colour per class, for drawing."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`; raises IndexError outside 0..len - 1."""


def default_palette(classes: int) -> Palette:
    """Return `classes` distinct RGB colours, always the same ones: hues a golden angle apart."""
    hues = (np.arange(classes) * 0.618034) % 1.0
    values = np.array([230.0, 165.0, 110.0])[np.arange(classes) % 3]
    ramps = np.abs((hues[:, None] + np.array([0.0, 2 / 3, 1 / 3])) % 1.0 * 6 - 3) - 1
    colours = values[:, None] * (0.25 + 0.75 * np.clip(ramps, 0, 1))
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colours)
