"""Colours of classes that have none of their own: those that colour-blind people tell apart too."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gsto_train.data.samples import Palette

OKABE_ITO: Palette = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167), (110, 110, 110),
)  # fmt: skip
"""Okabe and Ito's colours, "Color Universal Design" (2008); their black as a grey."""

_SEEN_BY = np.array([
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
])  # fmt: skip
"""Linear RGB as people see it with all cones, without long and without middle ones (Machado et al. 2009)."""

_STEPS = 9

_DARKEST = 30.0
"""In CIELAB's lightness, to every eye: darker ones look like black, which has no label."""


@lru_cache(maxsize=16)
def default_palette(classes: int) -> Palette:
    """Return `classes` RGB colours: Okabe and Ito's, then each as far as can be from black and all before.

    How far apart two colours are is their distance in CIELAB, the least of what `seen_distance` tells.
    """
    colours = list(OKABE_ITO[:classes])
    axis = np.linspace(0, 255, _STEPS).round().astype(int)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[_lab(grid)[..., 0].min(axis=0) >= _DARKEST]
    distance = seen_distance(grid, np.zeros((1, 3), np.int64))
    for colour in colours:
        distance = np.minimum(distance, seen_distance(grid, np.array([colour])))
    while len(colours) < classes:
        red, green, blue = grid[int(distance.argmax())].tolist()
        colours.append((red, green, blue))
        distance = np.minimum(distance, seen_distance(grid, np.array([[red, green, blue]])))
    return tuple(colours)


def seen_distance(colours: NDArray[np.integer], others: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the distance in CIELAB of RGB (N, 3) from (N, 3) or (1, 3), for whom it is least.

    Those are people with all cones, without long-wave and without middle-wave ones.
    """
    apart = np.linalg.norm(_lab(colours) - _lab(others), axis=-1)
    return np.asarray(apart.min(axis=0))


def _lab(colours: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return sRGB (N, 3) as each kind of eye sees it, (3, N, 3), in CIELAB under D65."""
    srgb = colours / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.einsum("kij,nj->kni", _SEEN_BY, linear).clip(0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.moveaxis(np.cbrt(seen @ to_xyz.T / [0.9505, 1.0, 1.089]), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
