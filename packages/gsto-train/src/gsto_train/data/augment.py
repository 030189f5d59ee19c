"""Random scale, crop and flip, and normalisation, as HRNet's training code does them (section 4.3)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from gsto_train.data.samples import IGNORE_LABEL, Sample

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of R, G, B in 0..1."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of R, G, B in 0..1."""

SCALES = tuple(0.5 + k / 10 for k in range(17))
"""0.5, 0.6, ..., 2.1: HRNet's training code (the paper's text says up to 2)."""


@dataclass(frozen=True)
class Augmentation:
    """How a training crop is cut from a picture.

    `crop` is (height, width) in pixels. The picture is resized so that its long side is
    int(base_size * scale + 0.5), or by the scale itself where `base_size` is None, with the scale drawn
    from `scales`. With `flip`, half of the crops are mirrored, and the classes of each of `flip_pairs`
    (left arm, right arm) are then swapped.
    """

    crop: tuple[int, int]
    base_size: int | None = None
    scales: tuple[float, ...] = SCALES
    flip: bool = True
    flip_pairs: tuple[tuple[int, int], ...] = ()


def augment(sample: Sample, augmentation: Augmentation, generator: np.random.Generator) -> Sample:
    """Return a crop of exactly `augmentation.crop`: scale, pad right and bottom, crop, flip, in this order.

    The four draws (scale, top, left, flip) are always made, so that one setting does not shift the others.
    Only what the crop shows is resized: the label as if all of it were, the picture to one grey level.
    """
    scale = augmentation.scales[generator.integers(len(augmentation.scales))]
    size = _scaled_size(sample.label.shape, augmentation.base_size, scale)
    height, width = augmentation.crop
    top = int(generator.integers(max(size[0] - height, 0) + 1))
    left = int(generator.integers(max(size[1] - width, 0) + 1))
    flipped = generator.random() < 0.5 and augmentation.flip
    shown = (slice(top, min(top + height, size[0])), slice(left, min(left + width, size[1])))
    image, label = _resized_part(_labelled_for(sample, flipped, augmentation.flip_pairs), size, shown)
    image, label = _pad(image, label, augmentation.crop)
    image, label = (
        np.ascontiguousarray(cv2.flip(array, 1) if flipped else array, np.uint8) for array in (image, label)
    )
    return Sample(image, label, sample.name)


def normalize(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (H, W, 3) RGB as (3, H, W) float32: value / 255, minus ImageNet's mean, over its deviation."""
    normalized = np.empty((3, *image.shape[:2]), np.float32)
    for channel, table, plane in zip(cv2.split(image), _NORMALIZED, normalized, strict=True):
        cv2.LUT(channel, table, dst=plane)
    return normalized


# One entry per channel and value, rounded to float32 once: faster than arithmetic, and exact.
_NORMALIZED = ((np.arange(256)[:, None] / 255 - IMAGENET_MEAN) / IMAGENET_STD).T.astype(np.float32, "C")


def _scaled_size(size: tuple[int, ...], base_size: int | None, scale: float) -> tuple[int, int]:
    height, width = size
    if base_size is None:
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    long_side = max(1, int(base_size * scale + 0.5))
    short_side = max(1, int(min(size) * long_side / max(size) + 0.5))
    return (long_side, short_side) if height > width else (short_side, long_side)


def _labelled_for(sample: Sample, flipped: bool, pairs: tuple[tuple[int, int], ...]) -> Sample:
    """Return the sample with the label that a mirrored crop shows, still the right way round."""
    if not flipped:
        return sample
    given = sample.mirrored_label
    return replace(sample, label=_swap(sample.label, pairs) if given is None else given[:, ::-1])


def resize(sample: Sample, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return image and label at `size`: bilinear with half-pixel centres, and nearest, floor(i in / out)."""
    if size == sample.label.shape:
        return sample.image, sample.label
    image = cv2.resize(sample.image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(image, np.uint8), _nearest(sample.label, size, (slice(size[0]), slice(size[1])))


def _nearest(label: NDArray[np.uint8], size: tuple[int, int], part: tuple[slice, slice]) -> NDArray[np.uint8]:
    """Return a part, in pixels of the result, of a label at `size`."""
    rows, columns = (
        np.arange(new)[shown] * old // new for new, old, shown in zip(size, label.shape, part, strict=True)
    )
    return np.asarray(label.take(rows, axis=0).take(columns, axis=1))


def _resized_part(
    sample: Sample, size: tuple[int, int], part: tuple[slice, slice]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a part, in pixels of the result, of image and label at `size`."""
    if size == sample.label.shape:
        return sample.image[part], sample.label[part]
    if not _WARPS_IN_FLOATING_POINT:
        image, label = resize(sample, size)
        return image[part], label[part]
    warped = cv2.warpAffine(
        sample.image,
        _source_of(part, [old / new for old, new in zip(sample.label.shape, size, strict=True)]),
        (part[1].stop - part[1].start, part[0].stop - part[0].start),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(warped, np.uint8), _nearest(sample.label, size, part)


# OpenCV 4 rounds places to 1/32 of a pixel.
_WARPS_IN_FLOATING_POINT = int(cv2.__version__.split(".")[0]) >= 5


def _source_of(part: tuple[slice, slice], factors: Sequence[float]) -> NDArray[np.float64]:
    """Return the (2, 3) map from pixels (x, y) of a part to the picture, with half-pixel centres."""
    (top, left), (vertical, horizontal) = (each.start for each in part), factors
    return np.array([
        [horizontal, 0, (left + 0.5) * horizontal - 0.5],
        [0, vertical, (top + 0.5) * vertical - 0.5],
    ])  # fmt: skip


def _pad(
    image: NDArray[np.uint8], label: NDArray[np.uint8], crop: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    bottom, right = (max(0, want - have) for want, have in zip(crop, label.shape, strict=True))
    if bottom == right == 0:
        return image, label
    image = np.pad(image, ((0, bottom), (0, right), (0, 0)))
    return image, np.pad(label, ((0, bottom), (0, right)), constant_values=IGNORE_LABEL)


def _swap(label: NDArray[np.uint8], pairs: tuple[tuple[int, int], ...]) -> NDArray[np.uint8]:
    if not pairs:
        return label
    swapped = np.arange(256, dtype=np.uint8)
    for left, right in pairs:
        swapped[left], swapped[right] = right, left
    return swapped[label]
