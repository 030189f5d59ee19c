"""What a newcomer types first, and that the refusal says what helps."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from gsto_train.commands.convert import main as convert
from gsto_train.commands.data import main as data
from gsto_train.commands.evaluate import main as evaluate
from gsto_train.commands.predict import main as predict
from gsto_train.commands.report import main as report
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
    [
        ('"128,64"', "; write [128,64]"), ('"128x64"', "; write [128,64]"), ("256", "; write [256,256]"),
        ('"1,2,3"', ""), ('"a"', ""), ("0", ""),
    ],
)  # fmt: skip
def test_a_list_without_its_brackets_is_shown_with_them(command: Any, typed: str, hint: str) -> None:
    refused = command(settings=(f"data.crop={typed}",))
    assert refused.status == 2
    assert refused.failure.endswith(f"found {typed}{hint}")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("data.classes=[road,car]", '["road","car"]'),
        ("data.classes=road, traffic light", '["road","traffic light"]'),
        ("data.classes=[road", '["road"]'),
        ("data.classes=road,,car", None),
        ("train.freeze=conv1", '["conv1"]'),
    ],
)
def test_texts_without_their_quotes_are_shown_with_them(command: Any, typed: str, meant: str | None) -> None:
    refused = command(settings=(typed,))
    hint = "" if meant is None else f"; write {meant}, in a shell '{meant}'"
    assert refused.failure.endswith(f'found "{typed.partition("=")[2]}"{hint}')


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
    assert "this run has ended already, and is scored again" in error
    assert "--backend is missing" in invoke.refused(main, "--output", "new")
    assert "--output is missing: give the folder of the run" in invoke.refused(main, "--resume")
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


def test_a_folder_inside_the_datas_is_answered_with_the_datas(command: Any, pictures: Path) -> None:
    (pictures / "train").mkdir()
    inside = command("--output", "run", "--data", str(pictures / "train"))
    there = f"(nearest: {pictures / 'classes.json'}); give the folder that it lies in"
    assert f"{pictures / 'train' / 'classes.json'}: no such file {there}" in inside.failure
    named = command("--data", str(pictures / "train"), settings=('data.classes=["r","g","b"]',))
    assert f"no such list of pictures (nearest: {pictures / 'train.txt'}); give the folder" in named.failure


def test_a_folder_is_not_suggested_for_a_list(command: Any, pictures: Path) -> None:
    (pictures / "train").mkdir()
    for name in ("train.txt", "val.txt"):
        (pictures / name).unlink()
    assert "train.txt: no such list of pictures; check its name" in command("--output", "run").failure


def test_a_folder_of_data_that_a_variable_gives_is_told_with_it(
    invoke: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, linear: object
) -> None:
    monkeypatch.setenv("GSTO_DATA_FOLDER", str(tmp_path / "absent"))
    told = "no such folder of data; check the path, which GSTO_DATA_FOLDER gives"
    assert told in invoke.refused(main, "--backend", "linear", "--benchmark", "folder")
    other = invoke.refused(data, "check", "folder", "--data", str(tmp_path / "other"))
    assert "no such folder of data" in other and "GSTO_DATA_FOLDER" not in other


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("coco", "'coco' (nearest: coco-keypoints-w32); "),
        ("LIP", "'LIP' (nearest: lip); "),
        ("zzz", "'zzz'; known: scenes, "),
    ],
)
def test_a_benchmark_that_holds_a_wrong_name_is_suggested(invoke: Any, name: str, told: str) -> None:
    assert told in invoke.refused(data, "check", name)


@pytest.mark.parametrize("inside", ["checkpoints", "checkpoints/step-000020"])
def test_a_folder_inside_a_run_is_answered_with_the_run(
    trained: Path, pictures: Path, invoke: Any, inside: str
) -> None:
    mend = "; it belongs to the run run: give that"
    place = str(trained / inside)
    typed: tuple[tuple[Any, ...], ...] = (
        (predict, "--model", place, str(pictures)), (evaluate, place), (evaluate, place, "--verify"),
        (report, place), (convert, place, "x.pth"), (main, "--resume", "--output", place),
    )  # fmt: skip
    for program, *arguments in typed:
        assert invoke.refused(program, *arguments).endswith(mend)


def test_a_runs_saved_model_has_no_report_but_its_run_has(trained: Path, invoke: Any) -> None:
    told = (
        "run/model: expected the folder of a run, found a saved model; it belongs to the run run: give that"
    )
    assert told in invoke.refused(report, "run/model")
    shutil.move("run/model", "alone")
    assert "alone: expected the folder of a run, found a saved model; check" in invoke.refused(
        report, "alone"
    )


def test_a_folder_that_is_no_model_is_not_told_to_be_like_itself(pictures: Path, invoke: Any) -> None:
    line = invoke.refused(predict, "--model", str(pictures), str(pictures))
    assert line.endswith("found neither; check the path")


def test_a_run_without_its_model_is_told_how_it_gets_one(trained: Path, invoke: Any) -> None:
    shutil.rmtree("run/model")
    told = (
        "run: this run has no model/ yet, as it has not ended; go on with: gsto-train --output run --resume"
    )
    for program, *arguments in (convert, "run", "x.pth"), (evaluate, "run", "--verify"):
        assert invoke.refused(program, *arguments).endswith(told)
    assert invoke(main, "--output", "run", "--resume")[0] == 0
    assert invoke(convert, "run", "x.safetensors")[0] == 0


def test_what_a_saved_model_does_not_say_is_asked_for_at_once(trained: Path, invoke: Any) -> None:
    card = Path("run/model/card.json")
    bare = {key: value for key, value in json.loads(card.read_text()).items() if key != "backend"}
    card.write_text(json.dumps({key: value for key, value in bare.items() if key != "settings"}))
    line = invoke.refused(evaluate, "run/model")
    assert line.endswith(
        "name the benchmark with --benchmark, and give a backend with --backend, torch or jax"
    )
    assert invoke.refused(evaluate, "run/model", "--backend", "linear").endswith("with --benchmark")


def test_an_empty_path_is_refused_wherever_one_is_given(invoke: Any, linear: object) -> None:
    typed: tuple[tuple[Any, ...], ...] = (
        (convert, "run", ""), (convert, "", "x.pth"), (predict, "--model", "", "."), (evaluate, ""),
        (predict, "--model", "run", "--output", "", "."), (report, ""), (evaluate, "run", "--submit", ""),
        (main, "--backend", "linear", "--output", ""), (data, "check", "folder", "--data", ""),
    )  # fmt: skip
    for program, *arguments in typed:
        assert invoke.refused(program, *arguments).endswith(": expected a path, found nothing; give one")


def test_a_link_that_leads_nowhere_is_not_replaced_unasked(trained: Path, invoke: Any) -> None:
    for name in ("link.safetensors", "link.html"):
        Path(name).symlink_to("nowhere")
    assert "exists already" in invoke.refused(convert, "run", "link.safetensors")
    assert "is there already" in invoke.refused(report, "run", "--output", "link.html")
    assert all(Path(name).is_symlink() for name in ("link.safetensors", "link.html"))
    assert invoke(convert, "run", "link.safetensors", "--force")[0] == 0
    assert not Path("nowhere").exists() and not Path("link.safetensors").is_symlink()


def test_an_interrupted_prediction_does_not_say_that_it_wrote(
    trained: Path, pictures: Path, invoke: Any, linear: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(linear.LinearBackend, "predictor", interrupted)
    status, _, error = invoke(predict, "--model", "run", "--output", "found", str(pictures / "0.png"))
    assert (status, Path("found").exists()) == (130, False)
    assert error.endswith("again (with --force if it wrote files, which stay)\n")
