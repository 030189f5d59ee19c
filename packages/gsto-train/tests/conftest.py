import importlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gsto_train.commands.train import main
from gsto_train.pose.figures import GeneratedFigures

HERE = Path(__file__).parent

Program = Callable[[Sequence[str]], object]
"""A command's main."""


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that, on the import path, installs the backend `linear` as a package would."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "linear_backend.py").write_text((HERE / "linear_backend.py").read_text())
    information = folder / "linear_backend-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: linear-backend\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[gsto.backends]\nlinear = linear_backend:LinearBackend\n")
    return folder


@pytest.fixture
def linear(plugin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the backend `linear`, installed and fresh."""
    monkeypatch.syspath_prepend(plugin_folder)
    monkeypatch.delitem(sys.modules, "linear_backend", raising=False)
    import linear_backend

    yield linear_backend
    sys.modules.pop("linear_backend", None)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of six small pictures whose three classes are told apart by colour, with lists and names."""
    return write_pictures(tmp_path / "pictures")


def write_pictures(folder: Path, count: int = 6) -> Path:
    generator = np.random.default_rng(0)
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)
    folder.mkdir()
    for index in range(count):
        label = generator.integers(0, 3, (6, 8), np.uint8).repeat(4, 0).repeat(4, 1)
        noise = generator.integers(0, 30, (24, 32, 3), np.uint8)
        label[0, :4] = 0
        Image.fromarray(colours[label] + noise).save(folder / f"{index}.png")
        label[0, :4] = 9
        Image.fromarray(label).save(folder / f"{index}_label.png")
    lines = [f"{index}.png {index}_label.png\n" for index in range(count)]
    (folder / "train.txt").write_text("".join(lines[: count - 2]))
    (folder / "val.txt").write_text("".join(lines[count - 2 :]))
    (folder / "classes.json").write_text(json.dumps({"classes": ["red", "green", "blue"], "ignore_index": 9}))
    return folder


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    error: str

    @property
    def failure(self) -> str:
        """The one line that says what was wrong."""
        lines = [line for line in self.error.splitlines() if line.startswith("gsto-train: ")]
        assert len(lines) == 1, self.error
        assert "Traceback" not in self.error
        assert self.error.splitlines()[-1] == lines[0]
        return lines[0]


RECIPE = (
    "train.steps=20",
    "train.batch=4",
    "train.learning_rate=0.02",
    "train.optimizer=sgd",
    "train.schedule=poly",
    "train.log_every=5",
    "data.crop=[16,16]",
)
"""What tests of the program rest on, whatever the benchmarks' own recipes are."""


@dataclass(frozen=True)
class Invoke:
    """Calls a command's main with arguments; returns its status, standard output and standard error."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, program: Program, *arguments: str) -> tuple[int, str, str]:
        self.capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            program(arguments)
        captured = self.capture.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    def refused(self, program: Program, *arguments: str) -> str:
        """Call a command that must refuse in one line, and return the line."""
        status, out, error = self(program, *arguments)
        (line,) = error.splitlines()
        assert (status, out) == (2, "")
        assert line.startswith("gsto-")
        return line

    def printed(self, program: Program, *arguments: str) -> dict[str, Any]:
        """Call a command with --json, and return what it prints."""
        status, out, error = self(program, *arguments, "--json")
        assert status == 0, error
        found: dict[str, Any] = json.loads(out)
        return found


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str]) -> Invoke:
    return Invoke(capfd)


@dataclass
class Command:
    """Runs `gsto-train` on the small pictures with the linear backend."""

    pictures: Path
    invoke: Invoke
    backend: str = "linear"
    base: tuple[str, ...] = RECIPE

    def __call__(self, *arguments: str, settings: tuple[str, ...] = (), new: bool = True) -> Outcome:
        """Start a run (`new`), or do only what the arguments say."""
        given = [*self._defaults(settings), *arguments] if new else list(arguments)
        return Outcome(*self.invoke(main, "--backend", self.backend, *given))

    def _defaults(self, settings: tuple[str, ...]) -> list[str]:
        assignments = [part for each in (*self.base, *settings) for part in ("--set", each)]
        architecture = ["--architecture", "linear_backend:graph"]
        return ["--benchmark", "folder", "--data", str(self.pictures), *architecture, *assignments]


@pytest.fixture
def command(
    linear: ModuleType,
    pictures: Path,
    tmp_path: Path,
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gsto_train.files.PAUSE", 0.0)
    return Command(pictures, invoke)


@pytest.fixture
def trained(command: Command) -> Path:
    """The folder of a run that has ended."""
    assert command("--output", "run").status == 0
    return Path("run")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """COCO 2017 in HRNet's layout: pictures of one figure each, and a detector's file with a box too many."""
    root = tmp_path / "coco"
    for split, count in (("train", 3), ("val", 2)):
        figures = GeneratedFigures(count, split=split)
        pictures = root / "images" / f"{split}2017"
        pictures.mkdir(parents=True)
        images = []
        for person in figures.persons:
            image, name = figures.image(person), f"{person.picture:012d}.jpg"
            Image.fromarray(image).save(pictures / name)
            height, width = image.shape[:2]
            images.append({"id": person.picture, "file_name": name, "height": height, "width": width})
        category = {"id": 1, "name": "person", "keypoints": figures.skeleton.joints}
        table = {"images": images, "annotations": [*figures.annotations], "categories": [category]}
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/person_keypoints_{split}2017.json").write_text(json.dumps(table))
    boxes = [
        {"image_id": person.picture, "category_id": 1, "bbox": person.box.tolist(), "score": score}
        for person in figures.persons for score in (0.9, 0.01)
    ]  # fmt: skip
    detections = root / "person_detection_results" / "COCO_val2017_detections_AP_H_56_person.json"
    detections.parent.mkdir()
    detections.write_text(json.dumps(boxes))
    return root


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(name="read_lines")
def _read_lines() -> Callable[[Path], list[dict[str, Any]]]:
    return read_lines


@pytest.fixture(scope="session")
def cityscapes_tool() -> ModuleType:
    """The official evaluation of Cityscapes; it calls `numpy.in1d`, which numpy 2.4 no longer has."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(np, "in1d", np.isin, raising=False)
        try:
            return importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
        except ImportError as error:
            pytest.skip(f"cityscapesscripts is not installed ({error})")


@pytest.fixture
def official_scores(
    cityscapes_tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[str], list[str]], dict[str, Any]]:
    """The official scores of files of predictions and of label ids, instance ids beside the latter."""
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    cityscapes_tool.args.quiet, cityscapes_tool.args.JSONOutput = True, False

    def scores(predictions: list[str], labels: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = cityscapes_tool.evaluateImgLists(predictions, labels, cityscapes_tool.args)
        return found

    return scores
