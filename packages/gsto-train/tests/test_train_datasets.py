"""Data sets behind a run: lazy files, real-world files, what is left out when asked to."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gsto_spec.backend import backends
from gsto_train import benchmarks
from gsto_train.data.augment import resize
from gsto_train.data.files import LabelledFiles
from gsto_train.data.resized import Resized
from gsto_train.errors import InputError
from gsto_train.resolve import load_datasets, load_split, open_split
from gsto_train.settings import DataSettings, resolve

CAMVID = Path(os.environ.get("GSTO_REAL_DATA", "../shared/data")).absolute() / "camvid-mini"


def settings(name: str, folder: Path, **data: object) -> DataSettings:
    overrides = {"data.folder": str(folder), **{f"data.{key}": value for key, value in data.items()}}
    return resolve(benchmarks.load(name).values, overrides).data


def spoil(pictures: Path) -> None:
    (pictures / "0.png").write_bytes(b"no picture")
    (pictures / "1_label.png").unlink()
    Image.fromarray(np.full((24, 32), 7, np.uint8)).save(pictures / "4_label.png")


def test_unreadable_pictures_are_left_out_and_told_when_asked_to(pictures: Path) -> None:
    spoil(pictures)
    notes = list[str]()
    training, validation = load_datasets(settings("folder", pictures, skip_unreadable=True), notes.append)
    assert [Path(training[index].name).stem for index in range(len(training))] == ["2", "3"]
    assert [Path(validation[index].name).stem for index in range(len(validation))] == ["5"]
    assert notes[0] == "train: left out 2 unreadable files, 2 pictures remain"
    assert "no file 1_label.png (line 2)" in notes[1] and "0.png: this picture does not decode" in notes[2]
    assert notes[3] == "val: left out 1 unreadable file, 1 picture remains"
    assert training.classes == ("red", "green", "blue") and len(training.palette) == 3


def test_nothing_is_left_out_unasked(pictures: Path) -> None:
    spoil(pictures)
    with pytest.raises(InputError, match=r"1 of 8 files is not under .*: 1_label\.png \(line 2\)"):
        load_datasets(settings("folder", pictures))
    Image.new("L", (32, 24)).save(pictures / "1_label.png")
    training, _ = load_datasets(settings("folder", pictures))
    assert len(training) == 4
    with pytest.raises(InputError, match="this picture does not decode"):
        training[0]


def test_a_folder_of_which_nothing_reads_is_refused(pictures: Path) -> None:
    for path in pictures.glob("?.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 4 pictures reads: .*does not decode"):
        load_datasets(settings("folder", pictures, skip_unreadable=True))
    for path in pictures.glob("?.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"4 files of 4 pictures are missing: .*no file 0\.png"):
        load_split(settings("folder", pictures, skip_unreadable=True), "train")


def test_a_run_says_what_it_leaves_out_and_trains_on_the_rest(command: Any, pictures: Path) -> None:
    spoil(pictures)
    refused = command("--output", "refused")
    assert refused.status == 2 and "1_label.png" in refused.failure
    done = command("--output", "run", settings=("data.skip_unreadable=true",))
    assert done.status == 0, done.error
    assert "train: left out 2 unreadable files, 2 pictures remain" in done.error
    assert json.loads(Path("run/result.json").read_text())["pictures"] == {"training": 2, "validation": 1}


def test_opening_a_split_reads_no_picture(pictures: Path) -> None:
    for path in pictures.glob("*.png"):
        path.write_bytes(b"")
    dataset = open_split(settings("folder", pictures), "train")
    assert isinstance(dataset, LabelledFiles) and len(dataset) == 4


def test_training_pictures_alone_come_in_the_size_asked_for(pictures: Path) -> None:
    training, validation = load_datasets(settings("folder", pictures, input_size=[10, 50]))
    whole = open_split(settings("folder", pictures), "train")
    assert isinstance(training, Resized) and training.palette == whole.palette
    for index in range(len(training)):
        image, label = resize(whole[index], (10, 50))
        assert np.array_equal(training[index].image, image) and np.array_equal(training[index].label, label)
        assert training[index].label.shape == (10, 50)
    assert validation[0].label.shape == (24, 32)


def assigned(*assignments: str) -> list[str]:
    return [part for each in assignments for part in ("--set", each)]


@pytest.mark.parametrize("backend", ["linear", "torch", "jax"])
def test_the_benchmark_trains_and_scores(tmp_path: Path, command: Any, backend: str) -> None:
    if backend != "linear" and backend not in backends():
        pytest.skip(f"the backend {backend} is not installed")
    command.backend = backend
    streets = write_streets(tmp_path / "camvid")
    small = assigned("train.steps=3", "train.batch=2", "data.crop=[16,16]")
    place = ("--data", str(streets), "--output", "run", "--architecture", "linear_backend:graph")
    done = command("--benchmark", "camvid", *place, *small, new=False)
    assert done.status == 0, done.error
    result = json.loads(Path("run/result.json").read_text())
    assert len(result["metrics"]["iou"]) == 11 and result["pictures"] == {"training": 3, "validation": 2}


def write_streets(root: Path) -> Path:
    """CamVid in SegNet's layout: lists of "image label", classes 0..10 and 11 for void."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        lines = []
        for number in range(count):
            names = f"{split}/{number}.png", f"{split}annot/{number}.png"
            arrays = (
                generator.integers(0, 256, (18, 24, 3), np.uint8),
                generator.integers(0, 12, (18, 24), np.uint8),
            )
            for name, array in zip(names, arrays, strict=True):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / name)
            lines.append(" ".join(names))
        (root / f"{split}.txt").write_text("\n".join(lines))
    return root


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"no real streets at {CAMVID}")
def test_real_streets_train_and_score(command: Any) -> None:
    place = ("--data", str(CAMVID), "--output", "run", "--architecture", "linear_backend:graph")
    small = assigned(
        "train.steps=60", "train.learning_rate=0.1", "data.crop=[64,64]", "data.val_list=val.txt"
    )
    done = command("--benchmark", "camvid", *place, *small, new=False)
    assert done.status == 0, done.error
    result = json.loads(Path("run/result.json").read_text())
    assert result["pictures"] == {"training": 32, "validation": 16}
    assert result["metrics"]["pixel_accuracy"] > 0.3
