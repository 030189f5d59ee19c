import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gsto_train.data.classes import read_classes
from gsto_train.data.listed import ListedImages
from gsto_train.errors import InputError

CLASSES = ("sky", "road", "car")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures and their labels: `a` and `b`, 6 wide and 4 high, and the list train.txt."""
    root = tmp_path / "street"
    (root / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in "ab":
        save(generator.integers(0, 256, (4, 6, 3), np.uint8), root / "images" / f"{name}.png")
        save(np.arange(24, dtype=np.uint8).reshape(4, 6) % 3, root / "images" / f"{name}_label.png")
    write_list(root, "images/a.png images/a_label.png", "images/b.png images/b_label.png")
    return root


def save(array: NDArray[np.generic], path: Path) -> None:
    Image.fromarray(array).save(path)


def write_list(root: Path, *lines: str) -> None:
    (root / "train.txt").write_text("\n".join(lines) + "\n")


def listed(root: Path, **settings: object) -> ListedImages:
    return ListedImages(root, "train.txt", **{"classes": CLASSES, **settings})  # type: ignore[arg-type]


def message(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pairs_come_in_the_order_of_the_list(folder: Path) -> None:
    dataset = listed(folder)
    assert len(dataset) == 2
    for index, name in enumerate("ab"):
        sample = dataset[index]
        assert sample.name == str(folder / "images" / f"{name}.png")
        assert np.array_equal(sample.image, np.asarray(Image.open(sample.name)))
        assert np.array_equal(sample.label, np.arange(24).reshape(4, 6) % 3)
        assert sample.image.dtype == sample.label.dtype == np.uint8


def test_comments_blank_lines_tabs_spaces_and_line_ends_are_understood(folder: Path) -> None:
    (folder / "images" / "a.png").rename(folder / "images" / "a picture.png")
    pairs = "images/a picture.png\timages/a_label.png", " images/b.png   images/b_label.png "
    lines = "\r\n".join(["# my list", "", "  ", *pairs, ""])
    (folder / "train.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert [Path(listed(folder)[index].name).name for index in range(2)] == ["a picture.png", "b.png"]


def test_absolute_paths_are_kept(folder: Path, tmp_path: Path) -> None:
    write_list(folder, f"{folder}/images/a.png {folder}/images/a_label.png")
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert len(ListedImages(other, folder / "train.txt", classes=3)) == 1


def test_classes_are_named_or_counted(folder: Path) -> None:
    assert listed(folder).classes == CLASSES
    assert listed(folder, classes=3).classes == ("class 0", "class 1", "class 2")
    assert len(set(listed(folder, classes=254).palette)) == 254
    assert listed(folder, palette=((1, 2, 3),) * 3).palette == ((1, 2, 3),) * 3


def test_classes_json_gives_names_colours_and_ignore_label(folder: Path) -> None:
    palette = [[1, 2, 3], [4, 5, 6], [0, 0, 0]]
    table = {"classes": CLASSES[:2], "num_classes": 2, "ignore_index": 2, "palette": palette}
    (folder / "classes.json").write_text(json.dumps(table))
    dataset = listed(folder, classes=None)
    assert dataset.classes == CLASSES[:2]
    assert dataset.palette == ((1, 2, 3), (4, 5, 6))
    assert dataset[0].label[0].tolist() == [0, 1, 255, 0, 1, 255]
    assert read_classes(folder).ignore_label == 2


def test_classes_json_may_hold_their_number_alone(folder: Path) -> None:
    (folder / "classes.json").write_text('{"num_classes": 3}')
    table = read_classes(folder)
    assert table.names == ("class 0", "class 1", "class 2")
    assert table.ignore_label is None and len(table.palette) == 3


def test_an_ignore_label_given_wins(folder: Path) -> None:
    (folder / "classes.json").write_text('{"num_classes": 2, "ignore_index": 7}')
    label = listed(folder, classes=None, ignore_label=2)[0].label
    assert label[0].tolist() == [0, 1, 255, 0, 1, 255]


@given(st.integers(1, 254), st.integers(-3, 300))
def test_an_ignore_label_is_no_class(classes: int, ignored: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        save(np.zeros((4, 6, 3), np.uint8), root / "a.png")
        save(np.zeros((4, 6), np.uint8), root / "a_label.png")
        (root / "train.txt").write_text("a.png a_label.png\n")
        (root / "classes.json").write_text(json.dumps({"num_classes": classes, "ignore_index": ignored}))
        for way in ({"classes": None}, {"classes": classes, "ignore_label": ignored}):
            if ignored >= classes:
                assert len(listed(root, **way)) == 1
            else:
                assert "ignore label: expected a value " in message(partial(listed, root, **way))


@pytest.mark.parametrize("kind", ["grey", "palette", "16 bit", "two values"])
def test_labels_of_one_channel_keep_their_indices(folder: Path, kind: str) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(4, 6) % 2
    label = Image.fromarray(values)
    if kind == "palette":
        label.putpalette([200, 0, 0, 0, 200, 0])
    elif kind == "16 bit":
        label = Image.fromarray(values.astype(np.uint16))
    elif kind == "two values":
        label = Image.fromarray(values * 255).convert("1")
    label.save(folder / "images" / "a_label.png")
    assert np.array_equal(listed(folder)[0].label, values)


def test_sixteen_bit_labels_are_read_whole(folder: Path) -> None:
    values = np.zeros((4, 6), np.uint16)
    values[2, 5] = 1000
    save(values, folder / "images" / "a_label.png")
    assert listed(folder, ignore_label=1000)[0].label[2, 5] == 255
    assert "label value 1000 out of range" in message(lambda: listed(folder)[0])


def test_the_ignore_label_and_255_become_255(folder: Path) -> None:
    values = np.zeros((4, 6), np.uint8)
    values[0, :2] = (11, 255)
    save(values, folder / "images" / "a_label.png")
    assert listed(folder, ignore_label=11)[0].label[0].tolist() == [255, 255, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_pictures_become_rgb(folder: Path, dtype: type) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(4, 6)
    save(values.astype(dtype) * (257 if dtype is np.uint16 else 1), folder / "images" / "a.png")
    assert np.array_equal(listed(folder)[0].image, np.stack([values] * 3, axis=-1))


def test_a_jpeg_is_turned_upright_as_its_orientation_says(folder: Path) -> None:
    stored = np.zeros((6, 4, 3), np.uint8)
    stored[:3] = 250
    picture, exif = Image.fromarray(stored), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise for viewing: what is stored on top belongs on the right
    picture.save(folder / "images" / "a.jpg", exif=exif, quality=100)
    write_list(folder, "images/a.jpg images/a_label.png")
    image = listed(folder)[0].image
    assert image.shape == (4, 6, 3)
    assert image[:, :2].max() < 40 and image[:, 4:].min() > 200


def test_a_missing_folder_is_named_with_the_nearest_one(folder: Path) -> None:
    missing = folder.with_name("stret")
    expected = f"{missing}: no such folder of data (nearest: street); check the path"
    assert message(lambda: listed(missing)) == expected


def test_a_file_is_no_folder(folder: Path) -> None:
    text = message(lambda: listed(folder / "train.txt"))
    assert text.startswith(f"{folder / 'train.txt'}: expected a folder of data, found a file")


def test_a_missing_list_is_named_with_the_nearest_one(folder: Path) -> None:
    missing = folder / "trian.txt"
    expected = f"{missing}: no such list of pictures (nearest: train.txt); check its name"
    assert message(lambda: ListedImages(folder, "trian.txt", classes=3)) == expected


def test_a_list_that_is_no_text_is_an_error(folder: Path) -> None:
    (folder / "train.txt").write_bytes(b"\xff\xfe\x00")
    assert message(lambda: listed(folder)).startswith(f"{folder / 'train.txt'}: expected a text file")
    assert message(lambda: ListedImages(folder, "images", classes=3)).startswith(f"{folder / 'images'}: ")


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_an_empty_list_is_an_error(folder: Path, text: str) -> None:
    (folder / "train.txt").write_text(text)
    expected = "expected one `image label` pair a line, found none; list some pictures"
    assert message(lambda: listed(folder)) == f"{folder / 'train.txt'}: {expected}"


@pytest.mark.parametrize("line", ["images/b.png", "a b c", "images/b.png\t", "a\tb\tc"])
def test_a_malformed_line_is_told_by_its_number(folder: Path, line: str) -> None:
    write_list(folder, "# first", "images/a.png images/a_label.png", line)
    text = message(lambda: listed(folder))
    assert text.startswith(f"{folder / 'train.txt'} line 3: expected `image label`, two paths")
    assert text.endswith(f"found {line.strip()!r}")


def test_missing_files_are_counted_and_the_first_are_named(folder: Path) -> None:
    lines = [f"images/{k}.png images/{k}_label.png" for k in "aqbrst"]
    write_list(folder, *lines)
    text = message(lambda: listed(folder))
    expected = f"8 of 12 files are not under {folder}: images/q.png (line 2), "
    assert text.startswith(f"{folder / 'train.txt'}: {expected}")
    assert "images/q_label.png (line 2), images/r.png (line 4), ...;" in text
    (folder / "images" / "a_label.png").unlink()
    write_list(folder, lines[0])
    assert "1 of 2 files is not under" in message(lambda: listed(folder))


@pytest.mark.parametrize("which", ["a.png", "a_label.png"])
@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_picture_that_does_not_decode_is_named(folder: Path, which: str, damage: str) -> None:
    path = folder / "images" / which
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-30], "text": b"not a picture", "empty": b""}[damage])
    text = message(lambda: listed(folder)[0])
    assert text.startswith(f"{path}: this picture does not decode (")
    assert text.endswith("; replace or remove it")
    assert listed(folder)[1].label.shape == (4, 6)


def test_a_truncated_jpeg_is_named(folder: Path) -> None:
    path = folder / "images" / "a.jpg"
    save(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), path)
    path.write_bytes(path.read_bytes()[:-500])
    write_list(folder, "images/a.jpg images/a_label.png")
    assert message(lambda: listed(folder)[0]).startswith(f"{path}: this picture does not decode (")


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("RGBA", 4), ("LA", 2)])
def test_a_label_of_several_channels_is_an_error(folder: Path, mode: str, channels: int) -> None:
    path = folder / "images" / "a_label.png"
    Image.new(mode, (6, 4)).save(path)
    text = message(lambda: listed(folder)[0])
    assert text.startswith(f"{path}: expected a label of one channel (class indices), found mode {mode} ")
    assert f"with {channels} channels" in text


def test_a_label_of_another_size_than_its_picture_is_an_error(folder: Path) -> None:
    path = folder / "images" / "a_label.png"
    save(np.zeros((6, 4), np.uint8), path)
    text = message(lambda: listed(folder)[0])
    assert text.startswith(f"{path}: this label is 4x6, its picture {folder / 'images' / 'a.png'} is 6x4 ")


def test_a_label_value_out_of_range_is_told_with_its_place(folder: Path) -> None:
    path = folder / "images" / "b_label.png"
    values = np.zeros((4, 6), np.uint8)
    values[1, 4] = values[3, 0] = 200
    save(values, path)
    found = f"{path}: label value 200 out of range at row 1, column 4 (2 such pixels); expected 0..2, or "
    mend = " for ignore; mend the label or the list of classes"
    ignored = 'if these pixels are to be ignored, add "ignore_index": 200 to classes.json'
    way = f"{ignored} (or --set data.ignore_label=200)"
    assert message(lambda: listed(folder)[1]) == f"{found}255{mend}; {way}"
    assert message(lambda: listed(folder, ignore_label=11)[1]) == f"{found}11 or 255{mend}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, 'no such file; write one, such as {"classes": ["road", "car"]}, or give the names (data'),
        ("{", "expected a JSON object, found an error"),
        ("[1]", "expected a JSON object, found a list"),
        ("{}", 'expected "classes", a list of names, or "num_classes", found None'),
        ('{"classes": "sky"}', 'expected "classes", a list of names, or "num_classes", found \'sky\''),
        ('{"classes": ["a", "b"], "num_classes": 3}', '"num_classes" is 3, but "classes" has 2 names'),
        ('{"classes": []}', "expected 1 to 254 of them (labels are 8-bit), found 0"),
        ('{"num_classes": 255}', "expected 1 to 254 of them (labels are 8-bit), found 255"),
        ('{"num_classes": 2, "ignore_index": "x"}', 'expected "ignore_index" to be an integer or null'),
        ('{"num_classes": 2, "palette": [[1, 2, 3]]}', 'expected "palette" to hold 2 colours'),
        ('{"num_classes": 1, "palette": [[1, 2, 300]]}', 'expected "palette" to hold 1 colour [R'),
        ('{"num_classes": 1, "palette": [[1, 2]]}', 'expected "palette" to hold 1 colour [R'),
        ('{"classes": ["a", "b", "a"]}', "expected each name once, found 'a' as class 0 and class 2"),
        ('{"num_classes": true}', 'expected "classes", a list of names, or "num_classes", found True'),
        ('{"num_classes": 2, "ignore_index": true}', 'expected "ignore_index" to be an integer or null'),
        (
            '{"num_classes": 2, "ignore_lable": 1}',
            "unknown key 'ignore_lable' (nearest: ignore_index)",
        ),
        ('{"classes": ["\\udc80"]}', "expected names in UTF-8, found '\\udc80'"),
        ("[" * 100000, "expected a JSON object, found an error: "),
        (
            '{"classes": ["sky", "car"], "ignore_index": 1}',
            "ignore label: expected a value that is no class, found 1, which is 'car'; give another value",
        ),
        (
            '{"num_classes": 2, "ignore_index": -1}',
            "ignore label: expected a value of label files, 0..65535, found -1",
        ),
        (
            '{"num_classes": 2, "ignore_index": 65536}',
            "0..65535, found 65536; give the one that stands for no",
        ),
        (
            '{"num_classes": 1, "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}',
            "one per class, and perhaps one",
        ),
        ('{"classes": ["a", " "]}', "expected a name for class 1, found ' '"),
    ],
)
def test_a_wrong_classes_json_is_named(folder: Path, text: str | None, expected: str) -> None:
    if text is not None:
        (folder / "classes.json").write_text(text)
    found = message(lambda: listed(folder, classes=None))
    assert found.startswith(f"{folder / 'classes.json'}: ") and expected in found


def test_classes_json_may_start_with_a_byte_order_mark_and_describe_the_data(folder: Path) -> None:
    table = {"classes": CLASSES, "name": "mine", "stats": {}, "ignore_name": "void", "author": "me"}
    (folder / "classes.json").write_text(json.dumps(table), encoding="utf-8-sig")
    assert read_classes(folder).names == CLASSES


def test_a_class_given_twice_is_an_error(folder: Path) -> None:
    assert "expected each name once, found 'x'" in message(lambda: listed(folder, classes=("x", "y", "x")))
