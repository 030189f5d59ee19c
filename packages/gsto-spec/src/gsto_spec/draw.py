"""A network as a picture: the graph that runs, in lanes of one resolution each, as SVG text.

Arrows run from left to right. A shaded lane holds what has one stride, the finest at the top; above them
stand the predictions, with their losses. Modules that repeat the first one are drawn once, with their number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from gsto_spec.graph import Graph
from gsto_spec.layout import PREDICTIONS, Layout, by_column, into, lay_out
from gsto_spec.objective import Objective
from gsto_spec.sizes import show
from gsto_spec.sketch import Arrow, Lane, Sketch, Unit, is_input, kernels, sketch

STYLE = """
text { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 12px; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 } .name { font-weight: 600 }
.quiet { font-size: 11px; fill: #59636e }
.middle { text-anchor: middle }
.page { fill: #ffffff } .lane { fill: #f1f4f7 } .rule { stroke: #7d8894 }
.module { fill: #dbe9fb; stroke: #3b6fb5 } .step { fill: #dff1e2; stroke: #3d8b4f }
.leaf { fill: #ffffff; stroke: #59636e } .sum { fill: #ece4f8; stroke: #7a53b0 }
.head { fill: #fdebd3; stroke: #b06a14 }
.arrow { fill: none; stroke: #7d8894; stroke-width: 1.2 } .tip { fill: #7d8894 }
.steers { fill: none; stroke: #c2500a; stroke-width: 1.4; stroke-dasharray: 5 3 }
.gate { fill: #e8590c; stroke: #ffffff }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .quiet { fill: #a5afba }
.page { fill: #0d1117 } .lane { fill: #171d26 }
.module { fill: #14304f; stroke: #6ea8fe } .step { fill: #143521; stroke: #63b97a }
.leaf { fill: #0d1117; stroke: #a5afba } .sum { fill: #2f2148; stroke: #b794f0 }
.head { fill: #452c0b; stroke: #e0a458 }
.steers { stroke: #ff9a57 } .gate { fill: #ff8a3d; stroke: #0d1117 }
}
"""
"""Colours for light and dark pages; the reader's system chooses."""

MARGIN = 14
TOP = 92
LANE_TITLE = 84
LEGEND_LINE = 20
STRAIGHT = 16
"""The last pixels of an arrow, where its gate stands."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Sizes in pixels: a box's height, a row's, the least width of a box, and what an arrow adds to a gap."""

    box: int
    row: int
    width: int
    port: int


MODULES = Metrics(box=42, row=66, width=44, port=11)
OPS = Metrics(box=32, row=46, width=60, port=4)


def draw(graph: Graph, *, title: str = "network", ops: bool = False) -> str:
    """A graph as SVG text, the same for equal graphs: at module level, or with `ops` every op.

    Boxes say what they are and how many channels they make. A dot on an arrow is a gate that multiplies what
    comes along it, a dot on a box a gate inside; a dashed arrow is a prediction that gates are made of.
    Where an output has a weight in the paper's loss (section 3.2.2) it stands below it.
    """
    return _Drawing(graph, title, ops).svg()


class _Drawing:
    """One picture in the making."""

    def __init__(self, graph: Graph, title: str, ops: bool) -> None:
        self.graph, self.title, self.ops = graph, title, ops
        self.metrics = OPS if ops else MODULES
        self.sketch: Sketch = sketch(graph, ops=ops)
        self.layout: Layout = lay_out(self.sketch)
        self.arrows = into(self.sketch, self.layout)
        self.labels = {name: _labels(graph, unit, self.layout, ops)
                       for name, unit in self.sketch.units.items()}  # fmt: skip
        self.columns = by_column(self.layout, self.sketch.units.values())
        self.left, self.width = self._horizontal()
        self.top, self.height = self._vertical()

    def svg(self) -> str:
        """The whole file."""
        legend = self._legend()
        width = max(
            self.width, *(240 + 7 * len(text) for text in (self.title, *(text for _, text in legend)))
        )
        height = self.height + LEGEND_LINE * (len(legend) + 1)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">',
            f"<title>{escape(self.title)}</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 6 6" refX="5.5" refY="3" markerWidth="6" markerHeight="6" '
            'markerUnits="userSpaceOnUse" orient="auto"><path class="tip" d="M0 0L6 3L0 6z"/></marker>',
            "</defs>",
            f'<rect class="page" width="{width}" height="{height}"/>',
            *self._heading(), *self._lanes(width), *self._headers(),
            *(part for found in self.arrows.values() for arrow in found for part in self._arrow(arrow)),
            *(part for unit in self.sketch.units.values() for part in self._box(unit)),
            *(part for found in self.arrows.values() for arrow in found for part in self._gate(arrow)),
            *self._legend_lines(legend), "</svg>",
        ]  # fmt: skip
        return "\n".join(parts) + "\n"

    def _horizontal(self) -> tuple[list[tuple[int, int]], int]:
        """Each column's left edge and width, and the drawing's width."""
        x, edges = MARGIN + LANE_TITLE, []
        for units in self.columns.values():
            x += (
                20
                + STRAIGHT
                + self.metrics.port * max((len(self.arrows[unit.name]) for unit in units), default=0)
            )
            width = max([self.metrics.width, *(_text_width(line) for unit in units
                                               for line in self.labels[unit.name])])  # fmt: skip
            edges.append((x, width))
            x += width
        return edges, x + 2 * MARGIN

    def _vertical(self) -> tuple[dict[Lane, int], int]:
        """Each lane's upper edge, and where the lanes end."""
        y, edges = TOP, {}
        for lane, rows in self.layout.lanes.items():
            edges[lane] = y
            y += rows * self.metrics.row + 8
        return edges, y

    def _corner(self, name: str) -> tuple[int, int]:
        """The upper left corner of a unit's box."""
        place = self.layout.places[name]
        return self.left[place.column][0], self.top[place.lane] + place.row * self.metrics.row + 6

    def _middle(self, name: str) -> int:
        return self._corner(name)[1] + self.metrics.box // 2

    def _heading(self) -> list[str]:
        learnt = sum(map(math.prod, self.graph.trainable.values()))
        facts = f"{learnt:,} learnt parameters, graph {self.graph.digest[:12]}"
        return [_text(MARGIN, 26, self.title, "title"), _text(MARGIN, 45, facts, "quiet")]

    def _lanes(self, width: int) -> list[str]:
        parts = []
        for lane, y in self.top.items():
            height = self.layout.lanes[lane] * self.metrics.row + 2
            if lane != PREDICTIONS:
                parts.append(f'<rect class="lane" x="{MARGIN}" y="{y}" width="{width - 2 * MARGIN}" '
                             f'height="{height}" rx="6"/>')  # fmt: skip
            parts.append(_text(MARGIN + 8, y + 6 + self.metrics.box // 2 + 4, lane[1], "quiet"))
        return parts

    def _headers(self) -> list[str]:
        """Above neighbouring columns of one module its name, over a line."""
        sections = [(self._section(units), column) for column, units in self.columns.items()]
        parts = []
        for section, run in groupby(sections, key=lambda item: item[0]):
            columns = [column for _, column in run]
            left, right = self.left[columns[0]][0], sum(self.left[columns[-1]])
            if section:
                parts.append(f'<path class="rule" d="M{left} {TOP - 12}H{right}"/>')
                parts.append(_text((left + right) // 2, TOP - 18, self._times(section), "name middle"))
        return parts

    def _section(self, units: Sequence[Unit]) -> str:
        inside = [unit for unit in units if self.layout.places[unit.name].lane != PREDICTIONS]
        found = {_section(unit.name) for unit in inside}
        section = found.pop() if len(found) == 1 else ""
        return section if self.ops or section.startswith(("stage", "transition")) else ""

    def _times(self, section: str) -> str:
        """`stage3 × 4` for a module that comes four times; its number only where modules differ."""
        scope, dot, _ = section.partition(".")
        modules = {_section(name) for name in self.sketch.units}
        alone = sum(each.partition(".")[0] == scope for each in modules) == 1
        times = self.sketch.repeats.get(section, 1)
        return (scope if dot and alone else section) + (f" × {times}" if times > 1 else "")

    def _arrow(self, arrow: Arrow) -> list[str]:
        x, y = self._corner(arrow.source)[0] + self._box_width(arrow.source), self._middle(arrow.source)
        end, port = self._port(arrow)
        turn = self._gap(arrow.target)
        level = end - STRAIGHT
        bend = (turn + level) // 2
        kind = "steers" if arrow.steers else "arrow"
        path = f"M{x} {y}H{turn}C{bend} {y} {bend} {port} {level} {port}H{end}"
        return [f'<path class="{kind}" marker-end="url(#tip)" d="{path}"/>']

    def _gap(self, name: str) -> int:
        """Where the arrows to a column leave their rows: the end of the column before it."""
        column = self.layout.places[name].column
        return sum(self.left[column - 1]) + 3

    def _port(self, arrow: Arrow) -> tuple[int, int]:
        """Where an arrow ends: the arrows of a box share its left side."""
        arrows = self.arrows[arrow.target]
        x, y = self._corner(arrow.target)
        share = self.metrics.box / (len(arrows) + 1)
        return x, round(y + share * (arrows.index(arrow) + 1))

    def _gate(self, arrow: Arrow) -> list[str]:
        if not arrow.gated:
            return []
        x, y = self._port(arrow)
        return [f'<circle class="gate" cx="{x - STRAIGHT + 4}" cy="{y}" r="4"/>']

    def _box_width(self, name: str) -> int:
        return max(self.metrics.width, *map(_text_width, self.labels[name]))

    def _box(self, unit: Unit) -> list[str]:
        (x, y), width = self._corner(unit.name), self._box_width(unit.name)
        first, second = self.labels[unit.name]
        kind, middle = self._kind(unit), x + width // 2
        step = self.metrics.box // 2
        parts = [
            f'<g><title>{escape(self._hint(unit))}</title><rect class="{kind}" x="{x}" y="{y}" '
            f'width="{width}" height="{self.metrics.box}" rx="5"/>',
            _text(middle, y + step - 3, first, "name middle"),
            _text(middle, y + step + 11, second, "quiet middle"), "</g>",
        ]  # fmt: skip
        if unit.gates:
            parts.append(f'<circle class="gate" cx="{x + width}" cy="{y}" r="4"/>')
        if unit.outputs:
            parts.append(_text(middle, y + self.metrics.box + 14, self._loss(unit), "quiet middle"))
        return parts

    def _kind(self, unit: Unit) -> str:
        if is_input(self.graph, unit):
            return "leaf"
        if self.layout.places[unit.name].lane == PREDICTIONS:
            return "head"
        sources = {self.sketch.units[arrow.source].lane for arrow in self.arrows[unit.name]}
        if "/fuse." in unit.name and not self.ops:
            return "sum"
        return "step" if sources and unit.lane not in sources else "module"

    def _hint(self, unit: Unit) -> str:
        """What a reader sees who points at a box."""
        return f"{unit.name}: {len(unit.nodes)} ops, {show(self.graph.shapes[unit.nodes[-1]])}"

    def _loss(self, unit: Unit) -> str:
        weights = Objective().stage_weights
        if self.layout.places[unit.name].lane != PREDICTIONS or unit.outputs[0] not in weights:
            return f"output {', '.join(unit.outputs)}"
        return f"loss × {weights[unit.outputs[0]]:.1f}"

    def _legend(self) -> list[tuple[str, str]]:
        kinds = {self._kind(unit) for unit in self.sketch.units.values()}
        gated = any(arrow.gated for arrow in self.sketch.arrows)
        entries = [
            ("sum", "fusion: the sum of its arrows at one resolution, then relu", "sum" in kinds),
            ("step", "another resolution", "step" in kinds),
            ("gate", "gate: what comes along is multiplied by a sigmoid", gated),
            ("inner", "gate inside", any(unit.gates for unit in self.sketch.units.values())),
            ("steers", "prediction that a gate is made of", any(a.steers for a in self.sketch.arrows)),
            ("times", "n equal modules in a row, drawn once", bool(self.sketch.repeats)),
        ]
        return [(kind, text) for kind, text, shown in entries if shown]

    def _legend_lines(self, entries: Sequence[tuple[str, str]]) -> list[str]:
        parts = []
        for line, (kind, text) in enumerate(entries):
            y = self.height + LEGEND_LINE * (line + 1)
            parts += [_sample(kind, MARGIN + 8, y), _text(MARGIN + 44, y + 4, text, "quiet")]
        return parts


def _labels(graph: Graph, unit: Unit, layout: Layout, ops: bool) -> tuple[str, str]:
    """The two lines of a box: what it is, and its channels."""
    fused = "/fuse." in unit.name and not ops
    second = str(unit.channels) if fused else f"{unit.channels} channel{'s' * (unit.channels != 1)}"
    if ops:
        return (kernels(graph, unit) or graph.by_name[unit.nodes[0]].op.kind.replace("_", " ")), second
    if layout.places[unit.name].lane == PREDICTIONS:
        return ", ".join(unit.outputs), second
    if fused:
        return "+", second
    if ".branches." in unit.name:
        return f"{unit.count} block{'s' * (unit.count > 1)}", second
    if unit.name.startswith("transition") or "/scale." in unit.name:
        return kernels(graph, unit) or unit.name, second
    if unit.count > 1:
        return f"{unit.name.rpartition('.')[0]} × {unit.count}", second
    return _under_header(unit.name), second


def _under_header(name: str) -> str:
    """A unit's name without the stage and module that stand above it, and without its branch."""
    parts = name.split(".")
    return parts[2] if parts[0].startswith("stage") and len(parts) > 2 else name


def _section(name: str) -> str:
    """`stage3.0`, or the first part of any other path."""
    parts = name.replace("/", ".").split(".")
    return ".".join(parts[:2]) if parts[0].startswith("stage") else parts[0]


def _text_width(text: str) -> int:
    return round(6.9 * len(text)) + 16


def _text(x: int, y: int, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>'


def _sample(kind: str, x: int, y: int) -> str:
    if kind == "steers":
        return f'<path class="steers" d="M{x} {y}H{x + 26}"/>'
    if kind == "times":
        return _text(x, y + 4, "× n", "name")
    if kind == "gate":
        return f'<circle class="gate" cx="{x + 13}" cy="{y}" r="4"/>'
    box = "module" if kind == "inner" else kind
    rect = f'<rect class="{box}" x="{x}" y="{y - 7}" width="26" height="14" rx="4"/>'
    return rect + (f'<circle class="gate" cx="{x + 26}" cy="{y - 7}" r="4"/>' if kind == "inner" else "")
