"""The results as a picture: bars of subjects, or lines of growing cases; needs matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gsto_train.absence import optional

EXTRA = "plot"
Row = Mapping[str, Any]

ENDINGS = (".svg", ".png", ".pdf")


def require_matplotlib() -> None:
    """Raise `Absent` where nothing can be drawn."""
    optional("matplotlib", EXTRA)


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Write a picture of a document to `path`, in the format that its ending names."""
    matplotlib: Any = optional("matplotlib", EXTRA)
    figures: Any = optional("matplotlib.figure", EXTRA)
    ran = [row for row in document["rows"] if row["state"] == "ran"]
    figure = figures.Figure(figsize=(10, 5), layout="constrained")
    if document["groups"]:
        _lines(figure, ran, document["groups"])
    else:
        _bars(figure, ran)
    # The same results are the same file.
    with matplotlib.rc_context({"svg.hashsalt": "gsto-bench"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _bars(figure: Any, rows: Sequence[Row]) -> None:
    """The median of every row, and its rounds as dots."""
    axes = figure.subplots()
    several = len({row["case"] for row in rows}) > 1
    for place, row in enumerate(reversed(rows)):
        axes.barh(place, row["seconds"]["median"] * 1e3, color="lightsteelblue")
        runs = [seconds * 1e3 for turn in row["rounds"] for seconds in turn]
        axes.plot(runs, [place] * len(runs), ".", color="navy", markersize=3)
    names = [f"{row['subject']}\n{row['case']}" if several else row["subject"] for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names, fontsize="small")
    axes.set_xlabel("milliseconds")
    axes.set_title("" if several or not rows else rows[0]["case"])


def _lines(figure: Any, rows: Sequence[Row], groups: Mapping[str, Sequence[str]]) -> None:
    """Time and memory of growing sizes and batches against pixels, with a line that is linear."""
    panels = (("milliseconds", _milliseconds), ("MiB beyond the network at rest", _mebibytes))
    for axes, (label, value) in zip(figure.subplots(1, 2), panels, strict=True):
        for subject in dict.fromkeys(row["subject"] for row in rows):
            for name, cases in groups.items():
                grown = [row for row in rows if row["subject"] == subject and row["case"] in cases]
                points = sorted((_pixels(row), value(row)) for row in grown)
                if not points:
                    continue
                axes.loglog(*zip(*points, strict=True), ".-", label=f"{subject}, {name}")
                (pixels, first), (most, _) = points[0], points[-1]
                axes.loglog([pixels, most], [first, first * most / pixels], ":", color="grey")
        axes.set_xlabel("pixels (dotted: linear)")
        axes.set_ylabel(label)
        axes.legend()


def _pixels(row: Row) -> int:
    return int(row["batch"] * row["height"] * row["width"])


def _milliseconds(row: Row) -> float:
    return float(row["seconds"]["median"]) * 1e3


def _mebibytes(row: Row) -> float:
    return float(row["card_bytes"] or row["working_bytes"] or 0) / 2**20
