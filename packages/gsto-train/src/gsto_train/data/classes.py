"""The names, colours and ignore label of a data set, and the classes.json that holds them."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsto_train.data.palette import default_palette
from gsto_train.data.samples import IGNORE_LABEL, MAX_CLASSES, Palette
from gsto_train.errors import InputError, is_text, nearest, nearest_path
from gsto_train.files import read_text
from gsto_train.settings import DATA_VARIABLE
from gsto_train.wording import counted

CLASSES_FILE = "classes.json"

LARGEST_VALUE = 65535
"""Of a label file of 16 bits."""

_KEYS = ("classes", "num_classes", "ignore_index", "palette")
_COLOURS_OF_PNG = 256
_DESCRIPTIVE_KEYS = frozenset({"name", "ignore_name", "size_wh", "stats", "jpeg"})


@dataclass(frozen=True)
class ClassTable:
    """What the values of a label picture mean.

    0 .. len(names) - 1 are classes, each with its RGB colour; `ignore_label`, if any, is not counted.
    """

    names: tuple[str, ...]
    palette: Palette
    ignore_label: int | None = None


def read_classes(root: str | Path) -> ClassTable:
    """Read `root`/classes.json: "classes" (names) or "num_classes", and "ignore_index", "palette" if wanted.

    Raises InputError where the folder or the file is missing or does not hold that.
    """
    path = existing_folder(root) / CLASSES_FILE
    table = _read_object(path)
    _check_keys(path, table)
    names = _names(path, table)
    return ClassTable(names, _palette(path, table, len(names)), _ignore_label(path, table, names))


def read_ignore_label(root: str | Path, names: Sequence[str]) -> int | None:
    """Return the "ignore_index" of `root`/classes.json beside classes of other `names`; None where it is not.

    Raises InputError where the file does not read, and where the label is one of these classes.
    """
    path = existing_folder(root) / CLASSES_FILE
    table = _read_json(path) if path.exists() else None
    return _ignore_label(path, table, names) if isinstance(table, dict) else None


def class_names(classes: Sequence[str] | int) -> tuple[str, ...]:
    """Return the names given, or "class 0", "class 1", ... for a number.

    Raises InputError for none, more than 8-bit labels hold, and a name that comes twice, is empty or no text.
    """
    count = classes if isinstance(classes, int) else len(classes)
    if not 1 <= count <= MAX_CLASSES:
        raise InputError(f"classes: expected 1 to {MAX_CLASSES} of them (labels are 8-bit), found {count}")
    if isinstance(classes, int):
        return tuple(f"class {k}" for k in range(classes))
    _check_names(classes)
    return tuple(classes)


def _check_names(names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InputError(
                f"classes: expected each name once, found {name!r} as class {names.index(name)} and "
                f"class {index}; rename one"
            )
        if not is_text(name):
            raise InputError(f"classes: expected names in UTF-8, found {name!a}; rename it")
        if not name.strip():
            raise InputError(f"classes: expected a name for class {index}, found {name!r}; name it")


def check_ignore_label(label: int | None, names: Sequence[str]) -> None:
    """Raise InputError where an ignore label is a class, or no value that a label file holds."""
    if label is None:
        return
    if not 0 <= label <= LARGEST_VALUE:
        raise InputError(
            f"ignore label: expected a value of label files, 0..{LARGEST_VALUE}, found {label}; "
            f"give the one that stands for no class, such as {IGNORE_LABEL}"
        )
    if label < len(names):
        raise InputError(
            f"ignore label: expected a value that is no class, found {label}, which is {names[label]!r}; "
            f"give another value, such as {IGNORE_LABEL}, or leave the class out of the list and count anew"
        )


def as_palette(value: object) -> Palette | None:
    """Return a list of colours [R, G, B], each 0..255, as a palette; None for anything else."""
    if not isinstance(value, list) or not _is_list_of(value, list) or not all(map(_is_colour, value)):
        return None
    return tuple((red, green, blue) for red, green, blue in value)


def existing_folder(root: str | Path) -> Path:
    """Return `root` as a path; raises InputError, with the nearest name beside it, where it is no folder."""
    folder = Path(root)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{folder}: expected a folder of data, found a file; give the folder that holds it")
    near = nearest_path(folder, "folder")
    raise InputError(f"{folder}: no such folder of data{near}; check the path{_said_by(folder)}")


def above(path: Path) -> str:
    """Return the hint for a missing file that lies one folder up, where street/train is given for street."""
    found = Path(os.path.normpath(path.parent / os.pardir)) / path.name
    return f" (nearest: {found}); give the folder that it lies in" if found.is_file() else ""


def given_folders() -> Iterator[tuple[str, str]]:
    """Yield the environment variables that name folders of data, with what they name."""
    return (each for each in sorted(os.environ.items()) if each[0].startswith(DATA_VARIABLE))


def _said_by(folder: Path) -> str:
    """Return which environment variable gives this folder, if one does."""
    saying = (name for name, given in given_folders() if os.path.abspath(given) == os.path.abspath(folder))
    name = next(saying, None)
    return f", which {name} gives" if name else ""


def _read_object(path: Path) -> Mapping[str, Any]:
    table = _read_json(path)
    if not isinstance(table, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(table).__name__}")
    return table


def _read_json(path: Path) -> object:
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        write = """; write one, such as {"classes": ["road", "car"]}, or give the names (data.classes)"""
        raise InputError(f"{path}: no such file{above(path) or write}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a JSON object, found an error: {error}") from None


def _check_keys(path: Path, table: Mapping[str, Any]) -> None:
    """Raise InputError for a misspelt key: one close to a key that is not there; others are free."""
    absent = [key for key in _KEYS if key not in table]
    for key in table.keys() - {*_KEYS, *_DESCRIPTIVE_KEYS}:
        if hint := nearest(key, absent):
            raise InputError(f"{path}: unknown key {key!a}{hint}; rename it, or remove it")


def _names(path: Path, table: Mapping[str, Any]) -> tuple[str, ...]:
    number = table.get("num_classes")
    names = table.get("classes", number)
    if not _is_integer(names) and not _is_list_of(names, str):
        raise InputError(f'{path}: expected "classes", a list of names, or "num_classes", found {names!r}')
    if isinstance(names, list) and number is not None and not (_is_integer(number) and number == len(names)):
        told = counted(len(names), "name")
        raise InputError(f'{path}: "num_classes" is {number}, but "classes" has {told}; mend one')
    try:
        return class_names(names)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _ignore_label(path: Path, table: Mapping[str, Any], names: Sequence[str]) -> int | None:
    label = table.get("ignore_index")
    if label is not None and not (isinstance(label, int) and _is_integer(label)):
        raise InputError(f'{path}: expected "ignore_index" to be an integer or null, found {label!r}')
    try:
        check_ignore_label(label, names)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return label


def _palette(path: Path, table: Mapping[str, Any], classes: int) -> Palette:
    colours = table.get("palette")
    if colours is None:
        return default_palette(classes)
    told = counted(classes, "colour")
    if not _is_list_of(colours, list) or not all(map(_is_colour, colours)) or len(colours) < classes:
        raise InputError(f'{path}: expected "palette" to hold {told} [R, G, B], each 0..255')
    if len(colours) not in (classes, classes + 1, _COLOURS_OF_PNG):
        raise InputError(
            f'{path}: expected "palette" to hold {told}, one per class, and perhaps one of '
            f"what is ignored, found {len(colours)}; leave out the others"
        )
    return tuple((red, green, blue) for red, green, blue in colours[:classes])


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_colour(value: list[object]) -> bool:
    return len(value) == 3 and all(
        isinstance(item, int) and _is_integer(item) and 0 <= item <= 255 for item in value
    )
