import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from gsto_spec.backend import backends
from gsto_train.data.augment import Augmentation, augment
from gsto_train.data.lip import CLASSES, FLIP_PAIRS, Lip, mirrored
from gsto_train.data.resized import Resized
from gsto_train.data.samples import Sample
from gsto_train.errors import InputError

REAL = Path(os.environ.get("GSTO_REAL_DATA", "../shared/data")) / "format-samples"
LABELS = "TrainVal_parsing_annotations"
IDS = {"train": ["77_471474", "684_2150041", "100034_483681"], "val": ["86_185913", "100723_900100100723"]}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """LIP as its archives unpack, its reversed labels beside the labels; one picture is grey."""
    root = tmp_path / "lip"
    for split, ids in IDS.items():
        for number, name in enumerate(ids):
            write(root, split, name, grey=number == 1)
    return root


def write(root: Path, split: str, name: str, *, grey: bool) -> None:
    height, width = 20 + len(name), 14
    label = np.resize(np.arange(20, dtype=np.uint8), (height, width))
    image = label * 12
    paths = {
        root / "TrainVal_images" / f"{split}_images" / f"{name}.jpg": image
        if grey
        else np.dstack([image] * 3),
        root / LABELS / f"{split}_segmentations" / f"{name}.png": label,
        root / LABELS / f"{split}_segmentations_reversed" / f"{name}.png": reverse(label),
    }
    for path, array in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


def reverse(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    swapped = {14: 15, 15: 14, 16: 17, 17: 16, 18: 19, 19: 18}
    table = np.array([swapped.get(value, value) for value in range(20)], np.uint8)
    return np.asarray(table[label[:, ::-1]])


def message(call: Any) -> str:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_official_tree_is_read(tree: Path, split: str) -> None:
    dataset = Lip(tree, split)
    assert dataset.classes == CLASSES and len(CLASSES) == 20
    assert {Path(dataset[index].name).stem for index in range(len(dataset))} == set(IDS[split])
    for index in range(len(dataset)):
        assert dataset[index].image.shape == (*dataset[index].label.shape, 3)
        assert dataset[index].label.max() == 19 and dataset.inspect(index) == ()


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_lists_of_two_to_four_columns_are_read(tree: Path, columns: int) -> None:
    name = IDS["train"][0]
    folders = ("train_images", "train_segmentations", "train_segmentations_reversed", "train_edges")
    row = [f"{folder}/{name}.{'jpg' if folder == 'train_images' else 'png'}" for folder in folders]
    (tree / "trainList.txt").write_text(" ".join(row[:columns]) + "\n")
    dataset = Lip(tree, "trainList.txt")
    assert len(dataset) == 1 and dataset[0].label.max() == 19
    given = dataset[0].mirrored_label
    if columns == 2:
        assert given is None
    else:
        assert given is not None and np.array_equal(given, mirrored(dataset[0].label))


def test_lists_with_paths_from_the_data_sets_folder_are_read(tmp_path: Path) -> None:
    for folder, name in (("images", "1.jpg"), ("labels", "1.png"), ("labels_rev", "1.png")):
        (tmp_path / folder).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / folder / name)
    (tmp_path / "train_rev.txt").write_text("/images/1.jpg /labels/1.png /labels_rev/1.png\n")
    assert len(Lip(tmp_path, "train_rev.txt")) == 1
    (tmp_path / "labels" / "1.png").unlink()
    assert str(tmp_path / "labels" / "1.png") in message(lambda: Lip(tmp_path, "train_rev.txt"))


LABEL = arrays.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 19))


@given(LABEL)
def test_mirroring_twice_changes_nothing_and_once_is_the_rule(label: NDArray[np.uint8]) -> None:
    assert np.array_equal(mirrored(mirrored(label)), label)
    assert np.array_equal(mirrored(label), reverse(label))


@given(LABEL, st.integers(0, 20))
def test_training_mirrors_by_the_same_rule(label: NDArray[np.uint8], seed: int) -> None:
    height, width = label.shape
    settings = Augmentation((height, width), None, (1.0,), True, FLIP_PAIRS)
    sample = Sample(np.repeat(label[..., None], 3, axis=2), label, "x")
    crop = augment(sample, settings, np.random.default_rng(seed))
    if np.array_equal(crop.image, sample.image[:, ::-1]) and not np.array_equal(crop.image, sample.image):
        assert np.array_equal(crop.label, mirrored(label))
    else:
        assert np.array_equal(crop.image, sample.image)


def test_reversed_labels_that_break_the_rule_are_found(tree: Path) -> None:
    dataset = Lip(tree, "train")
    path = tree / LABELS / "train_segmentations_reversed" / f"{Path(dataset[0].name).stem}.png"
    Image.fromarray(dataset[0].label[:, ::-1]).save(path)
    (finding,) = dataset.inspect(0)
    assert finding.kind == "odd" and finding.text.startswith(f"{path}: is not its label mirrored")
    assert "training takes it as it is" in finding.text


def test_reversed_labels_are_found_beside_their_folder_too(tree: Path) -> None:
    (tree / LABELS / "train_segmentations_reversed").rename(tree / "train_segmentations_reversed")
    for path in (tree / "train_segmentations_reversed").iterdir():
        path.write_bytes(b"broken")
    assert "does not decode" in message(lambda: Lip(tree, "train")[0])


def test_a_reversed_label_of_another_size_is_refused(tree: Path) -> None:
    dataset = Lip(tree, "train")
    path = tree / LABELS / "train_segmentations_reversed" / f"{Path(dataset[0].name).stem}.png"
    Image.new("L", (3, 2)).save(path)
    assert message(lambda: dataset[0]).startswith(f"{path}: this reversed label is 3x2, its label ")


def test_a_mirrored_crop_has_the_reversed_label_that_the_data_set_gives(tree: Path) -> None:
    dataset = Lip(tree, "train")
    by_rule = replace(dataset[0], mirrored_label=None)
    other = replace(dataset[0], mirrored_label=np.full_like(dataset[0].label, 7))
    settings = Augmentation((9, 9), None, (0.5, 1.3), True, FLIP_PAIRS)
    flipped = 0
    for seed in range(8):
        given, rule, changed = (
            augment(sample, settings, np.random.default_rng(seed)) for sample in (dataset[0], by_rule, other)
        )
        assert np.array_equal(given.label, rule.label) and np.array_equal(given.image, rule.image)
        assert set(np.unique(changed.label)) <= {7, 255} or np.array_equal(changed.label, rule.label)
        flipped += not np.array_equal(changed.label, rule.label)
    assert 0 < flipped < 8


def test_a_resized_sample_keeps_its_reversed_label_in_step(tree: Path) -> None:
    dataset = Resized(Lip(tree, "train"), (17, 23))
    for index in range(len(dataset)):
        given = dataset[index].mirrored_label
        assert given is not None and np.array_equal(given, mirrored(dataset[index].label))


def test_what_is_missing_or_wrong_is_named(tree: Path) -> None:
    assert "found 'vall' (nearest: val)" in message(lambda: Lip(tree, "vall"))
    assert "expected pictures ID.jpg, found none" in message(lambda: Lip(tree / LABELS, "train"))
    label = tree / LABELS / "val_segmentations" / "86_185913.png"
    Image.fromarray(np.full((29, 14), 20, np.uint8)).save(label)
    assert f"{label}: label value 20 out of range" in message(lambda: [Lip(tree, "val")[i] for i in (0, 1)])
    label.unlink()
    assert message(lambda: Lip(tree, "val")).startswith(f"{label}: no such file")
    (tree / "TrainVal_images" / "val_images" / "86_185913.jpg").unlink()
    assert Lip(tree, "val").listing.findings == ()


def assigned(*assignments: str) -> list[str]:
    return [part for each in assignments for part in ("--set", each)]


@pytest.mark.parametrize("backend", ["linear", "torch", "jax"])
def test_the_benchmark_trains_and_scores(tree: Path, command: Any, backend: str) -> None:
    if backend != "linear" and backend not in backends():
        pytest.skip(f"the backend {backend} is not installed")
    command.backend = backend
    sizes = [f"{key}=[25,25]" for key in ("data.input_size", "data.crop", "evaluation.size")]
    place = ("--data", str(tree), "--output", "run", "--architecture", "linear_backend:graph")
    small = assigned("train.steps=3", "train.batch=2", "data.base_size=25", *sizes)
    done = command("--benchmark", "lip", *place, *small, new=False)
    assert done.status == 0, done.error
    result = json.loads(Path("run/result.json").read_text())
    assert list(result["metrics"]["iou"]) == list(CLASSES)
    config = json.loads(Path("run/config.json").read_text())
    assert config["settings"]["data"]["flip_pairs"] == [[14, 15], [16, 17], [18, 19]]


@pytest.mark.skipif(not (REAL / "lip").is_dir(), reason=f"no real LIP pictures at {REAL}")
def test_real_pictures_read_one_grey_jpeg_among_them() -> None:
    for split in ("train", "val", "list/trainList.txt", "list/valList.txt", "list/testvalList.txt"):
        dataset = Lip(REAL / "lip", split)
        assert len(dataset) == 1 and dataset.inspect(0) == ()
        assert dataset[0].image.shape == (*dataset[0].label.shape, 3)
    with Image.open(dataset[0].name) as picture:
        assert picture.mode == "L"


@pytest.mark.skipif(not (REAL / "cihp").is_dir(), reason=f"no real CIHP pictures at {REAL}")
def test_the_flipped_labels_of_cihps_authors_are_ours() -> None:
    dataset = Lip(REAL / "cihp", "list/train_rev.txt")
    assert len(dataset) == 5
    for index in range(5):
        assert dataset.inspect(index) == ()
        theirs = np.asarray(
            Image.open(REAL / "cihp" / "labels_rev" / f"{Path(dataset[index].name).stem}.png")
        )
        assert np.array_equal(mirrored(dataset[index].label), theirs)
