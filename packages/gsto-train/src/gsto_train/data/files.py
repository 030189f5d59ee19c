"""Pictures and labels in files: which belong together, and reading them when asked for."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsto_train.data.classes import ClassTable, above
from gsto_train.data.findings import Finding, error_of
from gsto_train.data.pictures import check_size, read_image
from gsto_train.data.samples import IGNORE_LABEL, Palette, Sample
from gsto_train.errors import InputError, nearest_path
from gsto_train.files import read_text

_HINTS = 3
"""How many missing files are looked for under a similar name: each look lists a folder."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture and the file of its label; None where it has none, as in a test split."""

    image: Path
    label: Path | None


@dataclass(frozen=True)
class Listing:
    """The pairs of a data set whose files are there, and what is missing or odd about the others."""

    pairs: tuple[Pair, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def missing(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(finding for finding in self.findings if finding.kind != "odd")


class LabelledFiles:
    """A data set of pictures and labels in files, read when asked for; it holds their names alone.

    `read_label` gives the (H, W) uint8 class indices of a pair that has a label, 255 for ignore. Raises
    InputError where `listing` misses files, unless `skip_missing` and there are others. `official_count` is
    the number of pictures that its publishers give for the split, if it is one of theirs.
    """

    def __init__(
        self,
        listing: Listing,
        table: ClassTable,
        read_label: Callable[[Pair, Path], NDArray[np.uint8]],
        *,
        skip_missing: bool = False,
        official_count: int | None = None,
    ) -> None:
        if listing.missing and not (skip_missing and listing.pairs):
            raise error_of(listing.missing, len(listing.pairs) + len(listing.missing))
        self.listing = listing
        self.official_count = official_count
        self._table = table
        self._read_label = read_label

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
        return len(self.listing.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read pair `index`; raises InputError naming the file where it does not decode or does not fit."""
        pair = self.listing.pairs[index]
        image = read_image(pair.image)
        if pair.label is None:
            return Sample(image, np.full(image.shape[:2], IGNORE_LABEL, np.uint8), str(pair.image))
        label = self._read_label(pair, pair.label)
        check_size(pair.label, label, pair.image, image.shape[:2])
        return Sample(image, label, str(pair.image))

    def inspect(self, index: int) -> tuple[Finding, ...]:
        """Return what else is wrong around pair `index`, in files that training does not read."""
        return ()


def existing(pairs: Iterable[Pair]) -> Listing:
    """Return the pairs of which all files are there, and a finding for each file that is not."""
    found, missing = list[Pair](), list[Finding]()
    for pair in pairs:
        absent = [path for path in (pair.image, pair.label) if path is not None and not isfile(path)]
        missing.extend(_missing(path, hint=len(missing) < _HINTS) for path in absent)
        if not absent:
            found.append(pair)
    return Listing(tuple(found), tuple(missing))


def joined(listings: Sequence[Listing]) -> Listing:
    """Return several listings as one."""
    return Listing(
        tuple(pair for listing in listings for pair in listing.pairs),
        tuple(finding for listing in listings for finding in listing.findings),
    )


def without_pictures(labels: Iterable[Path], folder: str) -> Listing:
    """Return a finding for each label that has no picture in `folder`."""
    mend = f"a label without its picture in {folder}; restore the picture, or remove the label"
    return Listing((), tuple(Finding("odd", f"{path}: {mend}") for path in labels))


def list_lines(path: Path) -> list[tuple[int, str]]:
    """Return the numbered lines of a list file, without blank ones and those that start with `#`.

    Raises InputError where there is no such text file or nothing in it.
    """
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such list of pictures{_way_to_list(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a text file, found {error}") from None
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    kept = [(number, line) for number, line in numbered if line and line[0] != "#"]
    if not kept:
        raise InputError(f"{path}: expected one `image label` pair a line, found none; list some pictures")
    return kept


def _way_to_list(path: Path) -> str:
    return above(path) or f"{nearest_path(path, 'file')}; check its name"


def columns(path: Path, number: int, line: str, *, least: int = 2, most: int = 2) -> list[str]:
    """Return the names in a line, separated by tabs, or by spaces where there are none.

    Raises InputError, with the line's number, for fewer than `least` or more than `most`.
    """
    names = [name.strip() for name in line.split("\t")] if "\t" in line else line.split()
    if not least <= len(names) <= most or not all(names):
        expected = "`image label`, two paths" if least == 2 else "`image` or `image label`, paths"
        raise InputError(
            f"{path} line {number}: expected {expected} separated by a tab or a space, found {line!r}"
        )
    return names


def is_list(split: str) -> bool:
    """Return whether a split is named by its list file."""
    return split.endswith((".lst", ".txt"))


def _missing(path: Path, *, hint: bool) -> Finding:
    near = nearest_path(path, "file") if hint else ""
    return Finding("missing", f"{path}: no such file{near}; restore it, or take its picture off the list")
