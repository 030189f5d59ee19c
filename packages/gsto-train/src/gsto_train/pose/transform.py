"""From a picture to a person's crop: box, scale, rotation, mirror, half body (HRNet's pose code)."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gsto_train.pose.skeleton import Skeleton

Floats = NDArray[np.float64]

_HALF_BODY_SCALE = 1.5

_FARTHEST = 2**31
"""Pixels; past it differences are no longer exact, and squares of them overflow."""


@dataclass(frozen=True)
class Region:
    """The part of a picture that a crop shows: `centre` (x, y), and `size` (width, height) in its pixels."""

    centre: tuple[float, float]
    size: tuple[float, float]

    @property
    def area(self) -> float:
        """Area in pixels of the picture; OKS-NMS takes it for the person's."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class CropAugmentation:
    """What is drawn for a crop, by HRNet's pose code; degrees, and factors around 1."""

    rotation: float = 45.0
    rotation_probability: float = 0.6
    scale: float = 0.35
    flip: bool = True
    half_body_probability: float = 0.3
    half_body_joints: int = 8


@dataclass(frozen=True)
class View:
    """How a region is shown: its `turn` in degrees, and whether the picture is `mirrored` first."""

    region: Region
    turn: float = 0.0
    mirrored: bool = False


def are_coordinates(values: Iterable[object]) -> bool:
    """Return whether all are numbers that a place in a picture may have: finite, and within 2^31."""
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _FARTHEST
        for value in values
    )


def clip_box(box: Floats, size: tuple[int, int]) -> Floats | None:
    """Return (x, y, w, h) inside a picture of `size` (height, width), None where nothing is left.

    As HRNet cleans annotated boxes: corners are pixels, so a box of width w ends at x + w - 1.
    """
    x, y, width, height = box
    left, top = max(0.0, x), max(0.0, y)
    right = min(size[1] - 1, left + max(0.0, width - 1))
    bottom = min(size[0] - 1, top + max(0.0, height - 1))
    if right <= left or bottom <= top:
        return None
    return np.array([left, top, right - left, bottom - top])


def region_of(box: Floats, crop: tuple[int, int], box_scale: float = 1.25) -> Region:
    """Return the region of a box (x, y, w, h), widened to the aspect of `crop` (height, width), scaled."""
    x, y, width, height = map(float, box)
    return _widened((x + width * 0.5, y + height * 0.5), width, height, crop, box_scale)


def _widened(
    centre: tuple[float, float], width: float, height: float, crop: tuple[int, int], factor: float
) -> Region:
    aspect = crop[1] / crop[0]
    if width > aspect * height:
        height = width / aspect
    else:
        width = height * aspect
    return Region(centre, (width * factor, height * factor))


def half_body(joints: Floats, skeleton: Skeleton, crop: tuple[int, int], prefer_upper: bool) -> Region | None:
    """Return the region of the upper or lower half's labelled joints; None where fewer than two are.

    The half asked for needs more than two, or the other one is taken, as in HRNet's pose code.
    """
    labelled = joints[:, 2] > 0
    is_upper = np.isin(np.arange(len(joints)), skeleton.upper)
    upper, lower = joints[labelled & is_upper, :2], joints[labelled & ~is_upper, :2]
    chosen = upper if prefer_upper and len(upper) > 2 else lower if len(lower) > 2 else upper
    if len(chosen) < 2:
        return None
    width, height = np.ptp(chosen, axis=0)
    x, y = chosen.mean(axis=0)
    return _widened((float(x), float(y)), float(width), float(height), crop, _HALF_BODY_SCALE)


def draw_view(
    region: Region,
    joints: Floats,
    skeleton: Skeleton,
    crop: tuple[int, int],
    augmentation: CropAugmentation,
    generator: np.random.Generator,
) -> View:
    """Return a random view of a person: half body, scale, rotation, mirror, in this order.

    All seven draws are always made, so that one setting does not shift the others.
    """
    half_chance, turn_chance, flip_chance = generator.random(3)
    half, scale, turn = generator.standard_normal(3)
    if np.count_nonzero(joints[:, 2] > 0) > augmentation.half_body_joints and (
        half_chance < augmentation.half_body_probability
    ):
        region = half_body(joints, skeleton, crop, prefer_upper=half < 0.5) or region
    spread = augmentation.scale
    factor = float(np.clip(1 + spread * scale, 1 - spread, 1 + spread))
    limit = 2 * augmentation.rotation
    degrees = float(np.clip(augmentation.rotation * turn, -limit, limit))
    return View(
        Region(region.centre, (region.size[0] * factor, region.size[1] * factor)),
        degrees if turn_chance < augmentation.rotation_probability else 0.0,
        augmentation.flip and bool(flip_chance < 0.5),
    )


def matrix_of(view: View, crop: tuple[int, int], width: int) -> Floats:
    """Return the (2, 3) map from a picture `width` pixels wide to a `crop` (height, width).

    The region's centre goes to (crop width / 2, crop height / 2) and its width to the crop's; a mirrored
    view maps x to width - 1 - x first. Source: HRNet's pose code.
    """
    x, y = view.region.centre
    scale = crop[1] / view.region.size[0]
    radians = np.deg2rad(view.turn)
    cosine, sine = scale * np.cos(radians), scale * np.sin(radians)
    linear = np.array([[cosine, sine], [-sine, cosine]])
    centre = np.array([width - 1 - x if view.mirrored else x, y])
    offset = np.array([crop[1] / 2, crop[0] / 2]) - linear @ centre
    if view.mirrored:
        offset = offset + linear[:, 0] * (width - 1)
        linear = linear * [-1, 1]
    return np.concatenate([linear, offset[:, None]], axis=1)


def warp(image: NDArray[np.uint8], matrix: Floats, crop: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the `crop` (height, width) of a picture: bilinear, black outside."""
    warped = cv2.warpAffine(image, matrix, (crop[1], crop[0]), flags=cv2.INTER_LINEAR)
    return np.asarray(warped, np.uint8)


def move(points: Floats, matrix: Floats) -> Floats:
    """Return (..., 2) points under a (2, 3) map."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def inverse(matrix: Floats) -> Floats:
    """Return the (2, 3) map back."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate([linear, -(linear @ matrix[:, 2:])], axis=1)


def move_joints(joints: Floats, view: View, matrix: Floats, skeleton: Skeleton) -> Floats:
    """Return (K, 3) joints in the crop; those of a mirrored view change sides."""
    moved = np.concatenate([move(joints[:, :2], matrix), joints[:, 2:]], axis=1)
    return moved[list(skeleton.mirrored)] if view.mirrored else moved
