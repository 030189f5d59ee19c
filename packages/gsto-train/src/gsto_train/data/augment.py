"""Random scale, crop and flip, and normalisation, as HRNet's training code does them (section 4.3)."""

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
    """
    scale = augmentation.scales[generator.integers(len(augmentation.scales))]
    size = _scaled_size(sample.label.shape, augmentation.base_size, scale)
    height, width = augmentation.crop
    top = int(generator.integers(max(size[0] - height, 0) + 1))
    left = int(generator.integers(max(size[1] - width, 0) + 1))
    flipped = generator.random() < 0.5 and augmentation.flip
    image, label = resize(_labelled_for(sample, flipped, augmentation.flip_pairs), size)
    image, label = _pad(image, label, augmentation.crop)
    image, label = (array[top : top + height, left : left + width] for array in (image, label))
    if flipped:
        image, label = image[:, ::-1], label[:, ::-1]
    return Sample(np.ascontiguousarray(image), np.ascontiguousarray(label), sample.name)


def normalize(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (H, W, 3) RGB as (3, H, W) float32: value / 255, minus ImageNet's mean, over its deviation."""
    normalized = cv2.LUT(image, _NORMALIZED)
    return np.ascontiguousarray(normalized.transpose(2, 0, 1), dtype=np.float32)


# One entry per value and channel, rounded to float32 once: faster than arithmetic, and exact.
_NORMALIZED = ((np.arange(256)[None, :, None] / 255 - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32)


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
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, sample.label.shape, strict=True))
    return np.asarray(image, np.uint8), sample.label.take(rows, axis=0).take(columns, axis=1)


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
