import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gsto_train.data.listed import ListedImages
from gsto_train.data.samples import Palette, Sample
from gsto_train.segmentation.baselines import Bins, ColourPositionHistogram, ConstantAnswer, score


class Pictures:
    """Pictures given as pairs of image and label."""

    classes = ("zero", "one", "two")
    palette: Palette = ((0, 0, 0), (1, 1, 1), (2, 2, 2))

    def __init__(self, *pairs: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        return Sample(*self.pairs[index], f"picture {index}")


def image(*rows: list[int]) -> NDArray[np.uint8]:
    """A picture whose grey values are given by rows."""
    return np.repeat(np.array(rows, np.uint8)[..., None], 3, axis=-1)


def label(*rows: list[int]) -> NDArray[np.uint8]:
    return np.array(rows, np.uint8)


@pytest.fixture(scope="module")
def camvid_mini() -> Path:
    root = Path(os.environ.get("GSTO_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not (root / "camvid-mini").is_dir():
        pytest.skip(f"no real data at {root / 'camvid-mini'}: set GSTO_REAL_DATA")
    return root / "camvid-mini"


def test_the_constant_is_the_most_frequent_class_and_ignore_does_not_count() -> None:
    pictures = Pictures(
        (image([0, 0, 0, 0]), label([1, 0, 255, 255])),
        (image([0, 0, 0, 0]), label([1, 2, 255, 255])),
    )
    constant = ConstantAnswer.fit(pictures)
    assert constant.label == 1
    assert constant.predict(image([3, 4], [5, 6])).tolist() == [[1, 1], [1, 1]]
    assert score(constant, pictures).mean_iou == pytest.approx((0 + 0.5 + 0) / 3)


def test_colours_are_told_apart() -> None:
    pictures = Pictures((image([10, 240, 10, 240]), label([0, 1, 0, 1])))
    histogram = ColourPositionHistogram.fit(pictures)
    assert histogram.predict(image([240, 240, 10])).tolist() == [[1, 1, 0]]


def test_places_are_told_apart() -> None:
    pictures = Pictures((image([90], [90]), label([2], [1])))
    histogram = ColourPositionHistogram.fit(pictures)
    assert histogram.predict(image([90, 90], [90, 90])).tolist() == [[2, 2], [1, 1]]
    across = Pictures((image([90, 90]), label([2, 1])))
    columns = ColourPositionHistogram.fit(across, [Bins(steps=2, rows=1, columns=2)])
    assert columns.predict(image([90, 90, 90, 90])).tolist() == [[2, 2, 1, 1]]


def test_the_three_channels_are_told_apart() -> None:
    colours = np.array([[[200, 10, 10], [10, 200, 10], [10, 10, 200]]], np.uint8)
    histogram = ColourPositionHistogram.fit(Pictures((colours, label([2, 0, 1]))))
    assert histogram.predict(colours).tolist() == [[2, 0, 1]]


def test_a_bin_answers_with_its_most_frequent_class() -> None:
    pictures = Pictures((image([90, 90, 90]), label([2, 1, 2])), (image([90, 90]), label([1, 1])))
    histogram = ColourPositionHistogram.fit(pictures)
    assert histogram.predict(image([90])).tolist() == [[1]]


def test_an_empty_bin_takes_the_answer_of_the_coarser_one() -> None:
    pictures = Pictures((image([0, 0, 100, 255, 255, 255]), label([0, 0, 1, 2, 2, 2])))
    levels = [Bins(steps=2, rows=1), Bins(steps=16, rows=1)]
    histogram = ColourPositionHistogram.fit(pictures, levels)
    # 100 was seen; 60 was not: dark pixels were mostly class 0; 200 was not: bright ones were class 2.
    assert histogram.predict(image([100, 60, 200])).tolist() == [[1, 0, 2]]


def test_an_empty_coarsest_bin_takes_the_most_frequent_class() -> None:
    pictures = Pictures((image([0, 0, 0]), label([1, 1, 0])), (image([20, 20]), label([0, 0])))
    histogram = ColourPositionHistogram.fit(pictures, [Bins(steps=4, rows=1)])
    assert histogram.predict(image([250])).tolist() == [[0]]


def test_ignored_pixels_are_not_learnt() -> None:
    pictures = Pictures((image([90, 90, 90, 10]), label([255, 255, 1, 255])))
    histogram = ColourPositionHistogram.fit(pictures)
    assert histogram.predict(image([90, 10])).tolist() == [[1, 1]]


def test_the_histogram_answers_what_it_saw_once_per_bin() -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (32, 1, 3), np.uint8)
    pictures = Pictures((noise, generator.integers(0, 3, (32, 1), np.uint8)))
    assert score(ColourPositionHistogram.fit(pictures), pictures).mean_iou == 1.0


def test_on_real_pictures_the_baselines_score_what_is_said_of_them(camvid_mini: Path) -> None:
    training, validation = (ListedImages(camvid_mini, f"{split}.txt") for split in ("train", "val"))
    assert training.classes[ConstantAnswer.fit(training).label] == "Road"
    assert score(ConstantAnswer.fit(training), validation).mean_iou == pytest.approx(0.0268, abs=5e-5)
    histogram = ColourPositionHistogram.fit(training)
    assert score(histogram, validation).mean_iou == pytest.approx(0.2534, abs=5e-4)
