"""Predictions drawn on pictures: classes as colours, joints as skeletons, and a legend."""

import io
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gsto_train.data.samples import IGNORE_LABEL, Palette
from gsto_train.look.colours import LEFT, MIDDLE, RIGHT, css

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""

OPACITY = 0.55

LIMBS = (
    ("ankle", "knee"), ("knee", "hip"), ("hip", "shoulder"), ("shoulder", "elbow"), ("elbow", "wrist"),
    ("ear", "eye"), ("eye", "nose"), ("ear", "shoulder"), ("hip", "hip"), ("shoulder", "shoulder"),
    ("neck", "shoulder"), ("neck", "head_top"), ("neck", "head"),
)  # fmt: skip
"""Which joints a line joins, by name, on each side and across where both names are the same."""


def overlay(picture: Picture, classes: NDArray[np.integer], palette: Palette, opacity: float) -> Picture:
    """Return a picture under the colours of its classes (H, W), with lines between them.

    Pixels of no class, 255, stay as they are.
    """
    shown = classes != IGNORE_LABEL
    blended = (1 - opacity) * picture + opacity * coloured(classes, palette)
    edges = np.zeros(classes.shape, np.bool_)
    edges[1:] |= classes[1:] != classes[:-1]
    edges[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    blended[edges] *= 0.35
    return np.where((shown | edges)[..., None], blended, picture).round().astype(np.uint8)


def coloured(classes: NDArray[np.integer], palette: Palette) -> Picture:
    """Return the colours of classes (H, W); black where there is none."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return np.asarray(table[classes])


def index_png(classes: NDArray[np.uint8], palette: Palette) -> bytes:
    """Return an 8-bit PNG that holds the class indices (H, W), with the palette to look at it."""
    height, width = classes.shape
    indexed = Image.frombytes("P", (width, height), np.ascontiguousarray(classes).tobytes())
    indexed.putpalette([value for colour in palette for value in colour])
    return _encoded(indexed)


def png(picture: Picture) -> bytes:
    """Return a picture as PNG."""
    return _encoded(Image.fromarray(picture))


def legend(names: Sequence[str], palette: Palette) -> str:
    """Return an SVG that tells which colour is which class, with its index."""
    rows = -(-len(names) // 2) if len(names) > 12 else len(names)
    wide = 60 + 8 * max(map(len, names))
    cells = []
    for index, (name, colour) in enumerate(zip(names, palette, strict=True)):
        column, row = divmod(index, rows)
        x, y = 12 + column * wide, 12 + 24 * row
        cells.append(
            f'<rect x="{x}" y="{y}" width="26" height="16" rx="2" fill="{css(colour)}" stroke="#777"/>'
            f'<text x="{x + 34}" y="{y + 13}">{index} {escape(name)}</text>'
        )
    width, height = 12 + wide * -(-len(names) // rows), 24 + 24 * rows
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="13">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(cells)}</svg>\n'
    )


def skeletons(
    picture: Picture, poses: Sequence[NDArray[np.floating]], joints: Sequence[str], least: float
) -> Picture:
    """Return a picture with poses (K, 3: x, y, score) drawn on it, without joints that score below `least`.

    Left is blue, right vermilion, the middle yellow; all with a dark edge. A small picture is enlarged.
    """
    times = max(1, round(_SHOWN / max(picture.shape[:2])))
    canvas = np.ascontiguousarray(picture.repeat(times, axis=0).repeat(times, axis=1))
    width = max(1, round(max(canvas.shape[:2]) / 220))
    for pose in poses:
        seen = [bool(score >= least) for score in pose[:, 2]]
        places = (pose[:, :2] + 0.5) * times - 0.5
        lines = [pair for pair in limbs(joints) if seen[pair[0]] and seen[pair[1]]]
        for edge in (True, False):
            for start, end in lines:
                shade = (20, 20, 20) if edge else _side_colour(joints[start], joints[end])
                ends = places[[start, end]]
                first, last = _points(ends)
                cv2.line(canvas, first, last, shade, width + 2 * edge, cv2.LINE_AA, _SHIFT)
        for number, point in enumerate(_points(places)):
            if seen[number]:
                radius = 2 * width * 2**_SHIFT
                cv2.circle(canvas, point, radius, (20, 20, 20), -1, cv2.LINE_AA, _SHIFT)
                fill = _side_colour(joints[number], joints[number])
                cv2.circle(canvas, point, radius - 2**_SHIFT * 3 // 4, fill, -1, cv2.LINE_AA, _SHIFT)
    return canvas


_SHIFT = 4
"""cv2 draws in 1/16 pixels."""

_SHOWN = 480
"""Pixels of the longer side that skeletons need to be seen."""

_FARTHEST = 2**20
"""Pixels: cv2 takes no larger coordinates with a shift."""


def limbs(joints: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of joint numbers that lines join, as the joints' names tell."""
    numbers = {name: number for number, name in enumerate(joints)}
    found = []
    for first, second in LIMBS:
        for one, other in _sided(first, second):
            if one in numbers and other in numbers and one != other:
                found.append((numbers[one], numbers[other]))
    return list(dict.fromkeys(found))


def _sided(first: str, second: str) -> list[tuple[str, str]]:
    if first == second:
        return [(f"left_{first}", f"right_{first}")]
    return [
        (f"{side}{first}", f"{other}{second}")
        for side in ("left_", "right_", "")
        for other in dict.fromkeys((side, ""))
    ]


def _side_colour(first: str, second: str) -> tuple[int, int, int]:
    left, right = (any(side in name for name in (first, second)) for side in ("left", "right"))
    return MIDDLE if left == right else LEFT if left else RIGHT


def _points(places: NDArray[np.floating]) -> list[list[int]]:
    fixed = np.rint(np.clip(places, -_FARTHEST, _FARTHEST) * 2**_SHIFT)
    return [[int(x), int(y)] for x, y in np.nan_to_num(fixed)]


def _encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
