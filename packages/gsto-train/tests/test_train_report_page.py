"""The command `gsto-report`: what the page says, that it stands alone, and what is refused."""

import errno
import json
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gsto_train.commands.predict import main as predict
from gsto_train.commands.report import main
from gsto_train.commands.train import main as train
from gsto_train.data.pictures import read_label
from gsto_train.look.charts import Line, confusion_chart, line_chart
from gsto_train.look.record import read_record
from gsto_train.metrics import ConfusionMatrix

VOID = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """A page's text, links and images; fails where elements are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.links, self.images, self.words = list[str](), list[str](), list[str](), list[str]()
        self.identifiers, self.titles = set[str](), list[str]()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object")
        found = dict(attrs)
        self.links += [value or "" for key, value in attrs if key == "href"]
        self.images += [value or "" for key, value in attrs if key == "src"]
        if found.get("id"):
            self.identifiers.add(str(found["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] == "title":
            self.titles.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def report(command: Any, invoke: Run) -> Run:
    """Runs the command; `command` gives it the linear backend, a working folder and pictures."""

    def run(*arguments: str, program: Any = main) -> tuple[int, str, str]:
        return invoke(program, *arguments)

    return run


def page(path: str) -> Page:
    text = Path(path).read_text()
    # Nothing is fetched: addresses stand in SVG's name space and in texts alone.
    assert re.findall(r"""(?:url\(|@import|href=["']?https?:|src=["']?(?!["']?data:))""", text) == []
    return Page(text)


def test_a_report_says_all_of_a_run(command: Any, report: Any, pictures: Path) -> None:
    names = ["<script>alert(1)</script>", "a & b", "blue"]
    (pictures / "classes.json").write_text(json.dumps({"classes": names, "ignore_index": 9}))
    assert command("--output", "run", settings=("train.evaluate_every=10",)).status == 0
    status, out, error = report("run")
    assert (status, out) == (0, "the report is run/report.html\n"), error
    found = page("run/report.html")
    assert {link.removeprefix("#") for link in found.links} <= found.identifiers
    assert {
        "scores",
        "curves",
        "samples",
        "confusion",
        "reproduce",
        "settings",
        "environment",
    } <= found.identifiers
    assert all(image.startswith("data:image/") for image in found.images)
    assert len(found.images) == 2 * 3  # Both validation pictures: picture, truth, prediction.
    result = json.loads(Path("run/result.json").read_text())
    for value in (*result["metrics"]["iou"].values(), result["metrics"]["mean_iou"]):
        assert f"{value:.3f}" in found.text
    for name in (*names, "validation picture 0, 4.png", "validation picture 1, 5.png"):
        assert name in found.text
    for line in (Path("run/metrics.jsonl").read_text().splitlines()[-1],):
        assert f"loss, {json.loads(line)['step']}: " in " ".join(found.titles).replace(
            "sum, weighted", "loss"
        )
    assert result["graph_digest"] in found.text
    assert "train.learning_rate" in found.text and "linear" in found.text
    versions = re.search(r"With these versions:\s*(\S+==.*)", found.text)
    assert versions is not None and "gsto-spec==" in versions[1] and "processes==" not in versions[1]
    assert '"train":' not in found.text and "train 0" in found.text  # The seeds.
    assert any(title.startswith("linear_backend:graph on ") and ", 10: " in title for title in found.titles)


def own_scores(name: str) -> list[float]:
    """Return the scores beside the predictions of the samples of run/report.html."""
    text = Path("run/report.html").read_text()
    return [float(each) for each in re.findall(rf"<figcaption>prediction, {name} (\d\.\d+)<", text)]


def test_every_sample_has_its_own_score(command: Any, pictures: Path) -> None:
    assert command("--output", "run").status == 0
    accuracies = own_scores("pixel accuracy")
    assert len(accuracies) == 2  # Of pictures with as many labelled pixels each.
    pooled = json.loads(Path("run/result.json").read_text())["metrics"]["pixel_accuracy"]
    assert sum(accuracies) / 2 == pytest.approx(pooled, abs=1e-3)


def test_every_sample_of_poses_has_its_pck(command: Any) -> None:
    figures = ("--benchmark", "figures", "--architecture", "linear_backend:graph", "--output", "run")
    few = ("train.steps=2", "data.train_figures=8", "data.val_figures=3", "pose.nms=0.001")
    assignments = [part for each in few for part in ("--set", each)]
    assert command(*figures, *assignments, new=False).status == 0
    shares = own_scores("PCK")
    assert len(shares) == 3  # Of figures whose joints are all labelled.
    pooled = json.loads(Path("run/result.json").read_text())["metrics"]["PCK"]
    assert sum(shares) / 3 == pytest.approx(pooled, abs=1e-3)


def test_a_score_that_was_measured_once_is_no_curve(command: Any, report: Any) -> None:
    assert command("--output", "run").status == 0
    assert report("run", "--samples", "0")[0] == 0
    text = Path("run/report.html").read_text()
    assert "<figcaption>learning rate" in text and "<figcaption>mean IoU" not in text


def test_the_confusion_matrix_is_that_of_what_is_predicted(command: Any, report: Any, pictures: Path) -> None:
    assert command("--output", "run").status == 0
    assert report("run")[0] == 0
    assert report(str(pictures / "4.png"), str(pictures / "5.png"), "--model", "run", program=predict)[0] == 0
    from PIL import Image

    confusion = ConfusionMatrix(3)
    for name in ("4", "5"):
        label = read_label(pictures / f"{name}_label.png", classes=3, ignore_label=9)
        with Image.open(f"predictions/index/{name}.png") as picture:
            confusion.update(label, np.array(picture))
    told = [title for title in page("run/report.html").titles if " taken for " in title]
    names = ("red", "green", "blue")
    wanted = [
        f"{names[row]} taken for {names[column]}: "
        f"{confusion.counts[row, column] / confusion.counts[row].sum():.1%} of it "
        f"({confusion.counts[row, column]:,} pixels)"
        for row in range(3) for column in range(3) if confusion.counts[row, column]
    ]  # fmt: skip
    assert told == wanted


def test_a_run_leaves_its_report_with_the_confusion_of_all_its_pictures(command: Any, pictures: Path) -> None:
    done = command("--output", "run", "--json", settings=("train.evaluate_every=10",))
    assert done.status == 0
    assert done.error.endswith("the report is run/report.html\n")
    assert json.loads(done.out) == json.loads(Path("run/result.json").read_text())
    lines = [json.loads(line) for line in Path("run/evaluations.jsonl").read_text().splitlines()]
    counts = [np.array(line["confusion"]) for line in lines]
    assert [line["step"] for line in lines] == [10, 20]
    for line, each in zip(lines, counts, strict=True):
        assert each.sum() == 2 * (24 * 32 - 4)  # All but the ignored pixels of both pictures.
        assert ConfusionMatrix.from_counts(each).scores().mean_iou == line["mean_iou"]
    found = page("run/report.html")
    assert "over all 2 validation pictures" in found.text
    told = [title for title in found.titles if title.startswith("red taken for red: ")]
    assert told and f"({counts[-1][0, 0]:,} pixels)" in told[0]
    result = json.loads(Path("run/result.json").read_text())
    assert "confusion" not in result["metrics"]
    assert shlex.join(shlex.split(read_record(Path("run")).command)) in found.text


def test_the_confusion_is_that_of_the_network_that_is_kept(command: Any, report: Any) -> None:
    settings = ("train.evaluate_every=5", "train.keep=best", "train.learning_rate=4")
    assert command("--output", "run", settings=settings).status == 0
    result = json.loads(Path("run/result.json").read_text())
    counts = read_record(Path("run")).confusion
    assert counts is not None
    assert ConfusionMatrix.from_counts(counts).scores().mean_iou == result["metrics"]["mean_iou"]
    assert "confusion" not in result["metrics"]


def test_a_run_can_do_without_its_report(command: Any) -> None:
    assert command("--output", "run", settings=("train.report=false",)).status == 0
    assert not Path("run/report.html").exists()


def test_a_report_that_cannot_be_written_fails_no_run(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = os.fsync

    def full(descriptor: int) -> None:
        if "report.html" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    done = command("--output", "run")
    assert done.status == 0
    assert Path("run/result.json").exists() and not Path("run/report.html").exists()
    (line,) = [line for line in done.error.splitlines() if "report.html" in line]
    assert line == (
        "warning: no report.html: run/report.html: No space left on device; mend that (is the disk full?): "
        "the run is complete; its report is written by: gsto-report run"
    )


def test_an_interrupt_while_the_report_is_made_tells_that_the_run_is_complete(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsto_train.look.reporting.page", lambda entries: signal.raise_signal(signal.SIGTERM))
    done = command("--output", "run")
    assert done.status == 143
    assert "interrupted; the run is complete" in done.failure
    assert Path("run/result.json").exists()


@pytest.mark.parametrize(
    "name, content",
    [
        ("result.json", b"{"),
        ("environment.json", b"[]"),
        ("metrics.jsonl", b'{"step": 1, "loss": 1.0}\n{"step"\n'),
        ("evaluations.jsonl", None),
        ("model/model.safetensors", b"broken"),
        ("model/graph.json", b"{}"),
    ],
)
def test_damaged_files_are_told_and_fail_the_command(
    command: Any, report: Any, name: str, content: bytes | None
) -> None:
    assert command("--output", "run", settings=("train.report=false",)).status == 0
    if content is None:
        Path("run", name).unlink()
    else:
        Path("run", name).write_bytes(content)
    status, out, error = report("run", "--json")
    assert status == 1
    (damage,) = json.loads(out)["damaged"]
    assert Path(name).name in damage or "model" in damage
    assert error.splitlines()[-1].startswith("gsto-report: 1 file is damaged, named above; run/report.html")
    assert "Damaged files" in page("run/report.html").text


def test_the_line_that_a_run_is_writing_is_no_damage(command: Any, report: Any) -> None:
    assert command("--output", "run", settings=("train.report=false",)).status == 0
    Path("run/result.json").unlink()
    with Path("run/metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "lo')
    assert report("run", "--samples", "0")[0] == 0


def test_the_command_it_gives_trains_the_same_run(command: Any, report: Any) -> None:
    assert command("--output", "run", settings=("data.flip=false", "data.scales=[1.0]")).status == 0
    words = shlex.split(read_record(Path("run")).command)
    assert words[0] == "gsto-train"
    assert " ".join(words[1:]) in page_of(report).text.replace("'", "")
    assert report(*words[1:], "--output", "again", program=train)[0] == 0
    first, second = (json.loads(Path(f"{name}/result.json").read_text()) for name in ("run", "again"))
    assert first["metrics"] == second["metrics"]
    assert read_record(Path("again")).settings == read_record(Path("run")).settings


def test_a_run_of_a_benchmark_of_ones_own_is_told_in_full(command: Any, report: Any) -> None:
    Path("own.toml").write_text('extends = "folder"\n[record]\nsource = "mine"\ncommand = "mine"\n')
    assert command("--output", "run", "--benchmark", "own.toml").status == 0
    words = shlex.split(read_record(Path("run")).command)
    assert "--benchmark" not in words
    assert report(*words[1:], "--output", "again", program=train)[0] == 0
    first, second = (json.loads(Path(f"{name}/result.json").read_text()) for name in ("run", "again"))
    assert first["metrics"] == second["metrics"]


def page_of(report: Any) -> Page:
    assert report("run", "--samples", "0")[0] == 0
    return page("run/report.html")


def test_runs_are_compared_side_by_side(command: Any, report: Any) -> None:
    assert command("--output", "one").status == 0
    assert command("--output", "two", settings=("train.learning_rate=0.001",)).status == 0
    status, out, error = report("one", "two", "--json")
    assert status == 0, error
    told = json.loads(out)
    assert told["report"] == "comparison.html"
    scores = {name: json.loads(Path(f"{name}/result.json").read_text())["metrics"] for name in ("one", "two")}
    assert told["runs"] == scores
    text = Path("comparison.html").read_text()
    found = page("comparison.html")
    assert len(found.images) == 2 * 4
    assert all(f"linear_backend:graph ({run})" in found.text for run in ("one", "two"))
    differing = text[text.index('id="settings"') : text.index("settings that are the same")]
    assert re.findall(r"<th>([a-z_.]+)</th>", differing) == ["train.learning_rate"]
    for values in scores.values():
        assert f"{values['pixel_accuracy']:.3f}" in found.text


def test_what_is_missing_is_said(command: Any, report: Any, pictures: Path) -> None:
    assert command("--output", "run", settings=("train.checkpoint_every=10",)).status == 0
    shutil.rmtree("run/model")
    Path("run/result.json").unlink()
    (pictures / "4.png").write_bytes(b"broken")
    assert report("run")[0] == 0
    found = page("run/report.html")
    assert "This run has not ended." in found.text
    assert "left out" in found.text and "4.png" in found.text
    shutil.rmtree(pictures)
    assert report("run", "--force")[0] == 0
    assert "not drawn" in page("run/report.html").text


def test_wrong_usage_is_refused_in_a_line(command: Any, report: Any) -> None:
    def refused(*arguments: str) -> str:
        status, out, error = report(*arguments)
        (line,) = error.splitlines()
        assert (status, out) == (2, "")
        return str(line)

    assert command("--output", "run").status == 0
    assert "nearest: run" in refused("rum")
    assert "no config.json in it" in refused("pictures")
    assert "no such folder" in refused("run", "--output", "absent/report.html")
    Path("mine.html").write_text("mine")
    assert "replace it with --force" in refused("run", "--output", "mine.html")
    assert Path("mine.html").read_text() == "mine"
    assert report("run", "--output", "mine.html", "--force", "--samples", "0")[0] == 0
    Path("run/config.json").write_text("{")
    assert "expected a JSON object" in refused("run", "--force")


def test_charts_hold_any_numbers() -> None:
    for points in ([(1, 2.0)], [(1, 0.0), (2, 0.0)], [(0, -1e-9), (5, 1e9)], [(3, 5.0), (4, float("nan"))]):
        drawn = line_chart("a < b", [Line("x & y", points)])
        Page(drawn)
        assert "nan" not in drawn and "inf" not in drawn
    assert line_chart("none", [Line("x", [])]) == ""
    drawn = confusion_chart(np.array([[3, 1], [0, 0]]), ("a<", "b"))
    assert "75.0%" in drawn and drawn.count('class="cell"') == 2
    Page(drawn)
