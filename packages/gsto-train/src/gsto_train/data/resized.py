"""A data set whose pictures all come in one size."""

from dataclasses import replace

from gsto_train.data.augment import resize
from gsto_train.data.samples import Dataset, Palette, Sample


class Resized:
    """The samples of `dataset`, resized to `size`, (height, width), whatever their aspect."""

    def __init__(self, dataset: Dataset, size: tuple[int, int]) -> None:
        self.dataset, self._size = dataset, size

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
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`, the image resized bilinearly, the label by nearest."""
        sample = self.dataset[index]
        image, label = resize(sample, self._size)
        mirrored = sample.mirrored_label
        if mirrored is not None:  # As what training mirrors back: nearest is not symmetric.
            mirrored = resize(replace(sample, label=mirrored[:, ::-1]), self._size)[1][:, ::-1]
        return Sample(image, label, sample.name, mirrored)
