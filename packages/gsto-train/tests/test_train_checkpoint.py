import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gsto_train.checkpoint import BrokenCheckpoint, Progress, newest, read, save
from gsto_train.errors import InputError

STATE = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "optimizer/momentum/conv1.weight": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "optimizer/step": np.asarray(7),
}


def progress(step: int) -> Progress:
    return Progress(step, 1.5, 3, "linear", "abc", 11, {"train": {"batch": 4}})


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


def drop_a_field(path: Path) -> None:
    described = json.loads((path / "checkpoint.json").read_text())
    del described["graph_digest"]
    (path / "checkpoint.json").write_text(json.dumps(described))


def describing(**changed: object) -> Any:
    def damage(path: Path) -> None:
        described = json.loads((path / "checkpoint.json").read_text())
        (path / "checkpoint.json").write_text(json.dumps({**described, **changed}))

    return damage


def write_rubbish(path: Path) -> None:
    (path / "state.safetensors").write_bytes(b"rubbish")
    describing(sha256=hashlib.sha256(b"rubbish").hexdigest())(path)


def make_the_tensors_a_folder(path: Path) -> None:
    (path / "state.safetensors").unlink()
    (path / "state.safetensors").mkdir()


def become_a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("")


def nest_too_deep(path: Path) -> None:
    (path / "checkpoint.json").write_text("[" * 100000)


WRONG: list[dict[str, object]] = [
    {"step": "2"},
    {"step": True},
    {"step": 3},
    {"step": -2},
    {"seconds": "1"},
    {"seconds": 1e999},
]
WRONG += [{"settings": 3}, {"graph_digest": 1}]
DAMAGE = [cut_off, flip_a_bit, lose_the_tensors, lose_the_description, cut_the_description, drop_a_field]
DAMAGE += [write_rubbish, make_the_tensors_a_folder, become_a_file, nest_too_deep]
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


@pytest.mark.parametrize("call", range(4))
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
