import json
import os
import shutil
import struct
import zlib
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
from gsto_train.data import run_length
from gsto_train.data.matlab import read_matrix
from gsto_train.data.pascal_context import CLASSES, IDS, PascalContext, classes_of_ids
from gsto_train.errors import InputError

REAL = Path(os.environ.get("GSTO_REAL_DATA", "../shared/data")) / "format-samples" / "pascal_ctx_SYNTHETIC"
NAMES = {"train": ["2008_000002", "2008_000003", "2008_000007"], "val": ["2008_000008", "2010_006079"]}
FORMS = ("indices", "runs", "original")
DROPPED = 1  # one of the 459 ids that is not among the 60


@pytest.fixture(params=FORMS)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """VOCdevkit with pictures of 30x20 and their labels in one of the three forms."""
    return write_tree(tmp_path / "data", request.param)


def write_tree(root: Path, form: str) -> Path:
    base = root / "VOCdevkit" / "VOC2010"
    (base / "JPEGImages").mkdir(parents=True)
    for name in (*NAMES["train"], *NAMES["val"]):
        Image.fromarray(np.repeat(classes(name)[..., None] * 4, 3, 2)).save(
            base / "JPEGImages" / f"{name}.jpg"
        )
    {"indices": write_indices, "runs": write_runs, "original": write_original}[form](base)
    return root


def classes(name: str) -> NDArray[np.uint8]:
    """The label of a picture: all 60 classes, in blocks."""
    return (
        np.resize(np.roll(np.arange(60, dtype=np.uint8), int(name[-1])), (10, 15)).repeat(2, 0).repeat(2, 1)
    )


def ids(name: str) -> NDArray[np.uint16]:
    values = np.array(IDS, np.uint16)[classes(name)]
    values[0, values[0] == 0] = DROPPED
    return values


def write_lists(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split, names in NAMES.items():
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")


def write_indices(base: Path) -> None:
    write_lists(base / "ImageSets" / "SegmentationContext")
    (base / "SegmentationClassContext").mkdir()
    for name in (*NAMES["train"], *NAMES["val"]):
        Image.fromarray(classes(name)).save(base / "SegmentationClassContext" / f"{name}.png")


def write_runs(base: Path) -> None:
    images, segments = [], list[dict[str, Any]]()
    for phase, names in NAMES.items():
        for name in names:
            number = int(name[:4] + name[5:])
            images.append(
                {"file_name": f"{name}.jpg", "image_id": number, "phase": phase, "width": 30, "height": 20}
            )
            everything = {"size": [20, 30], "counts": compressed(np.ones((20, 30), bool))}
            segments.append({"image_id": number, "category_id": 2, "segmentation": everything})
            for value in np.unique(ids(name)):
                mask = {"size": [20, 30], "counts": compressed(ids(name) == value)}
                segments.append({"image_id": number, "category_id": int(value), "segmentation": mask})
    categories = [{"category_id": k, "name": name} for k, name in zip(IDS[1:], CLASSES[1:], strict=True)]
    merged = {"images": images, "annos_segmentation": segments, "categories": categories}
    (base / "trainval_merged.json").write_text(json.dumps(merged))


def write_original(base: Path) -> None:
    write_lists(base / "ImageSets" / "Main")
    (base / "trainval").mkdir()
    for name in (*NAMES["train"], *NAMES["val"]):
        (base / "trainval" / f"{name}.mat").write_bytes(matlab_file("LabelMap", ids(name)))


def compressed(mask: NDArray[np.bool]) -> str:
    """COCO's text of a mask, written from its description."""
    values = mask.T.ravel()
    changes = np.flatnonzero(np.diff(values)) + 1
    runs = np.diff([0, *changes, len(values)]).tolist()
    runs = [0, *runs] if values[0] else runs
    text = ""
    for place, run in enumerate(runs):
        number = run - runs[place - 2] if place > 2 else run
        more = True
        while more:
            bits, number = number & 31, number >> 5
            more = number != (-1 if bits & 16 else 0)
            text += chr((bits | 32 if more else bits) + 48)
    return text


def matlab_file(name: str, values: NDArray[Any], *, squeezed: bool = True, order: str = "<") -> bytes:
    kinds = {"uint8": (9, 2), "uint16": (11, 4), "float64": (6, 9), "int32": (12, 5)}
    kind, stored = kinds[values.dtype.name]

    def element(number: int, content: bytes) -> bytes:
        if len(content) <= 4 and content:
            return struct.pack(
                f"{order}HH", *((number, len(content)) if order == "<" else (len(content), number))
            ) + (content.ljust(4, b"\0"))
        return struct.pack(f"{order}II", number, len(content)) + content + b"\0" * (-len(content) % 8)

    body = element(6, struct.pack(f"{order}II", kind, 0))
    body += element(5, struct.pack(f"{order}ii", *values.shape))
    body += element(1, name.encode())
    body += element(stored, values.astype(f"{order}{values.dtype.str[1:]}").tobytes(order="F"))
    matrix = struct.pack(f"{order}II", 14, len(body)) + body
    if squeezed:
        packed = zlib.compress(matrix)
        matrix = struct.pack(f"{order}II", 15, len(packed)) + packed
    return b"MATLAB 5.0".ljust(124) + (b"\x00\x01IM" if order == "<" else b"\x01\x00MI") + matrix


def message(call: Any) -> str:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def expected(name: str, count: int) -> NDArray[np.uint8]:
    label = classes(name)
    return label if count == 60 else np.where(label == 0, 255, label.astype(int) - 1).astype(np.uint8)


@pytest.mark.parametrize("count", [59, 60])
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("within", ["", "VOCdevkit/VOC2010"])
def test_every_form_gives_the_same_labels(tree: Path, split: str, count: Any, within: str) -> None:
    dataset = PascalContext(tree / within, split, classes=count)
    assert dataset.classes == CLASSES[60 - count :] and len(dataset) == len(NAMES[split])
    for index, name in enumerate(NAMES[split]):
        sample = dataset[index]
        assert Path(sample.name).stem == name
        assert np.array_equal(sample.label, expected(name, count))


def test_a_list_of_names_chooses_pictures(tree: Path) -> None:
    base = tree / "VOCdevkit" / "VOC2010"
    (base / "mine.txt").write_text("2010_006079\n")
    dataset = PascalContext(tree, "mine.txt", classes=60)
    assert len(dataset) == 1 and np.array_equal(dataset[0].label, classes("2010_006079"))


def test_classes_are_those_of_the_459_ids_in_order() -> None:
    known = {0: "background", 2: "aeroplane", 207: "horse", 284: "person", 427: "tvmonitor", 458: "wood"}
    assert {k: CLASSES[classes_of_ids(np.array(k))] for k in known} == known
    assert len(IDS) == len(set(IDS)) == len(CLASSES) == 60 and list(IDS) == sorted(IDS)
    assert sorted(CLASSES[1:]) == list(CLASSES[1:])
    assert not classes_of_ids(np.array(sorted(set(range(460)) - set(IDS)))).any()


def assigned(*assignments: str) -> list[str]:
    return [part for each in assignments for part in ("--set", each)]


@pytest.mark.parametrize("backend", ["linear", "torch", "jax"])
@pytest.mark.parametrize("count", [59, 60])
def test_the_benchmark_trains_and_scores(tree: Path, command: Any, backend: str, count: int) -> None:
    if backend != "linear" and backend not in backends():
        pytest.skip(f"the backend {backend} is not installed")
    command.backend = backend
    sizes = (
        "data.crop=[16,16]", "data.base_size=30", "evaluation.base_size=30", "evaluation.window=[16,16]",
        "evaluation.window_stride=[10,10]",
    )  # fmt: skip
    place = ("--data", str(tree), "--output", "run", "--architecture", "linear_backend:graph")
    small = assigned("train.steps=2", "train.batch=2", *sizes)
    done = command("--benchmark", f"pascal-context-{count}", *place, *small, new=False)
    assert done.status == 0, done.error
    result = json.loads(Path("run/result.json").read_text())
    assert list(result["metrics"]["iou"]) == list(CLASSES[60 - count :])


def test_missing_files_of_each_form_are_named(tree: Path) -> None:
    base = tree / "VOCdevkit" / "VOC2010"
    (base / "JPEGImages" / "2008_000002.jpg").unlink()
    assert "JPEGImages/2008_000002.jpg: no such file" in message(lambda: PascalContext(tree, "train"))
    assert len(PascalContext(tree, "train", skip_missing=True)) == 2
    assert "found 'vla' (nearest: val)" in message(lambda: PascalContext(tree, "vla"))
    assert "expected VOC2010 with its JPEGImages" in message(
        lambda: PascalContext(base / "JPEGImages", "val")
    )
    for path in (base / "SegmentationClassContext", base / "trainval"):
        shutil.rmtree(path, ignore_errors=True)
    (base / "trainval_merged.json").unlink(missing_ok=True)
    assert "expected the labels as SegmentationClassContext/*.png" in message(
        lambda: PascalContext(tree, "val")
    )


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"images": 3}, "expected PASCAL in Detail's JSON, found an error"),
        (
            {"categories": [{"category_id": 2, "name": "bicycle"}]},
            "category 2 to be 'aeroplane', found 'bicycle'",
        ),
        ({"annos_segmentation": [{"id": 5, "image_id": 9}]}, "segment 5 is of picture 9, which is not among"),
    ],
)
def test_a_wrong_file_of_runs_is_told(tmp_path: Path, damage: dict[str, Any], told: str) -> None:
    root = write_tree(tmp_path, "runs")
    path = root / "VOCdevkit" / "VOC2010" / "trainval_merged.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    text = message(lambda: PascalContext(root, "train"))
    assert text.startswith(f"{path}: ") and told in text
    path.write_text("{")
    assert "found an error" in message(lambda: PascalContext(root, "train"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"category_id": 460}, "expected ids 0..459, found 460"),
        ({"segmentation": {"counts": "1"}}, "found 1"),
    ],
)
def test_a_wrong_segment_is_told_with_its_picture(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    root = write_tree(tmp_path, "runs")
    path = root / "VOCdevkit" / "VOC2010" / "trainval_merged.json"
    merged = json.loads(path.read_text())
    merged["annos_segmentation"][0] |= change
    path.write_text(json.dumps(merged))
    text = message(lambda: PascalContext(root, "train")[0])
    assert text.startswith(f"{path}: 2008_000002") and told in text


def test_wrong_labels_of_the_other_forms_are_told(tmp_path: Path) -> None:
    original = write_tree(tmp_path / "a", "original")
    path = original / "VOCdevkit" / "VOC2010" / "trainval" / "2008_000002.mat"
    for content, told in (
        (matlab_file("LabelMap", np.full((20, 30), 460, np.uint16)), "label value 460 out of range"),
        (matlab_file("Other", np.zeros((20, 30), np.uint16)), "expected a matrix 'LabelMap', found Other"),
        (b"\x89HDF" * 40, "expected a MATLAB 5 file, found an error"),
        (matlab_file("LabelMap", ids("2008_000002"))[:-20], "expected a MATLAB 5 file, found an error"),
        (matlab_file("LabelMap", ids("2008_000002"), squeezed=False)[:-20], "it is cut short"),
    ):
        path.write_bytes(content)
        text = message(lambda: PascalContext(original, "train")[0])
        assert text.startswith(f"{path}: ") and told in text
    indices = write_tree(tmp_path / "b", "indices")
    path = indices / "VOCdevkit" / "VOC2010" / "SegmentationClassContext" / "2008_000002.png"
    Image.fromarray(np.full((20, 30), 60, np.uint8)).save(path)
    assert f"{path}: label value 60 out of range" in message(lambda: PascalContext(indices, "train")[0])


def test_255_in_files_of_indices_is_ignored(tmp_path: Path) -> None:
    root = write_tree(tmp_path, "indices")
    path = root / "VOCdevkit" / "VOC2010" / "SegmentationClassContext" / "2008_000002.png"
    Image.fromarray(np.full((20, 30), 255, np.uint8)).save(path)
    assert (PascalContext(root, "train", classes=59)[0].label == 255).all()


@given(arrays.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_run_lengths_undo_their_compression(mask: NDArray[np.bool]) -> None:
    text = compressed(mask)
    assert np.array_equal(run_length.decode(mask.shape, text), mask)
    assert np.array_equal(run_length.decode(mask.shape, text.encode()), mask)
    assert np.array_equal(run_length.decode(mask.shape, run_length.run_lengths(text)), mask)


@pytest.mark.parametrize(
    ("size", "counts"), [([2, 2], [1, 2]), ([2, 2], [5, -1]), ([2, 2], "T"), ([1, 1], "")]
)
def test_run_lengths_that_do_not_fill_the_mask_are_refused(size: list[int], counts: Any) -> None:
    with pytest.raises(ValueError, match="run lengths: expected"):
        run_length.decode(size, counts)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("squeezed", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64])
def test_matlab_matrices_of_any_type_are_read(tmp_path: Path, dtype: Any, squeezed: bool, order: str) -> None:
    values = np.arange(77).reshape(7, 11).astype(dtype)
    for name in ("LabelMap", "m"):
        (tmp_path / "x.mat").write_bytes(matlab_file(name, values, squeezed=squeezed, order=order))
        assert np.array_equal(read_matrix(tmp_path / "x.mat", name), values)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no samples of Pascal Context's forms at {REAL}")
def test_the_samples_of_all_forms_agree(tmp_path: Path) -> None:
    shutil.copytree(REAL, tmp_path / "x")
    base, labels = tmp_path / "x" / "VOCdevkit" / "VOC2010", list[list[NDArray[np.uint8]]]()
    for _ in FORMS:
        labels.append([PascalContext(base, split, classes=60)[i].label for split in NAMES for i in (0, 1)])
        if len(labels) == 1:
            shutil.rmtree(base / "SegmentationClassContext")
        elif len(labels) == 2:
            (base / "trainval_merged.json").unlink()
    for first, second, third in zip(*labels, strict=True):
        assert np.array_equal(first, second) and np.array_equal(first, third) and first.any()
