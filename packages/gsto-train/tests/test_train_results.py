"""Filed results, and docs/results.md, which puts them beside the paper's tables."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from gsto_spec import architectures
from gsto_train import benchmarks
from gsto_train.command_line import run_command
from gsto_train.commands.evaluate import main as evaluate
from gsto_train.errors import InputError
from gsto_train.results.__main__ import command as results_command
from gsto_train.results.filing import FiledRun, filed, of_folder
from gsto_train.results.page import NOT_RUN, markdown, options
from gsto_train.results.paper import tables
from gsto_train.settings import resolve

PAGE = Path(__file__).parents[3] / "docs" / "results.md"
RECIPES = [(table.number, row.recipe) for table in tables() for row in table.rows if row.recipe]


def run_results(arguments: Sequence[str]) -> NoReturn:
    run_command(results_command, "results", arguments, interrupted="")


@pytest.fixture
def results(invoke: Any) -> Callable[..., tuple[int, str, str]]:
    return partial(invoke, run_results)


def test_the_page_is_what_the_command_prints(results: Any) -> None:
    status, out, _ = results("page")
    stale = "docs/results.md is stale: python -m gsto_train.results page > docs/results.md"
    assert status == 0 and out == PAGE.read_text(encoding="utf-8"), stale


def test_all_eleven_tables_are_there_and_their_rows_are_whole() -> None:
    assert [table.number for table in tables()] == [*range(1, 12)]
    for table in tables():
        assert table.rows and all(len(row.scores) == len(table.columns) for row in table.rows)
        ours = [
            row
            for row in table.rows
            if row.recipe and row.recipe.architecture.startswith(("gsto", "pose-gsto"))
        ]
        assert ours or table.number in (3, 6)


@pytest.mark.parametrize(("number", "recipe"), RECIPES)
def test_every_row_of_ours_is_ready_to_run(number: int, recipe: Any) -> None:
    overrides = {**recipe.settings, "architecture.name": recipe.architecture}
    settings = resolve(benchmarks.load(recipe.benchmark).values, overrides)
    assert recipe.architecture in architectures() and recipe.benchmark in options(recipe)
    assert settings.loss.ohem == (number in (5, 8) and "loss.ohem" not in recipe.settings)


def test_what_was_not_run_is_said_not_to_be() -> None:
    page = markdown(())
    rows = [line for line in page.splitlines() if line.startswith("|") and "`--benchmark" in line]
    assert len(rows) == len(RECIPES) and all(f"| {NOT_RUN} |" in row for row in rows)


def a_run(**changed: Any) -> FiledRun:
    run = FiledRun(
        benchmark="cityscapes-w18-small", architecture="gsto-hrnet-w18-small-v2", backend="torch",
        command="typed", data="cityscapes", changed={}, weights="imagenet.pth", protocol="whole pictures",
        metrics={"mean_iou": 0.7712, "pixel_accuracy": 0.9},
        baselines={"constant": {"mean_iou": 0.02, "pixel_accuracy": 0.3}}, steps=10, batch=2, seed=0,
        precision="float32", seconds=75.0,
        environment={
            "python": "3.11", "processors": 8, "threads": None, "device": "cuda", "versions": {"torch": "2"},
        },
        graph_digest="d", date="2026-01-01",
    )  # fmt: skip
    return replace(run, **changed)


def rows_of(page: str, words: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("|") and words in line]


def test_a_filed_run_stands_beside_the_paper_and_seeds_have_a_spread() -> None:
    other = a_run(seed=1, metrics={"mean_iou": 0.7752, "pixel_accuracy": 0.9})
    assert "| 77.1 |" in rows_of(markdown([a_run()]), "baseline + GTM (w/ sup) + GFM")[0]
    page = markdown([a_run(), other])
    assert "| 77.3 ± 0.3 (77.1, 77.5) |" in rows_of(page, "baseline + GTM (w/ sup) + GFM")[0]
    (row,) = rows_of(page, "| 0, 1 |")
    assert "0.773 ± 0.003 (0.771, 0.775) [constant 0.020]" in row and "1 min 15 s" in row
    assert "| cityscapes-w18-small | " in page and "| 2 | `gsto-train" in page


@pytest.mark.parametrize(
    "changed",
    [{"changed": {"train.steps": 3}}, {"architecture": "hrnetv2-w18"}, {"steps": None, "seed": None}],
)
def test_a_run_by_another_recipe_is_filed_but_is_no_row_of_the_paper(changed: dict[str, Any]) -> None:
    page = markdown([a_run(**changed)])
    assert f"| {NOT_RUN} |" in rows_of(page, "baseline + GTM (w/ sup) + GFM")[0]
    assert "### cityscapes-w18-small" in page
    conditions = benchmarks.load("cityscapes-w18-small").record.conditions
    assert f"- {conditions}." in markdown([a_run()])
    assert (f"- {conditions}." in page) == ("architecture" in changed)


def test_two_networks_are_compared_seed_by_seed() -> None:
    scores = {0: (0.5, 0.4), 1: (0.7, 0.5)}
    runs = [
        a_run(seed=seed, architecture=name, metrics={"mean_iou": value})
        for seed, values in scores.items() for name, value in zip(("ours", "theirs"), values, strict=True)
    ]  # fmt: skip
    page = markdown(runs)
    assert "mean IoU, ours less theirs, seed by seed: 0.150 ± 0.071 (0.100, 0.200); standard error" in page
    assert "standard error of the mean 0.050; ahead in 2 of 2 seeds." in page
    assert "seed by seed" not in markdown(runs[:3])


def test_a_run_and_a_scoring_are_filed_in_brief(
    results: Any, command: Any, invoke: Any, tmp_path: Path
) -> None:
    assert command("--output", "run", settings=("train.seed=3",)).status == 0
    assert invoke(evaluate, "run", "--output", "scored", "--set", "evaluation.flip=true")[0] == 0
    status, out, error = results("file", "--folder", "filed", "run", "scored")
    assert status == 0, error
    trained, scored = filed(Path("filed"))[::-1]
    assert {Path(line).name for line in out.splitlines()} == {trained.file_name, scored.file_name}
    result = json.loads(Path("run/result.json").read_text())
    assert trained == of_folder(Path("run")) and trained.metrics == result["metrics"]
    assert (trained.seed, trained.steps, trained.data, trained.is_scoring) == (3, 20, "pictures", False)
    assert trained.changed["data.crop"] == [16, 16] and "train.log_every" not in trained.changed
    assert "--data pictures --set" in trained.command and "--set train.seed=3" in trained.command
    assert scored.is_scoring and scored.weights == "run" and scored.changed["evaluation.flip"] is True
    assert scored.command.startswith("gsto-eval run --backend linear --benchmark folder --data pictures")
    assert str(tmp_path) not in "".join(path.read_text() for path in Path("filed").iterdir())
    again = results("file", "--folder", "filed", "run")
    assert again[0] == 2 and "is there already; add --replace" in again[2]
    assert results("file", "--folder", "filed", "--replace", "run")[0] == 0
    assert "### folder, scored on pictures" in results("page", "--folder", "filed")[1]


def test_what_is_no_run_and_what_is_no_filed_run_are_refused(results: Any, tmp_path: Path) -> None:
    status, _, error = results("file", "--folder", str(tmp_path), str(tmp_path))
    assert status == 2 and "result.json: no such file; give the folder of a run that has ended" in error
    (tmp_path / "odd.json").write_text('{"benchmark": "scenes"}')
    status, _, error = results("page", "--folder", str(tmp_path))
    assert status == 2 and "odd.json: expected the keys of a filed run, found architecture, backend" in error
    (tmp_path / "odd.json").write_text("[]")
    with pytest.raises(InputError, match="expected an object, found a list"):
        filed(tmp_path)


@pytest.mark.parametrize("run", filed(), ids=lambda run: run.file_name)
def test_what_is_filed_here_is_of_a_benchmark_of_this_package(run: FiledRun) -> None:
    assert run.benchmark in benchmarks.names() and "/" not in f"{run.data}{run.weights}"
    values = benchmarks.load(run.benchmark).values
    resolve(values, {**run.changed, **({} if run.seed is None else {"train.seed": run.seed})})
