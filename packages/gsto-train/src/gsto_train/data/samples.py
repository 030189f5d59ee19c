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
