from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from gsto_train.report import Report, duration
from gsto_train.stopwatch import Pace


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3900, "1 h 05 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_a_duration_reads_as_a_person_says_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def lines_at(
    times: Sequence[float], steps: Sequence[int], start: int, total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(times)
    monkeypatch.setattr("gsto_train.report.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with Report().training(start, total) as lines:
        for step in steps:
            lines.stepped(step)
            record = {"step": step, "epoch": 2, "loss": 1.25, "learning_rate": 0.015}
            lines.logged(record, Pace(31.4159, 0.0625))


def test_the_time_left_comes_from_the_steps_of_this_session(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lines_at([1000, 1030, 1050], [110, 120], start=100, total=150, monkeypatch=monkeypatch)
    losses = "epoch 2  loss 1.2500  learning rate 0.01500"
    pace = "31.4 images/s, 6% waiting for data"
    assert capfd.readouterr().err.splitlines() == [
        f"step 110/150  {losses}  {pace}  2 min 00 s left",
        f"step 120/150  {losses}  {pace}  1 min 15 s left",
    ]


def test_a_table_holds_every_class_and_a_dash_where_a_score_is_undefined(
    capfd: pytest.CaptureFixture[str],
) -> None:
    scores = {
        "mean_iou": 0.5,
        "pixel_accuracy": 0.75,
        "mean_accuracy": 0.625,
        "iou": {"[road]": 0.5, "car": None},
    }
    Report().scores("a title", {"network": scores, "constant": scores})
    rows = [line.replace("│", " ").split() for line in capfd.readouterr().out.splitlines()]
    assert ["a", "title"] in rows
    assert ["[road]", "0.500", "0.500"] in rows
    assert ["car", "-", "-"] in rows
    assert ["mean", "IoU", "0.500", "0.500"] in rows
    assert ["pixel", "accuracy", "0.750", "0.750"] in rows
    assert ["mean", "accuracy", "0.625", "0.625"] in rows
