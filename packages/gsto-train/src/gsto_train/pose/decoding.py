"""From heatmaps to joints: the largest pixel, refined by a quarter of one or by a fitted Gaussian."""

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from gsto_train.pose.targets import Codec

Decoding = Literal["quarter", "unbiased"]

_SMALLEST = 1e-10


def decode(
    heatmaps: NDArray[np.floating], codec: Codec, decoding: Decoding = "quarter"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return joints (N, K, 2) in input pixels and their scores (N, K), for heatmaps (N, K, h, w).

    A joint's score is its heatmap's maximum. Where that is not above 0 the joint is at (0, 0). Source:
    HRNet's pose code ("quarter"), Zhang et al. 2020 ("unbiased").
    """
    pixels, scores = _largest(heatmaps)
    offsets = _quarters(heatmaps, pixels) if decoding == "quarter" else _fitted(heatmaps, pixels, codec.sigma)
    found = scores > 0
    joints = np.where(found[..., None], pixels + offsets, 0.0) * codec.stride
    return joints, scores


def merge_flipped(
    heatmaps: NDArray[np.floating], flipped: NDArray[np.floating], mirrored: tuple[int, ...], shift: int
) -> NDArray[np.floating]:
    """Return the mean of heatmaps (N, K, h, w) and of those predicted on the mirrored crops.

    The latter are turned by `unflip`.
    """
    return np.asarray((heatmaps + unflip(flipped, mirrored, shift)) * heatmaps.dtype.type(0.5))


def unflip(heatmaps: NDArray[np.floating], mirrored: tuple[int, ...], shift: int) -> NDArray[np.floating]:
    """Return heatmaps of mirrored crops as of the crops: mirrored, joints swapped, moved right by `shift`.

    The first `shift` columns stay as they are, as in HRNet's pose code.
    """
    turned = heatmaps[:, list(mirrored), :, ::-1].copy()
    if shift:
        turned[..., shift:] = turned[..., :-shift].copy()
    return turned


def _largest(heatmaps: NDArray[np.floating]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the (x, y) of the largest pixel (N, K, 2), the first of several, and its value (N, K)."""
    flat = heatmaps.reshape(*heatmaps.shape[:2], -1)
    rows, columns = np.divmod(flat.argmax(axis=-1), heatmaps.shape[-1])
    return np.stack([columns, rows], axis=-1), flat.max(axis=-1).astype(np.float64)


def _quarters(heatmaps: NDArray[np.floating], pixels: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return a quarter pixel towards the larger neighbour on each axis; none for the outermost pixels.

    HRNet's bounds are strict, so that the second row and column count as outermost at the low end alone.
    """
    height, width = heatmaps.shape[-2:]
    x, y = pixels[..., 0], pixels[..., 1]
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    return _at(heatmaps, pixels, inside, lambda around: 0.25 * np.sign(_slope(around)))


def _fitted(heatmaps: NDArray[np.floating], pixels: NDArray[np.intp], sigma: float) -> NDArray[np.float64]:
    """Return the offset to the peak of the Gaussian that fits around the largest pixel.

    Newton's step on the logarithm of the heatmap, smoothed with the targets' own Gaussian; none within two
    pixels of the border or where the logarithm does not curve downwards.
    """
    height, width = heatmaps.shape[-2:]
    x, y = pixels[..., 0], pixels[..., 1]
    inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    logarithm = np.log(np.maximum(_smoothed(heatmaps, sigma), _SMALLEST))
    return _at(logarithm, pixels, inside, _newton_step)


def _smoothed(heatmaps: NDArray[np.floating], sigma: float) -> NDArray[np.float64]:
    """Return heatmaps blurred by `sigma`, zero outside, each scaled back to its own maximum."""
    kernel = 2 * int(3 * sigma) + 1
    maps = heatmaps.reshape(-1, *heatmaps.shape[-2:]).astype(np.float64)
    blurred = np.stack(
        [cv2.GaussianBlur(each, (kernel, kernel), sigma, borderType=cv2.BORDER_CONSTANT) for each in maps]
    )
    before, after = (each.max(axis=(1, 2), keepdims=True) for each in (maps, blurred))
    return np.asarray(blurred * before / np.where(after > 0, after, 1)).reshape(heatmaps.shape)


def _slope(around: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return half the difference of the neighbours on each axis, (M, 2), of (M, 5, 5) surroundings."""
    return 0.5 * np.stack([around[:, 2, 3] - around[:, 2, 1], around[:, 3, 2] - around[:, 1, 2]], axis=-1)


def _newton_step(around: NDArray[np.float64]) -> NDArray[np.float64]:
    centre = around[:, 2, 2]
    xx = 0.25 * (around[:, 2, 4] - 2 * centre + around[:, 2, 0])
    yy = 0.25 * (around[:, 4, 2] - 2 * centre + around[:, 0, 2])
    xy = 0.25 * (around[:, 3, 3] - around[:, 1, 3] - around[:, 3, 1] + around[:, 1, 1])
    x, y = _slope(around).T
    determinant = xx * yy - xy**2
    curved = (determinant > 0) & (xx < 0)
    safe = np.where(curved, determinant, 1)
    step = -np.stack([yy * x - xy * y, xx * y - xy * x], axis=-1) / safe[:, None]
    return np.where(curved[:, None], step, 0.0)


def _at(
    maps: NDArray[np.floating],
    pixels: NDArray[np.intp],
    inside: NDArray[np.bool],
    offset: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return `offset` of the 5 x 5 surroundings of each pixel that is `inside`, 0 for the others."""
    padded = np.pad(maps, ((0, 0), (0, 0), (2, 2), (2, 2)))
    n, k = np.nonzero(inside)
    x, y = pixels[n, k].T
    span = np.arange(5)
    around = padded[n[:, None, None], k[:, None, None], (y[:, None] + span)[:, :, None],
                    (x[:, None] + span)[:, None, :]].astype(np.float64)  # fmt: skip
    offsets = np.zeros((*inside.shape, 2))
    offsets[n, k] = offset(around)
    return offsets
