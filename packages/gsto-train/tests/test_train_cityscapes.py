import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gsto_spec.backend import backends
from gsto_train.data.cityscapes import CLASSES, Cityscapes, label_ids, train_ids
from gsto_train.errors import InputError

REAL = Path(os.environ.get("GSTO_REAL_DATA", "../shared/data")) / "format-samples" / "cityscapes"
SCORED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
STEMS = {
    "train": ["aachen_000000_000019", "aachen_000001_000019", "zurich_000000_000019"],
    "val": ["frankfurt_000000_000294", "munster_000000_000019"],
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Cityscapes as its archives unpack, with pictures of 32x16 whose labels go through all 34 ids."""
    root = tmp_path / "cityscapes"
    generator = np.random.default_rng(0)
    for split, stems in STEMS.items():
        for stem in stems:
            write(root, split, stem, generator)
    test = root / "leftImg8bit" / "test" / "berlin"
    test.mkdir(parents=True)
    Image.new("RGB", (32, 16)).save(test / "berlin_000000_000019_leftImg8bit.png")
    return root


def write(root: Path, split: str, stem: str, generator: np.random.Generator) -> None:
    ids = np.resize(np.arange(34, dtype=np.uint8), (16, 32))
    instances = ids.astype(np.uint16)
    instances[ids >= 24] = instances[ids >= 24] * 1000 + 2
    image = np.repeat(ids[..., None] * 7, 3, axis=2) + generator.integers(0, 7, (16, 32, 3), np.uint8)
    city = stem.partition("_")[0]
    pictures, labels = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
    for folder in (pictures, labels):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(pictures / f"{stem}_leftImg8bit.png")
    Image.fromarray(ids).save(labels / f"{stem}_gtFine_labelIds.png")
    Image.fromarray(instances).save(labels / f"{stem}_gtFine_instanceIds.png")
    Image.fromarray(train_ids(ids)).save(labels / f"{stem}_gtFine_labelTrainIds.png")


def label_file(root: Path, kind: str = "labelIds") -> Path:
    return root / "gtFine" / "train" / "aachen" / f"aachen_000000_000019_gtFine_{kind}.png"


def message(call: Any) -> str:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def official(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    table = np.array([SCORED.index(one) if one in SCORED else 255 for one in range(34)], np.uint8)
    return np.asarray(table[ids])


def test_label_ids_become_train_ids_and_back() -> None:
    ids = np.arange(34)
    assert np.array_equal(train_ids(ids), official(ids.astype(np.uint8)))
    assert train_ids(np.array([255]))[0] == 255
    assert label_ids(np.arange(19)).tolist() == list(SCORED)
    assert [each.name for each in CLASSES][:3] == ["road", "sidewalk", "building"]


@pytest.mark.parametrize(("split", "count"), [("train", 3), ("val", 2), ("trainval", 5)])
def test_the_official_tree_is_read(tree: Path, split: str, count: int) -> None:
    dataset = Cityscapes(tree, split)
    assert len(dataset) == count and len(dataset.classes) == len(dataset.palette) == 19
    for index in range(count):
        sample = dataset[index]
        assert np.array_equal(sample.label, official(dataset.label_ids(index)))
        assert np.array_equal(sample.image, np.asarray(Image.open(sample.name)))
        assert dataset.inspect(index) == ()
    assert {26, 26002 // 1000} <= set(np.unique(dataset.instance_ids(0) // 1000))


def test_the_test_split_has_pictures_alone(tree: Path) -> None:
    dataset = Cityscapes(tree, "test")
    assert len(dataset) == 1 and (dataset[0].label == 255).all()
    assert "has no label" in message(lambda: dataset.instance_ids(0))


def test_list_files_are_read_as_hrnet_has_them(tree: Path) -> None:
    folder = tree / "list"
    folder.mkdir()
    names = [
        (f"leftImg8bit/train/aachen/{stem}_leftImg8bit.png", f"gtFine/train/aachen/{stem}_gtFine_{kind}.png")
        for stem, kind in zip(STEMS["train"][:2], ("labelIds", "labelTrainIds"), strict=True)
    ]
    (folder / "train.lst").write_text("".join(f"{image}\t{label}\n" for image, label in names))
    (folder / "test.lst").write_text("leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png\n")
    listed, tree_order = Cityscapes(tree, "list/train.lst"), Cityscapes(tree, "train")
    for index in range(2):
        assert np.array_equal(listed[index].label, tree_order[index].label)
    assert (Cityscapes(tree, "list/test.lst")[0].label == 255).all()
    (folder / "bad.lst").write_text("a\tb\tc\n")
    assert "bad.lst line 1: expected" in message(lambda: Cityscapes(tree, "list/bad.lst"))


def test_train_ids_serve_where_label_ids_are_missing(tree: Path) -> None:
    expected = Cityscapes(tree, "train")[0].label
    label_file(tree).unlink()
    assert np.array_equal(Cityscapes(tree, "train")[0].label, expected)
    label_file(tree, "labelTrainIds").unlink()
    text = message(lambda: Cityscapes(tree, "train"))
    assert text.startswith(f"{label_file(tree)}: no such file (nearest: ")
    assert len(Cityscapes(tree, "train", skip_missing=True)) == 2


def test_several_missing_files_are_counted(tree: Path) -> None:
    for path in (tree / "gtFine" / "train").rglob("*Ids.png"):
        path.unlink()
    text = message(lambda: Cityscapes(tree, "train"))
    assert text.startswith("3 files of 3 pictures are missing: ") and "data.skip_unreadable=true" in text


def test_pictures_are_read_when_asked_for_alone(tree: Path) -> None:
    label_file(tree).write_bytes(b"broken")
    dataset = Cityscapes(tree, "train")
    assert dataset[1].label.shape == (16, 32)
    assert message(lambda: dataset[0]).startswith(f"{label_file(tree)}: this picture does not decode")


def test_an_id_that_no_label_has_is_refused(tree: Path) -> None:
    Image.fromarray(np.full((16, 32), 77, np.uint8)).save(label_file(tree))
    assert "label value 77 out of range at row 0, column 0" in message(lambda: Cityscapes(tree, "train")[0])


def test_an_unknown_split_and_a_wrong_folder_are_refused(tree: Path) -> None:
    assert "found 'trian' (nearest: train)" in message(lambda: Cityscapes(tree, "trian"))
    assert "give the folder that holds leftImg8bit and gtFine" in message(
        lambda: Cityscapes(tree / "gtFine", "train")
    )


def test_files_that_contradict_the_label_ids_are_found(tree: Path) -> None:
    Image.fromarray(np.zeros((16, 32), np.uint8)).save(label_file(tree, "labelTrainIds"))
    Image.fromarray(np.full((16, 32), 101, np.uint8)).save(label_file(tree, "instanceIds"))
    findings = Cityscapes(tree, "train").inspect(0)
    assert [finding.kind for finding in findings] == ["odd", "broken"]
    assert "label value 101 out of range" in findings[1].text
    Image.fromarray(np.full((16, 32), 7, np.uint16)).save(label_file(tree, "instanceIds"))
    assert "its ids are not those of labelIds" in Cityscapes(tree, "train").inspect(0)[1].text


def test_a_label_without_its_picture_is_odd(tree: Path) -> None:
    (tree / "leftImg8bit" / "train" / "zurich" / "zurich_000000_000019_leftImg8bit.png").unlink()
    listing = Cityscapes(tree, "train").listing
    assert len(listing.pairs) == 2 and [finding.kind for finding in listing.findings] == ["odd"]
    assert "zurich_000000_000019_gtFine_labelIds.png: a label without its picture" in listing.findings[0].text


def assigned(*assignments: str) -> list[str]:
    return [part for each in assignments for part in ("--set", each)]


@pytest.mark.parametrize("backend", ["linear", "torch", "jax"])
@pytest.mark.parametrize("benchmark", ["cityscapes", "cityscapes-test"])
def test_the_benchmark_trains_and_scores(tree: Path, command: Any, backend: str, benchmark: str) -> None:
    if backend != "linear" and backend not in backends():
        pytest.skip(f"the backend {backend} is not installed")
    command.backend = backend
    hard: tuple[str, ...] = ()
    if benchmark == "cityscapes-test":
        hard = "loss.ohem_kept_per_image=20", "evaluation.base_size=32", "evaluation.window=[16,32]"
    recipe = ("train.steps=3", "train.batch=2", "data.crop=[16,16]", "data.base_size=32")
    place = ("--data", str(tree), "--output", "run", "--architecture", "linear_backend:graph")
    small = assigned(*recipe, *hard)
    done = command("--benchmark", benchmark, *place, *small, new=False)
    assert done.status == 0, done.error
    result = json.loads(Path("run/result.json").read_text())
    assert list(result["metrics"]["iou"]) == [each.name for each in CLASSES]
    assert result["pictures"] == {"training": 5 if benchmark.endswith("test") else 3, "validation": 2}


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real Cityscapes frame at {REAL}")
def test_a_real_frame_reads_in_every_way() -> None:
    by_tree, by_list = Cityscapes(REAL, "val"), Cityscapes(REAL, "list/val.lst")
    assert by_tree[0].image.shape == (128, 256, 3) and by_tree.inspect(0) == ()
    assert np.array_equal(by_tree[0].label, by_list[0].label)
    assert by_tree.instance_ids(0).max() == 26002
    assert (Cityscapes(REAL, "list/test.lst")[0].label == 255).all()
