"""What stands beside the street: facades, the skyline, trees, hedges and fences."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsto_train.data.scenes.canvas import Canvas, Class, Colour, Texture
from gsto_train.data.scenes.colours import EARTH, HEAVEN, LEAF, NEUTRAL, PAINT, pick

LEAVES = Texture(fine=0.15, leafy=0.45, patchy=0.08)

_ANGLES = np.linspace(0, 2 * np.pi, 20, endpoint=False)
_ALONG, _UP = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0])
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES), np.zeros(20)], axis=-1)


@dataclass(frozen=True)
class Wall:
    """An upright wall on the ground: along the street (`axis` 2, Z) or across it (`axis` 0, X).

    It lies at `place` on the other axis and runs from `first` to `last`.
    """

    axis: int
    place: float
    first: float
    last: float

    def boards(
        self, starts: NDArray[np.float64], width: float, bottoms: NDArray[np.float64], tall: float
    ) -> NDArray[np.float64]:
        """Return the (n, 4, 3) rectangles that begin at every one of `starts` and of `bottoms`."""
        corners = np.empty((len(bottoms), len(starts), 4, 3))
        corners[..., 2 - self.axis] = self.place
        corners[..., 1] = bottoms[:, None, None] + tall * _UP
        corners[..., self.axis] = starts[:, None] + width * _ALONG
        return corners.reshape(-1, 4, 3)

    def whole(self, height: float) -> NDArray[np.float64]:
        """Return the wall's own rectangle, (1, 4, 3)."""
        return self.boards(np.array([self.first]), self.last - self.first, np.zeros(1), height)

    def courses(self, height: float, pitch: float) -> NDArray[np.float64]:
        """Return the (n, 4, 3) joints that lie `pitch` apart up to `height`."""
        bottoms = np.arange(0.5 * pitch, height, pitch)
        return self.boards(np.array([self.first]), self.last - self.first, bottoms, 0.09)

    def windows(self, generator: np.random.Generator, height: float) -> NDArray[np.float64]:
        """Return (n, 4, 3) windows at a random pitch; n is 0 where none fits."""
        pitch, storey = generator.uniform(1.8, 3.4), generator.uniform(2.6, 3.6)
        wide, tall = pitch * generator.uniform(0.35, 0.7), storey * generator.uniform(0.4, 0.65)
        starts = np.arange(self.first + 0.3 * pitch, self.last - wide, pitch)
        return self.boards(starts, wide, np.arange(0.9, height - tall - 0.2, storey), tall)


def draw_building(
    canvas: Canvas, generator: np.random.Generator, *, side: int, edge: float, near: float, far: float
) -> None:
    """Draw a block whose facade runs along the street at X = side * edge, from Z = near to far."""
    height, lit, pitch = generator.uniform((4.0, 0.7, 0.45), (18.0, 1.2, 0.75)).tolist()
    colour = pick(generator, NEUTRAL, EARTH, EARTH, HEAVEN, PAINT)
    texture = Texture(fine=0.04, patchy=generator.uniform(0.03, 0.12))
    left, right = sorted((side * edge, side * (edge + 9.0)))
    facade, front = Wall(2, side * edge, near, far), Wall(0, near, left, right)
    for wall, light in ((facade, lit), (front, 1.9 - lit)):
        part = canvas.part(Class.BUILDING, np.minimum(colour * light, 1), depth=near, texture=texture)
        canvas.polygons(part, wall.whole(height))
        courses = canvas.part(Class.BUILDING, colour * light * 0.75, depth=near, texture=texture)
        canvas.polygons(courses, wall.courses(height, pitch))
        _draw_windows(canvas, generator, wall, height, colour, near)


def draw_skyline(canvas: Canvas, generator: np.random.Generator) -> None:
    """Draw what closes the street in the distance: blocks and trees."""
    centres = generator.uniform(-110, 110, int(generator.integers(3, 9)))
    for x in centres.tolist():
        if generator.random() < 0.45:
            draw_bush(canvas, generator, x=x, z=generator.uniform(70, 110), size=generator.uniform(3, 9))
        else:
            _draw_distant_block(canvas, generator, x, generator.uniform(110, 150))


def draw_tree(canvas: Canvas, generator: np.random.Generator, *, x: float, z: float) -> None:
    """Draw a tree: trunk and a crown of a few leafy blobs; the whole of it is vegetation."""
    base, radius = generator.uniform(1.6, 3.5), generator.uniform(1.1, 2.4)
    trunk = canvas.part(Class.VEGETATION, pick(generator, EARTH, NEUTRAL) * 0.6, depth=z)
    canvas.line(trunk, (x, 0, z), (x, base + radius, z), 0.3)
    colour = pick(generator, LEAF, LEAF, LEAF, EARTH)
    offsets = 0.35 * radius * generator.standard_normal((3, 2))
    for light, (right, up) in zip((0.75, 1.0, 1.2), offsets.tolist(), strict=True):
        part = canvas.part(Class.VEGETATION, colour * light, depth=z, texture=LEAVES)
        centre = (x + right, base + radius + up + 0.3 * radius * (light - 0.9), z)
        canvas.polygons(part, _blob(generator, centre, radius * (1.15 - 0.3 * light)))


def draw_bush(
    canvas: Canvas, generator: np.random.Generator, *, x: float, z: float, size: float = 1.0
) -> None:
    """Draw a bush that sits on the ground."""
    radius = size * generator.uniform(0.4, 1.3)
    part = canvas.part(Class.VEGETATION, pick(generator, LEAF, LEAF, EARTH), depth=z, texture=LEAVES)
    points = _blob(generator, (x, 0.55 * radius, z), radius)
    points[:, 1] = np.maximum(points[:, 1], 0)
    canvas.polygons(part, points)


def draw_fence(canvas: Canvas, generator: np.random.Generator, *, x: float, near: float, far: float) -> None:
    """Draw a fence of upright boards along the street at `x`, from Z = near to far."""
    height, pitch = generator.uniform(1.3, 2.4), generator.uniform(0.6, 1.0)
    colour = pick(generator, NEUTRAL, EARTH)
    fence = Wall(2, x, near, far)
    panel = canvas.part(Class.FENCE, colour, depth=near)
    canvas.polygons(panel, fence.whole(height))
    darker = canvas.part(Class.FENCE, colour * generator.uniform(0.35, 0.55), depth=near)
    starts = np.arange(near, far - pitch, pitch)
    canvas.polygons(darker, fence.boards(starts, 0.45 * pitch, np.zeros(1), 0.88 * height))
    canvas.line(panel, (x, 0.5 * height, near), (x, 0.5 * height, far), 0.08)


def _draw_distant_block(canvas: Canvas, generator: np.random.Generator, x: float, z: float) -> None:
    width, height = generator.uniform(6, 26), generator.uniform(5, 42)
    colour = pick(generator, NEUTRAL, EARTH, HEAVEN)
    part = canvas.part(Class.BUILDING, colour, depth=z, texture=Texture(0.09, 0.0, 0.08))
    canvas.polygons(part, [(x, 0, z), (x, height, z), (x + width, height, z), (x + width, 0, z)])


def _draw_windows(
    canvas: Canvas, generator: np.random.Generator, wall: Wall, height: float, colour: Colour, depth: float
) -> None:
    """Draw rows of windows in two tones; those under two pixels wide are left to the wall's texture."""
    windows = wall.windows(generator, height)
    corners = canvas.camera.project(windows[:, ::2])
    windows = windows[np.abs(corners[:, 1, 0] - corners[:, 0, 0]) >= 2]
    tones = (pick(generator, NEUTRAL, HEAVEN), colour * generator.uniform(0.3, 0.6))
    lit = generator.random(len(windows)) < generator.uniform(0.1, 0.9)
    for tone, chosen in zip(tones, (windows[lit], windows[~lit]), strict=True):
        if len(chosen):
            canvas.polygons(canvas.part(Class.BUILDING, tone, depth=depth), chosen)


def _blob(
    generator: np.random.Generator, centre: tuple[float, float, float], radius: float
) -> NDArray[np.float64]:
    """Return (20, 3) points of an uneven round outline that faces the camera."""
    radii = radius * (1 + 0.13 * generator.standard_normal((len(_CIRCLE), 1)))
    return np.asarray(centre + radii * _CIRCLE)
