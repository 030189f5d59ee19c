import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gsto_train.errors import InputError
from gsto_train.run.journal import Journal
from gsto_train.run.runfolder import CONFIG, RunFolder


@contextmanager
def without_privileges() -> Iterator[None]:
    """Drop root's right to write anywhere, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that may be looked into and not written, outside the test runner's private ones."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_folder_is_refused_for_a_new_run(read_only: Path) -> None:
    with without_privileges(), pytest.raises(InputError) as error:
        RunFolder.create(read_only)
    assert "cannot write into the output folder (Permission denied)" in str(error.value)
    assert str(read_only) in str(error.value)
    with without_privileges(), pytest.raises(InputError, match="Permission denied"):
        RunFolder.create(read_only / "run")


def test_a_read_only_folder_is_refused_for_a_resumed_run(read_only: Path) -> None:
    read_only.chmod(0o755)
    (read_only / CONFIG).write_text("{}")
    (read_only / "checkpoints").mkdir()
    read_only.chmod(0o555)
    with (
        without_privileges(),
        pytest.raises(InputError, match=r"cannot write into the output folder \(Permission"),
    ):
        RunFolder.open(read_only)


def test_a_folder_is_made_or_opened_by_one_at_a_time(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    with pytest.raises(InputError, match="another process trains in this output folder"):
        RunFolder.create(tmp_path / "run")
    (tmp_path / "run" / CONFIG).write_text("{}")
    with pytest.raises(InputError, match="another process trains in this output folder"):
        RunFolder.open(tmp_path / "run")
    folder.release()
    opened = RunFolder.open(tmp_path / "run")
    with pytest.raises(InputError, match="another process trains in this output folder"):
        RunFolder.open(tmp_path / "run")
    opened.release()


def test_a_file_system_without_locks_is_trained_on_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    for _ in range(2):
        RunFolder.create(tmp_path / "run").release()


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "[" * 100000])
def test_a_file_that_is_no_json_object_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "environment.json").write_text(content)
    with pytest.raises(InputError, match=r"environment\.json: expected a JSON object"):
        RunFolder(tmp_path).read("environment.json")


def test_truncating_keeps_whole_lines_up_to_a_step(tmp_path: Path) -> None:
    folder, journal = RunFolder(tmp_path), Journal(tmp_path / "metrics.jsonl")
    for step in (1, 5, 10):
        journal.add({"step": step})
    journal.flush()
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": Infinity}\n\xff{"step": 3')
    assert folder.truncate("metrics.jsonl", 5) == [{"step": 1}, {"step": 5}]
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 5}\n'
    assert folder.truncate("absent.jsonl", 5) == []
    assert not (tmp_path / "absent.jsonl").exists()


def test_a_written_file_replaces_the_old_one_or_leaves_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write("result.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write("result.json", {"a": float("nan")})
    assert folder.read("result.json") == {"a": 1}
    folder.write("result.json", {"a": 2})
    assert json.loads((tmp_path / "result.json").read_text()) == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
