"""`gsto-data check`: what it counts, what it finds, and how it ends."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gsto_train.commands.data import main


@dataclass(frozen=True)
class Checked:
    """How a check ended."""

    status: int
    out: str
    error: str

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.out)
        return report

    def texts(self, part: str, kind: str) -> list[str]:
        return [each["text"] for each in self.report[part]["findings"] if each["kind"] == kind]


@pytest.fixture
def check(invoke: Any) -> Any:
    def run(benchmark: str, folder: Path | None, *arguments: str, as_json: bool = True) -> Checked:
        given = ["check", benchmark, *(["--data", str(folder)] if folder else []), *arguments]
        return Checked(*invoke(main, *given, *(["--json"] if as_json else [])))

    return run


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    """Two training pictures and one to score on, in Cityscapes' tree, half road and half sky."""
    root = tmp_path / "cityscapes"
    for split, city, number in (("train", "ulm", 0), ("train", "ulm", 1), ("val", "lindau", 0)):
        stem = f"{city}_00000{number}_000019"
        ids = np.full((4, 8), 7, np.uint8)
        ids[:2] = 23
        instances = ids.astype(np.uint16)
        for part, name, array in (
            ("leftImg8bit", "leftImg8bit", np.dstack([ids] * 3)),
            ("gtFine", "gtFine_labelIds", ids),
            ("gtFine", "gtFine_instanceIds", instances),
        ):
            path = root / part / split / city / f"{stem}_{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return root


def labels(root: Path, split: str = "train") -> list[Path]:
    return sorted((root / "gtFine" / split).rglob("*_labelIds.png"))


def test_pixels_and_pictures_of_each_class_are_counted(check: Any, pictures: Path) -> None:
    done = check("folder", pictures)
    assert done.status == 0 and done.report["problems"] == 0
    for part, names in (("train", "0123"), ("val", "45")):
        found, ignored = done.report[part], 0
        every = [np.asarray(Image.open(pictures / f"{name}_label.png")) for name in names]
        for index, name in enumerate(("red", "green", "blue")):
            pixels, seen = (
                sum((each == index).sum() for each in every),
                sum((each == index).any() for each in every),
            )
            assert found["classes"][name] == {"pixels": pixels, "pictures": seen}
        ignored = sum((each == 9).sum() for each in every)
        assert found["ignored_pixels"] == ignored and found["sizes"] == {"32x24": len(names)}
        assert found["findings"] == []


def test_a_person_reads_shares_and_a_verdict(check: Any, pictures: Path) -> None:
    done = check("folder", pictures, as_json=False)
    assert done.status == 0 and done.out.splitlines()[-1] == "nothing is missing or broken"
    assert "train: 4 pictures read: 4 of 32x24" in done.out
    assert "% of pixels, in 4 pictures" in done.out and "reading 4 pictures of train" in done.error


def test_missing_and_broken_files_are_all_named(check: Any, pictures: Path) -> None:
    (pictures / "0.png").unlink()
    (pictures / "1_label.png").write_bytes(b"no picture")
    Image.fromarray(np.full((24, 32), 5, np.uint8)).save(pictures / "2_label.png")
    Image.new("L", (3, 3)).save(pictures / "4_label.png")
    done = check("folder", pictures)
    assert done.status == 1 and done.report["problems"] == 4
    (missing,), (undecoded, unknown) = done.texts("train", "missing"), done.texts("train", "broken")
    assert "no file 0.png (line 1)" in missing
    assert undecoded.startswith(f"{pictures / '1_label.png'}: this picture does not decode")
    assert unknown.startswith(f"{pictures / '2_label.png'}: label value 5 out of range")
    assert "expected the same size" in done.texts("val", "broken")[0]
    assert done.report["train"]["pictures"] == 1
    shown = check("folder", pictures, as_json=False)
    assert shown.status == 1 and shown.out.splitlines()[-1] == "4 problems"


def test_a_void_value_that_nobody_told_of_is_told_once_with_its_mend(
    check: Any, pictures: Path, command: Any
) -> None:
    (pictures / "classes.json").write_text('{"classes": ["red", "green", "blue"]}')
    mend = 'add "ignore_index": 9 to classes.json (or --set data.ignore_label=9)'
    shown = check("folder", pictures, as_json=False)
    assert shown.status == 1 and shown.out.splitlines()[-1] == "6 problems"
    train, val = (line for line in shown.out.splitlines() if "broken:" in line)
    named = ", ".join(str(pictures / f"{number}_label.png") for number in range(3))
    assert train == (
        "  broken: 4 files: label value 9, where 0..2 are classes; if these pixels are to be ignored, "
        f"{mend}: {named}, ..."
    )
    assert "2 files: label value 9" in val and val.endswith("5_label.png")
    assert "train: 4 pictures read, 4 of them broken\n" in shown.out
    assert [text.endswith(mend) for text in check("folder", pictures).texts("train", "broken")] == [True] * 4
    assert f"{mend}; then run" in command("--output", "run").failure
    for way in ("--set", "data.ignore_label=9"), ():
        assert check("folder", pictures, *way).status == 0
        (pictures / "classes.json").write_text('{"num_classes": 3, "ignore_index": 9}')


def test_two_values_that_are_no_class_are_no_void(check: Any, pictures: Path) -> None:
    (pictures / "classes.json").write_text('{"num_classes": 2}')
    assert not any("ignore_index" in text for text in check("folder", pictures).texts("train", "broken"))


@pytest.mark.parametrize("classes", ['["r","g","b"]', '["r","g","b","more"]'])
def test_the_ignore_index_of_classes_json_holds_beside_other_names(
    check: Any, pictures: Path, classes: str
) -> None:
    done = check("folder", pictures, "--set", f"data.classes={classes}")
    assert done.status == 0 and done.report["train"]["ignored_pixels"] == 16


def test_a_classes_json_of_another_form_does_not_keep_names_from_being_given(
    check: Any, pictures: Path
) -> None:
    names = ("--set", 'data.classes=["r","g","b"]')
    (pictures / "classes.json").write_text('["r", "g", "b"]')
    assert check("folder", pictures, *names, "--set", "data.ignore_label=9").status == 0
    assert "label value 9" in check("folder", pictures, *names).texts("val", "broken")[0]
    (pictures / "classes.json").write_text("{")
    assert "expected a JSON object" in check("folder", pictures, *names).texts("val", "missing")[0]


def test_an_ignore_index_that_is_a_class_of_other_names_is_refused(check: Any, pictures: Path) -> None:
    (pictures / "classes.json").write_text('{"num_classes": 2, "ignore_index": 2}')
    done = check("folder", pictures, "--set", 'data.classes=["r","g","b"]')
    (found,) = done.texts("train", "missing")
    assert f"{pictures / 'classes.json'}: ignore label: expected a value that is no class, found 2" in found


def test_a_part_of_a_data_set_and_absent_classes_are_odd_but_no_problem(check: Any, streets: Path) -> None:
    done = check("cityscapes", streets)
    assert done.status == 0
    count, absent = done.texts("train", "odd")
    assert "2 pictures are there, the data set has 2975 in this split" in count
    assert absent.startswith("train: no pixel of 17 classes: sidewalk, building,")
    assert done.report["val"]["classes"]["road"] == {"pixels": 16, "pictures": 1}


def test_everything_around_cityscapes_labels_is_looked_at(check: Any, streets: Path) -> None:
    first, second = labels(streets)
    Image.new("L", (8, 4)).save(str(first).replace("labelIds", "instanceIds"))
    Image.new("L", (8, 4)).save(str(second).replace("labelIds", "labelTrainIds"))
    (streets / "leftImg8bit" / "val" / "lindau" / "lindau_000000_000019_leftImg8bit.png").rename(
        streets / "leftImg8bit" / "val" / "lindau" / "lindau_000000_000020_leftImg8bit.png"
    )
    done = check("cityscapes", streets)
    assert done.status == 1
    assert "its ids are not those of labelIds" in done.texts("train", "broken")[0]
    assert any("differs from the train ids" in text for text in done.texts("train", "odd"))
    assert "lindau_000000_000020_gtFine_labelIds.png: no such file" in done.texts("val", "missing")[0]


def test_a_split_that_is_not_there_is_a_problem_and_the_other_is_still_read(
    check: Any, streets: Path
) -> None:
    (streets / "leftImg8bit" / "val").rename(streets / "leftImg8bit" / "vall")
    done = check("cityscapes", streets)
    assert done.status == 1 and done.report["train"]["pictures"] == 2
    assert "leftImg8bit/val: expected CITY/" in done.texts("val", "missing")[0]


def test_pictures_in_both_splits_are_odd(check: Any, streets: Path) -> None:
    done = check("cityscapes", streets, "--set", "data.train_split=trainval")
    assert done.status == 0
    assert any(": in the train split and in the val split, " in text for text in done.texts("val", "odd"))


def test_many_findings_are_cut_for_a_person_and_whole_for_a_machine(check: Any, tmp_path: Path) -> None:
    lines = [f"{k}.png {k}_label.png" for k in range(30)]
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).write_text("\n".join(lines))
    (tmp_path / "classes.json").write_text('{"num_classes": 2}')
    for name in ("0.png", "0_label.png"):
        Image.new("RGB" if name == "0.png" else "L", (2, 2)).save(tmp_path / name)
    assert "and 39 more findings; --json has them all" in check("folder", tmp_path, as_json=False).out
    assert len(check("folder", tmp_path).texts("train", "missing")) == 58


def test_generated_pictures_can_be_counted_too(check: Any) -> None:
    small = ("--set", "data.train_scenes=2", "--set", "data.val_scenes=1", "--set", "data.scene_size=[32,32]")
    done = check("scenes", None, *small, "--threads", "1")
    assert done.status == 0 and done.report["train"]["pictures"] == 2


def keypoints(root: Path, part: str) -> None:
    """One picture with a mouse of two joints, one of them hidden, in COCO's format."""
    (root / "images" / f"{part}2017").mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(root / "images" / f"{part}2017" / "1.png")
    (root / "annotations").mkdir(exist_ok=True)
    table = {
        "images": [{"id": 1, "file_name": "1.png", "height": 30, "width": 40}],
        "categories": [{"id": 1, "name": "mouse", "keypoints": ["nose", "tail"], "skeleton": []}],
        "annotations": [
            {"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 2, 20, 20], "area": 300, "iscrowd": 0,
             "num_keypoints": 2, "keypoints": [5, 6, 2, 9, 9, 1]},
        ],
    }  # fmt: skip
    (root / "annotations" / f"person_keypoints_{part}2017.json").write_text(json.dumps(table))


def test_joints_are_counted_and_bad_annotations_named(check: Any, tmp_path: Path) -> None:
    for part in ("train", "val"):
        keypoints(tmp_path, part)
    path = tmp_path / "annotations" / "person_keypoints_val2017.json"
    table = json.loads(path.read_text())
    table["annotations"] += [{**table["annotations"][0], "id": 8, "keypoints": [1, 2, 2]},
                             {**table["annotations"][0], "id": 9, "image_id": 5}]  # fmt: skip
    path.write_text(json.dumps(table))
    benchmark = tmp_path / "mice.toml"
    recipe = '[architecture]\nname = "pose-hrnet-w32"\n[data]\nkind = "keypoints"\ncrop = [64, 64]\n'
    recipe += "[train]\nsteps = 1\nbatch = 1\nlearning_rate = 0.1\n"
    benchmark.write_text(f'{recipe}[record]\nsource = "me"\ncommand = "-"\n')
    done = check(str(benchmark), tmp_path)
    assert done.status == 1 and done.report["problems"] == 2
    counts = {"nose": {"labelled": 1, "visible": 1}, "tail": {"labelled": 1, "visible": 0}}
    assert done.report["train"]["joints"] == counts and done.report["train"]["findings"] == []
    wrong_length, no_picture = done.texts("val", "broken")
    assert wrong_length.startswith(f"{path}: annotation 8") and "annotation 9" in no_picture
    shown = check(str(benchmark), tmp_path, as_json=False).out
    assert "train: 1 ground-truth box in 1 picture\n" in shown and "tail  labelled in 1, seen in 0" in shown


def test_of_boxes_that_know_no_joints_only_the_number_is_told(check: Any, coco: Path) -> None:
    shown = check("coco-keypoints-w32", coco, as_json=False).out
    assert "  nose " in shown.partition("\nval: ")[0]
    assert "val: 4 detector boxes in 2 pictures, without a labelled joint\n" in shown
    assert "  nose " not in shown.partition("\nval: ")[2]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["citiscapes", "--data", "."], "unknown benchmark 'citiscapes' (nearest: cityscapes)"),
        (["cityscapes"], "setting 'data.folder' is missing: give the folder of pictures with --data DIR"),
        (["cityscapes", "--data", "nowhere"], "nowhere: no such folder of data"),
        (["cityscapes", "--data", ".", "--set", "data.split=val"], "unknown setting 'data.split'"),
        (["cityscapes", "--data", ".", "--threads", "0"], "--threads"),
        ([], "Missing argument"),
    ],
)
def test_a_wrong_question_is_told_in_one_line(
    arguments: list[str], told: str, invoke: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    line = invoke.refused(main, "check", *arguments)
    assert line.startswith("gsto-data: ") and told in line


def test_help_is_whole_on_80_columns(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, told, _ = invoke(main, "--help")
    assert status == 0 and "  check  Read every picture and label of a benchmark.\n" in told


def test_the_command_imports_nothing_heavy_before_it_is_asked() -> None:
    heavy = "any(name in sys.modules for name in ('numpy', 'cv2'))"
    code = f"import sys, gsto_train.commands.data; sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
