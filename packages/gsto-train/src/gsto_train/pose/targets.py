"""Heatmaps: a Gaussian for each joint, and the conventions that decoding has to undo."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Codec:
    """How joints become heatmaps and back.

    `size` (height, width) of the heatmaps, `stride` input pixels to one of theirs, `sigma` in heatmap
    pixels. Heatmap pixel i lies at input pixel i x stride. A "quantized" target is centred on pixel
    int(x / stride + 0.5) and cut at 3 sigma (HRNet); an "exact" one on x / stride (DARK, Zhang et al. 2020).
    """

    size: tuple[int, int]
    stride: int = 4
    sigma: float = 2.0
    targets: Literal["quantized", "exact"] = "quantized"

    @property
    def flip_shift(self) -> int:
        """Pixels to move a mirrored crop's heatmaps right after mirroring them back.

        Pixel i stands for the inputs around i x stride, so the mirror of the input, x -> W - 1 - x, and that
        of the heatmap differ: for whole x the quantized targets differ by exactly one pixel where the stride
        is even, by (stride - 1) / stride before rounding.
        """
        return int((self.stride - 1) / self.stride + 0.5)

    @property
    def radius(self) -> int:
        """How far a quantized target reaches from its centre, in heatmap pixels."""
        return int(3 * self.sigma)

    def encode(self, joints: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return heatmaps (K, h, w) and visibilities (K,) of (K, 3) joints in the crop.

        A joint is visible where it is labelled and some of its Gaussian is inside; others have no target.
        """
        scaled = joints[:, :2] / self.stride
        pixels = np.trunc(scaled + 0.5)
        visible = (joints[:, 2] > 0) & self._reaches(pixels)
        centres = pixels if self.targets == "quantized" else scaled
        heatmaps = self._gaussians(centres) * visible[:, None, None]
        return heatmaps.astype(np.float32), visible.astype(np.float32)

    def _reaches(self, pixels: NDArray[np.float64]) -> NDArray[np.bool]:
        height, width = self.size
        inside = (pixels > -self.radius - 1) & (pixels < np.array([width, height]) + self.radius)
        return np.asarray(inside.all(axis=1))

    def _gaussians(self, centres: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return unnormalised Gaussians (K, h, w) around (K, 2) centres, one axis at a time."""
        across, down = (self._profile(centres[:, axis], self.size[1 - axis]) for axis in (0, 1))
        return down[:, :, None] * across[:, None, :]

    def _profile(self, centre: NDArray[np.float64], length: int) -> NDArray[np.float64]:
        distance = np.arange(length) - centre[:, None]
        values = np.exp(-np.square(distance) / (2 * self.sigma**2))
        if self.targets == "quantized":
            values[np.abs(distance) > self.radius] = 0
        return np.asarray(values)
