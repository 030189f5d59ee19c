"""Environment variables that name folders of data: whose, which counts, and what overrides them."""

import json
from pathlib import Path
from typing import Any

import pytest

from gsto_train import benchmarks
from gsto_train.commands.data import main as data
from gsto_train.commands.train import main as train


def test_a_benchmarks_variables_are_its_name_and_its_leading_parts() -> None:
    assert benchmarks.data_variables("pascal-context-59") == (
        "GSTO_DATA_PASCAL_CONTEXT_59", "GSTO_DATA_PASCAL_CONTEXT", "GSTO_DATA_PASCAL"
    )  # fmt: skip
    assert benchmarks.data_variables("own/mine.v2.toml")[0] == "GSTO_DATA_MINE_V2"


def test_the_most_particular_variable_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "data.folder" not in benchmarks.load("camvid-small").values
    monkeypatch.setenv("GSTO_DATA_CAMVID", "both")
    assert benchmarks.load("camvid-small").values["data.folder"] == "both"
    monkeypatch.setenv("GSTO_DATA_CAMVID_SMALL", "small")
    assert benchmarks.load("camvid-small").values["data.folder"] == "small"
    assert benchmarks.load("camvid").values["data.folder"] == "both"
    monkeypatch.setenv("GSTO_DATA_CAMVID_SMALL", "")
    assert benchmarks.load("camvid-small").values["data.folder"] == "both"


@pytest.mark.parametrize("name", ["scenes", "figures"])
def test_generated_pictures_take_no_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"GSTO_DATA_{name.upper()}", "somewhere")
    assert "data.folder" not in benchmarks.load(name).values


def test_a_benchmark_with_a_folder_of_its_own_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "mine.toml"
    own.write_text('extends = "folder"\n[record]\nsource = "s"\ncommand = "c"\n[data]\nfolder = "mine"\n')
    monkeypatch.setenv("GSTO_DATA_MINE", "other")
    assert benchmarks.load(str(own)).values["data.folder"] == "mine"


def test_commands_take_the_folder_unless_data_says_another(
    command: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("GSTO_DATA_FOLDER", str(tmp_path / "absent"))
    assert command("--output", "run", settings=("train.steps=2",)).status == 0  # With --data.
    monkeypatch.setenv("GSTO_DATA_FOLDER", str(pictures))
    with pytest.raises(SystemExit) as ended:
        data(["check", "folder"])
    assert ended.value.code == 0
    done = command("--benchmark", "folder", "--architecture", "linear_backend:graph", "--dry-run", "--json",
                   new=False)  # fmt: skip
    assert json.loads(done.out)["settings"]["data"]["folder"] == str(pictures)


def test_list_names_the_variables(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train(["--list", "--json"])
    told = json.loads(capsys.readouterr().out)
    (section,) = (entries for title, entries in told.items() if title.startswith("folders of data"))
    assert section["lip-hrnetv2"] == "GSTO_DATA_LIP_HRNETV2 or GSTO_DATA_LIP"
    assert "scenes" not in section
