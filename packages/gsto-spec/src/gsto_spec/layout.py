"""Where a drawing's boxes stand: columns by order of computation, rows by resolution."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gsto_spec.sketch import Arrow, Lane, Sketch, Unit

PREDICTIONS: Lane = (0, "predictions")
"""The lane above all others."""

_ABREAST = re.compile(r"(stage\d+\.\d+[./]\w+|transition\d+|.+/scale)\.\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Place:
    """A cell of the drawing: a column, a lane and a row within that lane."""

    column: int
    lane: Lane
    row: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Unit -> its place; lanes from top to bottom with their numbers of rows; the number of columns."""

    places: Mapping[str, Place]
    lanes: Mapping[Lane, int]
    columns: int


def lay_out(sketch: Sketch) -> Layout:
    """Give every unit a cell, so that no box covers another, nor an arrow that passes its column.

    An arrow keeps to its source's row until the column of its target; cells on the way stay free.
    """
    columns = _columns(sketch)
    lanes = _lanes(sketch)
    reach = {name: max((columns[arrow.target] for arrow in sketch.arrows if arrow.source == name), default=0)
             for name in sketch.units}  # fmt: skip
    taken: dict[tuple[Lane, int], int] = {}
    places: dict[str, Place] = {}
    for name in sorted(sketch.units, key=lambda name: columns[name]):
        lane, column = lanes[name], columns[name]
        before = [places[arrow.source] for arrow in sketch.arrows if arrow.target == name]
        wanted = [place.row for place in before if place.lane == lane]
        row = _free_row(taken, lane, column, wanted)
        taken[lane, row] = max(column, reach[name] - 1)
        places[name] = Place(column, lane, row)
    return Layout(places, _heights(places.values()), max(columns.values(), default=-1) + 1)


def _free_row(taken: Mapping[tuple[Lane, int], int], lane: Lane, column: int, wanted: Sequence[int]) -> int:
    rows: list[int] = [*sorted(wanted), *range(len(taken) + 1)]
    return next(row for row in rows if taken.get((lane, row), -1) < column)


def _heights(places: Iterable[Place]) -> dict[Lane, int]:
    heights: dict[Lane, int] = {}
    for place in places:
        heights[place.lane] = max(heights.get(place.lane, 0), place.row + 1)
    return {lane: heights[lane] for lane in sorted(heights)}


def _lanes(sketch: Sketch) -> dict[str, Lane]:
    """A unit's lane; what makes a prediction alone, like all that make one, goes above the others."""
    made = [unit for unit in sketch.units.values() if unit.outputs]
    read = {arrow.source for arrow in sketch.arrows if not arrow.steers}
    alike = len({unit.channels for unit in made}) == 1 and len(sketch.units) > len(made) + 1
    return {name: PREDICTIONS if alike and unit.outputs and name not in read else unit.lane
            for name, unit in sketch.units.items()}  # fmt: skip


def _columns(sketch: Sketch) -> dict[str, int]:
    """The longest way from an input; units of one module share a column where their order allows it."""
    for group_of in (_group, str):
        columns = _longest_ways(sketch, group_of)
        if columns is not None:
            return {name: columns[group_of(name)] for name in sketch.units}
    raise AssertionError("units wait for each other")


def _group(unit: str) -> str:
    """What stands in one column: the branches of a module, its fusions, a transition, a context's scales."""
    match = _ABREAST.fullmatch(unit)
    return match[1] if match else unit


def _longest_ways(sketch: Sketch, group_of: Callable[[str], str]) -> dict[str, int] | None:
    sources: dict[str, set[str]] = {group_of(name): set() for name in sketch.units}
    for arrow in sketch.arrows:
        sources[group_of(arrow.target)].add(group_of(arrow.source))
    columns: dict[str, int] = {}
    while len(columns) < len(sources):
        ready = [name for name, before in sources.items() if name not in columns and before <= columns.keys()]
        if not ready:
            return None
        for name in ready:
            columns[name] = max((columns[before] + 1 for before in sources[name]), default=0)
    return columns


def by_column(layout: Layout, units: Iterable[Unit]) -> dict[int, list[Unit]]:
    """Column -> the units in it."""
    columns: dict[int, list[Unit]] = {column: [] for column in range(layout.columns)}
    for unit in units:
        columns[layout.places[unit.name].column].append(unit)
    return columns


def into(sketch: Sketch, layout: Layout) -> dict[str, list[Arrow]]:
    """Unit -> the arrows that end there, from top to bottom of where they come from."""
    arrows: dict[str, list[Arrow]] = {name: [] for name in sketch.units}
    for arrow in sketch.arrows:
        arrows[arrow.target].append(arrow)
    return {name: sorted(found, key=lambda arrow: _height(layout, arrow)) for name, found in arrows.items()}


def _height(layout: Layout, arrow: Arrow) -> tuple[Lane, int]:
    place = layout.places[arrow.source]
    return place.lane, place.row
