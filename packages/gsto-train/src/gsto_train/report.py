"""What a run says while it goes and at its end: on standard error, the table on standard output."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gsto_spec.errors import printable
from gsto_train.output import standard_output
from gsto_train.stopwatch import Pace

_CITYSCAPES_MEANS = ("mean_instance_iou", "mean_category_iou", "mean_category_instance_iou")

Scores = Mapping[str, Any]
"""A result's metrics: mean_iou, pixel_accuracy, mean_accuracy and iou by class; None where undefined."""


class Report:
    """Writes for a person: a progress bar on a terminal, plain lines elsewhere; with `json` no table.

    A `silent` one says nothing: of several processes one speaks.
    """

    def __init__(self, *, json: bool = False, silent: bool = False) -> None:
        self._silent = silent
        self._log = Console(stderr=True, highlight=False, soft_wrap=True, quiet=silent)
        self._out = self._log if json or silent else Console(file=sys.stdout, highlight=False)

    def note(self, text: str) -> None:
        """Say one line."""
        self._log.print(_text(text))

    def say(self, text: str) -> None:
        """Say one line where the table goes."""
        with standard_output():
            self._out.print(_text(text), soft_wrap=True)

    @contextmanager
    def training(self, start: int, total: int) -> Iterator["StepReport"]:
        """Show the progress of steps `start` .. `total`."""
        steps: StepReport
        if self._silent:
            steps = StepReport()
        else:
            bar = self._log.is_terminal
            steps = _StepBar(self._log, start, total) if bar else _StepLines(self, start, total)
        with steps:
            yield steps

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator["CountReport"]:
        """Show the progress of something that takes a while, by its count."""
        bar = self._log.is_terminal and not self._silent
        with _CountBar(self._log, what, total) if bar else _CountLines(self, what) as count:
            yield count

    def scores(self, title: str, columns: Mapping[str, Scores]) -> None:
        """Print the IoU of every class and the three pooled scores, a column for each of `columns`."""
        self.say(title)
        table = Table()
        table.add_column("IoU by class")
        for name in columns:
            table.add_column(_text(name), justify="right")
        for label in next(iter(columns.values()))["iou"]:
            table.add_row(_text(label), *(_fraction(scores["iou"][label]) for scores in columns.values()))
        table.add_section()
        first = next(iter(columns.values()))
        official = [key for key in _CITYSCAPES_MEANS if key in first]
        for key in ("mean_iou", "pixel_accuracy", "mean_accuracy", *official):
            label = key.replace("_", " ").replace("iou", "IoU")
            table.add_row(label, *(_fraction(scores.get(key)) for scores in columns.values()))
        with standard_output():
            self._out.print(table)

    def measures(
        self, title: str, heading: str, sections: Sequence[Sequence[str]], columns: Mapping[str, Scores]
    ) -> None:
        """Print scores by name, a line each, a column for each of `columns`; absent ones as "-"."""
        self.say(title)
        table = Table()
        table.add_column(_text(heading))
        for name in columns:
            table.add_column(_text(name), justify="right")
        for names in sections:
            for name in names:
                table.add_row(_text(name), *(_fraction(scores.get(name)) for scores in columns.values()))
            table.add_section()
        with standard_output():
            self._out.print(table)


class StepReport:
    """Hears of every step, and of the record of a logged one."""

    def __enter__(self) -> "StepReport":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stepped(self, step: int) -> None:
        """Hear that `step` steps are done."""

    def logged(self, record: Mapping[str, Any], pace: Pace) -> None:
        """Hear of a line of metrics.jsonl, and how fast the steps up to it were."""


class CountReport:
    """Hears of how many more are done."""

    def __enter__(self) -> "CountReport":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, count: int) -> None:
        """Hear that `count` more are done."""


class _StepBar(StepReport):
    def __init__(self, console: Console, start: int, total: int) -> None:
        self._bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}  learning rate {task.fields[rate]}  {task.fields[pace]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
        )
        self._task = self._bar.add_task("train", total=total, completed=start, loss="-", rate="-", pace="")

    def __enter__(self) -> "StepReport":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def stepped(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def logged(self, record: Mapping[str, Any], pace: Pace) -> None:
        rate = _rate(record)
        self._bar.update(self._task, loss=_loss(record), rate=rate, pace=_pace(pace))


class _StepLines(StepReport):
    def __init__(self, report: Report, start: int, total: int) -> None:
        self._report, self._start, self._total = report, start, total
        self._began = time.monotonic()

    def logged(self, record: Mapping[str, Any], pace: Pace) -> None:
        step = record["step"]
        per_step = (time.monotonic() - self._began) / (step - self._start)
        left = duration(per_step * (self._total - step))
        self._report.note(
            f"step {step}/{self._total}  epoch {record['epoch']}  loss {_loss(record)}  "
            f"learning rate {_rate(record)}  {_pace(pace)}  {left} left"
        )


class _CountBar(CountReport):
    def __init__(self, console: Console, what: str, total: int) -> None:
        columns = (
            TextColumn("{task.description} {task.completed}/{task.total}"),
            BarColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> "CountReport":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, count: int) -> None:
        self._bar.advance(self._task, count)


class _CountLines(CountReport):
    def __init__(self, report: Report, what: str) -> None:
        report.note(what)


def _text(words: str) -> Text:
    return Text(printable(words))


def duration(seconds: float) -> str:
    """Return a time as "1 h 05 min", "3 min 20 s" or "12 s"."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"


def _rate(record: Mapping[str, Any]) -> str:
    rate = record["learning_rate"]
    return f"{rate:.5f}" if rate == 0 or 1e-4 <= rate < 1e4 else f"{rate:.3e}"


def _loss(record: Mapping[str, Any]) -> str:
    return "-" if record["loss"] is None else f"{record['loss']:.4f}"


def _pace(pace: Pace) -> str:
    return f"{pace.images_per_second:.3g} images/s, {pace.data_wait:.0%} waiting for data"


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
