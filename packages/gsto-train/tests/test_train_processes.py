"""Several processes that train together, on the linear backend, whose sums go through files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from gsto_train.data.augment import Augmentation
from gsto_train.data.cityscapes import TABLE
from gsto_train.data.loader import LoadedBatch, training_batches
from gsto_train.data.samples import Sample
from gsto_train.interrupts import Interrupted
from gsto_train.pose.evaluation import PoseTest, predict_poses
from gsto_train.pose.figures import GeneratedFigures
from gsto_train.pose.loading import Cropping
from gsto_train.pose.targets import Codec
from gsto_train.processes import ALONE, Elsewhere, Processes
from gsto_train.segmentation.evaluation import as_json, evaluate

Launch = Callable[..., list[tuple[int, str]]]

SETTINGS = (
    "train.steps=6", "train.batch=3", "train.learning_rate=0.02", "train.log_every=2", "data.crop=[16,16]",
    "train.evaluate_every=4", "train.checkpoint_every=2", "train.threads=1",
)  # fmt: skip


@pytest.fixture
def launch(plugin_folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Starts gsto-train in several processes, and returns the status and standard error of each."""
    monkeypatch.chdir(tmp_path)

    def start(
        *arguments: str, processes: int = 2, second: dict[str, str] | None = None,
        second_arguments: tuple[str, ...] = (),
    ) -> Any:  # fmt: skip
        base = {**os.environ, "PYTHONPATH": str(plugin_folder), "LINEAR_PROCESSES": str(processes),
                "LINEAR_FOLDER": tempfile.mkdtemp(dir=tmp_path)}  # fmt: skip
        command = [sys.executable, "-m", "gsto_train", "--backend", "linear", *arguments]
        started = [
            subprocess.Popen(
                [*command, *(second_arguments if index == 1 else ())],
                stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**base, "LINEAR_INDEX": str(index), **((index == 1 and second) or {})},
            )
            for index in range(processes)
        ]  # fmt: skip
        said = [process.communicate(timeout=60) for process in started]
        return [(process.returncode, err) for process, (_, err) in zip(started, said, strict=True)]

    return start


def new(pictures: Path, *settings: str) -> list[str]:
    given = [part for each in (*SETTINGS, *settings) for part in ("--set", each)]
    network = ["--architecture", "linear_backend:graph"]
    return ["--benchmark", "folder", "--data", str(pictures), *network, *given]


def lines(run: str, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, name).read_text().splitlines()]


def close(left: str, right: str) -> None:
    """Weights are rounded to float32 at every step, so sums of another order are an ulp or two apart."""
    one, two = (load_file(Path(run, "checkpoints/step-000006/state.safetensors")) for run in (left, right))
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-6)


def test_two_processes_train_as_one_does_and_stop_together(launch: Launch, pictures: Path) -> None:
    (alone,) = launch("--output", "one", *new(pictures), processes=1)
    assert alone[0] == 0, alone
    stopped = launch("--output", "two", *new(pictures), second={"LINEAR_SIGNAL": "3"})
    assert [status for status, _ in stopped] == [143, 143]
    assert stopped[1][1] == ""
    way_on = "go on with: the same launcher of 2 and -m gsto_train --backend linear --output two --resume"
    assert way_on in stopped[0][1]
    assert "step-000003" in os.listdir("two/checkpoints")
    resumed = launch("--output", "two", "--resume")
    assert [status for status, _ in resumed] == [0, 0], resumed
    assert "going on from step 3 of 6" in resumed[0][1]
    assert resumed[1][1] == ""
    close("one", "two")
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert [line["step"] for line in lines("two", name)] == [line["step"] for line in lines("one", name)]
    results = [json.loads(Path(run, "result.json").read_text()) for run in ("one", "two")]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[1]["environment"]["processes"] == 2
    losses = [[line["loss"] for line in lines(run, "metrics.jsonl")] for run in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_dry_run_of_two_processes_is_told_once(launch: Launch, pictures: Path) -> None:
    told = launch("--dry-run", "--json", "--output", "two", *new(pictures))
    assert [status for status, _ in told] == [0, 0], told
    assert "would take 6 steps" in told[0][1]
    assert told[1][1] == ""
    assert not Path("two").exists()


def test_a_picture_that_breaks_in_one_process_ends_all_of_them_and_costs_nothing(
    launch: Launch, pictures: Path, tmp_path: Path
) -> None:
    """Of the two pictures that are scored at step 4, the second process reads the second."""
    other = shutil.copytree(pictures, tmp_path / "other")
    (other / "5.png").write_bytes((other / "5.png").read_bytes()[:40])
    ended = launch("--output", "two", *new(pictures), second_arguments=("--data", str(other)))
    assert [status for status, _ in ended] == [1, 2]
    assert "other/5.png" in ended[1][1]
    assert ended[1][1].strip().endswith("--output two --resume")
    assert "gsto-train: " not in ended[0][1]
    assert "step-000004" in os.listdir("two/checkpoints")


class InThreads:
    """Processes that are threads of this one."""

    def __init__(self, count: int) -> None:
        self._count, self._barrier = count, threading.Barrier(count, timeout=30)
        self._given: dict[int, NDArray[Any]] = {}

    def run(self, work: Callable[[Processes], Any]) -> list[Any]:
        """Return what each returned or raised."""
        with ThreadPoolExecutor(self._count) as pool:
            futures = [pool.submit(self._work, work, index) for index in range(self._count)]
            return [future.result(30) for future in futures]

    def _work(self, work: Callable[[Processes], Any], index: int) -> Any:
        def add(array: NDArray[Any]) -> NDArray[Any]:
            self._given[index] = np.array(array)
            self._barrier.wait()
            total = np.sum([self._given[each] for each in range(self._count)], 0, array.dtype)
            self._barrier.wait()
            return np.asarray(total)

        try:
            return work(Processes(index, self._count, add))
        except (Exception, Interrupted) as error:
            return error


@given(st.integers(1, 5), st.integers(0, 40))
@settings(max_examples=20)
def test_every_sample_has_one_process(count: int, samples: int) -> None:
    shares = [Processes(index, count, np.asarray).share(samples) for index in range(count)]
    assert [sample for share in shares for sample in share] == list(range(samples))


@given(st.lists(st.text(), min_size=1, max_size=4), st.binary())
@settings(max_examples=20)
def test_texts_and_bytes_reach_every_process(texts: list[str], data: bytes) -> None:
    processes = InThreads(len(texts))
    assert processes.run(lambda each: each.gather(texts[each.index])) == [texts] * len(texts)
    assert processes.run(lambda each: each.broadcast(data if each.first else b"x")) == [data] * len(texts)


@given(st.lists(st.sampled_from(["fine", "error", "interrupted"]), min_size=2, max_size=4))
@settings(max_examples=30)
def test_a_block_ends_in_all_processes_as_in_the_worst_off(ends: list[str]) -> None:
    def work(processes: Processes) -> str:
        with processes.together():
            if ends[processes.index] == "error":
                raise ValueError(str(processes.index))
            if ends[processes.index] == "interrupted":
                raise Interrupted(signal.SIGTERM)
        return "fine"

    for how, found in zip(ends, InThreads(len(ends)).run(work), strict=True):
        if how == "error":
            assert isinstance(found, ValueError)
        elif "error" in ends:
            assert isinstance(found, Elsewhere)
        elif "interrupted" in ends:
            assert isinstance(found, Interrupted)
            assert found.status == 143
        else:
            assert found == "fine"


def test_a_second_signal_waits_for_nobody() -> None:
    never = Processes(0, 2, lambda array: pytest.fail("waited for the other process"))
    with pytest.raises(Interrupted), never.together():
        raise Interrupted(signal.SIGINT, at_once=True)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_poses_of_several_processes_are_those_of_one(count: int) -> None:
    dataset = GeneratedFigures(4, size=(64, 48), seed=0, split="val")
    test = PoseTest(Cropping((64, 48)), Codec((16, 12), 4, 2.0))

    class Bright:
        def predict(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
            joints = len(dataset.skeleton.joints)
            return {"heat": np.repeat(images[:, :1, ::4, ::4], joints, 1)}

    def poses(processes: Processes) -> list[Any]:
        found = predict_poses(Bright(), dataset, test, batch=2, threads=1, processes=processes)
        return [(pose.person.name, pose.joints.tolist(), pose.scores.tolist()) for pose in found]

    alone = poses(ALONE)
    assert len(alone) == 4
    assert InThreads(count).run(poses) == [alone] * count


class Towns:
    """Cityscapes' classes in small pictures, with cars that are told apart."""

    classes, palette = TABLE.names, TABLE.palette

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Sample:
        draw = np.random.default_rng(index)
        label = draw.integers(0, len(self.classes), (8, 12), np.uint8)
        return Sample(draw.integers(0, 256, (8, 12, 3), np.uint8), label, f"town {index}")

    def instance_ids(self, index: int) -> NDArray[np.int32]:
        return np.where(self[index].label == self.classes.index("car"), 26001 + index, 7).astype(np.int32)


class Guess:
    """Classes that depend on the picture alone."""

    def predict(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {"stage4": np.stack([np.sin(k * images.sum(1)) for k in range(len(Towns.classes))], 1)}


@pytest.mark.parametrize("count", [2, 3, 7])
def test_every_picture_counts_once_whatever_the_number_of_processes(count: int) -> None:
    """Seven processes have five pictures: two of them have none."""

    def scores(processes: Processes) -> Any:
        found = evaluate(Guess(), Towns(), align_corners=False, batch=2, threads=1, processes=processes)
        return as_json(found, Towns.classes)

    alone = scores(ALONE)
    assert alone["instance_iou"]["car"] is not None
    assert InThreads(count).run(scores) == [alone] * count


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_shares_of_all_processes_are_the_whole_batch(count: int) -> None:
    augmentation = Augmentation((6, 6), None, (0.8, 1.2), flip=True)

    def batches(slots: range | None) -> list[LoadedBatch]:
        loaded = training_batches(
            Towns(), augmentation, batch=3, seed=5, start_step=1, total_steps=4, threads=2, slots=slots
        )
        return list(loaded)

    shares = [batches(Processes(index, count, np.asarray).share(3)) for index in range(count)]
    for whole, *parts in zip(batches(None), *shares, strict=True):
        assert tuple(name for part in parts for name in part.names) == whole.names
        np.testing.assert_array_equal(np.concatenate([part.image for part in parts]), whole.image)
        np.testing.assert_array_equal(np.concatenate([part.label for part in parts]), whole.label)
        assert {(part.step, part.epoch) for part in parts} == {(whole.step, whole.epoch)}
