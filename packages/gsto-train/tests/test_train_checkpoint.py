import errno
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gsto_train.errors import InputError
from gsto_train.run.checkpoint import BrokenCheckpoint, Progress, newest, read, save

STATE = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "optimizer/momentum/conv1.weight": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "optimizer/step": np.asarray(7),
}


def progress(step: int) -> Progress:
    return Progress(
        step=step, samples=4 * step, seconds=1.5, skipped=2, best_step=None, best_score=None, seed=3,
        backend="linear", graph_digest="abc", training_pictures=11, settings={"train": {"batch": 4}},
        environment={"threads": "1"},
    )  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_read_back_exactly(tmp_path: Path) -> None:
    path = save(tmp_path, progress(12), STATE)
    found = read(path)
    assert path == tmp_path / "step-000012"
    assert found.progress == progress(12)
    assert set(found.state) == set(STATE)
    for name, array in STATE.items():
        assert found.state[name].dtype == array.dtype
        np.testing.assert_array_equal(found.state[name], array, strict=True)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 200, 1000000):
        save(tmp_path, progress(step), STATE)
    assert names(tmp_path) == ["step-000200", "step-1000000"]
    found = newest(tmp_path, pytest.fail)
    assert found is not None
    assert found.progress.step == 1000000


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert newest(tmp_path, pytest.fail) is None
    assert newest(tmp_path / "missing", pytest.fail) is None


def cut_off(path: Path) -> None:
    (path / "state.safetensors").write_bytes((path / "state.safetensors").read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "state.safetensors").write_bytes(content)


def lose_the_tensors(path: Path) -> None:
    (path / "state.safetensors").unlink()


def lose_the_description(path: Path) -> None:
    (path / "checkpoint.json").unlink()


def cut_the_description(path: Path) -> None:
    (path / "checkpoint.json").write_text((path / "checkpoint.json").read_text()[:40])


def sign(path: Path) -> None:
    """Write the digests of what lies there, whatever it is."""
    names = ("state.safetensors", "checkpoint.json")
    lines = [f"{hashlib.sha256((path / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (path / "SHA256SUMS").write_text("".join(lines))


def drop_a_field(path: Path) -> None:
    described = json.loads((path / "checkpoint.json").read_text())
    del described["graph_digest"]
    (path / "checkpoint.json").write_text(json.dumps(described))
    sign(path)


def describing(**changed: object) -> Any:
    def damage(path: Path) -> None:
        described = json.loads((path / "checkpoint.json").read_text())
        (path / "checkpoint.json").write_text(json.dumps({**described, **changed}))
        sign(path)

    return damage


def write_rubbish(path: Path) -> None:
    (path / "state.safetensors").write_bytes(b"rubbish")
    sign(path)


def lose_the_digests(path: Path) -> None:
    (path / "SHA256SUMS").unlink()


def make_the_tensors_a_folder(path: Path) -> None:
    (path / "state.safetensors").unlink()
    (path / "state.safetensors").mkdir()


def become_a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("")


def nest_too_deep(path: Path) -> None:
    (path / "checkpoint.json").write_text("[" * 100000)
    sign(path)


WRONG: list[dict[str, object]] = [
    {"step": "2"},
    {"step": True},
    {"step": 3},
    {"step": -2},
    {"seconds": "1"},
    {"seconds": 1e999},
    {"format": 1},
    {"samples": None},
    {"best_step": 1, "best_score": None},
]
WRONG += [{"settings": 3}, {"graph_digest": 1}, {"environment": []}]
DAMAGE = [cut_off, flip_a_bit, lose_the_tensors, lose_the_description, cut_the_description, drop_a_field]
DAMAGE += [lose_the_digests, write_rubbish, make_the_tensors_a_folder, become_a_file, nest_too_deep]
DAMAGE += [describing(**wrong) for wrong in WRONG]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_checkpoint_is_passed_over_and_reported(tmp_path: Path, damage: Any) -> None:
    save(tmp_path, progress(1), STATE)
    damage(save(tmp_path, progress(2), STATE))
    with pytest.raises(BrokenCheckpoint):
        read(tmp_path / "step-000002")
    said: list[str] = []
    found = newest(tmp_path, said.append)
    assert found is not None
    assert found.progress.step == 1
    assert len(said) == 1
    assert str(tmp_path / "step-000002") in said[0]


def test_where_every_checkpoint_is_broken_nothing_begins_anew(tmp_path: Path) -> None:
    for step in (1, 2):
        cut_off(save(tmp_path, progress(step), STATE))
    said: list[str] = []
    with pytest.raises(InputError, match="expected a whole checkpoint, found only broken ones; restore one"):
        newest(tmp_path, said.append)
    assert len(said) == 2
    assert names(tmp_path) == ["step-000001", "step-000002"]


def test_a_whole_checkpoint_is_never_pruned_in_favour_of_a_broken_later_one(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, progress(step), STATE)
    flip_a_bit(save(tmp_path, progress(9), STATE))
    save(tmp_path, progress(3), STATE)
    assert names(tmp_path) == ["step-000002", "step-000003"]


def test_a_broken_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    for damage in (cut_off, become_a_file):
        damage(save(tmp_path, progress(4), STATE))
        save(tmp_path, progress(4), STATE)
    assert read(tmp_path / "step-000004").progress.step == 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path: Path, value: float) -> None:
    save(tmp_path, progress(1), STATE)
    with pytest.raises(FloatingPointError, match=r"bn1\.weight"):
        save(tmp_path, progress(2), {**STATE, "bn1.weight": np.array([1.0, value])})
    assert names(tmp_path) == ["step-000001"]


@given(st.data())
@settings(max_examples=60)
def test_one_flipped_bit_anywhere_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = save(tmp_path_factory.mktemp("bits"), progress(2), STATE)
    file = path / data.draw(st.sampled_from(sorted(names(path))))
    content = bytearray(file.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    with pytest.raises(BrokenCheckpoint):
        read(path)


def test_the_digests_are_those_of_sha256sum(tmp_path: Path) -> None:
    path = save(tmp_path, progress(2), STATE)
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    subprocess.run(command, cwd=path, check=True, capture_output=True, timeout=60)


def test_the_best_is_kept_however_old(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, replace(progress(step), best_step=min(step, 2), best_score=0.5), STATE)
    assert names(tmp_path) == ["step-000002", "step-000004", "step-000005"]


@pytest.mark.parametrize("call", range(5))
def test_a_disk_that_fills_up_costs_no_checkpoint_and_leaves_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Whichever file or folder is being synced when the disk is full."""
    for step in (1, 2):
        save(tmp_path, progress(step), STATE)
    before = names(tmp_path)
    calls = iter(range(100))

    def full(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        save(tmp_path, progress(3), STATE)
    assert error.value.filename
    assert set(before) <= set(names(tmp_path)) <= {*before, "step-000003"}
    found = newest(tmp_path, pytest.fail)
    assert found is not None
    assert found.progress.step >= 2


def test_a_rest_of_an_earlier_attempt_does_not_matter(tmp_path: Path) -> None:
    rest = tmp_path / ".step-000003.partial"
    rest.mkdir()
    (rest / "state.safetensors").write_bytes(b"rest")
    assert newest(tmp_path, pytest.fail) is None
    save(tmp_path, progress(3), STATE)
    assert names(tmp_path) == ["step-000003"]


def test_tensors_of_any_layout_are_saved_by_value(tmp_path: Path) -> None:
    array: NDArray[np.float32] = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::-1]
    found = read(save(tmp_path, progress(1), {"w": array}))
    np.testing.assert_array_equal(found.state["w"], array)


SHORT = ("train.steps=6", "train.log_every=1", "train.checkpoint_every=2", "train.threads=1")


def change_config(key: str, value: object) -> None:
    path = Path("run/config.json")
    config = json.loads(path.read_text())
    config["settings"]["train"][key] = value
    path.write_text(json.dumps(config))


def cut_to(step: int) -> None:
    """Leave what a run killed after this step leaves."""
    Path("run/result.json").unlink()
    for path in Path("run/checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)


@pytest.mark.parametrize(
    ("key", "value", "was"), [("learning_rate", 0.5, 0.02), ("seed", 7, 0), ("steps", 9, 6)]
)
def test_a_setting_changed_in_the_configuration_is_refused(
    command: Any, key: str, value: object, was: object
) -> None:
    command("--output", "run", settings=SHORT)
    cut_to(4)
    change_config(key, value)
    before = Path("run/metrics.jsonl").read_bytes()
    refused = command("--output", "run", "--resume", new=False)
    assert refused.status == 2
    checkpoint = "run/checkpoints/step-000004"
    told = f"config.json: setting 'train.{key}' is {value}, but {checkpoint} was trained with {was}"
    assert told in refused.failure
    assert Path("run/metrics.jsonl").read_bytes() == before
    change_config(key, was)
    assert command("--output", "run", "--resume", new=False).status == 0


def test_a_free_setting_changed_in_the_configuration_is_taken(command: Any) -> None:
    command("--output", "run", settings=(*SHORT, "data.scales=[0.5,1]"))
    cut_to(4)
    change_config("log_every", 3)
    resumed = command("--output", "run", "--resume", "--data", str(command.pictures), new=False)
    assert resumed.status == 0, resumed.error


def test_a_run_whose_checkpoints_vanished_is_refused_and_stays_as_it_is(command: Any) -> None:
    command("--output", "run", settings=SHORT)
    shutil.rmtree("run/checkpoints")
    before = {path: path.read_bytes() for path in Path("run").glob("*.json*")}
    refused = command("--output", "run", "--resume", "--set", "train.checkpoint_every=50", new=False)
    assert refused.status == 2
    assert "run/checkpoints: expected a checkpoint, as metrics.jsonl has step 6" in refused.failure
    assert before == {path: path.read_bytes() for path in Path("run").glob("*.json*")}


def test_a_run_killed_before_its_first_checkpoint_begins_at_step_0(command: Any, read_lines: Any) -> None:
    command("--output", "run", settings=SHORT)
    cut_to(0)
    metrics = Path("run/metrics.jsonl")
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
    resumed = command("--output", "run", "--resume", new=False)
    assert resumed.status == 0, resumed.error
    assert "going on from step 0 of 6" in resumed.error
    assert [line["step"] for line in read_lines(metrics)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("line", ['{"step": 4}', '{"step": 4, "mean_iou": "x"}', "{", "4", '{"step": "x"}'])
def test_a_line_that_does_not_read_is_told_and_dropped(command: Any, read_lines: Any, line: str) -> None:
    command("--output", "run", settings=(*SHORT, "train.evaluate_every=3"))
    cut_to(4)
    path = Path("run/evaluations.jsonl")
    path.write_text(f"{path.read_text().splitlines()[0]}\n{line}\n")
    resumed = command("--output", "run", "--resume", new=False)
    assert resumed.status == 0, resumed.error
    assert "warning: run/evaluations.jsonl: line 2 does not read and is dropped" in resumed.error
    assert [each["step"] for each in read_lines(path)] == [3, 6]


def test_a_line_of_the_metrics_that_was_cut_off_is_told(command: Any, read_lines: Any) -> None:
    command("--output", "run", settings=SHORT)
    cut_to(4)
    path = Path("run/metrics.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2][:9], *lines[3:]]))
    resumed = command("--output", "run", "--resume", new=False)
    assert "warning: run/metrics.jsonl: line 3 does not read and is dropped" in resumed.error
    assert resumed.error.count("does not read") == 1
    assert [each["step"] for each in read_lines(path)] == [1, 2, 4, 5, 6]


def test_an_environment_that_does_not_read_is_told_and_written_again(command: Any) -> None:
    command("--output", "run", settings=SHORT)
    path = Path("run/environment.json")
    path.write_text("{")
    resumed = command("--output", "run", "--resume", new=False)
    assert resumed.status == 0, resumed.error
    assert "warning: run/environment.json: expected a JSON object" in resumed.error
    assert "backend" in json.loads(path.read_text())
