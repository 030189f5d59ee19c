import errno
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gsto_spec.weights import load_directory
from gsto_train import schema
from gsto_train.data.loader import sample_at
from gsto_train.schema import describe
from gsto_train.settings import (
    ArchitectureSettings,
    DataSettings,
    EvaluationSettings,
    LossSettings,
    PoseSettings,
    Settings,
    StageWeights,
    TrainSettings,
)

Lines = Callable[[Path], list[dict[str, Any]]]


def state(run: str, step: int) -> dict[str, Any]:
    return load_file(Path(run) / "checkpoints" / f"step-{step:06d}" / "state.safetensors")


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return set(left) == set(right) and all(np.array_equal(left[name], right[name]) for name in left)


def stop_at(step: int, number: int) -> Callable[[int], None]:
    return lambda current: signal.raise_signal(number) if current == step else None


def test_a_run_learns_beats_the_constant_and_leaves_everything(command: Any, read_lines: Lines) -> None:
    done = command(
        "--output", "run", settings=("train.learning_rate=0.1", "train.steps=60", "data.scales=[1]")
    )
    assert done.status == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["metrics"]["mean_iou"] > 0.9
    assert set(result["metrics"]["iou"]) == {"red", "green", "blue"}
    assert result["baselines"]["constant"]["mean_iou"] < 0.2
    assert result["baselines"]["histogram"]["mean_iou"] > 0.5
    assert (result["backend"], result["benchmark"]) == ("linear", "folder")
    assert result["architecture"] == "linear_backend:graph"
    assert result["pictures"] == {"training": 4, "validation": 2}
    assert result["environment"]["backend"]["versions"] == {"linear": "1.0"}
    assert result["seconds"] > 0
    assert {path.name for path in Path("run").iterdir()} == {
        "baselines.json", "checkpoints", "config.json", "environment.json", "evaluations.jsonl", "graph.json",
        "metrics.jsonl", "model", "report.html", "result.json", "timings.jsonl",
    }  # fmt: skip
    assert read_lines(Path("run/evaluations.jsonl"))[-1]["mean_iou"] == result["metrics"]["mean_iou"]


def test_the_trained_network_is_left_as_a_saved_model_with_its_facts(command: Any) -> None:
    assert command("--output", "run", settings=("train.steps=4",)).status == 0
    graph, weights, card = load_directory("run/model")
    result = json.loads(Path("run/result.json").read_text())
    assert graph.digest == result["graph_digest"]
    assert same(weights, {name: state("run", 4)[name] for name in graph.parameters})
    assert (card["metrics"], card["protocol"]) == (result["metrics"], result["protocol"])
    assert card["classes"] == ["red", "green", "blue"]
    assert card["preprocessing"]["mean"] == [0.485, 0.456, 0.406]


def test_metrics_have_a_line_per_logged_step(command: Any, read_lines: Lines) -> None:
    command("--output", "run", "--architecture", "linear_backend:two_outputs", settings=("train.batch=4",))
    lines = read_lines(Path("run/metrics.jsonl"))
    assert [line["step"] for line in lines] == [1, 5, 10, 15, 20]
    assert [line["epoch"] for line in lines] == [0, 4, 9, 14, 19]
    for line in lines:
        assert list(line) == ["step", "epoch", "loss", "loss_stage4", "loss_stage3", "learning_rate"]
        assert line["loss"] == pytest.approx(line["loss_stage4"] + 0.5 * line["loss_stage3"])
        assert line["learning_rate"] == pytest.approx(0.02 * (1 - (line["step"] - 1) / 20) ** 0.9)


def test_no_step_waits_for_a_loss_but_all_are_checked_when_one_is_logged(
    command: Any, linear: ModuleType
) -> None:
    reads: list[int] = []
    linear.events.before_step = lambda step: reads.append(linear.events.reads)
    command("--output", "run")
    per_step = 3  # loss, loss_stage4 and finite
    assert [count // per_step for count in reads] == [0, *[1] * 4, *[5] * 5, *[10] * 5, *[15] * 5]
    assert linear.events.reads == 20 * per_step


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_resumes_to_the_same_weights(
    command: Any, linear: ModuleType, read_lines: Lines, number: int, status: int
) -> None:
    command("--output", "whole", settings=("train.optimizer=adam",))
    linear.events.before_step = stop_at(7, number)
    stopped = command("--output", "parts", settings=("train.optimizer=adam",))
    linear.events.before_step = lambda step: None
    assert stopped.status == status
    assert stopped.failure.endswith("go on with: gsto-train --backend linear --output parts --resume")
    assert [path.name for path in Path("parts/checkpoints").iterdir()] == ["step-000007"]
    assert not Path("parts/result.json").exists()
    resumed = command("--output", "parts", "--resume", new=False)
    assert resumed.status == 0
    assert "baselines" in stopped.error
    assert "baselines" not in resumed.error
    assert same(state("whole", 20), state("parts", 20))
    whole, parts = (read_lines(Path(run) / "metrics.jsonl") for run in ("whole", "parts"))
    assert parts == whole
    results = [json.loads(Path(run, "result.json").read_text()) for run in ("whole", "parts")]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert len(results[1]["environment"]["earlier"]) == 1


def test_a_second_signal_stops_at_once_and_the_last_checkpoint_serves(
    command: Any, linear: ModuleType
) -> None:
    def twice(step: int) -> None:
        if step == 7:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    linear.events.before_step = twice
    assert command("--output", "run", settings=("train.checkpoint_every=5",)).status == 130
    linear.events.before_step = lambda step: None
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["step-000005"]
    resumed = command("--output", "run", "--resume", new=False)
    assert resumed.status == 0
    assert "going on from step 5 of 20" in resumed.error


def test_a_killed_run_goes_on_from_its_last_checkpoint_without_the_lines_past_it(
    command: Any, linear: ModuleType, read_lines: Lines
) -> None:
    command("--output", "whole")
    command("--output", "killed", settings=("train.checkpoint_every=6",))
    os.remove("killed/result.json")
    for path in Path("killed/checkpoints").glob("step-000020/*"):
        path.unlink()
    with open("killed/metrics.jsonl", "a") as file:
        file.write('{"step": 20, "epo')
    resumed = command("--output", "killed", "--resume", new=False)
    assert resumed.status == 0
    assert "step-000020 is broken" in resumed.error
    assert "going on from step 18 of 20" in resumed.error
    assert read_lines(Path("killed/metrics.jsonl")) == read_lines(Path("whole/metrics.jsonl"))
    assert same(state("whole", 20), state("killed", 20))


def test_a_run_without_a_checkpoint_resumes_from_the_start(command: Any, read_lines: Lines) -> None:
    command("--output", "whole")
    command("--output", "run")
    for path in Path("run/checkpoints").iterdir():
        for file in path.iterdir():
            file.unlink()
    refused = command("--output", "run", "--resume", new=False)
    assert refused.status == 2
    assert "found only broken ones" in refused.error
    for path in Path("run/checkpoints").iterdir():
        path.rmdir()
    resumed = command("--output", "run", "--resume", new=False)
    assert "going on from step 0 of 20" in resumed.error
    assert read_lines(Path("run/metrics.jsonl")) == read_lines(Path("whole/metrics.jsonl"))


def test_a_finished_run_resumes_to_its_score(command: Any, read_lines: Lines) -> None:
    command("--output", "run")
    before = json.loads(Path("run/result.json").read_text())
    trained = json.loads(Path("run/checkpoints/step-000020/checkpoint.json").read_text())["seconds"]
    assert command("--output", "run", "--resume", new=False).status == 0
    after = json.loads(Path("run/result.json").read_text())
    assert after["metrics"] == before["metrics"]
    assert after["seconds"] >= trained > 0
    assert len(read_lines(Path("run/evaluations.jsonl"))) == 1


def test_scores_along_the_way_are_kept_and_change_nothing(command: Any, read_lines: Lines) -> None:
    command("--output", "plain")
    command("--output", "scored", settings=("train.evaluate_every=8",))
    assert [line["step"] for line in read_lines(Path("scored/evaluations.jsonl"))] == [8, 16, 20]
    assert same(state("plain", 20), state("scored", 20))


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_last_or_the_best_network_is_left_with_its_own_scores(
    command: Any, read_lines: Lines, keep: str
) -> None:
    settings = ("train.evaluate_every=4", "train.learning_rate=0.5", "train.power=0.01", f"train.keep={keep}")
    assert command("--output", "run", settings=settings).status == 0
    scores = {line["step"]: line["mean_iou"] for line in read_lines(Path("run/evaluations.jsonl"))}
    best = max(scores, key=lambda step: scores[step])
    assert best != 20
    result = json.loads(Path("run/result.json").read_text())
    step = best if keep == "best" else 20
    assert result["model"] == {"keep": keep, "step": step}
    assert result["metrics"]["mean_iou"] == scores[step]
    assert best in [int(path.name[5:]) for path in Path("run/checkpoints").iterdir()]
    graph, weights, card = load_directory("run/model")
    assert card["model"] == result["model"]
    assert same(weights, {name: state("run", step)[name] for name in graph.parameters})


def spoil(step: int, tensors: str, name: str) -> Callable[[int], None]:
    """Put a nan into one of the trainer's tensors just before a step."""

    def at(current: int) -> None:
        if current == step:
            getattr(sys._getframe(1).f_locals["self"], tensors)[name] = np.full(3, np.nan, np.float32)

    return at


def test_a_loss_that_is_not_finite_ends_the_run_naming_step_and_picture(
    command: Any, linear: ModuleType, pictures: Path
) -> None:
    """Also where the next look at the losses, here at step 10, comes later."""
    linear.events.before_step = spoil(7, "_weights", "head.bias")
    failed = command("--output", "run", settings=("train.batch=1", "train.checkpoint_every=5"))
    _, index = sample_at(6, count=4, seed=0)
    assert failed.status == 1
    named = f"the first that is not finite is head; on {pictures / f'{index}.png'};"
    assert f"loss nan at step 7 is not finite, {named}" in failed.failure
    assert "that of step 5 is kept" in failed.failure
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["step-000005"]


def test_the_convention_of_resizing_reaches_the_objective(command: Any, linear: ModuleType) -> None:
    command("--output", "run")
    assert not linear.events.training.objective.align_corners
    command("--output", "other", "--architecture", "linear_backend:with_corners")
    assert linear.events.training.objective.align_corners


def test_a_state_that_is_not_finite_is_never_saved_even_where_the_loss_is(
    command: Any, linear: ModuleType
) -> None:
    linear.events.before_step = spoil(10, "_slots", "momentum/head.bias")
    failed = command("--output", "run", settings=("train.checkpoint_every=5",))
    assert failed.status == 1
    assert "tensor head.bias at step 10 is not finite" in failed.failure
    assert "that of step 5 is kept" in failed.failure
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["step-000005"]


def test_a_picture_that_breaks_during_training_costs_nothing(
    command: Any, linear: ModuleType, pictures: Path
) -> None:
    kept = (pictures / "2.png").read_bytes()

    def break_it(step: int) -> None:
        if step == 5:
            (pictures / "2.png").write_bytes(kept[:40])

    linear.events.before_step = break_it
    failed = command("--output", "run")
    assert failed.status == 2
    assert "2.png" in failed.failure
    assert failed.failure.endswith("go on with: gsto-train --backend linear --output run --resume")
    (saved,) = Path("run/checkpoints").iterdir()
    (pictures / "2.png").write_bytes(kept)
    linear.events.before_step = lambda step: None
    resumed = command("--output", "run", "--resume", new=False)
    assert resumed.status == 0
    assert f"going on from step {int(saved.name[5:])} of 20" in resumed.error
    assert int(saved.name[5:]) >= 5


def test_a_full_disk_fails_naming_the_file_and_the_run_can_go_on(
    command: Any, linear: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("--output", "whole")
    working, full = os.fsync, [False]

    def fsync(descriptor: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        working(descriptor)

    def fill(step: int) -> None:
        full[0] = step > 12

    monkeypatch.setattr(os, "fsync", fsync)
    linear.events.before_step = fill
    failed = command("--output", "run", settings=("train.checkpoint_every=4",))
    linear.events.before_step, full[0] = lambda step: None, False
    assert failed.status == 1
    assert "run/metrics.jsonl: No space left on device" in failed.failure
    assert failed.failure.endswith("go on with: gsto-train --backend linear --output run --resume")
    assert command("--output", "run", "--resume", new=False).status == 0
    assert same(state("whole", 20), state("run", 20))


def test_no_disk_space_at_the_start_leaves_no_folder_in_the_way(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        failed = command("--output", "run")
    assert failed.status == 1
    assert "run/" in failed.failure
    assert "No space left on device" in failed.failure
    assert command("--output", "run").status == 0


def test_settings_reach_the_backend(command: Any, linear: ModuleType) -> None:
    command(
        "--output",
        "run",
        settings=(
            "train.optimizer=adam", "train.beta1=0.8", "train.beta2=0.9", "train.epsilon=0.5",
            "train.weight_decay=0.25", "train.batch_norm_momentum=0.125", "loss.class_weights=[1, 2, 3]",
            "loss.ohem=true", "loss.ohem_threshold=0.75", "loss.ohem_kept_per_image=9",
            "loss.stage_weights.stage4=2", "train.schedule=steps", "train.milestones=[0.5, 0.9]",
            "train.factor=0.5", "train.learning_rate=0.008",
        ),
    )  # fmt: skip
    training = linear.events.training
    assert training.optimizer == type(training.optimizer)(0.8, 0.9, 0.5, 0.25)
    assert training.batch_norm_momentum == 0.125
    loss = training.objective.loss
    assert (loss.ignore_label, loss.class_weights) == (255, (1.0, 2.0, 3.0))
    assert (loss.ohem.threshold, loss.ohem.kept_per_image) == (0.75, 9.0)
    assert training.objective.stage_weights["stage4"] == 2.0
    assert linear.events.rates == pytest.approx([0.008] * 10 + [0.004] * 8 + [0.002] * 2)


def test_the_seed_changes_the_weights_and_nothing_else_does(command: Any) -> None:
    command("--output", "one", settings=("train.threads=1",))
    command("--output", "two", settings=("train.threads=3", "train.evaluation_batch=1"))
    command("--output", "three", settings=("train.seed=1",))
    assert same(state("one", 20), state("two", 20))
    assert not same(state("one", 20), state("three", 20))


def test_epochs_count_the_pictures(command: Any) -> None:
    settings = ("train.epochs=3", "train.batch=5", "train.log_every=1")
    command.base = ("data.crop=[16,16]",)
    assert command("--output", "run", settings=settings).status == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["steps"] == math.ceil(3 * 4 / 5)


def test_every_setting_is_read_by_the_program(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads by the reader of settings itself, and by whoever copies them all, do not count."""
    read: set[tuple[str, str]] = set()

    def watch(kind: type) -> None:
        def getattribute(self: object, name: str) -> object:
            caller = sys._getframe(1).f_globals["__name__"]
            if caller not in (schema.__name__, "dataclasses", "copy"):
                read.add((kind.__name__, name))
            return object.__getattribute__(self, name)

        monkeypatch.setattr(kind, "__getattribute__", getattribute)

    kinds = {
        "architecture": ArchitectureSettings,
        "data": DataSettings,
        "train": TrainSettings,
        "loss": LossSettings,
        "pose": PoseSettings,
        "evaluation": EvaluationSettings,
    }
    for kind in kinds.values():
        watch(kind)
    command("--output", "one", settings=("train.optimizer=adam", "loss.ohem=true", "train.schedule=steps"))
    command("--output", "two")
    scenes = ("data.train_scenes=2", "data.val_scenes=1", "data.scene_size=[32,32]", "train.steps=1")
    assignments = [part for each in scenes for part in ("--set", each)]
    command("--architecture", "linear_backend:graph", "--output", "three", *assignments, new=False)
    figures = ("data.train_figures=2", "data.val_figures=1", "train.steps=1")
    assignments = [part for each in figures for part in ("--set", each)]
    network = ("--architecture", "linear_backend:graph")
    command("--benchmark", "figures", *network, "--output", "four", *assignments, new=False)
    person = {"image_id": 1, "keypoints": [9, 9, 2], "bbox": [4, 4, 9, 9], "area": 81}
    keypoints = {
        "images": [{"id": 1, "file_name": "0.png", "height": 24, "width": 32}],
        "annotations": [person],
        "categories": [{"id": 1, "keypoints": ["nose"]}],
    }
    for name in ("train.json", "val.json"):
        (command.pictures / name).write_text(json.dumps(keypoints))
    folder = ("--benchmark", "keypoints-folder", "--data", str(command.pictures), "--set", "train.epochs=1")
    command(*folder, *network, "--output", "five", new=False)
    command("--benchmark", "pascal-context-59", "--data", ".", new=False)
    declared = {tuple(key.split(".")[:2]) for key in describe(Settings)}
    assert set(StageWeights.__dataclass_fields__) == {"stage1", "stage2", "stage3", "stage4"}
    assert {(kinds[section].__name__, name) for section, name in declared} <= read
