"""What stands where in a street, drawn from far to near."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gsto_train.data.scenes.buildings import (
    LEAVES,
    draw_building,
    draw_bush,
    draw_fence,
    draw_skyline,
    draw_tree,
)
from gsto_train.data.scenes.canvas import Camera, Canvas, Class, Colour, Texture
from gsto_train.data.scenes.colours import EARTH, HEAVEN, LEAF, NEUTRAL, PAINT, pick
from gsto_train.data.scenes.street import (
    draw_box,
    draw_lamp_post,
    draw_person,
    draw_traffic_light,
    draw_traffic_sign,
)
from gsto_train.data.scenes.vehicles import draw_crossing_vehicle, draw_vehicle

_NEAR = 0.6
_FAR = 400.0
_SIDES = (-1, 1)
_PAVED = Texture(fine=0.04, leafy=0.02, patchy=0.08)


class _Draw(Protocol):
    def __call__(self, canvas: Canvas, generator: np.random.Generator, *, x: float, z: float) -> None: ...


_Thing = tuple[_Draw, float, float]


@dataclass(frozen=True)
class Street:
    """The street's plan: distance in metres from the camera to the kerb and to the lots, left and right."""

    kerbs: tuple[float, float]
    edges: tuple[float, float]


def random_camera(size: tuple[int, int], generator: np.random.Generator) -> Camera:
    """Return a camera whose height, horizon, direction, field of view and roll vary from scene to scene."""
    rows, columns = size
    return Camera(
        size=size,
        focal=rows * generator.uniform(0.9, 1.6),
        height=generator.uniform(1.2, 3.0),
        centre=columns * generator.uniform(0.2, 0.8),
        horizon=rows * generator.uniform(0.22, 0.68),
        roll=generator.uniform(-0.05, 0.05),
    )


def draw_scene(canvas: Canvas, generator: np.random.Generator) -> None:
    """Draw a street: sky and ground, the skyline, what lines the street, what is on it, the car's bonnet."""
    left, right = generator.uniform(1.2, 7.0, 2).tolist()
    left_walk, right_walk = generator.uniform(2.0, 7.0, 2).tolist()
    street = Street((left, right), (left + left_walk, right + right_walk))
    _draw_sky(canvas, generator)
    _draw_ground(canvas, generator, street)
    draw_skyline(canvas, generator)
    for side, edge in zip(_SIDES, street.edges, strict=True):
        _draw_lots(canvas, generator, side, edge)
    _draw_things(canvas, generator, street)
    if generator.random() < 0.25:
        _draw_bonnet(canvas, generator)


def _draw_sky(canvas: Canvas, generator: np.random.Generator) -> None:
    low, high = pick(generator, HEAVEN), pick(generator, HEAVEN)
    clouds = Texture(fine=0.0, patchy=generator.uniform(0.0, 0.14))
    canvas.part(Class.SKY, low, depth=0.0, texture=clouds, gradient=0.8 * (low - high))


def _draw_ground(canvas: Canvas, generator: np.random.Generator, street: Street) -> None:
    grass = generator.random() < 0.6
    kind, palettes = (Class.VEGETATION, (LEAF, LEAF, EARTH)) if grass else (Class.SIDEWALK, (NEUTRAL, EARTH))
    verge = _ground_part(canvas, generator, kind, pick(generator, *palettes), LEAVES if grass else _PAVED)
    wide = 40 * _FAR
    canvas.polygons(verge, [(-_FAR, 0, _NEAR), (-wide, 0, _FAR), (wide, 0, _FAR), (_FAR, 0, _NEAR)])
    for side, kerb, edge in zip(_SIDES, street.kerbs, street.edges, strict=True):
        _draw_sidewalk(canvas, generator, side * kerb, side * edge)
    asphalt = pick(generator, NEUTRAL, NEUTRAL, EARTH) * generator.uniform(0.75, 1.05)
    road = _ground_part(canvas, generator, Class.ROAD, asphalt, _PAVED)
    canvas.polygons(road, _flat(-street.kerbs[0], street.kerbs[1], _NEAR, _FAR))
    _draw_markings(canvas, generator, street, asphalt)


def _ground_part(
    canvas: Canvas, generator: np.random.Generator, kind: Class, colour: Colour, texture: Texture
) -> int:
    gradient = 0.25 * generator.standard_normal() * colour
    return canvas.part(kind, colour, depth=8.0, texture=texture, gradient=gradient, ground=True)


def _draw_sidewalk(canvas: Canvas, generator: np.random.Generator, kerb: float, edge: float) -> None:
    colour = pick(generator, NEUTRAL, NEUTRAL, EARTH)
    slab = _ground_part(canvas, generator, Class.SIDEWALK, colour, _PAVED)
    joint = canvas.part(Class.SIDEWALK, colour * 0.72, depth=8.0, ground=True)
    stone = canvas.part(Class.SIDEWALK, np.clip(colour * 1.25, 0, 1), depth=8.0, ground=True)
    canvas.polygons(slab, _flat(kerb, edge, _NEAR, _FAR))
    across = np.arange(1.0, 30.0, generator.uniform(0.7, 1.3)).tolist()
    along = np.linspace(kerb, edge, 2 + round(abs(edge - kerb))).tolist()
    canvas.polygons(joint, [_flat(kerb, edge, z, z + 0.06) for z in across])
    canvas.polygons(joint, [_flat(x, x + 0.04, _NEAR, 30.0) for x in along])
    canvas.polygons(stone, _flat(kerb, kerb + 0.18 * np.sign(edge), _NEAR, _FAR))


def _draw_markings(canvas: Canvas, generator: np.random.Generator, street: Street, asphalt: Colour) -> None:
    """Draw worn lane dashes, an edge line or none, and a crossing or none: all of it is road."""
    worn = generator.uniform(0.3, 0.9)
    paint = canvas.part(Class.ROAD, asphalt * (1 - worn) + 0.9 * worn, depth=8.0, ground=True)
    left, right = -street.kerbs[0], street.kerbs[1]
    middle = (left + right) / 2
    dashes = [_flat(middle - 0.08, middle + 0.08, z, z + 2.5) for z in np.arange(1.0, 60.0, 6.0).tolist()]
    canvas.polygons(paint, dashes)
    if generator.random() < 0.5:
        canvas.polygons(paint, _flat(left + 0.35, left + 0.5, _NEAR, _FAR))
    if generator.random() < 0.35:
        z = generator.uniform(4.0, 12.0)
        bars = np.arange(left + 0.5, right - 0.5, 1.0).tolist()
        canvas.polygons(paint, [_flat(x, x + 0.5, z, z + 3.0) for x in bars])


def _draw_lots(canvas: Canvas, generator: np.random.Generator, side: int, edge: float) -> None:
    """Draw one side of the street: buildings, trees, gaps; then the fence before them, if there is one."""
    built = generator.uniform(0.1, 0.95)
    ends = generator.uniform(1.5, 6.0) + np.cumsum(generator.uniform(8.0, 18.0, 5))
    for near, far in zip(ends[-2::-1].tolist(), ends[:0:-1].tolist(), strict=True):
        if generator.random() < built:
            draw_building(canvas, generator, side=side, edge=edge, near=near, far=far - 0.5)
            continue
        for z in np.linspace(far, near, int(generator.integers(1, 3))).tolist():
            draw_tree(canvas, generator, x=side * (edge + generator.uniform(1, 6)), z=z)
            draw_bush(canvas, generator, x=side * (edge + generator.uniform(0.8, 4)), z=z - 0.5)
    if generator.random() < 0.75:
        near = generator.uniform(1.5, 6.0)
        draw_fence(canvas, generator, x=side * edge, near=near, far=near + generator.uniform(8.0, 30.0))


def _draw_things(canvas: Canvas, generator: np.random.Generator, street: Street) -> None:
    """Draw vehicles, people and street furniture, the farthest first."""
    things = [*_vehicles(generator, street), *_furniture(generator, street), *_people(generator, street)]
    for draw, x, z in sorted(things, key=lambda thing: -thing[2]):
        draw(canvas, generator, x=x, z=z)


def _vehicles(generator: np.random.Generator, street: Street) -> Iterator[_Thing]:
    for side, kerb in zip(_SIDES, street.kerbs, strict=True):
        if generator.random() < 0.6:
            start, pitch = generator.uniform(3.5, 14.0), generator.uniform(6.0, 12.0)
            for z in np.arange(start, 28.0, pitch).tolist():
                if generator.random() < 0.7:
                    yield draw_vehicle, side * (kerb - 1.1), z
    for _ in range(int(generator.integers(0, 3))):
        x = generator.uniform(1.2 - street.kerbs[0], street.kerbs[1] - 1.2)
        yield draw_vehicle, x, _distance(generator, 5.0)
    if generator.random() < 0.25:
        yield draw_crossing_vehicle, generator.uniform(-7.0, 4.0), _distance(generator, 7.0)


def _furniture(generator: np.random.Generator, street: Street) -> Iterator[_Thing]:
    kinds = (
        (draw_lamp_post, 4), (draw_traffic_sign, 4), (draw_traffic_light, 2), (draw_tree, 2), (draw_box, 2),
    )  # fmt: skip
    for draw, most in kinds:
        for _ in range(int(generator.integers(0, most + 1))):
            side = int(generator.random() < 0.5)
            offset = generator.uniform(0.3, 0.9)
            yield draw, _SIDES[side] * (street.kerbs[side] + offset), _distance(generator, 4.0)


def _people(generator: np.random.Generator, street: Street) -> Iterator[_Thing]:
    for _ in range(int(generator.integers(2, 10))):
        side = int(generator.random() < 0.5)
        walks = generator.uniform(street.kerbs[side] + 0.4, street.edges[side] - 0.3)
        crosses = generator.uniform(-street.kerbs[0], street.kerbs[1])
        x = crosses if generator.random() < 0.25 else _SIDES[side] * walks
        yield draw_person, x, _distance(generator, 2.8)


def _distance(generator: np.random.Generator, nearest: float) -> float:
    """Return a distance in metres, more often near than far, so that sizes in pixels spread evenly."""
    return float(nearest * (14.0 / nearest) ** generator.random())


def _draw_bonnet(canvas: Canvas, generator: np.random.Generator) -> None:
    """Hide the bottom of the picture behind the bonnet of the camera's own car, which is not labelled."""
    rows, columns = canvas.camera.size
    part = canvas.part(Class.VOID, pick(generator, NEUTRAL, PAINT), depth=0.0, texture=Texture(patchy=0.15))
    angles = np.linspace(0, np.pi, 16)
    across = columns * (generator.uniform(0.35, 0.65) + 0.62 * np.cos(angles)) - canvas.camera.centre
    down = rows * (1.02 - generator.uniform(0.05, 0.13) * np.sin(angles)) - canvas.camera.horizon
    x, y = across / canvas.camera.focal, canvas.camera.height - down / canvas.camera.focal
    canvas.polygons(part, np.stack([x, y, np.ones(16)], axis=-1))


def _flat(left: float, right: float, near: float, far: float) -> list[tuple[float, float, float]]:
    return [(left, 0, near), (left, 0, far), (right, 0, far), (right, 0, near)]
