"""A folder of pictures with a list file that pairs each with its label."""

from collections.abc import Sequence
from pathlib import Path

from gsto_train.data.classes import ClassTable, class_names, existing_folder, read_classes
from gsto_train.data.pictures import read_image, read_label
from gsto_train.data.samples import Palette, Sample, default_palette
from gsto_train.errors import InputError, nearest_path

_SHOWN = 3


class ListedImages:
    """Pictures and labels named by a list file, one `image label` pair a line, paths relative to `root`.

    The two paths are separated by a tab, or by spaces where they hold none; blank lines and lines that
    start with `#` are skipped. Pictures are anything Pillow reads, labels one-channel pictures of class
    indices. `classes` gives the classes' names, or their number; without it `root`/classes.json does, and
    its "ignore_index" and "palette" too. Every file is looked for at once; pictures are read when asked
    for. Raises InputError, one line that names the file, for whatever is missing or does not fit.
    """

    def __init__(
        self,
        root: str | Path,
        list_file: str | Path,
        *,
        classes: Sequence[str] | int | None = None,
        ignore_label: int | None = None,
        palette: Palette | None = None,
    ) -> None:
        self.root = existing_folder(root)
        self._table = _class_table(self.root, classes, ignore_label, palette)
        self._pairs = _read_list(self.root, self.root / list_file)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices."""
        return self._table.names

    @property
    def palette(self) -> Palette:
        """One RGB colour per class."""
        return self._table.palette

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read pair `index`; raises InputError naming the file where it does not decode or does not fit."""
        image_path, label_path = self._pairs[index]
        image = read_image(image_path)
        label = read_label(label_path, classes=len(self.classes), ignore_label=self._table.ignore_label)
        if label.shape != image.shape[:2]:
            (height, width), (image_height, image_width) = label.shape, image.shape[:2]
            raise InputError(
                f"{label_path}: this label is {width}x{height}, its picture {image_path} is "
                f"{image_width}x{image_height} (width x height, upright); expected the same size"
            )
        return Sample(image, label, str(image_path))


def _class_table(
    root: Path, classes: Sequence[str] | int | None, ignore_label: int | None, palette: Palette | None
) -> ClassTable:
    if classes is None:
        table = read_classes(root)
        ignored = table.ignore_label if ignore_label is None else ignore_label
        return ClassTable(table.names, palette or table.palette, ignored)
    names = class_names(classes if isinstance(classes, int) else tuple(classes))
    return ClassTable(names, palette or default_palette(len(names)), ignore_label)


def _read_list(root: Path, path: Path) -> tuple[tuple[Path, Path], ...]:
    lines = ((number, line.strip()) for number, line in enumerate(_lines(path), start=1))
    pairs = [(number, _pair(path, number, line)) for number, line in lines if line and line[0] != "#"]
    if not pairs:
        raise InputError(f"{path}: expected one `image label` pair a line, found none; list some pictures")
    missing = [(number, name) for number, pair in pairs for name in pair if not (root / name).is_file()]
    if missing:
        raise InputError(_missing(root, path, missing, 2 * len(pairs)))
    return tuple((root / image, root / label) for _, (image, label) in pairs)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such list of pictures{nearest_path(path)}; check its name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a text file, found {error}") from None


def _pair(path: Path, number: int, line: str) -> tuple[str, str]:
    names = [name.strip() for name in line.split("\t")] if "\t" in line else line.split()
    if len(names) != 2 or not all(names):
        raise InputError(
            f"{path} line {number}: expected `image label`, two paths separated by a tab or a space, "
            f"found {line!r}"
        )
    return names[0], names[1]


def _missing(root: Path, path: Path, missing: Sequence[tuple[int, str]], total: int) -> str:
    first = ", ".join(f"{name} (line {number})" for number, name in missing[:_SHOWN])
    more = ", ..." if len(missing) > _SHOWN else ""
    found = f"{len(missing)} of {total} files are not under {root}: {first}{more}"
    return f"{path}: {found}; mend the list or the folder"
