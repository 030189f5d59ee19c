"""Where colours come from: few palettes, shared by many classes, so that colour alone tells little."""

import numpy as np
from numpy.typing import NDArray

from gsto_train.data.scenes.canvas import Colour

_Palette = NDArray[np.float64]

NEUTRAL = np.array([
    (0.16, 0.16, 0.18), (0.27, 0.26, 0.27), (0.36, 0.37, 0.40), (0.46, 0.44, 0.42), (0.54, 0.55, 0.57),
    (0.63, 0.60, 0.55), (0.72, 0.72, 0.73), (0.82, 0.80, 0.75), (0.90, 0.90, 0.91),
])  # fmt: skip
EARTH = np.array([
    (0.52, 0.27, 0.20), (0.62, 0.40, 0.29), (0.74, 0.60, 0.43), (0.80, 0.70, 0.52), (0.45, 0.36, 0.26),
    (0.68, 0.50, 0.40), (0.36, 0.25, 0.20),
])  # fmt: skip
LEAF = np.array([
    (0.22, 0.35, 0.14), (0.32, 0.44, 0.18), (0.15, 0.26, 0.16), (0.44, 0.47, 0.22), (0.62, 0.50, 0.20),
    (0.60, 0.33, 0.15), (0.38, 0.34, 0.24),
])  # fmt: skip
PAINT = np.array([
    (0.70, 0.13, 0.12), (0.13, 0.24, 0.52), (0.20, 0.42, 0.62), (0.14, 0.36, 0.24), (0.85, 0.68, 0.18),
    (0.55, 0.66, 0.70), (0.40, 0.16, 0.26), (0.88, 0.44, 0.14),
])  # fmt: skip
HEAVEN = np.array([
    (0.36, 0.56, 0.84), (0.52, 0.68, 0.88), (0.70, 0.76, 0.84), (0.80, 0.82, 0.84), (0.60, 0.62, 0.66),
    (0.46, 0.49, 0.56), (0.86, 0.74, 0.66), (0.62, 0.56, 0.66), (0.30, 0.38, 0.54),
    (0.24, 0.26, 0.33), (0.40, 0.36, 0.36),
])  # fmt: skip
SKIN = np.array([(0.88, 0.70, 0.58), (0.72, 0.52, 0.40), (0.48, 0.32, 0.24), (0.30, 0.20, 0.15)])
SIGNAL = np.array([(0.82, 0.10, 0.10), (0.12, 0.28, 0.70), (0.92, 0.78, 0.12), (0.10, 0.45, 0.28)])


def pick(generator: np.random.Generator, *palettes: _Palette, spread: float = 0.05) -> Colour:
    """Return a colour near one of one of the palettes; every palette is as likely as the others."""
    palette = palettes[int(generator.random() * len(palettes))]
    jitter = spread * generator.standard_normal(4)
    colour = palette[int(generator.random() * len(palette))] * (1 + jitter[0]) + 0.4 * jitter[1:]
    return np.asarray(np.minimum(np.maximum(colour, 0.02), 0.98))
