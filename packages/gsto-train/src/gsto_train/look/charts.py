"""Charts as SVG text whose colours are the page's: lines over steps, and a confusion matrix."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from gsto_train.wording import noun_of

SERIES = 6
"""Colours that the page's style has for series; they differ in dashes too."""

_DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 460, 250, 52, 24, 12, 40
_CELL, _TURN = 26, 45


@dataclass(frozen=True)
class Line:
    """A named line of points (x, y); ys that are not finite are left out."""

    name: str
    points: Sequence[tuple[float, float]]

    @property
    def drawn(self) -> list[tuple[float, float]]:
        """The points that can be drawn."""
        return [(x, y) for x, y in self.points if math.isfinite(y)]


def line_chart(title: str, lines: Sequence[Line], x_name: str = "step") -> str:
    """Return a figure with its title, the lines and a legend; an empty text where there is no point."""
    drawn = [line for line in lines if line.drawn]
    if not drawn:
        return ""
    xs = [x for line in drawn for x, _ in line.drawn]
    ys = [y for line in drawn for _, y in line.drawn]
    last = max(*xs, 1.0)
    across, up = [x for x in _ticks(0.0, last) if x <= last], _ticks(min(ys), max(ys))
    place = _Place((0.0, last), (up[0], up[-1]))
    body = [
        *_grid(place, across, up, x_name),
        *(mark for k, line in enumerate(drawn) for mark in _line(place, k, line)),
    ]
    legend = "".join(_legend(k, line.name) for k, line in enumerate(drawn)) if len(drawn) > 1 else ""
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'{"".join(body)}</svg><div class="legend">{legend}</div></figure>'
    )


def confusion_chart(counts: NDArray[np.int64], names: Sequence[str]) -> str:
    """Return a confusion matrix, each row its class's shares of predictions; empty rows stay empty."""
    left = 16 + 7 * max(map(len, names))
    top = 24 + int(5.2 * max(map(len, names)))
    side = _CELL * len(names)
    totals = counts.sum(axis=1)
    cells = [
        _cell(left + _CELL * column, top + _CELL * row, names[row], names[column], int(counts[row, column]),
              int(totals[row]))
        for row in range(len(names)) for column in range(len(names)) if counts[row, column]
    ]  # fmt: skip
    rows = [
        f'<text x="{left - 6}" y="{top + _CELL * row + 17}" class="end">{escape(name)}</text>'
        for row, name in enumerate(names)
    ]
    columns = [
        f'<text transform="translate({left + _CELL * column + 15} {top - 6}) rotate(-{_TURN})">'
        f"{escape(name)}</text>"
        for column, name in enumerate(names)
    ]
    wide = left + side + top
    return (
        f'<svg class="matrix" viewBox="0 0 {wide} {top + side + 8}" width="{wide}" '
        f'height="{top + side + 8}" role="img" aria-label="confusion matrix">'
        f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/>'
        f"{''.join(rows)}{''.join(columns)}{''.join(cells)}</svg>"
    )


@dataclass(frozen=True)
class _Place:
    """From values to pixels."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        return round(_LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (_WIDTH - _LEFT - _RIGHT), 1)

    def up(self, value: float) -> float:
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP), 1)


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that enclose the range."""
    if low == high:
        low, high = low - abs(low or 1) / 2, high + abs(high or 1) / 2
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _grid(place: _Place, across: Sequence[float], up: Sequence[float], x_name: str) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in up:
        y = place.up(value)
        yield f'<path class="grid" d="M{_LEFT} {y}H{right}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4}" class="end">{value:.4g}</text>'
    for value in across:
        x = place.across(value)
        yield f'<path class="grid" d="M{x} {bottom}v4"/>'
        yield f'<text x="{x}" y="{bottom + 17}" class="middle">{value:.6g}</text>'
    yield f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 5}" class="middle">{escape(x_name)}</text>'


def _line(place: _Place, number: int, line: Line) -> Iterator[str]:
    points = [(place.across(x), place.up(y), x, y) for x, y in line.drawn]
    path = " ".join(f"{x},{y}" for x, y, _, _ in points)
    dashes = _DASHES[number % len(_DASHES)]
    colour = f"s{number % SERIES}"
    yield f'<polyline class="line {colour}" stroke-dasharray="{dashes}" points="{path}"/>'
    every = max(1, len(points) // 100)
    radius = 3 if len(points) <= 12 else 1.5
    for x, y, step, value in points[::every]:
        told = escape(f"{line.name}, {step:g}: {value:.4g}")
        yield f'<circle class="dot {colour}" cx="{x}" cy="{y}" r="{radius}"><title>{told}</title></circle>'


def _legend(number: int, name: str) -> str:
    dashes = _DASHES[number % len(_DASHES)]
    return (
        f'<span><svg width="30" height="10"><path class="line s{number % SERIES}" d="M0 5H30" '
        f'stroke-dasharray="{dashes}"/></svg>{escape(name)}</span>'
    )


def _cell(x: int, y: int, truth: str, found: str, count: int, total: int) -> str:
    share = count / total
    told = escape(f"{truth} taken for {found}: {share:.1%} of it ({count:,} {noun_of(count, 'pixel')})")
    style = "middle on" if share > 0.5 else "middle"
    number = f'<text x="{x + 13}" y="{y + 17}" class="{style}">{100 * share:.0f}</text>'
    return (
        f'<g><title>{told}</title><rect class="cell" x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" '
        f'fill-opacity="{share:.3f}"/>{number if share >= 0.005 else ""}</g>'
    )
