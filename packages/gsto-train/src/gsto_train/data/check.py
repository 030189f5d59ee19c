"""A walk over a data set: what is missing, broken or odd, and what is in it, before hours are spent on it."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gsto_train.data.files import LabelledFiles
from gsto_train.data.findings import Finding
from gsto_train.data.samples import IGNORE_LABEL, Dataset
from gsto_train.errors import InputError
from gsto_train.wording import counted

_SIZES_SHOWN = 3


@dataclass
class SplitReport:
    """What one split holds.

    pictures: how many can be used, of sizes "WIDTHxHEIGHT" -> how many. broken: how many cannot. pixels,
    occurrences: per class, its pixels and the pictures that it is in. ignored: pixels that count nowhere.
    """

    classes: tuple[str, ...] = ()
    pictures: int = 0
    broken: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    occurrences: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    ignored: int = 0
    findings: list[Finding] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return the report as JSON has it."""
        counted = zip(self.classes, self.pixels.tolist(), self.occurrences.tolist(), strict=True)
        return {
            "pictures": self.pictures,
            "sizes": dict(self.sizes.most_common()),
            "classes": {name: {"pixels": pixels, "pictures": seen} for name, pixels, seen in counted},
            "ignored_pixels": self.ignored,
            "findings": [finding.as_json() for finding in self.findings],
        }

    def lines(self) -> list[str]:
        """Return the counts for a person."""
        sizes = ", ".join(f"{count} of {size}" for size, count in self.sizes.most_common(_SIZES_SHOWN))
        others = len(self.sizes) - _SIZES_SHOWN
        more = f" and {counted(others, 'other size')}" if others > 0 else ""
        broken = f", {self.broken} of them broken" if self.broken else ""
        read = f"{counted(self.pictures + self.broken, 'picture')} read{broken}"
        first = f"{read}{': ' + sizes if sizes else ''}{more}"
        total = int(self.pixels.sum()) + self.ignored
        if not total:
            return [first]
        width = max(map(len, ("(ignored)", *self.classes)))
        rows = zip(self.classes, self.pixels, self.occurrences, strict=True)
        return [
            first,
            *(f"  {name:{width}}  {100 * pixels / total:6.2f}% of pixels, in {counted(seen, 'picture')}"
              for name, pixels, seen in rows),
            f"  {'(ignored)':{width}}  {100 * self.ignored / total:6.2f}% of pixels",
        ]  # fmt: skip


def check_split(
    dataset: Dataset, *, threads: int, on_picture: Callable[[int], None] = lambda count: None
) -> SplitReport:
    """Read every picture of `dataset` and report on it; `on_picture` hears of each."""
    classes = len(dataset.classes)
    zeros = np.zeros(classes, np.int64)
    report = SplitReport(dataset.classes, pixels=zeros.copy(), occurrences=zeros.copy())
    if isinstance(dataset, LabelledFiles):
        report.findings.extend(dataset.listing.findings)
    with ThreadPoolExecutor(threads, "gsto-check") as pool:
        for seen in pool.map(lambda index: _look(dataset, index), range(len(dataset))):
            _add(report, seen)
            on_picture(1)
    if isinstance(dataset, LabelledFiles):
        report.findings.extend(_count_findings(dataset))
    return report


def absent_classes(report: SplitReport, split: str) -> tuple[Finding, ...]:
    """Return a finding for the classes that no pixel of a split has, if there are labels at all."""
    names = [name for name, pixels in zip(report.classes, report.pixels, strict=True) if not pixels]
    if not names or not report.pixels.any():
        return ()
    text = f"{split}: no pixel of {counted(len(names), 'class', 'classes')}: {', '.join(names)}"
    return (Finding("odd", f"{text}; nothing can be learnt of {'it' if len(names) == 1 else 'them'}"),)


def shared_pictures(training: Dataset, validation: Dataset) -> tuple[Finding, ...]:
    """Return a finding for the pictures that are both trained and scored on."""
    if not (isinstance(training, LabelledFiles) and isinstance(validation, LabelledFiles)):
        return ()
    trained = {pair.image for pair in training.listing.pairs}
    shared = [pair.image for pair in validation.listing.pairs if pair.image in trained]
    if not shared:
        return ()
    text = f"{shared[0]}: in the train split and in the val split, {len(shared)} of {len(validation)} in all"
    return (Finding("odd", f"{text}; a score on them says little, choose other splits"),)


@dataclass(frozen=True)
class _Look:
    """What was seen of one picture: None for the counts where it does not read."""

    size: str | None
    counts: NDArray[np.int64] | None
    findings: Sequence[Finding]


def _look(dataset: Dataset, index: int) -> _Look:
    try:
        sample = dataset[index]
        further = dataset.inspect(index) if isinstance(dataset, LabelledFiles) else ()
    except InputError as error:
        return _Look(None, None, [Finding.broken(error)])
    height, width = sample.label.shape
    return _Look(f"{width}x{height}", np.bincount(sample.label.ravel(), minlength=256), further)


def _add(report: SplitReport, seen: _Look) -> None:
    report.findings.extend(seen.findings)
    if seen.size is None or seen.counts is None:
        report.broken += 1
        return
    report.pictures += 1
    report.sizes[seen.size] += 1
    counts = seen.counts[: len(report.classes)]
    report.pixels += counts
    report.occurrences += counts > 0
    report.ignored += int(seen.counts[IGNORE_LABEL])


def _count_findings(dataset: LabelledFiles) -> tuple[Finding, ...]:
    official, listed = dataset.official_count, len(dataset)
    if official is None or official == listed:
        return ()
    folder = dataset.listing.pairs[0].image.parent
    there = f"{counted(listed, 'picture')} {'is' if listed == 1 else 'are'} there"
    text = f"{folder}: {there}, the data set has {official} in this split"
    return (Finding("odd", f"{text}; a score on a part of it is no score on it"),)
