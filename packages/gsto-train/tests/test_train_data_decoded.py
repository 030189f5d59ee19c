"""Decoded pictures that are kept: read again from there, as long as they are what the files hold."""

import os
from collections.abc import Iterator
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


def spoil(path: Path) -> None:
    """Overwrite a file with as many bytes that are no picture, and leave its time as it was."""
    before = path.stat()
    path.write_bytes(b"\0" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def samples(root: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    dataset = ListedImages(root, "train.txt")
    return [(sample.image, sample.label) for sample in (dataset[index] for index in range(len(dataset)))]


def test_what_is_kept_is_what_decoding_gives_and_is_read_without_it(pictures: Path, kept: Path) -> None:
    keep_in(None)
    plain = samples(pictures)
    keep_in(kept)
    first = samples(pictures)
    for path in pictures.glob("*.png"):
        spoil(path)
    for one, other, third in zip(plain, first, samples(pictures), strict=True):
        for found in zip(one, other, third, strict=True):
            assert_array_equal(found[0], found[1])
            assert_array_equal(found[0], found[2])
    assert len(list(kept.rglob("*.npy"))) == 2 * len(plain) and not list(kept.rglob("*.partial"))


def test_a_file_that_changes_is_decoded_again(pictures: Path, kept: Path) -> None:
    (image, _), *_ = samples(pictures)
    Image.fromarray(255 - image).save(pictures / "0.png")
    os.utime(pictures / "0.png", ns=(1, 1))
    assert_array_equal(samples(pictures)[0][0], 255 - image)
    spoil(pictures / "1.png")
    os.utime(pictures / "1.png", ns=(1, 1))
    with pytest.raises(InputError, match=r"1\.png: this picture does not decode"):
        samples(pictures)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no array", None])
def test_what_is_kept_but_broken_is_made_again(pictures: Path, kept: Path, content: bytes | None) -> None:
    plain = samples(pictures)
    for path in kept.rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    for one, other in zip(plain, samples(pictures), strict=True):
        assert_array_equal(one[0], other[0])
    for path in pictures.glob("*.png"):
        spoil(path)
    assert_array_equal(samples(pictures)[0][0], plain[0][0])


def test_pictures_of_persons_are_kept_too(coco: Path, kept: Path) -> None:
    def images() -> list[np.ndarray]:
        dataset = CocoKeypoints(coco, "annotations/person_keypoints_train2017.json", "images/train2017")
        return [dataset.image(person) for person in dataset.persons]

    first = images()
    for path in (coco / "images/train2017").iterdir():
        spoil(path)
    assert all(np.array_equal(one, other) for one, other in zip(first, images(), strict=True))


def test_training_gives_the_same_network(command: Any, pictures: Path) -> None:
    assert command("--output", "plain").status == 0
    for name in ("keeping", "kept"):
        assert command("--output", name, settings=("data.decoded=decoded",)).status == 0
        if name == "keeping":
            assert (pictures / "0.png").is_file() and list(Path("decoded").rglob("*.npy"))
    weights = [(Path(name) / "model/model.safetensors").read_bytes() for name in ("plain", "keeping", "kept")]
    assert weights[0] == weights[1] == weights[2]


def test_a_folder_that_cannot_be_is_told_in_a_line(command: Any) -> None:
    Path("file").touch()
    line = command("--output", "run", settings=("data.decoded=file/decoded",)).failure
    assert "setting 'data.decoded'" in line and "file/decoded" in line and "leave data.decoded out" in line


def test_a_folder_that_fills_up_is_told_by_its_file(pictures: Path, kept: Path) -> None:
    kept.rmdir()
    kept.touch()
    with pytest.raises(InputError, match=r"setting 'data.decoded': .*\.npy: Not a directory; make room"):
        samples(pictures)
