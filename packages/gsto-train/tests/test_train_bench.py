"""The command `gsto-bench`, on backends in numpy."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gsto_train.bench.material import write_cityscapes, write_coco
from gsto_train.commands.bench import main
from gsto_train.data.cityscapes import Cityscapes

ARCHITECTURE = """
import linear_backend

def network(classes):
    return linear_backend.graph(classes or 3)

def larger(classes):
    return linear_backend.graph(classes or 9)
"""

BACKENDS = """
import os, signal
import linear_backend

class Fast(linear_backend.LinearBackend):
    speeds = ("plain", "fast", "compiled")

    name = "mine"

    def predictor(self, graph, weights, *, device="auto", precision="float32", speed="plain"):
        if speed == "compiled":
            raise RuntimeError("no compiler\\nmore of the same")
        made = super().predictor(graph, weights)
        predict = made.predict
        factor = {"plain": 1.0, "fast": 1.01}[speed]
        made.predict = lambda images: {name: factor * each for name, each in predict(images).items()}
        return made

class Allocating(linear_backend.LinearBackend):
    # Its answer says what may be done with freed memory.
    speeds = ("plain", "fast")

    def predictor(self, graph, weights, *, device="auto", precision="float32", speed="fast"):
        made = super().predictor(graph, weights)
        predict, factor = made.predict, 2.0 if os.environ.get("GSTO_KEEP_MEMORY") == "0" else 1.0
        made.predict = lambda images: {name: factor * each for name, each in predict(images).items()}
        return made

class Dying(linear_backend.LinearBackend):
    def predictor(self, graph, weights, *, device="auto", precision="float32", speed="fast"):
        os.kill(os.getpid(), signal.SIGKILL)

class Wrong(linear_backend.LinearBackend):
    def predictor(self, graph, weights, *, device="auto", precision="float32", speed="fast"):
        made = super().predictor(graph, weights)
        predict = made.predict
        made.predict = lambda images: {name: each[:, :1] for name, each in predict(images).items()}
        return made
"""

QUICK = ("--rounds", "2", "--repeats", "1", "--threads", "1")
NETWORK = ("--architecture", "mine:network", "--size", "8x12", "--no-ceilings", *QUICK)

Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(
    linear: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Bench
) -> Iterator[Bench]:
    (tmp_path / "mine.py").write_text(ARCHITECTURE + BACKENDS)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        return invoke(main, *arguments)

    yield run
    sys.modules.pop("mine", None)


@pytest.fixture
def rows(bench: Bench) -> Callable[..., dict[str, dict[str, Any]]]:
    def run(*arguments: str) -> dict[str, dict[str, Any]]:
        status, out, error = bench(*arguments, "--json")
        document = json.loads(out)
        assert status == 0, error
        return {row["subject"]: row for row in document["rows"]}

    return run


def only(*names: str) -> list[str]:
    return [part for name in names for part in ("--only", name)]


def test_subjects_are_told_in_multiples_of_the_plain_one_and_compared_with_it(rows: Any) -> None:
    found = rows("inference", *NETWORK, *only("linear-plain", "mine:Fast-plain", "mine:Fast-fast"))
    assert [row["state"] for row in found.values()] == ["ran"] * 3
    plain, same, fast = found.values()
    assert plain["yardstick"] == same["yardstick"] == fast["yardstick"] == "linear-plain"
    assert plain["difference"] == same["difference"] == 0
    assert fast["difference"] == pytest.approx(0.01, rel=1e-4)
    assert plain["speedup"]["median"] == 1.0
    for row in found.values():
        assert len(row["rounds"]) == 2 and all(len(turn) == 1 for turn in row["rounds"])
        assert row["seconds"]["low"] <= row["seconds"]["median"] <= row["seconds"]["high"]
        assert row["images_per_second"] == pytest.approx(1 / row["seconds"]["median"])
        assert row["compile_seconds"] >= 0 and row["device"] == "cpu"
    expected = [a[0] / b[0] for a, b in zip(plain["rounds"], fast["rounds"], strict=True)]
    assert fast["speedup"]["median"] == pytest.approx(np.median(expected))
    own = [a[0] / b[0] for a, b in zip(same["rounds"], fast["rounds"], strict=True)]
    assert fast["speedup_of_own_plain"]["median"] == pytest.approx(np.median(own))


def test_what_fails_is_a_line_and_the_others_are_measured(bench: Bench) -> None:
    wrong = ("mine:Fast-compiled", "mine:Dying-plain", "mine:Wrong-plain", "linear-fast")
    status, out, error = bench(*NETWORK, *only("linear-plain", *wrong))
    assert status == 0
    assert "Traceback" not in error
    assert "failed: mine:Fast-compiled: RuntimeError: no compiler" in out and "more of the same" not in out
    assert "failed: mine:Dying-plain: its process ended by signal 9; out of memory?" in out
    assert "failed: mine:Wrong-plain: its answer is not finite, or of other outputs and sizes" in out
    assert "not measured: linear-fast: its backend's speeds are plain" in out


def test_nothing_that_ran_is_a_failure(bench: Bench) -> None:
    status, out, error = bench(*NETWORK, *only("mine:Fast-compiled"))
    assert status == 1
    assert "failed: mine:Fast-compiled: RuntimeError" in out
    assert error.splitlines()[-1] == "gsto-bench: no subject ran; the table says why"


def test_architectures_and_precisions_are_told_in_multiples_of_the_first(bench: Bench) -> None:
    again = ("--architecture", "mine:larger")
    given = ("--precision", "float32", "--precision", "float64", *again)
    status, out, _ = bench(*NETWORK, *given, *only("linear-plain"), "--json")
    document = json.loads(out)
    assert status == 0
    assert [(row["architecture"], row["precision"]) for row in document["rows"]] == [
        ("mine:network", "float32"), ("mine:network", "float64"), ("mine:larger", "float32"),
        ("mine:larger", "float64"),
    ]  # fmt: skip
    first = document["rows"][0]
    for row in document["rows"]:
        expected = np.median([a[0] / b[0] for a, b in zip(row["rounds"], first["rounds"], strict=True)])
        assert row["first_case"] == first["case"]
        assert row["time_over_first_case"]["median"] == pytest.approx(expected)


def test_results_are_filed_with_the_machine_and_drawn(bench: Bench, tmp_path: Path) -> None:
    status, out, _ = bench("inference", *NETWORK, *only("linear-plain"), "--output", "speed-a.json")
    document = json.loads((tmp_path / "speed-a.json").read_text())
    assert status == 0 and "linear-plain" in out
    assert document["kind"] == "speed" and document["threads"] == 1
    assert document["request"]["job"] == "inference"
    assert document["machine"].keys() >= {"processor", "processors", "memory_bytes", "system", "card"}
    assert document["environments"]["linear"]["backend"]["versions"]["linear"] == "1.0"


def test_a_plot_is_drawn(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert bench(*NETWORK, *only("linear-plain"), "--plot", "speed.svg")[0] == 0
    assert "<svg" in (tmp_path / "speed.svg").read_text()


def test_without_matplotlib_a_plot_is_refused_before_anything_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, out, error = bench(*NETWORK, *only("linear-plain"), "--plot", "speed.svg")
    assert (status, out) == (2, "")
    assert error == "gsto-bench: --plot: matplotlib is not installed: pip install 'gsto-train[plot]'\n"


def test_training_steps_are_compared_by_their_first_losses(rows: Any) -> None:
    found = rows("step", *NETWORK, *only("linear-plain", "mine:Fast-plain", "onnxruntime-plain"))
    assert found["mine:Fast-plain"]["difference"] == 0
    assert found["linear-plain"]["images_per_second"] == 2 / found["linear-plain"]["seconds"]["median"]
    assert found["onnxruntime-plain"]["state"] == "absent"
    assert found["onnxruntime-plain"]["reason"] == "does not train"


def test_scored_pictures_are_compared_by_their_scores(rows: Any) -> None:
    found = rows("evaluation", *NETWORK, *only("linear-plain", "mine:Fast-fast"))
    assert found["mine:Fast-fast"]["difference"] == 0


def test_the_loader_is_measured_beside_bare_decoding(rows: Any, tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "pictures", 2, (64, 128))
    found = rows("data", "--data", "pictures", "--size", "32x64", "--rounds", "1", "--repeats", "1")
    assert [row["state"] for row in found.values()] == ["ran", "ran", "ran"]
    decode, loader = found["decode"], found["loader"]
    assert loader["yardstick"] == "decode" and loader["difference"] is None
    expected = decode["rounds"][0][0] / loader["rounds"][0][0]
    assert loader["speedup"]["median"] == pytest.approx(expected)


def test_crops_of_jpegs_are_measured_beside_bare_decoding(bench: Bench, monkeypatch: Any) -> None:
    for name, write in (("write_cityscapes", write_cityscapes), ("write_coco", write_coco)):
        small = partial(write, count=2, size=(64, 128))
        monkeypatch.setattr(f"gsto_train.bench.session.{name}", lambda root, count, small=small: small(root))
    status, out, error = bench("data", "--size", "64x32", "--rounds", "1", "--repeats", "1", "--json")
    document = json.loads(out)
    assert status == 0, error
    assert [(row["case"], row["subject"], row["state"]) for row in document["rows"]] == [
        (f"{name}, 1 x 64x32", subject, "ran")
        for name in ("cityscapes", "coco-keypoints-w32") for subject in ("decode", "loader", "loader-decoded")
    ]  # fmt: skip
    for row in document["rows"]:
        assert row["yardstick"] == "decode" and row["images_per_second"] > 0


def test_drawn_pictures_are_read_as_cityscapes(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, 1, (64, 128))
    (sample,) = [Cityscapes(tmp_path, "train")[index] for index in range(1)]
    assert sample.image.shape == (64, 128, 3)
    assert len(np.unique(sample.label)) > 3


def test_growth_is_told_for_time_and_memory_over_sizes_and_batches(bench: Bench) -> None:
    given = ("--architecture", "mine:network", "--size", "64x64", "--rounds", "1", "--repeats", "1")
    status, out, _ = bench("growth", *given, *only("linear-plain"), "--json")
    document = json.loads(out)
    assert status == 0
    assert {(law["over"], law["of"]) for law in document["growth"]} >= {("size", "time"), ("batch", "time")}
    sizes = [(row["height"], row["batch"]) for row in document["rows"]]
    assert sizes == [(side, 1) for side in (256, 384, 512, 768, 1024)] + [(64, n) for n in (1, 2, 4, 8)]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("--only", "linear-plan"), "--only: expected one of"),
        (("--only", "linear-plan"), "(nearest: linear-plain)"),
        (("--size", "512"), "--size: expected HEIGHTxWIDTH"),
        (("--architecture", "gsto-hrnet-w17"), "gsto-hrnet-w1"),
        (("--threads", "4096"), "--threads: expected at most"),
        (("--output", "speed.txt"), "--output speed.txt: expected a name that ends in .json"),
        (("--output", "nowhere/speed.json"), "make the folder"),
        (("--data", "pictures"), "--data: inference does not look at it"),
        (("data", "--batch", "2"), "--batch: data does not look at it"),
        (("data", "--only", "torch-plain"), "--only: expected one of decode, loader, loader-decoded"),
        (("data", "--data", "nowhere"), "nowhere"),
        (("speed",), "'speed' is not one of 'inference'"),
        (("growth", "--precision", "float32", "--precision", "float64"), "growth: expected one"),
    ],
)
def test_wrong_usage_is_refused_in_one_line(bench: Bench, arguments: tuple[str, ...], expected: str) -> None:
    status, out, error = bench(*arguments)
    assert (status, out) == (2, "")
    (line,) = error.splitlines()
    assert line.startswith("gsto-bench: ") and expected in line


def test_only_the_plain_subject_leaves_the_allocator_as_it_comes(rows: Any) -> None:
    found = rows(*NETWORK, *only("mine:Allocating-plain", "mine:Allocating-fast"))
    assert found["mine:Allocating-fast"]["difference"] == 0.5


def test_ceilings_are_measured_by_the_fast_subject_where_it_is_one(bench: Bench) -> None:
    given = ("--architecture", "mine:network", "--size", "8x12", *QUICK)
    for names, prober in ((("plain", "fast"), "fast"), (("plain",), "plain")):
        *_, error = bench(*given, *only(*(f"mine:Fast-{name}" for name in names)))
        probed = [line for line in error.splitlines() if "convolutions" in line]
        assert probed and all(line.startswith(f"preparing mine:Fast-{prober}: ") for line in probed)


def test_nothing_is_measured_on_a_device_that_nobody_has(bench: Bench) -> None:
    status, out, _ = bench(*NETWORK, *only("onnxruntime-plain", "openvino-plain"), "--device", "tpu")
    assert status == 1 and "not measured: onnxruntime-plain" in out


def test_an_interrupt_ends_every_process(linear: ModuleType, plugin_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ARCHITECTURE + BACKENDS)
    command = [sys.executable, "-c", "from gsto_train.commands.bench import main; main()"]
    given = ["--architecture", "mine:network", "--size", "8x12", "--no-ceilings", "--rounds", "100000"]
    process = subprocess.Popen(
        [*command, *given, *only("linear-plain", "mine:Fast-fast")],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(plugin_folder)}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("round 1 "):
            break
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 143
    assert error.splitlines()[-1] == "gsto-bench: interrupted; run the same command again"
    _wait_for_the_end_of(process.pid)


def _wait_for_the_end_of(group: int) -> None:
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    raise AssertionError("processes outlived the command")
