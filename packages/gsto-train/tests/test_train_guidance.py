"""What a newcomer types first, and that the refusal says what helps."""

from pathlib import Path
from typing import Any

import pytest

from gsto_train.commands.train import main


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("--lr", "3"), "--set train.learning_rate=3"),
        (("--batch-size=5",), "--set train.batch=5"),
        (("--epochs", "5"), "--set train.epochs=5"),
        (("--epochs", "--resume"), "--set train.epochs=VALUE"),
    ],
)
def test_an_option_that_is_a_setting_is_told_as_one(typed: tuple[str, ...], told: str, invoke: Any) -> None:
    line = invoke.refused(main, "--backend", "linear", *typed)
    assert line.startswith(f"gsto-train: No such option: {typed[0].partition('=')[0]}; it is a setting: ")
    assert line.endswith(f" {told}")


def test_an_option_like_no_setting_is_told_as_before(invoke: Any) -> None:
    assert "nearest: --backend" in invoke.refused(main, "--backnd", "linear")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train.lr=3", "train.learning_rate"),
        ("lr=3", "train.learning_rate"),
        ("train.batch_size=3", "train.batch"),
        ("epochs=3", "train.epochs"),
        ("train.iterations=3", "train.steps"),
        ("data.size=3", "data.crop"),
    ],
)
def test_usual_short_names_of_settings_are_known(command: Any, typed: str, meant: str) -> None:
    refused = command(settings=(typed,))
    assert refused.failure.endswith(f"unknown setting {typed.partition('=')[0]!r} (nearest: {meant})")


@pytest.mark.parametrize(
    ("typed", "hint"),
    [("128,64", "; write [128,64]"), ("128x64", "; write [128,64]"), ("1,2,3", ""), ("a", "")],
)
def test_a_list_without_its_brackets_is_shown_with_them(command: Any, typed: str, hint: str) -> None:
    refused = command(settings=(f"data.crop={typed}",))
    assert refused.status == 2
    assert refused.failure.endswith(f'found "{typed}"{hint}')


@pytest.mark.parametrize("benchmark", [(), ("--benchmark", "figures")])
def test_a_folder_for_drawn_pictures_is_answered_with_the_benchmark_for_folders(
    command: Any, pictures: Path, benchmark: tuple[str, ...]
) -> None:
    refused = command(*benchmark, "--data", str(pictures), "--output", "run", new=False)
    assert refused.status == 2
    name = benchmark[-1] if benchmark else "scenes"
    assert f"--data: the benchmark {name} draws its own pictures; add --benchmark folder" in refused.failure


def test_a_run_is_gone_on_with_by_its_own_backend(trained: Path, invoke: Any) -> None:
    status, _, error = invoke(main, "--output", "run", "--resume")
    assert status == 0, error
    assert "going on from step 20 of 20" in error
    assert "--backend is missing" in invoke.refused(main, "--output", "new")
    config = trained / "config.json"
    config.write_text(config.read_text().replace('"backend": "linear"', '"backend": "os:system"'))
    line = invoke.refused(main, "--output", "run", "--resume")
    assert "expected a backend that is installed, found 'os:system'; give --backend" in line


def test_more_steps_than_a_finished_run_has_start_from_its_weights(trained: Path, command: Any) -> None:
    more = ("--output", "run", "--resume", "--set", "train.steps=30")
    way = "--set architecture.initialize_from=run/model"
    assert way in command(*more, new=False).failure
    onward = command("--output", "more", *way.split(), settings=("train.steps=30",))
    assert onward.status == 0, onward.error
    changed = command(*more[:-1], "train.batch=3", new=False)
    assert changed.status == 2 and "initialize_from" not in changed.failure


@pytest.mark.parametrize(
    ("benchmark", "architecture", "told"),
    [
        ("figures", "gsto-hrnet-w16-mini", "made to find classes, and these data have joints"),
        ("scenes", "gsto_train.pose.networks:mini", "made to find joints, and these data have classes"),
        ("scenes", "pose-hrnet-w32", "made to find joints, and these data have classes"),
        ("scenes", "gsto-hrnet-w16-mini", None),
        ("figures", "gsto_train.pose.networks:mini", None),
    ],
)
def test_a_network_of_another_purpose_is_warned_of(
    command: Any, benchmark: str, architecture: str, told: str | None
) -> None:
    settings = ("--set", "data.crop=[64,64]", "--set", "train.batch=1")
    chosen = ("--benchmark", benchmark, "--architecture", architecture)
    checked = command(*chosen, *settings, "--dry-run", new=False)
    assert checked.status == 0, checked.error
    warnings = [line for line in checked.error.splitlines() if "is made to find" in line]
    assert len(warnings) == (told is not None)
    assert all(f"warning: architecture {architecture} is {told}" in line for line in warnings)
