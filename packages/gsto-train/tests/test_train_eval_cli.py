"""The command `gsto-eval` on runs, saved models and files of weights."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from gsto_spec.weights import load_directory, save_directory
from gsto_train.commands.evaluate import main
from gsto_train.data.cityscapes import CLASSES, label_ids
from gsto_train.segmentation.evaluation import PROTOCOL

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def score(command: Any, invoke: Run) -> Run:
    """Runs the command; `command` gives it the linear backend, a working folder and pictures."""

    def run(*arguments: str) -> tuple[int, str, str]:
        return invoke(main, *arguments)

    return run


@pytest.fixture
def result(command: Any, invoke: Any) -> Callable[..., dict[str, Any]]:
    """Runs the command with --json and returns what it prints."""
    return partial(invoke.printed, main)


@pytest.fixture
def failure(command: Any, invoke: Any) -> Callable[..., str]:
    """Runs the command, which must refuse in one line, and returns the line."""
    return partial(invoke.refused, main)


def recorded(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    return found


def test_a_run_is_scored_as_it_was_at_its_end(trained: Path, result: Any) -> None:
    again, before = result("run"), recorded(trained)
    for key in ("metrics", "protocol", "graph_digest", "benchmark", "backend", "architecture"):
        assert again[key] == before[key]
    assert again["protocol"] == PROTOCOL
    assert again["weights"] == "run/model"
    assert again["settings"]["evaluation"]["scales"] == [1.0]
    assert "batch" not in again["settings"]["train"]


def test_a_saved_model_and_a_file_of_its_weights_score_the_same(
    trained: Path, result: Any, pictures: Path
) -> None:
    expected = recorded(trained)["metrics"]
    data = ("--backend", "linear", "--benchmark", "folder", "--data", str(pictures))
    assert result("run/model", *data)["metrics"] == expected
    weights = ("run/model/model.safetensors", "--architecture", "linear_backend:graph", "--classes", "3")
    assert result(*weights, *data)["metrics"] == expected


def test_a_run_that_has_not_ended_is_scored_by_its_newest_checkpoint(
    command: Any, trained: Path, score: Any, result: Any
) -> None:
    for path in (trained / "model").iterdir():
        path.unlink()
    (trained / "model").rmdir()
    assert result("run")["metrics"] == recorded(trained)["metrics"]
    assert "checkpoint of step 20" in score("run")[2]
    (trained / "checkpoints" / "step-000020" / "checkpoint.json").unlink()
    assert "expected a whole checkpoint" in score("run")[2]


def test_the_test_procedure_is_a_setting_and_the_protocol_tells_it(trained: Path, result: Any) -> None:
    procedure = (
        "evaluation.scales=[0.5,1.0]", "evaluation.flip=true", "evaluation.aggregation=probabilities",
        "evaluation.window=[12,16]", "evaluation.window_stride=[8,8]",
    )  # fmt: skip
    found = result("run", *(part for each in procedure for part in ("--set", each)))
    assert found["protocol"] == (
        "windows of 12x16 at strides of 8x8 (the last moved back inside, smaller pictures padded with "
        "black), scales 0.5, 1, averaged with the mirrored picture; softmax probabilities, windows averaged, "
        "scales summed, resized bilinearly to the label"
    )
    assert found["metrics"]["mean_iou"] != recorded(trained)["metrics"]["mean_iou"]
    assert found["metrics"]["mean_iou"] > 0.3


def test_training_scores_by_the_procedure_of_its_settings(command: Any, result: Any) -> None:
    settings = ("evaluation.size=[24,20]", "evaluation.resize_label=true", "evaluation.absent_classes=zero")
    assert command("--output", "other", settings=settings).status == 0
    before = recorded(Path("other"))
    assert before["protocol"] == (
        "pictures resized to 24x20; whole pictures, one scale, no flip; logits resized bilinearly to the "
        "label, which is resized to the same size by nearest; classes that occur nowhere count as 0"
    )
    assert result("other")["metrics"] == before["metrics"]


def test_result_json_is_left_where_asked_and_nothing_is_overwritten(
    trained: Path, score: Any, failure: Any
) -> None:
    status, out, error = score("run", "--output", "scores/new")
    assert status == 0, error
    assert "red" in out
    assert "mean IoU" in out
    assert json.loads(Path("scores/new/result.json").read_text())["metrics"] == recorded(trained)["metrics"]
    assert "--output scores/new: expected a new or empty folder" in failure("run", "--output", "scores/new")


def cityscapes(root: Path, split: str = "val") -> Path:
    """Two small pictures in the official tree: the colour of a pixel tells its class, road or car."""
    generator = np.random.default_rng(0)
    for index in range(2):
        stem = f"berlin_000000_00001{index}"
        pictures, labels = (root / kind / split / "berlin" for kind in ("leftImg8bit", "gtFine"))
        for folder in (pictures, labels):
            folder.mkdir(parents=True, exist_ok=True)
        ids = generator.choice([7, 26], (8, 16)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        ids[:4] = 0
        colours = np.where(ids[..., None] == 26, (20, 20, 220), (220, 20, 20)).astype(np.uint8)
        Image.fromarray(colours).save(pictures / f"{stem}_leftImg8bit.png")
        Image.fromarray(ids).save(labels / f"{stem}_gtFine_labelIds.png")
        instances = np.where(ids == 26, 26001, ids.astype(np.uint16))
        Image.fromarray(instances).save(labels / f"{stem}_gtFine_instanceIds.png")
    return root


def by_colour(linear: Any, folder: Path) -> Path:
    """Save a network of 19 classes that calls blue a car and the rest a road."""
    graph = linear.graph(19)
    weight = np.zeros((19, 3, 1, 1), np.float32)
    weight[0, 0], weight[13, 2] = 1, 1
    bias = np.full(19, -100, np.float32)
    bias[[0, 13]] = 0
    folder.mkdir()
    save_directory(folder, graph, {"head.weight": weight, "head.bias": bias}, {"architecture": "by colour"})
    return folder


@pytest.fixture
def on_cityscapes(linear: Any, tmp_path: Path) -> tuple[str, ...]:
    by_colour(linear, tmp_path / "net")
    cityscapes(tmp_path / "cityscapes")
    return ("net", "--backend", "linear", "--benchmark", "cityscapes", "--data", "cityscapes")


def test_cityscapes_has_the_official_scores(result: Any, on_cityscapes: tuple[str, ...]) -> None:
    found = result(*on_cityscapes)
    assert found["architecture"] == "by colour"
    metrics = found["metrics"]
    assert metrics["mean_iou"] > 0.5
    assert 0 < metrics["instance_iou"]["car"] == metrics["mean_instance_iou"] <= 1
    assert metrics["category_iou"]["flat"] == metrics["iou"]["road"]
    assert metrics["category_instance_iou"]["human"] is None
    assert metrics["iou"]["bus"] is None


def test_pictures_that_are_left_out_do_not_shift_the_instances(
    result: Any, on_cityscapes: tuple[str, ...]
) -> None:
    first = "berlin/berlin_000000_000010"
    Path(f"cityscapes/leftImg8bit/val/{first}_leftImg8bit.png").write_bytes(b"broken")
    left_out = result(*on_cityscapes, "--set", "data.skip_unreadable=true")["metrics"]
    Path(f"cityscapes/leftImg8bit/val/{first}_leftImg8bit.png").unlink()
    assert left_out == result(*on_cityscapes)["metrics"]
    assert left_out["mean_instance_iou"] > 0


def test_categories_are_told_to_a_person(score: Any, on_cityscapes: tuple[str, ...]) -> None:
    out = score(*on_cityscapes)[1]
    assert "mean category IoU" in out
    assert "mean instance IoU" in out


def test_a_submission_holds_the_predictions_that_were_scored(
    score: Any, on_cityscapes: tuple[str, ...]
) -> None:
    status, _, error = score(*on_cityscapes, "--submit", "sent")
    assert status == 0, error
    assert "sent: 2 pictures of label ids, of the 500 that val has, read again and checked" in error
    written = sorted(Path("sent").iterdir())
    assert [path.name for path in written] == [f"berlin_000000_00001{k}_pred_labelIds.png" for k in range(2)]
    for index, path in enumerate(written):
        truth = np.asarray(
            Image.open(f"cityscapes/gtFine/val/berlin/berlin_000000_00001{index}_gtFine_labelIds.png")
        )
        ids = np.asarray(Image.open(path))
        assert set(np.unique(ids)) == {7, 26}
        assert (ids == truth)[truth != 0].mean() > 0.7
    assert "--submit sent: expected a new or empty folder" in score(*on_cityscapes, "--submit", "sent")[2]


def test_the_official_tool_scores_a_submission_as_we_do(
    result: Any, on_cityscapes: tuple[str, ...], official_scores: Any
) -> None:
    metrics = result(*on_cityscapes, "--submit", "sent")["metrics"]
    predictions = sorted(map(str, Path("sent").iterdir()))
    labels = sorted(map(str, Path("cityscapes/gtFine/val/berlin").glob("*_labelIds.png")))
    theirs = official_scores(predictions, labels)
    for ours, key in (
        ("mean_iou", "averageScoreClasses"),
        ("mean_instance_iou", "averageScoreInstClasses"),
        ("mean_category_iou", "averageScoreCategories"),
        ("mean_category_instance_iou", "averageScoreInstCategories"),
    ):
        assert metrics[ours] == pytest.approx(theirs[key], rel=0, abs=1e-12)


def test_the_test_split_is_submitted_without_labels(
    score: Any, result: Any, on_cityscapes: tuple[str, ...]
) -> None:
    cityscapes(Path("cityscapes"), "test")
    found = result(*on_cityscapes, "--set", "data.val_split=test", "--submit", "sent")
    assert found["metrics"]["mean_iou"] is None
    assert len(list(Path("sent").iterdir())) == 2


@pytest.fixture
def poses(command: Any) -> Path:
    """A run on generated figures."""
    settings = ("train.steps=2", "train.batch=2", "data.train_figures=4", "data.val_figures=3",
                "data.figure_size=[48,48]", "data.crop=[32,32]")  # fmt: skip
    assignments = [part for each in settings for part in ("--set", each)]
    network = ("--benchmark", "figures", "--architecture", "linear_backend:graph")
    ended = command(*network, "--output", "poses", *assignments, new=False)
    assert ended.status == 0, ended.error
    return Path("poses")


def test_a_run_on_keypoints_is_scored_as_it_was_and_its_poses_are_submitted(
    poses: Path, score: Any, result: Any
) -> None:
    again, before = result("poses"), recorded(poses)
    for key in ("metrics", "protocol", "box_source"):
        assert again[key] == before[key]
    assert again["persons"] == {"validation": before["persons"]["validation"]}
    status, _, error = score("poses", "--submit", "sent")
    assert status == 0, error
    found = json.loads(Path("sent/keypoints_results.json").read_text())
    assert {len(pose["keypoints"]) for pose in found} == {3 * 17}
    assert f"keypoints_results.json with {len(found)} poses, read again and checked" in error


def test_scoring_keypoints_reads_no_training_persons(poses: Path, result: Any, coco: Path) -> None:
    """COCO's training annotations are half a gigabyte; their file need not even be there."""
    (coco / "annotations" / "person_keypoints_train2017.json").unlink()
    found = result("poses", "--benchmark", "lspet", "--data", str(coco))
    assert found["persons"] == {"validation": 2} and found["left_out"] == {"validation": 0}


def test_only_cityscapes_is_submitted(trained: Path, failure: Any) -> None:
    assert "--submit writes Cityscapes' label ids" in failure("run", "--submit", "sent")
    assert not Path("sent").exists()


def test_a_submission_that_fails_leaves_nothing(
    score: Any, on_cityscapes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsto_train.submission.label_ids", lambda classes: classes)
    status, out, error = score(*on_cityscapes, "--submit", "sent")
    assert (status, out) == (1, "")
    assert "holds other values than the 19 label ids" in error.splitlines()[-1]
    assert not Path("sent").exists()
    assert not [path for path in Path().iterdir() if "partial" in path.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing",), "missing: no such file or folder"),
        (("run", "--set", "train.batch=3"), "'train.batch' does not change how a network is scored"),
        (("run", "--set", "evaluation.flipp=true"), "nearest: evaluation.flip"),
        (("run", "--set", "evaluation.window_stride=[4,4]"), "no effect without 'evaluation.window'"),
        (
            ("run", "--set", "evaluation.window=[8,8]", "--set", "evaluation.window_stride=[9,8]"),
            "leaves pixels out",
        ),
        (("run", "--set", "evaluation.resize_label=true"), "no effect without 'evaluation.size'"),
        (("run", "--set", "evaluation.window_above=1.0"), "no effect without 'evaluation.window'"),
        (
            ("run", "--set", "evaluation.size=[8,8]", "--set", "evaluation.base_size=8"),
            "one of 'evaluation.size' and 'evaluation.base_size'",
        ),
        (("run", "--set", "evaluation.base_size=60000", "--set", "evaluation.scales=[2.0]"), "60000 x 2"),
        (("run", "--architecture", "linear_backend:graph", "--classes", "3"), "a run has its own network"),
        (("run", "--classes", "3"), "--architecture names"),
        (("run", "--benchmark", "scenes"), "has 3 channels, expected one for each of the 10 classes"),
        (("run", "--benchmark", "citiscapes"), "nearest: cityscapes"),
        (("run/model", "--backend", "linear"), "give the folder of pictures with --data DIR"),
        (("run/model/model.safetensors", "--backend", "linear"), "names no network"),
        (("run/checkpoints",), "expected a run (with config.json) or a saved model"),
        (("run", "--backend", "lineer"), "lineer is not installed"),
        (("run", "--device", "cuda"), "expected one of auto, cpu"),
        (("run", "--data", "nowhere"), "nowhere: no such folder"),
    ],
)
def test_wrong_input_is_told_in_one_line(
    trained: Path, failure: Any, arguments: tuple[str, ...], message: str
) -> None:
    assert message in failure(*arguments)


def test_a_broken_configuration_is_told(trained: Path, failure: Any) -> None:
    (trained / "config.json").write_text("{}")
    assert "not a configuration that this version reads" in failure("run")


def test_weights_that_do_not_fit_are_told(trained: Path, failure: Any, pictures: Path) -> None:
    _, weights, _ = load_directory(trained / "model")
    safetensors.numpy.save_file({"other": np.asarray(weights["head.bias"])}, "other.safetensors")
    network = ("--architecture", "linear_backend:graph", "--classes", "3", "--backend", "linear")
    assert "head.weight" in failure(
        "other.safetensors", *network, "--benchmark", "folder", "--data", str(pictures)
    )


def test_an_unreadable_picture_is_told(trained: Path, score: Any, pictures: Path) -> None:
    (pictures / "5.png").write_bytes(b"broken")
    status, out, error = score("run")
    assert (status, out) == (2, "")
    assert "5.png: this picture does not decode" in error.splitlines()[-1]


def test_the_classes_of_the_data_are_those_of_the_official_tables() -> None:
    assert [each.id for each in CLASSES] == label_ids(np.arange(19)).tolist()
