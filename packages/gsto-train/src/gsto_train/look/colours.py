"""Colours that colour-blind people tell apart too: of a skeleton's sides, and of heat."""

import cv2
import numpy as np
from numpy.typing import NDArray

from gsto_train.data.palette import OKABE_ITO

LEFT, RIGHT, MIDDLE = OKABE_ITO[1], OKABE_ITO[5], OKABE_ITO[3]
"""Of a skeleton's sides."""


def heat(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """Return (H, W) values as (H, W, 3) RGB from `low` (dark) to `high` (bright) in cividis."""
    scaled = (np.asarray(values, np.float64) - low) / max(high - low, 1e-12)
    shades = (scaled.clip(0, 1) * 255).round().astype(np.uint8)
    coloured = cv2.applyColorMap(shades, cv2.COLORMAP_CIVIDIS)
    return np.ascontiguousarray(coloured[..., ::-1], np.uint8)


def css(colour: tuple[int, int, int]) -> str:
    """Return a colour as style sheets write it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
