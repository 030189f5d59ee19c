"""What the shell completes, by the protocol that click's scripts for bash, zsh and fish speak."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import get_completion_class

import gsto_spec
from gsto_spec.backend import backends
from gsto_train import benchmarks
from gsto_train.schema import describe
from gsto_train.settings import Settings

COMMANDS = ("bench", "convert", "data", "doctor", "eval", "predict", "report", "train")
MODULES = {"eval": "evaluate"}


def offered(name: str, *words: str) -> list[str]:
    """What is offered for the last of the words."""
    command: click.Command = import_module(f"gsto_train.commands.{MODULES.get(name, name)}").command
    shell = get_completion_class("bash")
    assert shell is not None
    found = shell(command, {}, f"gsto-{name}", "_UNUSED").get_completions(list(words[:-1]), words[-1])
    return [each.value if each.type == "plain" else each.type for each in found]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_completes_its_options(name: str) -> None:
    assert "--help" in offered(name, "--")


@pytest.mark.parametrize("name", ["eval", "predict", "train"])
def test_names_are_completed(name: str) -> None:
    assert offered(name, "--benchmark", "") == list(benchmarks.names())
    assert offered(name, "--architecture", "gsto-hrnet-w48") == ["gsto-hrnet-w48"]
    assert offered(name, "--architecture", "") == list(gsto_spec.architectures())
    assert offered(name, "--backend", "") == list(backends())
    assert offered(name, "--set", "") == [f"{key}=" for key in describe(Settings)]
    assert offered(name, "--set", "train.learning_r") == ["train.learning_rate="]
    assert offered(name, "--device", "c") == ["cpu", "cuda"]
    assert offered(name, "--precision", "b") == ["bfloat16"]


def test_files_and_folders_are_completed_where_they_are_taken() -> None:
    assert offered("train", "--benchmark", "mine/own") == ["file"]
    assert offered("train", "--architecture", "graphs/a") == ["file"]
    assert offered("train", "--data", "") == ["dir"]
    assert offered("data", "check", "camvid-") == ["camvid-small"]
    assert offered("bench", "st") == ["step"]


def test_networks_pictures_and_outputs_are_completed_as_files_and_folders() -> None:
    assert [offered("eval", "mi"), offered("predict", "a")] == [["file"], ["file"]]
    assert [offered("predict", option, "") for option in ("--model", "--baseline")] == [["file"]] * 2
    assert [offered("report", "--output", ""), offered("eval", "--output", "")] == [["file"], ["dir"]]


def test_the_words_that_a_setting_takes_are_completed() -> None:
    words = ["train.optimizer=sgd", "train.optimizer=adam"]
    assert offered("predict", "--set", "train.optimizer=") == words
    assert offered("train", "--set", "train.optimizer=a") == words[1:]
    assert offered("train", "--set", "architecture.form=n") == ["architecture.form=none"]
    assert offered("train", "--set", "train.batch=") == offered("train", "--set", "no.such=") == []


def asked(shell: str, instruction: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Start `gsto-train` as a shell's script does."""
    code = "from gsto_train.commands.train import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables, "_GSTO_TRAIN_COMPLETE": f"{shell}_{instruction}"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_shells_script_gets_its_answer() -> None:
    words = {"COMP_WORDS": "gsto-train --benchmark camvid-", "COMP_CWORD": "2"}
    for shell, answer in (("bash", "plain,camvid-small"), ("zsh", "plain\ncamvid-small\n_")):
        done = asked(shell, "complete", **words)
        assert (done.returncode, done.stdout.strip()) == (0, answer), done
    done = asked("fish", "complete", COMP_WORDS="gsto-train --benchmark camvid-", COMP_CWORD="camvid-")
    assert "camvid-small" in done.stdout, done


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_that_no_shell_asks_for_is_refused_in_a_line(
    shell: str, invoke: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in COMMANDS:
        monkeypatch.setenv(f"_GSTO_{name.upper()}_COMPLETE", f"{shell}_complete")
        module = import_module(f"gsto_train.commands.{MODULES.get(name, name)}")
        status, out, error = invoke(module.main)
        (line,) = error.splitlines()
        assert (status, out) == (2, "")
        assert line.startswith(f"gsto-{name}: _GSTO_{name.upper()}_COMPLETE: expected COMP_WORDS")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_behind_an_equals_sign(tmp_path: Path) -> None:
    start = tmp_path / "gsto-train"
    start.write_text(f"#!{sys.executable}\nfrom gsto_train.commands.train import main; main()\n")
    start.chmod(0o755)
    script = (
        asked("bash", "source").stdout
        + """
        compopt() { echo "$@"; }
        for COMP_LINE in "gsto-train --set train.optimizer=" "gsto-train --set train.optim" \
                "gsto-train --set evaluation.absent_classes=l" "gsto-train --device=cu"; do
            COMP_POINT=${#COMP_LINE}; $(complete -p gsto-train | sed 's/.*-F //; s/ .*//') "$START"
            echo "${COMPREPLY[*]}"
        done"""
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env={**os.environ, "START": str(start)}, capture_output=True,
        text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["sgd adam", "-o nospace", "train.optimizer=", "left\\ out", "cuda"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shells_script_is_printed(shell: str) -> None:
    done = asked(shell, "source")
    assert done.returncode == 0, done
    assert "_GSTO_TRAIN_COMPLETE" in done.stdout and f"{shell}_complete" in done.stdout
