"""A folder of pictures with a list file that pairs each with its label."""

from collections.abc import Sequence
from os.path import isfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsto_train.data.classes import (
    CLASSES_FILE,
    LARGEST_VALUE,
    ClassTable,
    check_ignore_label,
    class_names,
    existing_folder,
    read_classes,
    read_ignore_label,
)
from gsto_train.data.files import LabelledFiles, Listing, Pair, columns, list_lines
from gsto_train.data.findings import Finding, UnknownLabel
from gsto_train.data.palette import default_palette
from gsto_train.data.pictures import read_label, read_values
from gsto_train.data.samples import IGNORE_LABEL, Palette
from gsto_train.errors import InputError
from gsto_train.wording import counted

_SHOWN = 3


class ListedImages(LabelledFiles):
    """Pictures and labels named by a list file, one `image label` pair a line, paths relative to `root`.

    The two paths are separated by a tab, or by spaces where they hold none; blank lines and lines that
    start with `#` are skipped. Pictures are anything Pillow reads, labels one-channel pictures of class
    indices. `classes` gives the classes' names, or their number; without it `root`/classes.json does, and
    its "palette" too. Its "ignore_index" counts beside both, unless `ignore_label` is another. Every file is
    looked for at once; pictures are read when asked for. Raises InputError, one line that names the file, for
    whatever is missing (unless `skip_missing`) or does not fit.
    """

    def __init__(
        self,
        root: str | Path,
        list_file: str | Path,
        *,
        classes: Sequence[str] | int | None = None,
        ignore_label: int | None = None,
        palette: Palette | None = None,
        skip_missing: bool = False,
    ) -> None:
        self.root = existing_folder(root)
        table = _class_table(self.root, classes, ignore_label, palette)

        def read(pair: Pair, path: Path) -> NDArray[np.uint8]:
            try:
                return read_label(path, classes=len(table.names), ignore_label=table.ignore_label)
            except InputError as error:
                if (unknown := _as_unknown(error, path, table)) is None:
                    raise
                raise unknown from error

        listing = _read_list(self.root, self.root / list_file, skip_missing)
        super().__init__(listing, table, read, skip_missing=skip_missing)


def _class_table(
    root: Path, classes: Sequence[str] | int | None, ignore_label: int | None, palette: Palette | None
) -> ClassTable:
    if classes is None:
        table = read_classes(root)
        check_ignore_label(ignore_label, table.names)
        ignored = table.ignore_label if ignore_label is None else ignore_label
        return ClassTable(table.names, palette or table.palette, ignored)
    names = class_names(classes if isinstance(classes, int) else tuple(classes))
    check_ignore_label(ignore_label, names)
    ignored = read_ignore_label(root, names) if ignore_label is None else ignore_label
    return ClassTable(names, palette or default_palette(len(names)), ignored)


def _as_unknown(error: InputError, path: Path, table: ClassTable) -> UnknownLabel | None:
    """Return the error of a label with one single value that is no class, and how to ignore it; else None."""
    value, *others = _wrong_values(path, table) or [-1]
    if others or not 0 <= value <= LARGEST_VALUE or table.ignore_label not in (None, IGNORE_LABEL):
        return None
    setting = f" (or --set data.ignore_label={value})" if value < IGNORE_LABEL else ""
    ignoring = f'if these pixels are to be ignored, add "ignore_index": {value} to {CLASSES_FILE}{setting}'
    alike = f"label value {value}, where 0..{len(table.names) - 1} are classes; {ignoring}"
    return UnknownLabel(f"{error}; {ignoring}", str(path), alike)


def _wrong_values(path: Path, table: ClassTable) -> list[int]:
    """Return the values of a label that are no classes; none where it does not read."""
    try:
        values = np.unique(read_values(path)).tolist()
    except InputError:
        return []
    known = {*range(len(table.names)), IGNORE_LABEL, table.ignore_label}
    return [value for value in values if value not in known]


def _read_list(root: Path, path: Path, skip_missing: bool) -> Listing:
    pairs = [(number, columns(path, number, line)) for number, line in list_lines(path)]
    missing = [(number, name) for number, pair in pairs for name in pair if not isfile(root / name)]
    if missing and not skip_missing:
        raise InputError(_missing(root, path, missing, 2 * len(pairs)))
    absent = {number for number, _ in missing}
    return Listing(
        tuple(Pair(root / image, root / label) for number, (image, label) in pairs if number not in absent),
        tuple(
            Finding(
                "missing", f"{path}: no file {name} (line {number}) under {root}; mend the list or the folder"
            )
            for number, name in missing
        ),
    )


def _missing(root: Path, path: Path, missing: Sequence[tuple[int, str]], total: int) -> str:
    first = ", ".join(f"{name} (line {number})" for number, name in missing[:_SHOWN])
    more = ", ..." if len(missing) > _SHOWN else ""
    are = "is" if len(missing) == 1 else "are"
    found = f"{len(missing)} of {counted(total, 'file')} {are} not under {root}: {first}{more}"
    return f"{path}: {found}; mend the list or the folder"
