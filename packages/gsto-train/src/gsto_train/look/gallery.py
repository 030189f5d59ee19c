"""Predictions of many pictures, in a folder: drawn, as indices or joints, and told in JSON."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gsto_spec.errors import printable
from gsto_train.data.loader import in_order
from gsto_train.errors import InputError
from gsto_train.files import replace, write_json
from gsto_train.look import drawing
from gsto_train.look.colours import css
from gsto_train.look.inputs import Input, Seen
from gsto_train.look.network import Network
from gsto_train.look.predicting import Looker, Prediction, told
from gsto_train.look.sources import SUMMARY
from gsto_train.report import Report
from gsto_train.wording import counted, counted_units

LEGEND, POSES = "legend.svg", "keypoints.json"

_AHEAD = 2


class Output:
    """A folder that files are written into, and never beside it."""

    def __init__(self, path: Path, *, force: bool) -> None:
        """Raises `InputError` where the folder holds something and nobody said `force`; `make` makes it."""
        self.path = path
        with _refused(path):
            if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not force)):
                what = "holds files already" if path.is_dir() else "is a file"
                mend = "--force replaces those of the same names, or give" if path.is_dir() else "give"
                raise InputError(f"{printable(path)}: this output folder {what}; {mend} another --output")
        self._made: tuple[Path, ...] = ()

    def make(self) -> None:
        """Make the folder; raises `InputError` where that cannot be."""
        self._made = tuple(folder for folder in (self.path, *self.path.parents) if not folder.exists())
        with _refused(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._real = self.path.resolve()

    def place(self, name: str) -> Path:
        """Return the path of a file, its folder made; raises `InputError` where a link leads outside."""
        path = self.path / name
        inside = path.parent.resolve().is_relative_to(self._real)
        if not inside or ".." in Path(name).parts:
            raise InputError(f"{printable(path)}: leads out of the output folder; give another --output")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def discard(self) -> None:
        """Remove the folder, and those that were made for it, unless something is in them."""
        with suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def write(self, name: str, content: bytes) -> str:
        """Write a file, whole or not at all, and return its name."""
        replace(self.place(name), content)
        return name


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{printable(path)}: this output folder cannot be made: {error.strerror}; give another --output"
        ) from None


@dataclass
class Outcome:
    """What became of the pictures: a line of facts for each predicted one, a reason for each other one.

    `without_truth` are those among the predicted ones whose truth does not read or fit.
    """

    pictures: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    without_truth: list[dict[str, str]] = field(default_factory=list)


Look = Callable[[Input, Seen, Prediction], Mapping[str, Any]]
"""Does more with a picture that is predicted, and returns further facts of it."""


def nothing_more(shown: Input, seen: Seen, found: Prediction) -> Mapping[str, Any]:
    """Do nothing."""
    return {}


def predict_all(
    inputs: Sequence[Input], network: Network, looker: Looker, output: Output, report: Report,
    *, opacity: float = drawing.OPACITY, also: Look = nothing_more,
) -> Outcome:  # fmt: skip
    """Predict every picture into `output`; those that do not read or fit are named and passed over.

    Raises `OSError` where the output cannot be written.
    """
    outcome = Outcome()
    with report.counting(f"predicting {counted(len(inputs), 'picture')}", len(inputs)) as count:
        for shown, seen in _read_ahead(inputs, network.settings.train.threads):
            try:
                if isinstance(seen, InputError):
                    raise seen
                found = looker.predict(seen.picture, seen.boxes)
                facts = _write(output, network, looker, shown, seen, found, opacity)
                outcome.pictures.append({**facts, **also(shown, seen, found)})
                if seen.problem is not None:
                    report.note(f"warning: the truth is left out: {printable(seen.problem)}")
                    outcome.without_truth.append({"picture": shown.title, "reason": seen.problem})
            except InputError as error:
                reason = printable(" ".join(str(error).split()))
                report.note(reason if shown.title in reason else f"{shown.title}: {reason}")
                outcome.skipped.append({"picture": shown.title, "reason": reason})
            count.advance(1)
    return outcome


def summarize(network: Network, looker: Looker, output: Output, outcome: Outcome) -> dict[str, Any]:
    """Write what goes with all pictures, if there are any, and return what predictions.json holds."""
    summary: dict[str, Any] = {
        "model": printable(network.source),
        "architecture": network.title,
        "graph_digest": network.graph.digest,
        "backend": network.backend.name,
        "benchmark": network.benchmark,
        "protocol": looker.protocol,
        "joints" if network.poses else "classes": list(network.labels),
    }
    if not network.poses:
        summary["palette"] = [css(colour) for colour in network.palette]
    summary |= {
        "pictures": outcome.pictures, "skipped": outcome.skipped, "without_truth": outcome.without_truth
    }  # fmt: skip
    if not outcome.pictures:
        output.discard()
        return summary
    if network.poses:
        replace(output.place(POSES), _coco(outcome))
    else:
        replace(output.place(LEGEND), drawing.legend(network.labels, network.palette).encode())
    write_json(output.place(SUMMARY), summary)
    return summary


def _read_ahead(inputs: Sequence[Input], threads: int) -> Iterator[tuple[Input, Seen | InputError]]:
    def load(index: int) -> Seen | InputError:
        try:
            return inputs[index].read()
        except InputError as error:
            return error

    with closing(in_order(load, range(len(inputs)), threads=threads, ahead=_AHEAD)) as loaded:
        yield from zip(inputs, loaded, strict=True)


def _write(
    output: Output, network: Network, looker: Looker, shown: Input, seen: Seen, found: Prediction,
    opacity: float,
) -> dict[str, Any]:  # fmt: skip
    height, width = seen.picture.shape[:2]
    facts: dict[str, Any] = {"picture": shown.title, "width": width, "height": height}
    kind = "skeleton" if network.poses else "overlay"
    drawn = drawing.png(looker.draw(seen.picture, found, opacity))
    facts[kind] = output.write(f"{kind}/{shown.name}.png", drawn)
    if found.classes is not None:
        indices = drawing.index_png(found.classes, network.palette)
        facts["index"] = output.write(f"index/{shown.name}.png", indices)
    return {**facts, **told(network, found)}


def _coco(outcome: Outcome) -> bytes:
    """Return all poses in COCO's format of results, the picture's name in place of a number."""
    rows = [
        {"file_name": picture["picture"], "category_id": 1, **pose}
        for picture in outcome.pictures
        for pose in picture.get("poses", ())
    ]
    return json.dumps(rows, allow_nan=False).encode()


def default_output() -> Path:
    """Return `predictions`, `predictions-2`, ...: the first that is not there."""
    number, path = 1, Path("predictions")
    while os.path.lexists(path):
        number += 1
        path = Path(f"predictions-{number}")
    return path


def title(network: Network) -> str:
    """Return what is predicted with, in words."""
    labels = counted_units(len(network.labels), "joints" if network.poses else "classes")
    return f"{network.title}, {labels}, on {network.backend.name}"
