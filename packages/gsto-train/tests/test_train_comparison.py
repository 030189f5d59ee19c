from dataclasses import dataclass

import numpy as np
import pytest

from gsto_train.data.samples import Sample
from gsto_train.report import Report
from gsto_train.segmentation.comparison import baseline_scores


@dataclass
class Painted:
    """Pictures of one colour each, whose labels are given."""

    labels: list[int]
    colours: list[int]
    classes: tuple[str, ...] = ("road", "car")
    palette: tuple[tuple[int, int, int], ...] = ((0, 0, 0), (9, 9, 9))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        image = np.full((4, 6, 3), self.colours[index], np.uint8)
        return Sample(image, np.full((4, 6), self.labels[index], np.uint8), f"picture {index}")


@pytest.mark.parametrize("threads", [1, 3])
def test_baselines_are_fitted_to_the_training_pictures_and_scored_on_the_others(threads: int) -> None:
    training = Painted([0, 0, 0, 1, 255], [10, 10, 10, 200, 90])
    validation = Painted([1, 1, 0, 255], [200, 10, 10, 200])
    scores = baseline_scores(training, validation, threads=threads, report=Report())
    assert scores["constant"]["iou"] == {"road": pytest.approx(1 / 3), "car": 0.0}
    assert scores["histogram"]["iou"] == {"road": pytest.approx(1 / 2), "car": pytest.approx(1 / 2)}
    assert scores["histogram"]["pixel_accuracy"] == pytest.approx(2 / 3)
