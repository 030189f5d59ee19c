import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gsto_train.data.listed import ListedImages
from gsto_train.metrics import ConfusionMatrix

seeds = st.integers(0, 2**32 - 1)


def real_data(name: str) -> Path:
    root = Path(os.environ.get("GSTO_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not (root / name).is_dir():
        pytest.skip(f"no real data at {root / name}: set GSTO_REAL_DATA")
    return root / name


def random_pair(seed: int, classes: int = 5) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    label = generator.choice([*range(classes), 255], (7, 9)).astype(np.uint8)
    return label, generator.integers(0, classes, (7, 9))


def counted(*pairs: tuple[NDArray[np.uint8], NDArray[np.int64]], classes: int = 5) -> ConfusionMatrix:
    matrix = ConfusionMatrix(classes)
    for label, prediction in pairs:
        matrix.update(label, prediction)
    return matrix


def test_the_fixture_of_real_pictures_is_met_exactly() -> None:
    folder = real_data("camvid-mini")
    expected = json.loads((folder / "metric_fixture.json").read_text())
    dataset = ListedImages(folder, "val.txt")
    labels = [dataset[index].label for index in range(len(dataset))]
    matrix = ConfusionMatrix(len(dataset.classes))
    for index, label in enumerate(labels):
        previous = labels[index - 1]
        matrix.update(label, np.where(previous == 255, 0, previous))
    scores = matrix.scores()
    assert matrix.counts.tolist() == expected["confusion"]
    assert scores.mean_iou == expected["mean_iou"]
    assert scores.pixel_accuracy == expected["pixel_acc"]
    assert scores.mean_accuracy == expected["mean_class_acc"]
    assert list(scores.iou) == expected["iou"]


def test_scores_worked_out_by_hand() -> None:
    matrix = counted((np.array([0, 0, 0, 1, 1, 255], np.uint8), np.array([0, 0, 1, 1, 2, 2])), classes=4)
    scores = matrix.scores()
    assert matrix.counts.dtype == np.int64
    assert matrix.counts.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    # Class 2 is predicted but never true: it scores 0. Class 3 never occurs: it has no score.
    assert scores.iou[:3] == (2 / 3, 1 / 3, 0.0)
    assert np.isnan(scores.iou[3])
    assert scores.mean_iou == pytest.approx(1 / 3)
    assert scores.pixel_accuracy == 3 / 5
    assert scores.mean_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)


@given(seeds)
def test_a_perfect_prediction_scores_one(seed: int) -> None:
    label, _ = random_pair(seed)
    scores = counted((label, np.where(label == 255, 0, label).astype(np.int64))).scores()
    assert scores.mean_iou == scores.pixel_accuracy == scores.mean_accuracy == 1.0


@given(seeds, seeds)
def test_merging_counts_as_updating_with_both(first: int, second: int) -> None:
    one, two = random_pair(first), random_pair(second)
    merged = counted(one)
    merged.merge(counted(two))
    assert np.array_equal(merged.counts, counted(one, two).counts)


@given(seeds, st.permutations(range(5)))
def test_renaming_classes_permutes_their_scores(seed: int, order: list[int]) -> None:
    label, prediction = random_pair(seed)
    renamed = np.array([*order, *range(5, 256)], np.uint8)
    scores = counted((label, prediction)).scores()
    other = counted((renamed[label], renamed[prediction].astype(np.int64))).scores()
    np.testing.assert_array_equal([other.iou[order[k]] for k in range(5)], scores.iou)
    assert other.mean_iou == pytest.approx(scores.mean_iou)
    assert other.pixel_accuracy == scores.pixel_accuracy


@given(seeds)
def test_the_order_of_pixels_and_their_shape_do_not_matter(seed: int) -> None:
    label, prediction = random_pair(seed)
    order = np.random.default_rng(seed).permutation(label.size)
    shuffled = counted((label.ravel()[order], prediction.ravel()[order]))
    assert np.array_equal(shuffled.counts, counted((label, prediction)).counts)


@pytest.mark.parametrize("dropped", [255, 254, 5])
def test_labels_beyond_the_classes_are_not_counted(dropped: int) -> None:
    matrix = counted((np.array([dropped, 3], np.uint8), np.array([1, 4])))
    assert matrix.counts.sum() == matrix.counts[3, 4] == 1


def test_negative_labels_are_not_counted() -> None:
    matrix = ConfusionMatrix(5)
    matrix.update(np.array([-1, 2]), np.array([4, 2]))
    assert matrix.counts.sum() == matrix.counts[2, 2] == 1


def test_counts_do_not_overflow_eight_bits() -> None:
    label = np.full((40, 50), 199, np.uint8)
    matrix = ConfusionMatrix(200)
    matrix.update(label, label)
    assert matrix.counts[199, 199] == 2000


@pytest.mark.parametrize("wrong", [5, -1])
def test_a_prediction_out_of_range_is_an_error(wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"predictions of 0\.\.4, found .*{wrong}"):
        ConfusionMatrix(5).update(np.array([0, 255]), np.array([0, wrong]))


def test_shapes_that_differ_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"one shape, found \(2, 3\) and \(3, 2\)"):
        ConfusionMatrix(5).update(np.zeros((2, 3), int), np.zeros((3, 2), int))


def test_matrices_of_different_classes_do_not_merge() -> None:
    with pytest.raises(ValueError, match="expected 5 classes, found 1"):
        ConfusionMatrix(5).merge(ConfusionMatrix(1))


def test_nothing_counted_has_no_scores() -> None:
    scores = ConfusionMatrix(3).scores()
    assert np.isnan([scores.mean_iou, scores.pixel_accuracy, scores.mean_accuracy, *scores.iou]).all()


def test_counts_summed_elsewhere_come_back() -> None:
    counts = counted(random_pair(1)).counts
    matrix = ConfusionMatrix.from_counts(2 * counts)
    counts[:] = 0
    assert matrix.scores() == counted(random_pair(1)).scores()
    assert matrix.counts.sum() == 2 * counted(random_pair(1)).counts.sum()
    with pytest.raises(ValueError, match=r"expected \(K, K\) counts, found shape \(2, 3\)"):
        ConfusionMatrix.from_counts(np.zeros((2, 3)))
