"""Wrong input that is told in one line, and leaves nothing in the way of the mended command."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from PIL import Image

from gsto_spec import WeightsError
from gsto_train.commands.train import main

NETWORKS = """
from gsto_spec import GraphBuilder
def two_inputs(classes):
    build = GraphBuilder()
    build.input("other", channels=3)
    return build.graph({"stage4": build.conv2d("head", build.input(), classes, bias=True)})
def grey(classes):
    build = GraphBuilder()
    return build.graph({"stage4": build.conv2d("head", build.input(channels=1), classes, bias=True)})
def unchanged(classes):
    build = GraphBuilder()
    image = build.input()
    build.conv2d("head", image, classes)
    return build.graph({"stage4": image})
def bare(classes):
    build = GraphBuilder()
    image = build.input()
    return build.graph({"stage4": build.relu(image)})
def aside(classes):
    build = GraphBuilder()
    image = build.input()
    build.conv2d("head", image, classes)
    return build.graph({"stage4": build.relu(image)})
def parameter(classes):
    build = GraphBuilder()
    build.conv2d("head", build.input(), classes)
    return build.graph({"stage4": "head.weight"})
def normed(classes):
    build = GraphBuilder()
    return build.graph({"stage4": build.batch_norm("norm", build.conv2d("head", build.input(), classes))})
def large(classes):
    build = GraphBuilder()
    head = build.conv2d("head", build.input(), classes, kernel=9, padding=0, bias=True)
    return build.graph({"stage4": head})
"""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            ("loss.class_weights=[0,0]",),
            "'loss.class_weights': expected one above 0, found none: nothing would",
        ),
        (("loss.stage_weights.stage4=0",), "'loss.stage_weights': expected one above 0, found none: nothing"),
        (
            ("data.crop=[1,1]", "train.batch=1"),
            "settings 'data.crop' and 'train.batch': too small: norm: expected more than one value per",
        ),
    ],
)
def test_a_run_that_would_learn_nothing_is_refused_by_its_setting(
    command: Any, settings: tuple[str, ...], expected: str
) -> None:
    Path("refused_networks.py").write_text(NETWORKS)
    for way in ((), ("--dry-run",)):
        failed = command(
            "--output", "run", "--architecture", "refused_networks:normed", *way, settings=settings
        )
        assert failed.status == 2
        assert expected in failed.failure
        assert not Path("run").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("two_inputs", "expected one input of 3 channels, found"),
        ("grey", "expected one input of 3 channels, found"),
        ("unchanged", "an input or a parameter; expected a feature map"),
        ("parameter", "an input or a parameter; expected a feature map"),
        ("bare", "expected a trainable parameter, found none"),
        ("aside", "expected outputs that depend on a trainable parameter"),
    ],
)
def test_an_architecture_that_cannot_learn_is_refused(command: Any, name: str, expected: str) -> None:
    Path("refused_networks.py").write_text(NETWORKS)
    failed = command("--output", "run", "--architecture", f"refused_networks:{name}")
    assert failed.status == 2
    assert expected in failed.failure
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("train.beta1=1", "train.beta1"),
        ("train.beta2=1", "train.beta2"),
        ("train.weight_decay=1e7", "train.weight_decay"),
        ("data.crop=[65537,1]", "data.crop"),
        ("data.crop=[65536,65536]", "data.crop"),
        ("data.base_size=65537", "data.base_size"),
        ("data.scales=[65]", "data.scales"),
        ("train.batch=" + "9" * 400, "train.batch"),
        ("train.batch=" + "9" * 5000, "train.batch"),
        ("train.learning_rate=" + "9" * 400, "train.learning_rate"),
        ("train.batch=" + "[" * 100000, "--set"),
        ("data.train_list=a\udcff", "data.train_list"),
        ('data.val_list="a\\u0000"', "data.val_list"),
    ],
)
def test_a_value_out_of_range_is_told_before_anything_is_made(command: Any, setting: str, key: str) -> None:
    settings = ("train.optimizer=adam", setting)
    failed = command("--output", "run", settings=settings)
    assert failed.status == 2
    assert key in failed.failure
    assert len(failed.failure) < 1000
    assert not Path("run").exists()


def test_what_a_trainer_refuses_leaves_no_folder_in_the_way(
    command: Any, linear: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise WeightsError("this trainer is particular")

    with monkeypatch.context() as patched:
        patched.setattr(linear, "LinearTrainer", refuse)
        assert command("--output", "new/run").status == 2
        assert not Path("new").exists()
        Path("mine").mkdir()
        assert command("--output", "mine").status == 2
        assert not any(Path("mine").iterdir())
    assert command("--output", "new/run").status == 0


def test_a_picture_too_small_for_the_network_is_found_before_training(command: Any, pictures: Path) -> None:
    Path("fitting_networks.py").write_text(NETWORKS)
    Image.new("RGB", (8, 8)).save(pictures / "5.png")
    Image.new("L", (8, 8)).save(pictures / "5_label.png")
    failed = command("--output", "run", "--architecture", "fitting_networks:large")
    assert failed.status == 2
    assert "5.png: 8x8 (width x height) does not fit the architecture" in failed.failure
    assert not Path("run").exists()


def test_renamed_classes_are_refused_when_resuming_before_anything_is_written(
    command: Any, pictures: Path
) -> None:
    command("--output", "run")
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*") if path.is_file()}
    (pictures / "classes.json").write_text(
        json.dumps({"classes": ["red", "leaf", "blue"], "ignore_index": 9})
    )
    failed = command("--output", "run", "--resume", new=False)
    assert failed.status == 2
    assert "'green' is now 'leaf'" in failed.failure
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("content", ["{", "[]", '{"histogram": 3, "constant": {}}'])
def test_baselines_that_are_no_scores_are_scored_again(command: Any, content: str) -> None:
    command("--output", "run")
    kept = json.loads(Path("run/baselines.json").read_text())
    Path("run/baselines.json").write_text(content)
    assert command("--output", "run", "--resume", new=False).status == 0
    assert json.loads(Path("run/baselines.json").read_text()) == kept


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried ...")])
def test_too_little_memory_is_told_in_one_line(command: Any, linear: ModuleType, error: Exception) -> None:
    def fail(step: int) -> None:
        raise error

    linear.events.before_step = fail
    failed = command("--output", "run")
    assert failed.status == 1
    assert "out of memory" in failed.failure
    assert "smaller train.batch" in failed.failure


def test_signals_after_the_second_are_ignored(command: Any, linear: ModuleType) -> None:
    def burst(step: int) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)

    linear.events.before_step = burst
    assert command("--output", "run").status == 143


def test_an_interrupt_while_click_starts_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(click.Command, "main", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["--list"])
    assert ended.value.code == 130
    assert capsys.readouterr().err.startswith("gsto-train: interrupted")


RUN = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from gsto_train.commands.train import main
main()
"""


def test_a_full_standard_output_is_told_in_one_line(
    plugin_folder: Path, pictures: Path, command: Any
) -> None:
    run = [
        "--backend",
        "linear",
        "--benchmark",
        "folder",
        "--data",
        str(pictures),
        "--set",
        "data.crop=[8,8]",
    ]
    run += ["--architecture", "linear_backend:graph", "--set", "train.steps=1", "--output"]
    for arguments in (["--list"], ["--help"], [*run, "one"], [*run, "two", "--json"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-c", RUN, str(plugin_folder), *arguments],
                stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.startswith("gsto-train: standard output: No space left on device")
        assert "--resume" not in last
        assert "Traceback" not in done.stderr
        assert ("the run is complete" in last) == ("--output" in arguments)


@pytest.mark.parametrize("change", [{"classes": 3}, {"classes": [1]}, {"settings": 3}, {"record": []}])
def test_a_configuration_of_odd_types_is_named(command: Any, change: dict[str, object]) -> None:
    command("--output", "run")
    config = json.loads(Path("run/config.json").read_text())
    Path("run/config.json").write_text(json.dumps({**config, **change}))
    failed = command("--output", "run", "--resume", new=False)
    assert failed.status == 2
    assert "run/config.json: not a configuration that this version reads" in failed.failure
