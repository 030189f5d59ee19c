"""A pinhole camera over flat ground, and the map of visible parts that things are drawn on."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gsto_train.data.samples import IGNORE_LABEL

Colour = NDArray[np.float64]
_Point = tuple[float, float, float]


class Class(IntEnum):
    """What a part is; the values are the labels."""

    SKY = 0
    BUILDING = 1
    ROAD = 2
    SIDEWALK = 3
    VEGETATION = 4
    FENCE = 5
    VEHICLE = 6
    PERSON = 7
    POLE = 8
    SIGN = 9
    VOID = IGNORE_LABEL


@dataclass(frozen=True)
class Camera:
    """Where the camera stands and looks.

    World: X right, Y up from the ground, Z forward, in metres; the camera is at X = Z = 0, at `height`.
    Picture: `size` (rows, columns), `focal` in pixels, the vanishing point of Z at (`centre`, `horizon`),
    turned by `roll` radians about that point.
    """

    size: tuple[int, int]
    focal: float
    height: float
    centre: float
    horizon: float
    roll: float

    def project(self, points: ArrayLike) -> NDArray[np.float64]:
        """Return the (..., 2) column and row of the (..., 3) world points."""
        world = np.asarray(points, np.float64)
        scale = self.focal / world[..., 2]
        x, y = world[..., 0] * scale, (self.height - world[..., 1]) * scale
        cosine, sine = np.cos(self.roll), np.sin(self.roll)
        return np.stack([self.centre + cosine * x - sine * y, self.horizon + sine * x + cosine * y], axis=-1)


@dataclass(frozen=True)
class Texture:
    """How much the brightness of a part varies: pixel by pixel, leaf by leaf, and over large patches."""

    fine: float = 0.03
    leafy: float = 0.0
    patchy: float = 0.04


_PLAIN = Texture()
_BLACK: Colour = np.zeros(3)


@dataclass(frozen=True, eq=False)
class View:
    """What the camera sees: the number of the part visible at each pixel, shadows, and tables of the parts.

    `part` and `shadow` (0 or 255) are (H, W); of the P parts, `kinds`, `depths` and `grounds` are (P,),
    `colours`, `gradients` and `textures` (P, 3).
    """

    camera: Camera
    part: NDArray[np.intp]
    shadow: NDArray[np.uint8]
    kinds: NDArray[np.uint8]
    colours: NDArray[np.float32]
    gradients: NDArray[np.float32]
    textures: NDArray[np.float32]
    depths: NDArray[np.float32]
    grounds: NDArray[np.float32]


class Canvas:
    """A list of parts and of what is drawn of each, in world points; later drawings hide earlier ones."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self._parts: list[tuple[Class, Colour, Colour, tuple[float, float, float], float, bool]] = []
        self._points: list[NDArray[np.float64]] = []
        self._marks: list[Callable[[NDArray[np.int32]], object]] = []
        self._map = np.zeros(camera.size, np.int32)
        self._shadow = np.zeros(camera.size, np.uint8)

    def part(
        self,
        kind: Class,
        colour: Colour,
        *,
        depth: float,
        texture: Texture = _PLAIN,
        gradient: Colour = _BLACK,
        ground: bool = False,
    ) -> int:
        """Declare a part and return its number; part 0 fills the picture.

        `colour` is RGB in 0..1, `gradient` what it gains over one picture height downwards; `depth` in
        metres sets the haze before it; shadows fall on `ground`.
        """
        weights = (texture.fine, texture.leafy, texture.patchy)
        self._parts.append((kind, colour, gradient, weights, depth, ground))
        return len(self._parts) - 1

    def polygons(self, part: int, points: ArrayLike) -> None:
        """Draw one polygon, (corners, 3) world points, or (n, corners, 3) that do not overlap one another."""
        world = np.asarray(points, np.float64)
        shape = (-1, world.shape[-2], 2)
        corners = world.reshape(-1, 3)
        self._mark(corners, lambda pixels: cv2.fillPoly(self._map, list(pixels.reshape(shape)), part))

    def shade(self, points: ArrayLike) -> None:
        """Cast a shadow on the ground inside one polygon, (corners, 3) world points."""
        self._mark(points, lambda pixels: cv2.fillPoly(self._shadow, [pixels], 255))

    def line(self, part: int, start: _Point, end: _Point, width: float) -> None:
        """Draw a bar of `width` metres between two world points, at least one pixel thick."""
        thickness = max(1, round(width * self.camera.focal / start[2]))
        self._mark((start, end), lambda ends: cv2.line(self._map, ends[0], ends[1], part, thickness))

    def disc(self, part: int, centre: _Point, radius: float) -> None:
        """Draw a disc of `radius` metres that faces the camera, at least one pixel wide."""
        pixels = round(radius * self.camera.focal / centre[2])
        self._mark((centre,), lambda middle: cv2.circle(self._map, middle[0], pixels, part, -1))

    def view(self) -> View:
        """Project all that was drawn, at once, and return what is visible."""
        pixels = np.rint(self.camera.project(np.concatenate(self._points))).astype(np.int32)
        first = 0
        for points, mark in zip(self._points, self._marks, strict=True):
            mark(pixels[first : first + len(points)])
            first += len(points)
        kinds, *tables = zip(*self._parts, strict=True)
        arrays = (np.array(table, np.float32) for table in tables)
        return View(self.camera, self._map.astype(np.intp), self._shadow, np.array(kinds, np.uint8), *arrays)

    def _mark(self, points: ArrayLike, draw: Callable[[NDArray[np.int32]], object]) -> None:
        self._points.append(np.asarray(points, np.float64))
        self._marks.append(draw)
