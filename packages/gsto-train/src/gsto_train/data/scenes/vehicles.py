"""Cars, vans and buses, seen along the street or across it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gsto_train.data.scenes.canvas import Canvas, Class, Colour
from gsto_train.data.scenes.colours import EARTH, NEUTRAL, PAINT, pick


@dataclass(frozen=True)
class Body:
    """Sizes of a vehicle in metres.

    `waist` is the lower edge of the windows, `slope` (0 to 1) how far the cabin leans.
    """

    width: float
    length: float
    height: float
    waist: float
    slope: float


CAR = Body(width=1.8, length=4.3, height=1.5, waist=0.88, slope=0.75)
VAN = Body(width=2.0, length=5.2, height=2.1, waist=1.15, slope=0.25)
BUS = Body(width=2.5, length=9.5, height=3.0, waist=1.4, slope=0.05)

_Points = list[tuple[float, float, float]]

_GLASS = np.array([0.15, 0.18, 0.22])
_TYRE = np.array([0.07, 0.07, 0.08])
_CIRCLE = [(math.cos(k * math.pi / 5), math.sin(k * math.pi / 5)) for k in range(10)]


def draw_vehicle(canvas: Canvas, generator: np.random.Generator, *, x: float, z: float) -> None:
    """Draw a vehicle along the street, its near end at `z`: the end, and the side that faces the camera."""
    body, paint, glass = _body(generator), *_colours(generator)
    canvas.shade(_flat(x, body.width + 0.5, z - 0.3, z + body.length))
    inner = x - np.sign(x) * body.width / 2
    if abs(x) > body.width / 2:
        _draw_side(canvas, _along(float(inner), z), body, paint * generator.uniform(0.6, 0.9), glass, z)
    end = _across(x, 1.0, z)
    _draw_end(canvas, end, body, paint, glass, z)
    _draw_lamps(canvas, generator, end, body, z)


def draw_crossing_vehicle(canvas: Canvas, generator: np.random.Generator, *, x: float, z: float) -> None:
    """Draw a vehicle that crosses the street at `z`, seen from its side."""
    body, paint, glass = _body(generator), *_colours(generator)
    canvas.shade(_flat(x + body.length / 2, body.length, z - 0.4, z + body.width))
    direction = 1.0 if generator.random() < 0.5 else -1.0
    start = x if direction > 0 else x + body.length
    _draw_side(canvas, _across(start, direction, z), body, paint, glass, z)


@dataclass(frozen=True)
class _Plane:
    """An upright plane: (along, up) in metres to world points."""

    x: float
    z: float
    right: float
    forward: float

    def __call__(self, *points: tuple[float, float]) -> _Points:
        return [(self.x + along * self.right, up, self.z + along * self.forward) for along, up in points]


def _along(x: float, z: float) -> _Plane:
    return _Plane(x, z, right=0.0, forward=1.0)


def _across(x: float, direction: float, z: float) -> _Plane:
    return _Plane(x, z, right=direction, forward=0.0)


def _body(generator: np.random.Generator) -> Body:
    kind = generator.random()
    return CAR if kind < 0.72 else VAN if kind < 0.9 else BUS


def _colours(generator: np.random.Generator) -> tuple[Colour, Colour]:
    return pick(generator, NEUTRAL, PAINT, NEUTRAL, EARTH), _GLASS * generator.uniform(0.6, 2.4)


def _draw_side(canvas: Canvas, plane: _Plane, body: Body, paint: Colour, glass: Colour, depth: float) -> None:
    length, waist, height, slope = body.length, body.waist, body.height, body.slope
    shell, window, tyre = (
        canvas.part(Class.VEHICLE, colour, depth=depth) for colour in (paint, glass, _TYRE)
    )
    canvas.polygons(shell, plane((0, 0.3), (0, waist), (length, waist - 0.12 * slope), (length, 0.3)))
    back, front = 0.04 * length, length * (1 - 0.32 * slope)
    cabin = (back, waist), (back + 0.5 * slope, height), (front - 0.8 * slope, height), (front, waist)
    canvas.polygons(shell, plane(*cabin))
    canvas.polygons(window, plane(*_inset(cabin, low=waist + 0.03, high=height - 0.14)))
    for wheel in (0.19 * length, 0.81 * length):
        canvas.polygons(tyre, plane(*_wheel(wheel, 0.34)))


def _draw_end(canvas: Canvas, plane: _Plane, body: Body, paint: Colour, glass: Colour, depth: float) -> None:
    half, waist, height = body.width / 2, body.waist, body.height
    shell, window, tyre, bumper = (
        canvas.part(Class.VEHICLE, colour, depth=depth) for colour in (paint, glass, _TYRE, paint * 0.55)
    )
    for sign in (-1, 1):
        canvas.polygons(tyre, _box(plane, sign * (half - 0.17), 0.11, 0.0, 0.4))
    roof = half - 0.22 * body.slope
    cabin = (-half, waist), (-roof, height), (roof, height), (half, waist)
    canvas.polygons(shell, _box(plane, 0, half, 0.25, waist))
    canvas.polygons(shell, plane(*cabin))
    canvas.polygons(window, plane(*_inset(cabin, low=waist + 0.04, high=height - 0.12)))
    canvas.polygons(bumper, _box(plane, 0, half, 0.25, 0.42))


def _draw_lamps(
    canvas: Canvas, generator: np.random.Generator, plane: _Plane, body: Body, depth: float
) -> None:
    half, waist = body.width / 2, body.waist
    rear = generator.random() < 0.6
    colour = np.array([0.8, 0.08, 0.06]) if rear else np.array([0.95, 0.93, 0.82])
    lamp = canvas.part(Class.VEHICLE, colour, depth=depth)
    plate = canvas.part(Class.VEHICLE, np.array([0.9, 0.9, 0.85]), depth=depth)
    for sign in (-1, 1):
        canvas.polygons(lamp, _box(plane, sign * (half - 0.2), 0.17, waist - 0.26, waist - 0.08))
    canvas.polygons(plate, _box(plane, 0, 0.26, 0.5, 0.62))


def _box(plane: _Plane, middle: float, half: float, bottom: float, top: float) -> _Points:
    left, right = middle - half, middle + half
    return plane((left, bottom), (left, top), (right, top), (right, bottom))


def _inset(corners: Sequence[tuple[float, float]], low: float, high: float) -> list[tuple[float, float]]:
    middle = sum(along for along, _ in corners) / len(corners)
    return [(middle + 0.86 * (along - middle), min(max(up, low), high)) for along, up in corners]


def _wheel(middle: float, radius: float) -> list[tuple[float, float]]:
    return [(middle + radius * across, radius + radius * up) for across, up in _CIRCLE]


def _flat(x: float, width: float, near: float, far: float) -> _Points:
    left, right = x - width / 2, x + width / 2
    return [(left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far)]
