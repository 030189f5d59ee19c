"""What is small and thin: people, poles, signs, traffic lights, and boxes that no class covers."""

import numpy as np

from gsto_train.data.scenes.canvas import Canvas, Class
from gsto_train.data.scenes.colours import EARTH, NEUTRAL, PAINT, SIGNAL, SKIN, pick

_DARK = np.array([(0.09, 0.10, 0.10)])
_LAMPS = ((0.9, 0.15, 0.1), (0.95, 0.7, 0.1), (0.15, 0.8, 0.4))


def draw_person(canvas: Canvas, generator: np.random.Generator, *, x: float, z: float) -> None:
    """Draw somebody who stands or walks: legs, coat, arms, head."""
    size = generator.uniform(1.5, 1.95) if generator.random() < 0.85 else generator.uniform(0.95, 1.4)
    trousers, coat, skin = (
        canvas.part(Class.PERSON, pick(generator, *palettes), depth=z)
        for palettes in ((NEUTRAL[:4],), (NEUTRAL, PAINT, PAINT), (SKIN,))
    )
    canvas.shade([(x - 0.4, 0, z - 0.2), (x + 0.4, 0, z - 0.2), (x + 0.4, 0, z + 0.4), (x - 0.4, 0, z + 0.4)])
    stride = size * generator.uniform(0.02, 0.16)
    for foot in (x - stride, x + stride):
        canvas.line(trousers, (foot, 0.02, z), (x, 0.5 * size, z), 0.09 * size)
    _draw_coat(canvas, generator, coat, x, z, size)
    canvas.disc(skin, (x, 0.92 * size, z), 0.075 * size)


def draw_lamp_post(canvas: Canvas, generator: np.random.Generator, *, x: float, z: float) -> None:
    """Draw a street lamp whose arm reaches over the road; the whole of it is a pole."""
    height, reach = generator.uniform(4.0, 7.5), -np.sign(x) * generator.uniform(0.6, 2.2)
    part = canvas.part(Class.POLE, pick(generator, NEUTRAL), depth=z)
    canvas.line(part, (x, 0, z), (x, height, z), generator.uniform(0.26, 0.45))
    canvas.line(part, (x, height, z), (x + reach, height + 0.25, z), 0.2)
    canvas.line(part, (x + reach - 0.3, height + 0.2, z), (x + reach + 0.3, height + 0.2, z), 0.3)


def draw_traffic_sign(canvas: Canvas, generator: np.random.Generator, *, x: float, z: float) -> None:
    """Draw a sign on its pole: a disc, a triangle, a diamond or a board, with a rim."""
    height, radius = generator.uniform(2.0, 3.2), generator.uniform(0.55, 1.0)
    _draw_pole(canvas, generator, x, z, height)
    rim, face = pick(generator, SIGNAL), pick(generator, NEUTRAL[-2:], NEUTRAL[-2:], SIGNAL)
    corners = (3, 4, 12, 16)[int(generator.random() * 4)]
    turn = np.pi / 2 if generator.random() < 0.6 else np.pi / corners
    angles = turn + np.linspace(0, 2 * np.pi, corners, endpoint=False)
    for colour, share in ((rim, 1.0), (face, 0.68)):
        part = canvas.part(Class.SIGN, colour, depth=z)
        across, up = share * radius * np.cos(angles), share * radius * np.sin(angles)
        canvas.polygons(part, np.stack([x + across, height + up, np.full(corners, z)], axis=-1))


def draw_traffic_light(canvas: Canvas, generator: np.random.Generator, *, x: float, z: float) -> None:
    """Draw a traffic light on its pole; the box belongs to the class of signs."""
    height = generator.uniform(2.4, 3.6)
    _draw_pole(canvas, generator, x, z, height)
    box = canvas.part(Class.SIGN, pick(generator, _DARK), depth=z)
    left, right, top = x - 0.36, x + 0.36, height + 1.5
    canvas.polygons(box, [(left, height, z), (left, top, z), (right, top, z), (right, height, z)])
    lit = int(generator.random() * 3)
    for place, colour in enumerate(_LAMPS):
        lamp = canvas.part(Class.SIGN, np.array(colour) * (1.0 if place == lit else 0.3), depth=z)
        canvas.disc(lamp, (x, top - 0.3 - 0.45 * place, z), 0.2)


def draw_box(canvas: Canvas, generator: np.random.Generator, *, x: float, z: float) -> None:
    """Draw a bin or a crate: no class covers it, so its label is ignore."""
    half, height = generator.uniform(0.25, 0.6), generator.uniform(0.6, 1.3)
    part = canvas.part(Class.VOID, pick(generator, NEUTRAL, PAINT, EARTH), depth=z)
    canvas.polygons(part, [(x - half, 0, z), (x - half, height, z), (x + half, height, z), (x + half, 0, z)])


def _draw_coat(
    canvas: Canvas, generator: np.random.Generator, part: int, x: float, z: float, size: float
) -> None:
    shoulder, hip = size * generator.uniform(0.12, 0.16), size * generator.uniform(0.18, 0.3)
    low, high = size * generator.uniform(0.36, 0.46), 0.84 * size
    top = (x - shoulder, high, z), (x + shoulder, high, z)
    canvas.polygons(part, [(x - hip, low, z), *top, (x + hip, low, z)])
    for sign in (-1, 1):
        hand = x + sign * size * generator.uniform(0.12, 0.24)
        canvas.line(part, (x + sign * shoulder, 0.8 * size, z), (hand, 0.45 * size, z), 0.06 * size)


def _draw_pole(canvas: Canvas, generator: np.random.Generator, x: float, z: float, height: float) -> None:
    part = canvas.part(Class.POLE, pick(generator, NEUTRAL), depth=z)
    canvas.line(part, (x, 0, z), (x, height, z), generator.uniform(0.18, 0.3))
