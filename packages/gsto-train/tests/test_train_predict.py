"""The command `gsto-predict`: pictures of all kinds, what is left of them, and where."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gsto_train.commands.evaluate import main as evaluate
from gsto_train.commands.predict import main
from gsto_train.data.palette import default_palette, seen_distance
from gsto_train.data.pictures import read_label
from gsto_train.data.samples import MAX_CLASSES
from gsto_train.errors import InputError
from gsto_train.look.boxes import read_boxes
from gsto_train.look.sources import find
from gsto_train.metrics import ConfusionMatrix
from gsto_train.pose.coco import CocoKeypoints
from gsto_train.pose.evaluation import predict_poses, results
from gsto_train.pose.task import Keypoints
from gsto_train.settings import resolve

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def predict(command: Any, invoke: Run) -> Run:
    """Runs the command; `command` gives it the linear backend, a working folder and pictures."""

    def run(*arguments: str, program: Any = main) -> tuple[int, str, str]:
        return invoke(program, *arguments)

    return run


@pytest.fixture
def failure(command: Any, invoke: Any) -> Callable[..., str]:
    """Runs the command, which must refuse in one line, and returns the line."""
    return partial(invoke.refused, main)


def indices(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        assert picture.mode == "P"
        return np.array(picture)


@pytest.mark.parametrize("changes", [(), ("evaluation.flip=true", "evaluation.scales=[0.5,1.0,1.5]")])
def test_what_is_drawn_is_what_is_scored(
    trained: Path, predict: Run, pictures: Path, changes: tuple[str, ...]
) -> None:
    given_settings = [part for each in changes for part in ("--set", each)]
    status, out, error = predict("run", "--json", *given_settings, program=evaluate)
    assert status == 0, error
    names = [str(pictures / name) for name in ("4.png", "5.png")]
    assert predict(*names, "--model", "run", "--output", "seen", *given_settings)[0] == 0
    confusion = ConfusionMatrix(3)
    for name in ("4", "5"):
        label = read_label(pictures / f"{name}_label.png", classes=3, ignore_label=9)
        confusion.update(label, indices(Path(f"seen/index/{name}.png")))
    scores = confusion.scores()
    measured = json.loads(out)["metrics"]
    assert (scores.mean_iou, scores.pixel_accuracy) == (measured["mean_iou"], measured["pixel_accuracy"])


def test_the_folder_tells_what_is_what(trained: Path, predict: Run, pictures: Path) -> None:
    status, out, _ = predict(str(pictures / "4.png"), "--model", "run", "--output", "seen", "--json")
    assert status == 0
    summary = json.loads(out)
    assert summary == json.loads(Path("seen/predictions.json").read_text())
    assert summary["classes"] == ["red", "green", "blue"]
    (told,) = summary["pictures"]
    classes = indices(Path("seen") / told["index"])
    shares = np.bincount(classes.ravel(), minlength=3) / classes.size
    assert told["shares"] == {
        name: share for name, share in zip(summary["classes"], shares.tolist(), strict=True) if share
    }
    with Image.open(Path("seen") / told["index"]) as picture:
        stored = np.array(picture.getpalette()).reshape(-1, 3)[:3]
    assert ["#{:02x}{:02x}{:02x}".format(*colour) for colour in stored.tolist()] == summary["palette"]
    legend = Path("seen/legend.svg").read_text()
    assert all(
        name in legend and colour in legend
        for name, colour in zip(summary["classes"], summary["palette"], strict=True)
    )
    drawn = np.array(Image.open(Path("seen") / told["overlay"]))
    assert drawn.shape == (24, 32, 3)


def test_the_overlay_is_between_picture_and_colour(trained: Path, predict: Run, pictures: Path) -> None:
    for opacity in ("0", "1"):
        predict(str(pictures / "4.png"), "--model", "run", "--output", opacity, "--opacity", opacity)
    classes = indices(Path("0/index/4.png"))
    inside = np.ones(classes.shape, np.bool_)
    inside[1:] &= classes[1:] == classes[:-1]
    inside[:, 1:] &= classes[:, 1:] == classes[:, :-1]
    plain, full = (np.array(Image.open(f"{opacity}/overlay/4.png")) for opacity in ("0", "1"))
    assert np.array_equal(plain[inside], np.array(Image.open(pictures / "4.png"))[inside])
    assert len(np.unique(full[inside], axis=0)) == len(np.unique(classes[inside]))


def test_pictures_are_read_as_data_are_and_odd_ones_passed_over(
    trained: Path, predict: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    generator = np.random.default_rng(0)
    turned = Image.fromarray(generator.integers(0, 255, (7, 13, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "deep" / "turned.png", exif=exif)
    Image.fromarray(generator.integers(0, 255, (1, 1), np.uint8)).save(folder / "dot.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    (folder / "notes.txt").write_text("no picture")
    status, out, error = predict(str(folder), "--model", "run", "--output", "seen", "--json")
    assert status == 1
    summary = json.loads(out)
    assert {each["picture"] for each in summary["skipped"]} == {str(folder / "broken.jpg")}
    assert error.splitlines()[-1] == "gsto-predict: 1 of 3 pictures was passed over, named above"
    assert str(folder / "broken.jpg") in error.splitlines()[-2]
    assert indices(Path("seen/index/deep/turned.png")).shape == (13, 7)
    assert indices(Path("seen/index/dot.png")).shape == (1, 1)


def test_the_truth_may_hold_the_runs_own_ignore_label(
    trained: Path, predict: Run, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "away" / "labels").mkdir(parents=True)
    (pictures / "4_label.png").rename(tmp_path / "away" / "labels" / "4.png")
    truth = ("--truth", str(tmp_path / "away" / "labels"))
    status, _, error = predict(str(pictures / "4.png"), "--model", "run", "--output", "seen", *truth)
    assert status == 0, error


def test_where_nothing_is_predicted_nothing_is_left(trained: Path, predict: Run) -> None:
    Path("notes.txt").write_text("no picture")
    Path("mine").mkdir()
    for output in ("new/seen", "mine"):
        status, _, error = predict("notes.txt", "--model", "run", "--output", output)
        assert status == 1
        assert error.splitlines()[-1] == "gsto-predict: 1 of 1 picture was passed over, named above"
    assert not Path("new").exists()
    assert list(Path("mine").iterdir()) == []


def test_a_run_that_has_not_ended_predicts_with_its_checkpoint(
    command: Any, predict: Run, pictures: Path
) -> None:
    assert command("--output", "run").status == 0
    shutil.rmtree("run/model")
    status, _, error = predict(str(pictures / "4.png"), "--model", "run", "--output", "seen")
    assert status == 0
    assert "the run has not ended; using its checkpoint of step 20" in error.splitlines()


def test_nothing_is_overwritten_without_being_told(
    trained: Path, predict: Run, failure: Any, pictures: Path
) -> None:
    arguments = (str(pictures / "4.png"), "--model", "run", "--output", "seen")
    assert predict(*arguments)[0] == 0
    Path("seen/index/4.png").write_bytes(b"mine")
    assert "holds files already; --force" in failure(*arguments)
    assert Path("seen/index/4.png").read_bytes() == b"mine"
    assert predict(*arguments, "--force")[0] == 0
    assert indices(Path("seen/index/4.png")).shape == (24, 32)
    predict(*arguments[:3])
    predict(*arguments[:3])
    assert Path("predictions/predictions.json").exists()
    assert Path("predictions-2/predictions.json").exists()


def test_a_link_in_the_output_leads_nowhere(trained: Path, predict: Run, pictures: Path) -> None:
    Path("outside").mkdir()
    Path("seen").mkdir()
    Path("seen/index").symlink_to("../outside")
    status, _, error = predict(str(pictures / "4.png"), "--model", "run", "--output", "seen", "--force")
    assert status == 1
    assert "leads out of the output folder" in error
    assert not list(Path("outside").iterdir())


def test_earlier_predictions_are_no_pictures(trained: Path, predict: Run, pictures: Path) -> None:
    inside = pictures / "seen"
    assert predict(str(pictures), "--model", "run", "--output", str(inside))[0] == 0
    assert all("seen" not in source.name for source in find([str(pictures)]))


PART = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=6)


@settings(max_examples=40)
@given(names=st.lists(st.lists(PART, min_size=1, max_size=3), min_size=1, max_size=6))
def test_places_in_the_output_are_inside_and_each_its_own(
    tmp_path_factory: pytest.TempPathFactory, names: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("pictures")
    for parts in names:
        path = folder.joinpath(*(part for part in parts if part not in (".", "..")), "a")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        for ending in (".png", ".PNG", ".jpg"):
            path.with_suffix(ending).write_bytes(b"")
    (folder / "one.png").write_bytes(b"")
    found = find([str(folder), str(folder / "*.png"), f"{folder}/../{folder.name}"])
    places = [os.path.normpath(f"/out/{source.name}.png") for source in found]
    assert len({place.casefold() for place in places}) == len(found)
    assert all(place.startswith("/out/") and len(place) > len("/out/.png") for place in places)
    assert len({os.path.abspath(source.path) for source in found}) == len(found)


def test_patterns_and_files_are_named_by_what_is_below(tmp_path: Path) -> None:
    for name in ("a/one.png", "b/one.png", "b/two.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [each.name for each in find([f"{tmp_path}/**/*.png"])] == ["a/one", "b/one"]
    assert [each.name for each in find([f"{tmp_path}/a/one.png", f"{tmp_path}/b/one.png"])] == [
        "one",
        "one-2",
    ]
    assert [each.name for each in find([f"{tmp_path}/b/two.txt"])] == ["two"]
    for wrong in ("absent.png", "*.gif", "b/none"):
        (tmp_path / "b" / "none").mkdir(exist_ok=True)
        with pytest.raises(InputError, match="check" if wrong != "b/none" else "found none"):
            find([str(tmp_path / wrong)])


def test_wrong_usage_is_refused_in_a_line(trained: Path, failure: Any, pictures: Path) -> None:
    picture = str(pictures / "4.png")
    assert "no pictures" in failure("--model", "run")
    assert "leave the others out" in failure(picture, "--samples", "1", "--model", "run")
    assert "leave --boxes and --truth out" in failure("--samples", "1", "--model", "run", "--truth", "x.png")
    assert "give both" in failure(picture, "--model", "run", "--baseline", "run")
    assert "nearest: run" in failure(picture, "--model", "rum")
    assert "nearest: 4.png" in failure(str(pictures / "44.png"), "--model", "run")
    Path("boxes.json").write_text('[{"image_id": 4, "bbox": [0, 0, 5, 5], "score": 1}]')
    assert "finds classes" in failure(picture, "--model", "run", "--boxes", "boxes.json")
    assert "nearest: " in failure(picture, "--model", "run", "--set", "evaluation.flop=true")
    assert not Path("predictions").exists()


def test_samples_are_the_runs_own_pictures(trained: Path, predict: Run, pictures: Path) -> None:
    status, out, _ = predict("--samples", "5", "--model", "run", "--output", "seen", "--json")
    assert status == 0
    assert [each["index"] for each in json.loads(out)["pictures"]] == [
        "index/sample-0000.png", "index/sample-0001.png",
    ]  # fmt: skip
    predict(str(pictures / "5.png"), "--model", "run", "--output", "file")
    assert np.array_equal(indices(Path("seen/index/sample-0001.png")), indices(Path("file/index/5.png")))


def test_a_saved_model_and_one_that_says_little(trained: Path, predict: Run, pictures: Path) -> None:
    picture = str(pictures / "4.png")
    assert predict(picture, "--model", "run/model", "--backend", "linear", "--output", "saved")[0] == 0
    predict(picture, "--model", "run", "--output", "run-seen")
    assert np.array_equal(indices(Path("saved/index/4.png")), indices(Path("run-seen/index/4.png")))
    card = json.loads(Path("run/model/card.json").read_text())
    bare = {key: card[key] for key in ("graph_digest", "weights_sha256")}
    Path("run/model/card.json").write_text(json.dumps(bare))
    status, out, error = predict(picture, "--model", "run/model", "--backend", "linear", "--json")
    assert status == 0
    assert "says nothing of its test procedure" in error
    assert json.loads(out)["classes"] == ["class 0", "class 1", "class 2"]


def test_help_is_fast() -> None:
    code = (
        "import sys, gsto_train.commands.predict, gsto_train.commands.report\n"
        "heavy = ('numpy', 'cv2', 'torch', 'jax', 'matplotlib', 'PIL')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(("classes", "least"), [(2, 40), (8, 12), (19, 8), (60, 4), (MAX_CLASSES, 1.5)])
def test_colours_are_told_apart_by_colour_blind_people(classes: int, least: float) -> None:
    colours = np.array(default_palette(classes))
    assert len(colours) == classes
    for index, colour in enumerate(colours[:60]):
        others = np.delete(colours, index, axis=0)
        assert seen_distance(others, colour[None]).min() > least
    black = np.zeros((1, 3), np.int64)  # what has no label
    assert seen_distance(colours, black).min() > 29


FIGURES = (
    "--benchmark", "figures", "--architecture", "linear_backend:graph", "--set", "train.steps=2",
    "--set", "data.train_figures=8", "--set", "data.val_figures=3",
)  # fmt: skip


@pytest.fixture
def pose(command: Any) -> Path:
    done = command(*FIGURES, "--output", "pose", new=False)
    assert done.status == 0, done.error
    return Path("pose")


def coco_file(folder: Path, count: int = 3) -> CocoKeypoints:
    """Return a data set in a file: figures on pictures of random colours, two boxes a picture."""
    from gsto_train.pose.figures import GeneratedFigures

    figures = GeneratedFigures(count, seed=1)
    images, annotations = [], []
    for person in figures.persons:
        picture = figures.image(person)
        name = f"{person.picture:012d}.png"
        (folder / "people").mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / "people" / name)
        images.append({"id": person.picture, "file_name": name, "height": 128, "width": 96})
        for copy, box in enumerate((person.box, person.box * 0.8)):
            entry = {"id": 10 * person.picture + copy, "image_id": person.picture, "category_id": 1}
            joints = {"keypoints": person.joints.ravel().tolist(), "num_keypoints": 17}
            annotations.append({**entry, **joints, "bbox": box.tolist(), "area": 10.0, "iscrowd": 0})
    category = {"id": 1, "name": "person", "keypoints": list(figures.skeleton.joints)}
    table = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / "persons.json").write_text(json.dumps(table))
    return CocoKeypoints(folder, "persons.json", "people")


def test_poses_are_those_that_are_scored(pose: Path, predict: Run, tmp_path: Path) -> None:
    dataset = coco_file(tmp_path)
    status, _, error = predict(
        "people", "--model", "pose", "--boxes", "persons.json", "--output", "seen", "--json"
    )
    assert status == 0, error
    found = json.loads(Path("seen/keypoints.json").read_text())
    wanted = scored(pose, dataset)
    assert [Path(each["file_name"]).stem for each in found] == [f"{each['image_id']:012d}" for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one["keypoints"] == other["keypoints"]
        assert one["score"] == other["score"]
    detected = [
        {"image_id": person.picture, "bbox": person.box.tolist(), "score": 1.0, "category_id": 1}
        for person in dataset.persons
    ]
    Path("detected.json").write_text(json.dumps(detected))
    predict("people", "--model", "pose", "--boxes", "detected.json", "--output", "again")
    assert json.loads(Path("again/keypoints.json").read_text()) == found


def scored(pose: Path, dataset: CocoKeypoints) -> list[dict[str, Any]]:
    """Return the poses that a score of the run on this data set would count."""
    import linear_backend

    from gsto_spec.weights import load_directory
    from gsto_train import schema

    values = schema.flatten(json.loads((pose / "config.json").read_text())["settings"])
    task = Keypoints(resolve(values), dataset, dataset)
    graph, weights, _ = load_directory(pose / "model")
    predictor = linear_backend.LinearBackend().predictor(graph, weights)
    poses = predict_poses(predictor, dataset, task.test(graph), batch=1, threads=1)
    return results(poses, task.test(graph), dataset.skeleton)


def test_a_picture_without_boxes_is_one_box_and_an_empty_one_has_none(
    pose: Path, predict: Run, tmp_path: Path
) -> None:
    coco_file(tmp_path, 2)
    whole = [{"file_name": "000000000001.png", "bbox": [0, 0, 96, 128], "score": 1.0}]
    Path("whole.json").write_text(json.dumps(whole))
    predict("people", "--model", "pose", "--output", "none")
    predict("people", "--model", "pose", "--output", "one", "--boxes", "whole.json")
    none, one = (json.loads(Path(f"{name}/predictions.json").read_text()) for name in ("none", "one"))
    assert [len(each["poses"]) for each in none["pictures"]] == [1, 1]
    assert [len(each["poses"]) for each in one["pictures"]] == [1, 0]
    assert none["pictures"][0]["poses"] == one["pictures"][0]["poses"]
    assert none["protocol"].startswith("whole-picture boxes")
    assert np.array(Image.open("one/skeleton/000000000002.png")).ndim == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["images", "annotations", "bbox", "image_id", "id", "file_name", "score", "x"]), inner
    ),
)  # fmt: skip
ROW = st.fixed_dictionaries(
    {"bbox": st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=5) | JSON},
    optional={"image_id": st.integers(0, 3) | JSON, "score": JSON, "category_id": JSON},
)


@settings(max_examples=50)
@given(table=JSON | st.lists(ROW) | st.fixed_dictionaries({"images": JSON, "annotations": st.lists(ROW)}))
def test_any_file_of_boxes_reads_or_is_refused_in_a_line(
    tmp_path_factory: pytest.TempPathFactory, table: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "boxes.json"
    path.write_text(json.dumps(table))
    try:
        boxes = read_boxes(path)
    except InputError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
        return
    for found in boxes.by_picture.values():
        for box in found:
            assert box.shape == (5,) and np.isfinite(box).all() and (box[2:4] > 0).all()


def test_a_name_that_is_no_utf_8_is_written_in_letters_that_are(
    trained: Path, predict: Run, pictures: Path, tmp_path: Path
) -> None:
    odd = os.fsencode(tmp_path) + b"/odd\xff.png"
    try:
        os.link(pictures / "4.png", odd)
    except OSError:
        pytest.skip("this file system takes no such names")
    status, out, error = predict(os.fsdecode(odd), "--model", "run", "--output", "seen", "--json")
    assert status == 0, error
    (told,) = json.loads(out)["pictures"]
    assert told["index"] == "index/odd\\udcff.png"
    assert indices(Path("seen") / told["index"]).shape == (24, 32)
    assert json.loads(Path("seen/predictions.json").read_text())["pictures"] == [told]


def test_a_pipe_is_refused_and_in_a_folder_left_out(
    trained: Path, predict: Run, failure: Any, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    os.mkfifo(folder / "pipe.png")
    refused = failure(str(folder / "pipe.png"), "--model", "run")
    assert "pipe.png: expected a picture's file or a folder, found a pipe or device" in refused
    os.link(pictures / "4.png", folder / "4.png")
    status, out, _ = predict(str(folder), "--model", "run", "--output", "seen", "--json")
    assert status == 0
    assert [Path(each["picture"]).name for each in json.loads(out)["pictures"]] == ["4.png"]


@pytest.mark.parametrize("opacity", ["nan", "-0.1", "1.1"])
def test_an_opacity_that_is_no_share_is_refused(predict: Run, opacity: str) -> None:
    status, _, error = predict("a.png", "--model", "run", "--opacity", opacity)
    assert status == 2
    assert "is not in the range 0<=x<=1" in error


def test_what_does_not_decode_is_named(trained: Path, predict: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/text.png").write_text("no picture")
    (tmp_path / "mine/gone.png").symlink_to("nowhere.png")
    status, _, error = predict(str(tmp_path / "mine"), "--model", "run", "--output", "seen")
    assert status == 1
    assert "text.png: this picture does not decode (no format of pictures that is known here)" in error
    assert "gone.png: this picture does not decode (No such file or directory)" in error
