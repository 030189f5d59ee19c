"""Generated articulated figures: pictures of one person each, with COCO's 17 joints."""

import zlib
from functools import cached_property
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gsto_train.pose.samples import Person
from gsto_train.pose.skeleton import COCO

Floats = NDArray[np.float64]

_FIGURE_STREAM = 5
_SHIFT = 4
"""cv2 draws in 1/16 pixels."""

_FACING_US = 0.75
_SKIN, _HAIR = (236, 196, 160), (36, 26, 20)

_JOINT = {name: number for number, name in enumerate(COCO.joints)}


class GeneratedFigures:
    """`count` pictures of `size` (height, width) with one figure each, drawn when asked for, never stored.

    Limbs turn freely within human bounds, figures lean, and limbs may hide others. One figure in four turns
    its back and then shows dark hair where others have eyes: that alone tells left from right, so that a
    mirrored picture with swapped sides is as good as any. Figure i is
    a function of (seed, split, i) alone, splits are disjoint streams. Joints outside the picture are not
    labelled, all others are, covered or not.
    """

    skeleton = COCO
    box_source = "ground-truth"

    def __init__(
        self, count: int, *, size: tuple[int, int] = (128, 96), seed: int = 0, split: str = "train"
    ) -> None:
        self._count, self._size, self._seed, self._split = count, size, seed, split

    @property
    def pictures(self) -> range:
        """The ids of all pictures."""
        return range(1, self._count + 1)

    @cached_property
    def persons(self) -> list[Person]:
        """One person a picture; the box is the extent of the joints, 15% wider on each side."""
        return [self._person(number) for number in self.pictures]

    @cached_property
    def annotations(self) -> list[dict[str, Any]]:
        """The truth as COCO's files have it; the area is half of the box's."""
        return [
            {
                "id": person.picture,
                "image_id": person.picture,
                "keypoints": person.joints.ravel().tolist(),
                "bbox": person.box.tolist(),
                "area": 0.5 * float(person.box[2] * person.box[3]),
            }
            for person in self.persons
        ]

    def image(self, person: Person) -> NDArray[np.uint8]:
        """Draw the person's picture, (H, W, 3) RGB."""
        generator = self._generator(person.picture)
        joints = _pose(generator, self._size)
        canvas = _background(generator, self._size)
        _draw(canvas, joints, generator)
        noise = generator.normal(0, 6, canvas.shape)
        return np.clip(canvas + noise, 0, 255).astype(np.uint8)

    def _person(self, number: int) -> Person:
        joints = _pose(self._generator(number), self._size)
        low, high = joints.min(axis=0), joints.max(axis=0)
        margin = 0.15 * float((high - low).max())
        box = np.concatenate([low - margin, high - low + 2 * margin])
        last = np.array(self._size[::-1]) - 1
        inside = np.asarray(((joints >= 0) & (joints <= last)).all(axis=1))
        labelled = np.concatenate([joints, 2.0 * inside[:, None]], axis=1) * inside[:, None]
        return Person(number, box, labelled, 1.0, f"figure {number} of {self._split}")

    def _generator(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(self._split.encode()), number, _FIGURE_STREAM])


def _pose(generator: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Return the 17 joints (x, y) of a figure somewhere in a picture of `size`."""
    height = generator.uniform(0.6, 0.85) * size[0]
    lean = generator.normal(0, 0.15)
    facing = 1.0 if generator.random() < _FACING_US else -1.0  # Who faces us has the left on our right.
    joints = _body(generator, facing) * height
    turn = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
    joints = joints @ turn.T
    low, high = joints.min(axis=0), joints.max(axis=0)
    room = np.maximum(np.array(size[::-1]) - (high - low), 0)
    return np.asarray(joints - low + generator.uniform(0.1, 0.9, 2) * room)


def _body(generator: np.random.Generator, facing: float) -> Floats:
    """Return joints in body heights, y downwards, the neck at the origin."""
    joints = np.zeros((17, 2))
    shoulder, hip = generator.uniform(0.09, 0.13), generator.uniform(0.05, 0.08)
    head = np.array([generator.normal(0, 0.02), -0.11])
    places = {"nose": (0.0, 0.0), "eye": (0.018, -0.015), "ear": (0.04, -0.005)}
    for side, sign in (("left", facing), ("right", -facing)):
        for part in ("eye", "ear"):
            joints[_JOINT[f"{side}_{part}"]] = head + np.array(places[part]) * [sign, 1]
        top, base = np.array([sign * shoulder, 0.0]), np.array([sign * hip, 0.3])
        arm = sign * generator.normal([0.5, 0.4], [0.6, 0.8])
        leg = sign * generator.normal([0.12, -0.1], [0.25, 0.3])
        _limb(joints, side, ("shoulder", "elbow", "wrist"), top, arm, (0.17, 0.15))
        _limb(joints, side, ("hip", "knee", "ankle"), base, leg, (0.24, 0.23))
    joints[_JOINT["nose"]] = head
    return joints


def _limb(
    joints: Floats,
    side: str,
    names: tuple[str, str, str],
    start: Floats,
    angles: Floats,
    lengths: tuple[float, float],
) -> None:
    """Place a limb of two parts: `angles` from straight down, the second relative to the first."""
    first, second = angles[0], angles[0] + angles[1]
    middle = start + lengths[0] * np.array([np.sin(first), np.cos(first)])
    end = middle + lengths[1] * np.array([np.sin(second), np.cos(second)])
    for name, place in zip(names, (start, middle, end), strict=True):
        joints[_JOINT[f"{side}_{name}"]] = place


def _background(generator: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture of a few soft patches and bars that are no limbs."""
    coarse = generator.uniform(40, 215, (4, 3, 3)).astype(np.float32)
    canvas = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    picture = np.clip(canvas, 0, 255).astype(np.uint8)
    for _ in range(int(generator.integers(0, 4))):
        ends = generator.uniform(0, 1, (2, 2)) * size[::-1]
        _stroke(picture, ends[0], ends[1], 0.02 * size[0], generator.uniform(0, 255, 3))
    return picture


def _draw(canvas: NDArray[np.uint8], joints: Floats, generator: np.random.Generator) -> None:
    """Draw limbs, trunk and head; which side is in front is drawn by lot."""
    height = float(np.ptp(joints[:, 1]))
    left, right, trunk = generator.uniform(30, 225, (3, 3))
    sides = [("left", left), ("right", right)]
    behind, before = sides if generator.random() < 0.5 else sides[::-1]
    _limbs(canvas, joints, *behind, height)
    corners = [joints[_JOINT[name]] for name in ("left_shoulder", "right_shoulder", "right_hip", "left_hip")]
    cv2.fillConvexPoly(canvas, _fixed(np.array(corners)), trunk.tolist(), cv2.LINE_AA, _SHIFT)
    _head(canvas, joints, 0.055 * height)
    _limbs(canvas, joints, *before, height)


def _head(canvas: NDArray[np.uint8], joints: Floats, radius: float) -> None:
    """Draw a face with eyes on a figure that faces us, dark hair on one that does not."""
    across = joints[_JOINT["left_shoulder"]] - joints[_JOINT["right_shoulder"]]
    down = joints[_JOINT["left_hip"]] - joints[_JOINT["left_shoulder"]]
    faces_us = across[0] * down[1] - across[1] * down[0] > 0
    _dot(canvas, joints[_JOINT["nose"]], radius, _SKIN if faces_us else _HAIR)
    for side in ("left", "right"):
        _dot(canvas, joints[_JOINT[f"{side}_ear"]], 0.25 * radius, _SKIN)
        if faces_us:
            _dot(canvas, joints[_JOINT[f"{side}_eye"]], 0.2 * radius, _HAIR)


def _dot(canvas: NDArray[np.uint8], centre: Floats, radius: float, colour: tuple[int, int, int]) -> None:
    cv2.circle(canvas, _fixed(centre).tolist(), round(radius * 2**_SHIFT), colour, -1, cv2.LINE_AA, _SHIFT)


def _limbs(canvas: NDArray[np.uint8], joints: Floats, side: str, colour: Floats, height: float) -> None:
    chains = (("hip", "knee", "ankle"), ("shoulder", "elbow", "wrist"))
    for chain in chains:
        for number, (start, end) in enumerate(pairwise(chain)):
            ends = joints[_JOINT[f"{side}_{start}"]], joints[_JOINT[f"{side}_{end}"]]
            _stroke(canvas, *ends, (0.06 - 0.015 * number) * height, colour * (1.0 - 0.3 * number))


def _stroke(canvas: NDArray[np.uint8], start: Floats, end: Floats, width: float, colour: Floats) -> None:
    shade = colour.clip(0, 255).tolist()
    points = _fixed(np.stack([start, end]))
    cv2.line(canvas, points[0].tolist(), points[1].tolist(), shade, max(1, round(width)), cv2.LINE_AA, _SHIFT)


def _fixed(points: Floats) -> NDArray[np.int32]:
    return np.asarray(np.rint(points * 2**_SHIFT), np.int32)
