"""Test procedures: from a picture to one class per pixel by a network's logits at several scales and windows.

A picture is resized to each scale, predicted whole or in windows, mirrored too where asked for, and the
scores are summed over scales at the picture's size. Scores are made one class at a time from the logits at
network stride, so that no array of classes x height x width is ever held. The arithmetic follows the test
code of HRNet and of GSTO's release (`multi_scale_inference`).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from gsto_spec.backend import Predictor
from gsto_spec.reference import interpolation
from gsto_train.data.augment import IMAGENET_MEAN, IMAGENET_STD

Aggregation = Literal["logits", "probabilities", "exponentials"]
Size = tuple[int, int]
Floats = NDArray[np.floating[Any]]

_BLACK = -np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)
"""Black, as it looks to a network after normalisation."""

_LARGEST_EXPONENT = 690.0
"""Leaves room to sum 10^8 exponentials in float64."""


@dataclass(frozen=True)
class Procedure:
    """How a picture is predicted. Sizes are (height, width) in pixels.

    At each of `scales` the long side becomes int(base_size * scale + 0.5), without `base_size` both sides
    their own times the scale, and with `size` they become int(size * scale + 0.5) whatever the aspect
    (LIP). Scales above `window_above` are predicted in windows of `window`, padded with black at the right
    and bottom where the picture is smaller, at strides of `stride` (None: the window), the last row and
    column moved back inside. With `flip` the mirrored picture is predicted too, mirrored back, the channels
    of each of `flip_pairs` swapped.

    `aggregation` says what is averaged over both mirrorings and over windows, and summed over scales:
    "logits"; softmax "probabilities"; or "exponentials" of the logits' mean over both mirrorings, as the
    release does. The latter two are taken at the resolution of the network's input and resized to the
    picture; logits of whole pictures are resized once. Every resizing of scores has the network's bilinear
    convention, pictures are resized with half-pixel centres, after normalisation.
    """

    scales: tuple[float, ...] = (1.0,)
    base_size: int | None = None
    size: Size | None = None
    window: Size | None = None
    stride: Size | None = None
    window_above: float = 0.0
    flip: bool = False
    flip_pairs: tuple[tuple[int, int], ...] = ()
    aggregation: Aggregation = "logits"

    @property
    def protocol(self) -> str:
        """What is done, in words, to stand beside every score."""
        resized = f"pictures resized to {_told(self.size)}; " if self.size else ""
        numbers = ", ".join(f"{scale:g}" for scale in self.scales)
        scales = "one scale" if self.scales == (1.0,) else f"scales {numbers}"
        base = f" of a long side of {self.base_size}" if self.base_size and not self.size else ""
        flip = "averaged with the mirrored picture" if self.flip else "no flip"
        pairs = ", ".join(f"{left} and {right}" for left, right in self.flip_pairs if self.flip)
        swapped = f" (classes {pairs} swapped)" if pairs else ""
        return f"{resized}{self._extent}, {scales}{base}, {flip}{swapped}; {self._aggregated}"

    @property
    def _extent(self) -> str:
        if self.window is None:
            return "whole pictures"
        whole = f"whole pictures up to scale {self.window_above:g}, above " if self.window_above else ""
        stride = _told(self.stride or self.window)
        return (
            f"{whole}windows of {_told(self.window)} at strides of {stride} (the last moved back inside, "
            "smaller pictures padded with black)"
        )

    @property
    def _aggregated(self) -> str:
        over = [
            *(["windows averaged"] if self.window else []),
            *(["scales summed"] if len(self.scales) > 1 else []),
        ]
        what = {
            "logits": "logits",
            "probabilities": "softmax probabilities",
            "exponentials": "exponentials of the logits",
        }[self.aggregation]
        return f"{', '.join([what, *over])}{',' if over else ''} resized bilinearly to the label"

    def inputs(self, size: Size) -> tuple[Size, ...]:
        """Return the sizes of what the network gets of a picture of `size`, one per scale."""
        return tuple(self.window_at(scale) or self.scaled(size, scale) for scale in self.scales)

    def window_at(self, scale: float) -> Size | None:
        """Return the windows that `scale` is predicted in, None where it is predicted whole."""
        return self.window if scale > self.window_above else None

    def scaled(self, size: Size, scale: float) -> Size:
        """Return the size that a picture of `size` has at `scale`."""
        if self.base_size is not None and self.size is None:
            long = max(1, int(self.base_size * scale + 0.5))
            short = max(1, int(min(size) * long / max(size) + 0.5))
            return (long, short) if size[0] > size[1] else (short, long)
        height, width = self.size or size
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


WHOLE = Procedure()
"""Whole pictures as they are, once."""


def class_planes(
    predictor: Predictor, images: Floats, procedure: Procedure, size: Size, *, align_corners: bool
) -> Iterator[Floats]:
    """Yield the scores of each class in turn, (N, H, W) of `size`, for normalised `images` N x 3 x h x w.

    `align_corners` is the network's bilinear convention; its first output is scored.
    """
    height, width = images.shape[2:]
    views = [
        _predict_at(predictor, images, procedure, scale, (height, width), align_corners)
        for scale in procedure.scales
    ]
    if procedure.aggregation == "exponentials":
        _keep_finite([window for view in views for window in view.windows])
    for index in range(views[0].classes):
        total = views[0].plane(index, size)
        for view in views[1:]:
            total = total + view.plane(index, size)
        yield total


def largest(planes: Iterable[Floats]) -> NDArray[np.uint8]:
    """Return the class with the largest score at each pixel; of equal scores the first, as numpy's argmax."""
    remaining = iter(planes)
    best = next(remaining).copy()
    classes = np.zeros(best.shape, np.uint8)
    for index, candidate in enumerate(remaining, start=1):
        # A nan must win as it does in argmax, and no comparison with it is true.
        better = ~(candidate <= best) & ~np.isnan(best)
        classes[better] = index
        np.copyto(best, candidate, where=better)
    return classes


def resize(planes: Floats, size: tuple[int, ...], align_corners: bool) -> Floats:
    """Resize (N, h, w) to (N, H, W) bilinearly as `gsto_spec.reference.resize_bilinear` does."""
    if planes.shape[1:] == tuple(size):
        return planes
    low, high, share = interpolation(planes.shape[1], size[0], align_corners)
    share = share.astype(planes.dtype)[:, None]
    rows = planes[:, low] * (1 - share) + planes[:, high] * share
    low, high, share = interpolation(planes.shape[2], size[1], align_corners)
    share = share.astype(planes.dtype)
    return np.asarray(rows.take(low, axis=2) * (1 - share) + rows.take(high, axis=2) * share)


def starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows begin that cover `length` >= `window`: the last is moved back inside."""
    count = max(0, math.ceil((length - window) / stride)) + 1
    return [min(index * stride, length - window) for index in range(count)]


@dataclass
class _Window:
    """Logits of one window and of its mirror image, N x K x h x w at network stride."""

    size: Size
    top: int
    left: int
    logits: tuple[Floats, ...]
    orders: tuple[Sequence[int], ...]
    align_corners: bool
    excess: Floats | float = 0.0
    """Taken off the logits before their exponentials, (N, 1, 1)."""
    _normalizers: dict[int, Floats] = field(default_factory=dict)

    @property
    def largest(self) -> Floats:
        """The largest mean of logits in each picture, (N, 1, 1); no resizing makes a larger one."""
        planes = (self.mean(index) for index in range(self.logits[0].shape[1]))
        return np.asarray(np.max([plane.max(axis=(1, 2), keepdims=True) for plane in planes], axis=0))

    def mean(self, index: int) -> Floats:
        """The mean of a class's logits over both mirrorings, at network stride."""
        return _mean([self._of(side, index) for side in range(len(self.logits))])

    def plane(self, index: int, aggregation: Aggregation) -> Floats:
        """What is averaged over windows, at the resolution of the network's input."""
        if aggregation == "probabilities":
            return _mean([self._probability(side, index) for side in range(len(self.logits))])
        mean = resize(self.mean(index), self.size, self.align_corners)
        return np.exp(mean - self.excess, dtype=np.float64) if aggregation == "exponentials" else mean

    def _of(self, side: int, index: int) -> Floats:
        plane = self.logits[side][:, self.orders[side][index]]
        return plane[..., ::-1] if side else plane

    def _probability(self, side: int, index: int) -> Floats:
        if side not in self._normalizers:
            self._normalizers[side] = self._log_sum(side)
        logits = resize(self._of(side, index), self.size, self.align_corners)
        return np.asarray(np.exp(logits - self._normalizers[side]))

    def _log_sum(self, side: int) -> Floats:
        """log of the sum over classes of exp(logit), at the resolution of the network's input."""
        planes = [self._of(side, index) for index in range(self.logits[side].shape[1])]
        total = resize(planes[0], self.size, self.align_corners).copy()
        for plane in planes[1:]:
            np.logaddexp(total, resize(plane, self.size, self.align_corners), out=total)
        return total


def _keep_finite(windows: Sequence[_Window]) -> None:
    """Scale down a picture's exponentials, all by one factor, where they would overflow float64 (exp(709)).

    So the largest class stays the largest. Barely trained networks have such logits.
    """
    largest = np.max([window.largest for window in windows], axis=0).astype(np.float64)
    for window in windows:
        window.excess = np.maximum(largest - _LARGEST_EXPONENT, 0)


@dataclass(frozen=True)
class _Scale:
    """The windows of one scale; `size` is the picture's there, without padding."""

    size: Size
    padded: Size
    windows: tuple[_Window, ...]
    aggregation: Aggregation

    @property
    def classes(self) -> int:
        return int(self.windows[0].logits[0].shape[1])

    def plane(self, index: int, size: Size) -> Floats:
        """Scores of a class at `size`."""
        first = self.windows[0]
        if len(self.windows) > 1 or self.padded != self.size:
            return resize(self._over_windows(index), size, first.align_corners)
        if self.aggregation == "logits":
            return resize(first.mean(index), size, first.align_corners)
        return resize(first.plane(index, self.aggregation), size, first.align_corners)

    def _over_windows(self, index: int) -> Floats:
        """The mean over the windows that cover each pixel."""
        total: Floats | None = None
        count = np.zeros(self.padded, np.int32)
        for window in self.windows:
            plane = window.plane(index, self.aggregation)
            if total is None:
                total = np.zeros((len(plane), *self.padded), plane.dtype)
            place = np.s_[
                window.top : window.top + window.size[0], window.left : window.left + window.size[1]
            ]
            total[:, *place] += plane
            count[place] += 1
        assert total is not None
        total /= count
        return total[:, : self.size[0], : self.size[1]]


def _predict_at(
    predictor: Predictor, images: Floats, procedure: Procedure, scale: float, size: Size, align_corners: bool
) -> _Scale:
    scaled = procedure.scaled(size, scale)
    images = _resize_pictures(images, scaled)
    window = procedure.window_at(scale) or scaled
    images = _pad(images, window)
    padded: Size = (images.shape[2], images.shape[3])
    stride = (procedure.stride or window) if procedure.window_at(scale) else window
    places = product(*(starts(*each) for each in zip(padded, window, stride, strict=True)))
    mirrored = _swapped(procedure.flip_pairs) if procedure.flip else None
    windows = tuple(
        _predict_window(predictor, images, window, place, mirrored, align_corners) for place in places
    )
    return _Scale(scaled, padded, windows, procedure.aggregation)


def _predict_window(
    predictor: Predictor, images: Floats, size: Size, place: tuple[int, ...],
    mirrored: Callable[[int], list[int]] | None, align_corners: bool,
) -> _Window:  # fmt: skip
    top, left = place
    cut = np.ascontiguousarray(images[:, :, top : top + size[0], left : left + size[1]])
    logits = [_first_output(predictor, cut)]
    classes = logits[0].shape[1]
    orders = [list(range(classes))]
    if mirrored is not None:
        logits.append(_first_output(predictor, np.ascontiguousarray(cut[..., ::-1])))
        orders.append(mirrored(classes))
    return _Window(size, top, left, tuple(logits), tuple(orders), align_corners)


def _first_output(predictor: Predictor, images: Floats) -> Floats:
    return np.asarray(next(iter(predictor.predict(images).values())))


def _swapped(pairs: tuple[tuple[int, int], ...]) -> Callable[[int], list[int]]:
    """Return what gives, for so many classes, each one's channel in a mirrored picture."""

    def order(classes: int) -> list[int]:
        channels = list(range(classes))
        for left, right in pairs:
            channels[left], channels[right] = right, left
        return channels

    return order


def _resize_pictures(images: Floats, size: Size) -> Floats:
    if images.shape[2:] == size:
        return images
    height, width = size
    resized = [
        cv2.resize(image.transpose(1, 2, 0), (width, height), interpolation=cv2.INTER_LINEAR)
        for image in images
    ]
    return np.stack([np.asarray(image, images.dtype).transpose(2, 0, 1) for image in resized])


def _pad(images: Floats, window: Size) -> Floats:
    """Pad with black at the bottom and right up to a window."""
    height, width = (max(have, want) for have, want in zip(images.shape[2:], window, strict=True))
    if (height, width) == images.shape[2:]:
        return images
    padded = np.empty((*images.shape[:2], height, width), images.dtype)
    padded[:] = _BLACK[:, None, None]
    padded[:, :, : images.shape[2], : images.shape[3]] = images
    return padded


def _told(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _mean(planes: Sequence[Floats]) -> Floats:
    return planes[0] if len(planes) == 1 else (planes[0] + planes[1]) * np.asarray(0.5, planes[0].dtype)
