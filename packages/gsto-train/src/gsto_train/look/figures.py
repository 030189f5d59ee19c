"""Figures as one would publish them, by matplotlib: branches, gates, and strips of predictions."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_train.absence import Absent, optional
from gsto_train.data.samples import IGNORE_LABEL, Palette
from gsto_train.errors import InputError
from gsto_train.look.anatomy import Branch, Gate
from gsto_train.look.colours import css
from gsto_train.look.drawing import Picture

EXTRA = "plot"

Maps = Mapping[str, NDArray[np.floating[Any]]]
"""Node -> (h, w)."""

_TILE = 2.0
"""Inches of the longer side of a tile."""

_GAP, _GROUP, _LABEL, _FOOT = 0.08, 0.3, 1.35, 0.75
"""Inches between tiles, more between networks, left of them for names and below them for the scale."""

_TOLD = 3.5
"""Inches that the words below a figure need."""

_NAMES, _TITLES = 0.28, 0.24
"""Inches above tiles for the names of their columns, and above those for the networks'."""

_STYLE = {
    "font.size": 9, "axes.titlesize": 9, "svg.fonttype": "none", "pdf.fonttype": 42,
    "font.family": "sans-serif", "figure.facecolor": "white", "svg.hashsalt": "gsto",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Shown:
    """A network's branches and gates with their values for a picture."""

    title: str
    branches: Sequence[Branch]
    gates: Sequence[Gate]
    maps: Maps


def check_installed() -> None:
    """Raise `InputError`, with what to type, where matplotlib is not installed."""
    try:
        optional("matplotlib", EXTRA)
    except Absent as absent:
        raise InputError(f"--explain draws with matplotlib, which is {absent}") from None


def branches_figure(picture: Picture, networks: Sequence[Shown], ending: str) -> bytes:
    """Return every branch after every part, a row each, averaged over channels; networks side by side.

    Each map has its own scale from its least to its largest value, which stand in it.
    """
    rows = list(dict.fromkeys(branch.after for shown in networks for branch in shown.branches))
    columns = [
        (shown, stride)
        for shown in networks
        for stride in sorted({branch.stride for branch in shown.branches})
    ]
    sheet = _Sheet(
        picture, len(rows) + 1, len(columns), ending, breaks=_breaks([shown for shown, _ in columns])
    )
    sheet.image(0, 0, picture)
    sheet.row_name(0, "picture")
    for row, after in enumerate(rows, start=1):
        sheet.row_name(row, after)
        for column, (shown, stride) in enumerate(columns):
            for branch in shown.branches:
                if (branch.after, branch.stride) == (after, stride):
                    values = shown.maps[branch.node]
                    low, high = float(values.min()), float(values.max())
                    sheet.heat(row, column, values, (low, high), "inferno", f"{low:.2g} to {high:.2g}")
    _name_columns(sheet, [(shown.title, f"stride {stride}") for shown, stride in columns])
    sheet.scale(
        "inferno",
        ("least", "largest"),
        "mean over channels",
        "each map has a scale of its own, which stands in it",
    )
    return sheet.encoded()


def gates_figure(picture: Picture, part: str, networks: Sequence[Shown], ending: str) -> bytes:
    """Return the gates of one part: a fusion as a table, from the column's branch to the row's."""
    tables = [(shown, [gate for gate in shown.gates if gate.part == part]) for shown in networks]
    tables = [(shown, found) for shown, found in tables if found]
    fusion = all(gate.target is not None for _, found in tables for gate in found)
    rows = sorted({gate.target or 0 for _, found in tables for gate in found}) if fusion else [0]
    columns = [
        (shown, key)
        for shown, found in tables
        for key in (sorted({gate.source for gate in found}) if fusion else range(len(found)))
    ]
    sheet = _Sheet(
        picture, len(rows) + 1, len(columns), ending, breaks=_breaks([shown for shown, _ in columns])
    )
    sheet.image(0, 0, picture)
    sheet.row_name(0, "picture")
    least = min(gate.least for _, found in tables for gate in found)
    titles = []
    for column, (shown, key) in enumerate(columns):
        found = next(found for other, found in tables if other is shown)
        chosen = [gate for gate in found if gate.source == key] if fusion else [found[key]]
        titles.append((shown.title, f"from stride {key}" if fusion else _gate_name(found[key])))
        for gate in chosen:
            row = 1 + (rows.index(gate.target or 0) if fusion else 0)
            values = shown.maps[gate.node]
            sheet.heat(row, column, values, (least, 1.0), "cividis", f"mean {float(values.mean()):.2f}")
    for row, target in enumerate(rows, start=1):
        sheet.row_name(row, f"to stride {target}" if fusion else part)
    _name_columns(sheet, titles)
    sheet.scale("cividis", (f"{least:g}", "1"), "gate", f"{part}: what the gate lets through")
    return sheet.encoded()


def strip_figure(
    panels: Sequence[tuple[str, Picture]], names: Sequence[str], palette: Palette, present: Sequence[int],
    ending: str,
) -> bytes:  # fmt: skip
    """Return pictures in a row with titles (the paper's figure 5), and a legend of `present` classes."""
    per_row = max(1, int(len(panels) * (_TILE * 1.4) // 1.3))
    lines = -(-len(present) // per_row)
    sheet = _Sheet(panels[0][1], 1, len(panels), ending, tile=_TILE * 1.4, left=0.1, foot=0.15 + 0.24 * lines)
    for column, (title, picture) in enumerate(panels):
        sheet.image(0, column, picture)
        sheet.column_name(column, title)
    sheet.legend([(names[index], css(palette[index])) for index in present], per_row)
    return sheet.encoded()


def classes_in(*labels: NDArray[np.integer]) -> list[int]:
    """Return the classes that occur in any of the labels."""
    found = {int(value) for label in labels for value in np.unique(label)}
    return sorted(found - {IGNORE_LABEL})


def _gate_name(gate: Gate) -> str:
    return f"{gate.name}, stride {gate.source}"


def _name_columns(sheet: "_Sheet", titles: Sequence[tuple[str, str]]) -> None:
    """Write the columns' names, and above them each network's once where there are several."""
    networks = list(dict.fromkeys(network for network, _ in titles))
    for column, (_, name) in enumerate(titles):
        sheet.column_name(column, name, row=1)
    for network in networks:
        columns = [column for column, (other, _) in enumerate(titles) if other == network]
        sheet.group_name(columns, network)


def _breaks(networks: Sequence[Shown]) -> list[int]:
    """Return the columns at which another network begins."""
    return [k for k in range(1, len(networks)) if networks[k] is not networks[k - 1]]


class _Sheet:
    """A grid of tiles of a picture's aspect, in inches, with room for names and a scale."""

    def __init__(
        self, picture: Picture, rows: int, columns: int, ending: str, *, tile: float = _TILE,
        left: float = _LABEL, foot: float = _FOOT, breaks: Sequence[int] = (),
    ) -> None:  # fmt: skip
        height, width = picture.shape[:2]
        aspect = min(max(height / width, 1 / 4), 4.0)
        self._wide: float = max(tile * min(1.0, 1 / aspect), 1.1)
        self._high: float = tile * min(1.0, aspect)
        self._left, self._foot, self._ending, self._breaks = left, foot, ending, breaks
        self._below_first: float = _TITLES + _NAMES if rows > 1 else 0.0
        self._head: float = 0.1 if rows > 1 else _NAMES
        self._size: tuple[float, float] = (
            max(self._start(columns) + 0.1, left + _TOLD * (rows > 1)),
            self._head + rows * (self._high + _GAP) + self._below_first + foot,
        )
        self._figure = self._styled(self._new)

    def _new(self) -> Any:
        return optional("matplotlib.figure", EXTRA).Figure(figsize=self._size)

    def image(self, row: int, column: int, picture: Picture) -> None:
        """Put a picture into a tile."""
        axes = self._axes(row, column)
        axes.imshow(picture, aspect="auto", interpolation="nearest")

    def heat(
        self, row: int, column: int, values: NDArray[np.floating[Any]], limits: tuple[float, float],
        colours: str, told: str,
    ) -> None:  # fmt: skip
        """Put a heat map into a tile, with a few words in its corner."""
        axes = self._axes(row, column)
        axes.imshow(
            values, aspect="auto", cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest"
        )
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.2}
        axes.text(0.02, 0.04, told, transform=axes.transAxes, fontsize=7, color="black", bbox=box)

    def row_name(self, row: int, name: str) -> None:
        """Name a row, on its left."""
        y = self._bottom(row) + self._high / 2
        self._text(self._left - 0.1, y, name, ha="right", va="center")

    def column_name(self, column: int, name: str, *, row: int = 0) -> None:
        """Name a column, above the tiles from `row` on."""
        x = self._start(column) + self._wide / 2
        self._text(x, self._bottom(row) + self._high + 0.06, name, ha="center", va="bottom")

    def group_name(self, columns: Sequence[int], name: str) -> None:
        """Name neighbouring columns, above the names of the columns below the picture."""
        x = self._start(columns[0])
        y = self._bottom(1) + self._high + _NAMES
        self._text(x, y, name, ha="left", va="bottom", weight="bold")

    def scale(self, colours: str, ends: tuple[str, str], name: str, told: str) -> None:
        """Explain the colours below the tiles."""
        axes = self._figure.add_axes(self._place(self._left, self._foot - 0.28, 2.0, 0.13))
        axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=colours)
        axes.set_yticks([])
        axes.set_xticks([0, 255], ends)
        axes.tick_params(length=2, labelsize=8)
        self._text(self._left - 0.1, self._foot - 0.22, name, ha="right", va="center", size=8)
        self._text(self._left, 0.1, told, ha="left", va="bottom", size=8)

    def legend(self, entries: Sequence[tuple[str, str]], per_row: int) -> None:
        """Explain the colours of classes below the tiles."""
        rectangle: Any = optional("matplotlib.patches", EXTRA).Rectangle
        for number, (name, colour) in enumerate(entries):
            row, column = divmod(number, per_row)
            x, y = self._left + 1.3 * column, self._foot - 0.2 - 0.24 * row
            patch = rectangle(
                (x / self._size[0], y / self._size[1]), 0.2 / self._size[0], 0.13 / self._size[1],
                facecolor=colour, edgecolor="0.4", linewidth=0.5, transform=self._figure.transFigure,
            )  # fmt: skip
            self._figure.add_artist(patch)
            self._text(x + 0.26, y + 0.065, name, ha="left", va="center", size=8)

    def encoded(self) -> bytes:
        """Return the file; the same for the same picture."""
        buffer = io.BytesIO()
        dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(self._ending)
        self._styled(lambda: self._figure.savefig(buffer, format=self._ending, dpi=160, metadata=dated))
        return buffer.getvalue()

    def _styled(self, draw: Callable[[], Any]) -> Any:
        with optional("matplotlib", EXTRA).rc_context(_STYLE):
            return draw()

    def _axes(self, row: int, column: int) -> Any:
        left = self._start(column)
        axes = self._figure.add_axes(self._place(left, self._bottom(row), self._wide, self._high))
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_linewidth(0.4)
        return axes

    def _start(self, column: int) -> float:
        further = _GROUP * sum(place <= column for place in self._breaks)
        return self._left + column * (self._wide + _GAP) + further

    def _bottom(self, row: int) -> float:
        below_first = self._below_first if row > 0 else 0.0
        return self._size[1] - self._head - (row + 1) * self._high - row * _GAP - below_first

    def _place(
        self, left: float, bottom: float, width: float, height: float
    ) -> tuple[float, float, float, float]:
        wide, high = self._size
        return left / wide, bottom / high, width / wide, height / high

    def _text(self, x: float, y: float, text: str, **how: Any) -> None:
        # Dollars would be taken for formulas.
        self._figure.text(x / self._size[0], y / self._size[1], text.replace("$", r"\$"), **how)
