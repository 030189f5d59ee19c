"""Runs on keypoints: the program, its folder, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gsto_spec.backend import backends
from gsto_spec.weights import load_directory
from gsto_train import benchmarks
from gsto_train.metrics.keypoints import COCO_NAMES
from gsto_train.pose.evaluation import MeanPose
from gsto_train.pose.figures import GeneratedFigures
from gsto_train.pose.loading import Cropping, evaluation_crops, pose_batches
from gsto_train.pose.targets import Codec
from gsto_train.pose.transform import CropAugmentation, move
from gsto_train.settings import resolve

JOINTS = ("snout", "left_ear", "right_ear")
COLOURS = ([255, 40, 40], [40, 255, 40], [40, 40, 255])
SHORT = (
    "train.steps=60", "train.batch=4", "train.learning_rate=0.01", "train.log_every=5",
    "data.crop=[32,32]", "pose.sigma=1.5",
)  # fmt: skip

STRAIGHT = ("data.flip=false", "pose.flip_test=false")
"""Colours tell the sides of these animals, which a mirror would swap."""

Start = Callable[..., Any]


def write_animals(folder: Path) -> Path:
    """Pictures with one dot of its own colour for each joint, in COCO's format and official names."""
    for split, count, seed in (("train", 8, 0), ("val", 4, 1)):
        generator = np.random.default_rng(seed)
        pictures = folder / "images" / f"{split}2017"
        pictures.mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, count + 1):
            places = generator.integers(8, 40, (3, 2))
            image = np.zeros((48, 48, 3), np.uint8)
            for (x, y), colour in zip(places, COLOURS, strict=True):
                image[y - 3 : y + 4, x - 3 : x + 4] = colour
            Image.fromarray(image).save(pictures / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": 48, "width": 48})
            keypoints = np.concatenate([places, np.full((3, 1), 2)], axis=1).ravel().tolist()
            annotations.append(
                {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 900.0,
                 "bbox": [4, 4, 40, 40], "keypoints": keypoints}
            )  # fmt: skip
        category = {"id": 1, "name": "animal", "keypoints": JOINTS}
        table = {"images": images, "annotations": annotations, "categories": [category]}
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / f"annotations/person_keypoints_{split}2017.json").write_text(json.dumps(table))
    return folder


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    return write_animals(tmp_path / "animals")


@pytest.fixture
def start(command: Any, animals: Path) -> Start:
    """Runs gsto-train on the animals with the linear backend."""

    def run(*arguments: str, settings: tuple[str, ...] = (), benchmark: str = "lspet") -> Any:
        assignments = [part for each in (*SHORT, *settings) for part in ("--set", each)]
        return command(
            "--benchmark", benchmark, "--data", str(animals), "--architecture", "linear_backend:graph",
            *assignments, *arguments, new=False,
        )  # fmt: skip

    return run


def result_of(run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(run, "result.json").read_text())
    return found


def test_a_run_learns_and_is_scored_beside_the_mean_pose(start: Start, read_lines: Any) -> None:
    done = start(
        "--output",
        "run",
        settings=(
            "train.steps=600",
            "train.learning_rate=0.03",
            "pose.decoding=quarter",
            "pose.oks_sigmas=[0.1,0.1,0.1]",
            *STRAIGHT,
        ),
    )
    assert done.status == 0, done.error
    result = result_of("run")
    metrics, baseline = result["metrics"], result["baselines"]["mean pose"]
    assert metrics["PCK"] > 0.7 > 0.2 > baseline["PCK"]
    assert metrics["AP"] > 0.3 > baseline["AP"]
    assert set(metrics["PCK_by_joint"]) == set(JOINTS)
    assert metrics["box_source"] == result["box_source"] == "ground-truth"
    assert result["protocol"] == (
        "ground-truth boxes x 1.25, crops 32x32, no flip, quarter-pixel refinement, OKS-NMS 0.9"
    )
    assert result["persons"] == {"training": 8, "validation": 4}
    lines = read_lines(Path("run/metrics.jsonl"))
    assert lines[-1]["loss"] == lines[-1]["loss_stage4"] < 0.5 * lines[0]["loss"]
    last = read_lines(Path("run/evaluations.jsonl"))[-1]
    assert (last["step"], last["PCK"], last["AP"]) == (600, metrics["PCK"], metrics["AP"])
    assert "8 training and 4 validation persons, 3 joints" in done.error
    assert "mean pose" in done.out and "left_ear" in done.out
    _, _, card = load_directory("run/model")
    assert card["classes"] == list(JOINTS)


def test_joints_that_nobody_measured_have_pck_alone(start: Start) -> None:
    assert start("--output", "run", settings=("train.steps=2",)).status == 0
    assert set(result_of("run")["metrics"]) == {"box_source", "PCK", "PCK_by_joint"}


def test_a_detectors_boxes_are_scored_by_oks_alone(start: Start, animals: Path) -> None:
    rows = [
        {"image_id": n, "category_id": 1, "bbox": [2, 2, 44, 44], "score": 0.9 - 0.1 * n}
        for n in (1, 2, 3, 4)
    ]
    (animals / "boxes.json").write_text(json.dumps([*rows, rows[0]]))
    settings = ("data.val_boxes=boxes.json", "pose.oks_sigmas=[0.1,0.1,0.1]", "train.steps=2")
    assert start("--output", "run", settings=settings).status == 0
    result = result_of("run")
    assert result["box_source"] == result["metrics"]["box_source"] == "detector"
    assert "PCK" not in result["metrics"] and len(result["metrics"]) == 11
    assert result["persons"]["validation"] == 5
    refused = start("--output", "other", settings=settings[::2])
    assert (refused.status, Path("other").exists()) == (2, False)
    assert "setting 'pose.oks_sigmas' is missing: poses in a detector's boxes" in refused.failure


def test_a_run_that_was_stopped_goes_on_to_the_same_result(start: Start, command: Any, linear: Any) -> None:
    settings = ("train.steps=8", "train.checkpoint_every=4")
    assert start("--output", "whole", settings=settings).status == 0

    def fail(step: int) -> None:
        if step == 6:
            raise KeyboardInterrupt

    linear.events.before_step = fail
    assert start("--output", "parts", settings=settings).status != 0
    linear.events.before_step = lambda step: None
    resumed = command("--output", "parts", "--resume", new=False)
    assert resumed.status == 0, resumed.error
    assert "going on from step 4 of 8" in resumed.error
    assert result_of("parts")["metrics"] == result_of("whole")["metrics"]


def test_bad_entries_are_left_out_and_counted_only_where_asked_for(start: Start, animals: Path) -> None:
    path = animals / "annotations/person_keypoints_train2017.json"
    table = json.loads(path.read_text())
    table["annotations"][0]["keypoints"].pop()
    path.write_text(json.dumps(table))
    refused = start("--output", "run")
    assert refused.status == 2
    assert 'annotation 1: expected "keypoints" of 9 numbers (x, y, v of 3 joints), found 8' in refused.failure
    (animals / "images/train2017/2.png").write_bytes(b"no picture")
    done = start("--output", "run", settings=("data.skip_unreadable=true", "train.steps=2"))
    assert done.status == 0, done.error
    assert result_of("run")["left_out"] == {"training": 2, "validation": 0}
    assert result_of("run")["persons"] == {"training": 6, "validation": 4}
    assert "left out 2 bad entries, the first:" in done.error


def test_an_unreadable_picture_is_found_before_training(start: Start, animals: Path) -> None:
    (animals / "images/val2017/2.png").write_bytes(b"no picture")
    refused = start("--output", "run")
    assert (refused.status, Path("run").exists()) == (2, False)
    assert "val2017/2.png: this picture does not decode" in refused.failure


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("loss.joint_weights=[1,2]", "'loss.joint_weights': expected 3 numbers, one per joint, found 2"),
        ("data.crop=[33,32]", "'data.crop': [33, 32] does not divide into the heatmaps of output 'stage4'"),
        ("data.scales=[1]", "'data.scales' has no effect: it belongs to another data.kind than"),
        ("loss.ohem=true", "'loss.ohem' has no effect: it belongs to another data.kind than"),
        ("data.train_list=a", "'data.train_list' has no effect: it belongs to data.kind = \"list\""),
        ("pose.pairs=[[0,3]]", "'pose.pairs': expected joint numbers of at most 2, found 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(start: Start, setting: str, problem: str) -> None:
    refused = start("--output", "run", settings=(setting,))
    assert (refused.status, Path("run").exists()) == (2, False)
    assert problem in refused.failure


def test_settings_of_keypoints_have_no_effect_on_segmentation(command: Any) -> None:
    refused = command("--output", "run", settings=("pose.rotation=3",))
    assert refused.status == 2
    assert (
        "setting 'pose.rotation' has no effect: it belongs to data.kind = \"figures\" or" in refused.failure
    )


def test_both_files_have_the_same_joints(start: Start, animals: Path) -> None:
    path = animals / "annotations/person_keypoints_val2017.json"
    path.write_text(path.read_text().replace("snout", "nose"))
    refused = start("--output", "run")
    assert refused.status == 2
    assert "expected the joints of 'data.train_annotations', found nose, left_ear" in refused.failure


def test_joint_weights_reach_the_loss(start: Start, linear: Any) -> None:
    assert start("--output", "run", settings=("loss.joint_weights=[1,1.2,1.5]", "train.steps=1")).status == 0
    assert linear.events.training.objective.loss.joint_weights == (1, 1.2, 1.5)


def batches(start_step: int = 0, threads: int = 1) -> list[Any]:
    figures, codec = GeneratedFigures(5), Codec((16, 12), 4, 1.5)
    return list(
        pose_batches(
            figures, Cropping((64, 48)), codec, CropAugmentation(), batch=2, seed=3, start_step=start_step,
            total_steps=6, threads=threads,
        )
    )  # fmt: skip


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    whole, later = batches(), batches(start_step=4, threads=3)
    assert [batch.step for batch in later] == [4, 5]
    assert [batch.epoch for batch in whole] == [0, 0, 0, 1, 1, 2]
    for one, other in zip(whole[4:], later, strict=True):
        assert one.names == other.names
        for name, array in one.inputs.items():
            np.testing.assert_array_equal(array, other.inputs[name])
    assert {name: array.shape for name, array in whole[0].inputs.items()} == {
        "image": (2, 3, 64, 48), "heatmaps": (2, 17, 16, 12), "visibility": (2, 17),
    }  # fmt: skip


def test_every_box_is_cropped_once_and_maps_back_to_its_picture() -> None:
    figures = GeneratedFigures(5)
    found = list(evaluation_crops(figures, Cropping((64, 48)), batch=2, threads=2))
    assert [len(crops.persons) for crops in found] == [2, 2, 1]
    assert [p.picture for crops in found for p in crops.persons] == [1, 2, 3, 4, 5]
    person, back = found[0].persons[1], found[0].back[1]
    centre = person.box[:2] + person.box[2:] / 2
    assert np.allclose(move(np.array([24.0, 32.0]), back), centre)


def test_the_mean_pose_is_relative_to_the_boxes_longer_side() -> None:
    persons = GeneratedFigures(1).persons
    pose = MeanPose.fit(persons).poses(persons)[0]
    labelled = persons[0].joints[:, 2] > 0
    assert np.allclose(pose.joints[labelled], persons[0].joints[labelled, :2])


@pytest.mark.parametrize("name", [n for n in benchmarks.names() if n.startswith("coco-keypoints")])
def test_the_coco_recipes_are_those_of_the_paper(name: str) -> None:
    benchmark = benchmarks.load(name)
    settings = resolve(benchmark.values)
    train, data, pose = settings.train, settings.data, settings.pose
    assert data.crop == (384, 288) and data.val_boxes is not None and data.flip
    assert (train.epochs, train.batch) == (210, 128 if "w32" in name else 80)
    assert (train.optimizer, train.learning_rate, train.weight_decay) == ("adam", 1e-3, 0)
    assert [round(210 * part) for part in train.milestones] == [170, 200] and train.factor == 0.1
    assert (pose.rotation, pose.rotation_probability, pose.scale) == (45, 0.6, 0.35)
    assert (pose.half_body_probability, pose.half_body_joints, pose.sigma) == (0.3, 8, 3)
    assert (pose.targets, pose.decoding, pose.flip_test) == ("quantized", "quarter", True)
    assert (pose.box_scale, pose.joint_threshold, pose.nms) == (1.25, 0.2, 0.9)
    scores = {
        "coco-keypoints-w32": 0.765, "coco-keypoints-w48": 0.767,
        "coco-keypoints-w32-hrnet": 0.758, "coco-keypoints-w48-hrnet": 0.763,
    }  # fmt: skip
    assert benchmark.record.average_precision == scores[name]
    width = "w32" if "w32" in name else "w48"
    assert settings.architecture.name == f"pose-{'hrnet' if name.endswith('hrnet') else 'gsto-hrnet'}-{width}"


@pytest.mark.parametrize("backend", ["linear", "torch", "jax"])
def test_the_benchmark_trains_and_scores(coco: Path, command: Any, backend: str) -> None:
    if backend != "linear" and backend not in backends():
        pytest.skip(f"the backend {backend} is not installed")
    command.backend = backend
    settings = ("train.steps=2", "train.batch=2", "data.crop=[32,24]")
    place = ("--data", str(coco), "--output", "run", "--architecture", "linear_backend:graph")
    assignments = [part for each in settings for part in ("--set", each)]
    done = command("--benchmark", "coco-keypoints-w32", *place, *assignments, new=False)
    assert done.status == 0, done.error
    result = result_of("run")
    assert result["box_source"] == "detector" and set(COCO_NAMES) <= set(result["metrics"])
    assert result["persons"] == {"training": 3, "validation": 4}
    assert result["protocol"] == (
        "detector boxes x 1.25, crops 32x24, flip test (mirrored heatmaps moved by 1 pixel), "
        "quarter-pixel refinement, OKS-NMS 0.9"
    )


@pytest.mark.parametrize("backend", backends())
def test_a_pose_network_trains_on_a_backend(command: Any, backend: str) -> None:
    command.backend = backend
    settings = (
        "train.steps=2", "train.batch=2", "data.train_figures=4", "data.val_figures=2", "data.crop=[64,64]",
        "train.log_every=1",
    )  # fmt: skip
    assignments = [part for each in settings for part in ("--set", each)]
    architecture = ("--architecture", "gsto_train.pose.networks:gsto_mini")
    done = command("--benchmark", "figures", "--output", "run", *architecture, *assignments, new=False)
    assert done.status == 0, done.error
    result = result_of("run")
    assert 0 <= result["metrics"]["PCK"] <= 1 and result["seeds"] == {"train": 0, "figures": 0}
    assert result["baselines"]["mean pose"]["AP"] >= 0
