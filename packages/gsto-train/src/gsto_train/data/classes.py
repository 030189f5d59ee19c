"""The names, colours and ignore label of a data set, and the classes.json that holds them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsto_train.data.samples import MAX_CLASSES, Palette, default_palette
from gsto_train.errors import InputError, nearest_path

CLASSES_FILE = "classes.json"


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
    names = _names(path, table)
    return ClassTable(names, _palette(path, table, len(names)), _ignore_label(path, table))


def class_names(classes: Sequence[str] | int) -> tuple[str, ...]:
    """Return the names given, or "class 0", "class 1", ... for a number.

    Raises InputError for none, or for more than 8-bit labels hold.
    """
    count = classes if isinstance(classes, int) else len(classes)
    if not 1 <= count <= MAX_CLASSES:
        raise InputError(f"classes: expected 1 to {MAX_CLASSES} of them (labels are 8-bit), found {count}")
    return tuple(f"class {k}" for k in range(classes)) if isinstance(classes, int) else tuple(classes)


def existing_folder(root: str | Path) -> Path:
    """Return `root` as a path; raises InputError, with the nearest name beside it, where it is no folder."""
    folder = Path(root)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{folder}: expected a folder of data, found a file; give the folder that holds it")
    raise InputError(f"{folder}: no such folder of data{nearest_path(folder)}; check the path")


def _read_object(path: Path) -> Mapping[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        mend = "write one, or give the names or the number of classes"
        raise InputError(f"{path}: no such file; {mend}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a JSON object, found an error: {error}") from None
    if not isinstance(table, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(table).__name__}")
    return table


def _names(path: Path, table: Mapping[str, Any]) -> tuple[str, ...]:
    number = table.get("num_classes")
    names = table.get("classes", number)
    if not isinstance(names, int) and not _is_list_of(names, str):
        raise InputError(f'{path}: expected "classes", a list of names, or "num_classes", found {names!r}')
    if isinstance(names, list) and number not in (None, len(names)):
        raise InputError(f'{path}: "num_classes" is {number}, but "classes" has {len(names)} names; mend one')
    try:
        return class_names(names)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _ignore_label(path: Path, table: Mapping[str, Any]) -> int | None:
    label = table.get("ignore_index")
    if label is None or isinstance(label, int):
        return label
    raise InputError(f'{path}: expected "ignore_index" to be an integer or null, found {label!r}')


def _palette(path: Path, table: Mapping[str, Any], classes: int) -> Palette:
    colours = table.get("palette")
    if colours is None:
        return default_palette(classes)
    if not _is_list_of(colours, list) or not all(map(_is_colour, colours)) or len(colours) < classes:
        raise InputError(f'{path}: expected "palette" to hold {classes} colours [R, G, B], each 0..255')
    return tuple((red, green, blue) for red, green, blue in colours[:classes])


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_colour(value: list[object]) -> bool:
    return len(value) == 3 and all(isinstance(item, int) and 0 <= item <= 255 for item in value)
