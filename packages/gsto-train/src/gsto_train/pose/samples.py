"""What a keypoint data set is: boxes in pictures, the joints in them, and the truth to score against."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gsto_train.pose.skeleton import Skeleton


@dataclass(frozen=True, eq=False)
class Person:
    """A box to find joints in.

    `picture` is the picture's id; `box` (x, y, width, height) in its pixels, `score` that of the detector, 1
    for an annotated box; `joints` (K, 3): x, y, and whether the joint is labelled (0 not, 1 hidden, 2 seen),
    all 0 for a detector's box. `name` tells a person which one it is.
    """

    picture: int
    box: NDArray[np.float64]
    joints: NDArray[np.float64]
    score: float
    name: str


class KeypointDataset(Protocol):
    """Boxes in pictures; reading a picture is thread-safe and depends on the person alone."""

    @property
    def skeleton(self) -> Skeleton:
        """The joints."""

    @property
    def persons(self) -> Sequence[Person]:
        """The boxes, in a fixed order; those of one picture are neighbours."""

    @property
    def pictures(self) -> Sequence[int]:
        """The ids of all pictures, those without a box too."""

    @property
    def annotations(self) -> Sequence[dict[str, Any]]:
        """The truth as COCO's files have it: every annotation, crowds and unlabelled ones too."""

    @property
    def box_source(self) -> str:
        """Where the boxes come from: "ground-truth" or "detector"."""

    def image(self, person: Person) -> NDArray[np.uint8]:
        """Return the person's picture, (H, W, 3) RGB; raises InputError where it does not read."""
