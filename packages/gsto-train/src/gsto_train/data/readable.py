"""A data set without the pictures that do not read."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from gsto_train.data.findings import Finding
from gsto_train.data.samples import Dataset, Palette, Sample
from gsto_train.errors import InputError
from gsto_train.wording import counted


class Subset:
    """The samples of `dataset` at `indices`, in their order; `left_out`: how many files are not in it."""

    def __init__(self, dataset: Dataset, indices: Sequence[int], left_out: int = 0) -> None:
        self.dataset, self.indices, self.left_out = dataset, tuple(indices), left_out

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices."""
        return self.dataset.classes

    @property
    def palette(self) -> Palette:
        """One RGB colour per class."""
        return self.dataset.palette

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`."""
        return self.dataset[self.indices[index]]


def readable(dataset: Dataset, *, threads: int) -> tuple[Subset, tuple[Finding, ...]]:
    """Read every sample once; return those that read, and a finding for each that does not.

    So which pictures a run has is known before it begins, and a sample stays a function of its index. Raises
    InputError where none reads.
    """
    with ThreadPoolExecutor(threads, "gsto-reader") as pool:
        errors = tuple(pool.map(lambda index: _error(dataset, index), range(len(dataset))))
    kept = [index for index, error in enumerate(errors) if error is None]
    broken = tuple(Finding("broken", error) for error in errors if error is not None)
    if not kept:
        raise InputError(f"none of {counted(len(dataset), 'picture')} reads: {broken[0].text}")
    return Subset(dataset, kept, len(broken)), broken


def _error(dataset: Dataset, index: int) -> str | None:
    try:
        dataset[index]
    except InputError as error:
        return str(error)
    return None
