"""Decoded pictures that are kept: read again from there, as long as they are what the files hold."""

import io
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from gsto_train.data.decoded import keep_in
from gsto_train.data.listed import ListedImages
from gsto_train.errors import InputError
from gsto_train.pose.coco import CocoKeypoints


@pytest.fixture(autouse=True)
def kept(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "decoded"
    keep_in(folder)
    yield folder
    keep_in(None)


@pytest.fixture
def undecodable(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called no picture decodes."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded")

    def from_now_on() -> None:
        monkeypatch.setattr("gsto_train.data.png.decode_plain", fail)
        monkeypatch.setattr("PIL.Image.open", fail)

    return from_now_on


def samples(root: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    dataset = ListedImages(root, "train.txt")
    return [(sample.image, sample.label) for sample in (dataset[index] for index in range(len(dataset)))]


def test_what_is_kept_is_what_decoding_gives_and_is_read_without_it(
    pictures: Path, kept: Path, undecodable: Callable[[], None]
) -> None:
    keep_in(None)
    plain = samples(pictures)
    keep_in(kept)
    first = samples(pictures)
    undecodable()
    for one, other, third in zip(plain, first, samples(pictures), strict=True):
        for found in zip(one, other, third, strict=True):
            assert_array_equal(found[0], found[1])
            assert_array_equal(found[0], found[2])
    assert len(list(kept.rglob("*.npy"))) == 2 * len(plain) and not list(kept.rglob("*.partial"))
    assert (kept / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


def test_others_may_read_what_is_kept(pictures: Path, kept: Path) -> None:
    before = os.umask(0o022)
    try:
        samples(pictures)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in kept.rglob("*.npy")} == {0o644}


def test_a_file_that_changes_is_decoded_again(pictures: Path, kept: Path) -> None:
    (image, _), *_ = samples(pictures)
    before = (pictures / "0.png").stat()
    Image.fromarray(255 - image).save(pictures / "0.png")
    assert_array_equal(samples(pictures)[0][0], 255 - image)
    # As a tool that copies files with their times leaves it; what a picture has for size is its own affair.
    content = (pictures / "1.png").read_bytes()
    (pictures / "1.png").write_bytes(b"\0" * len(content))
    os.utime(pictures / "1.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match=r"1\.png: this picture does not decode"):
        samples(pictures)


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def blackened(content: bytes) -> bytes:
    return content[:128] + b"\0" * (len(content) - 128)


def archived(content: bytes) -> bytes:
    file = io.BytesIO()
    np.savez(file, np.zeros(5))
    return checked(file.getvalue())


def of_another_shape(content: bytes) -> bytes:
    return checked(dumped(np.zeros(5)))


def of_another_type(content: bytes) -> bytes:
    return checked(dumped(np.zeros((4, 4, 3), "S1")))


def dumped(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def checked(content: bytes) -> bytes:
    return content + zlib.crc32(content).to_bytes(4, "little")


def without_header(content: bytes) -> bytes:
    return checked(content[:10] + b"(" * 20 + content[30:-4])


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"", lambda content: b"\x93NUMPY", half, blackened, archived, of_another_shape,
        of_another_type, without_header,
    ],
)  # fmt: skip
def test_what_is_kept_but_damaged_is_made_again(
    pictures: Path, kept: Path, damage: Callable[[bytes], bytes], undecodable: Callable[[], None]
) -> None:
    plain = samples(pictures)
    for path in kept.rglob("*.npy"):
        path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        keep_in(None)
        keep_in(kept)
        for one, other in zip(plain, samples(pictures), strict=True):
            assert_array_equal(one[0], other[0])
            assert_array_equal(one[1], other[1])
        undecodable()


def test_a_pipe_in_a_files_place_is_not_waited_for(pictures: Path, kept: Path) -> None:
    plain = samples(pictures)
    for path in kept.rglob("*.npy"):
        path.unlink()
        os.mkfifo(path)
    assert_array_equal(samples(pictures)[0][0], plain[0][0])
    assert not any(path.is_fifo() for path in kept.rglob("*.npy"))


def test_pictures_of_persons_are_kept_too(coco: Path, kept: Path, undecodable: Callable[[], None]) -> None:
    def images() -> list[np.ndarray]:
        dataset = CocoKeypoints(coco, "annotations/person_keypoints_train2017.json", "images/train2017")
        return [dataset.image(person) for person in dataset.persons]

    first = images()
    undecodable()
    assert all(np.array_equal(one, other) for one, other in zip(first, images(), strict=True))


def test_training_gives_the_same_network(command: Any, pictures: Path) -> None:
    assert command("--output", "plain").status == 0
    for name in ("keeping", "kept"):
        assert command("--output", name, settings=("data.decoded=decoded",)).status == 0
        if name == "keeping":
            assert (pictures / "0.png").is_file() and list(Path("decoded").rglob("*.npy"))
    weights = [(Path(name) / "model/model.safetensors").read_bytes() for name in ("plain", "keeping", "kept")]
    assert weights[0] == weights[1] == weights[2]


def test_a_dry_run_keeps_nothing(command: Any, pictures: Path) -> None:
    told = command("--output", "run", "--dry-run", settings=("data.decoded=own",))
    assert told.status == 0 and not Path("own").exists()
    assert command("--output", "run", settings=("data.decoded=own",)).status == 0
    assert list(Path("own").rglob("*.npy"))


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("file/decoded", "file/decoded: Not a directory; give another folder, or leave data.decoded out"),
        ("file", "file: Not a directory; give another folder, or leave data.decoded out"),
        ("full", "full: this folder holds something else; give one that is empty or not there"),
        ("run/decoded", "run/decoded: lies in the run's folder; give one beside it"),
        ("", ": expected a path or none, found nothing"),
    ],
)
def test_a_folder_that_cannot_be_is_told_in_a_line(command: Any, folder: str, message: str) -> None:
    Path("file").touch()
    Path("full").mkdir()
    Path("full/mine").touch()
    line = command("--output", "run", settings=(f"data.decoded={folder}",)).failure
    assert line.startswith("gsto-train: setting 'data.decoded': ") and line.endswith(message)
    assert not Path("run").exists() and sorted(Path("full").iterdir()) == [Path("full/mine")]


def test_a_folder_that_fills_up_is_told_once_and_stops_nothing(
    pictures: Path, kept: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError("1234 requested and 0 written")  # As numpy tells it, without a number.

    keep_in(None)
    plain = samples(pictures)
    keep_in(kept)
    monkeypatch.setattr(os, "fsync", full)
    assert_array_equal(samples(pictures)[0][0], plain[0][0])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: setting 'data.decoded': ")
    assert "1234 requested and 0 written; from here on nothing more is kept" in line
    assert not list(kept.rglob("*.partial"))


def test_what_a_killed_process_left_is_removed(pictures: Path, kept: Path) -> None:
    (kept / "00").mkdir()
    old, new = kept / "00/.a-1-1.partial", kept / "00/.b-1-1.partial"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    keep_in(None)
    keep_in(kept)
    assert not old.exists() and new.exists()
