from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gsto_spec import GraphBuilder
from gsto_spec.reference import resize_bilinear
from gsto_train.data.samples import Sample
from gsto_train.errors import InputError
from gsto_train.metrics import ConfusionMatrix, SegmentationScores
from gsto_train.segmentation.evaluation import Evaluation, align_corners, as_json, classify, evaluate
from gsto_train.segmentation.procedures import Procedure

SIZES = st.integers(1, 9)


@given(SIZES, SIZES, SIZES, SIZES, st.integers(1, 5), st.booleans(), st.integers(0, 2**32 - 1))
def test_the_class_of_a_pixel_is_the_largest_logit_after_the_definition_of_resizing(
    height: int, width: int, new_height: int, new_width: int, classes: int, corners: bool, seed: int
) -> None:
    logits = np.random.default_rng(seed).standard_normal((2, classes, height, width))
    expected = resize_bilinear(logits, (new_height, new_width), corners).argmax(axis=1)
    np.testing.assert_array_equal(classify(logits, (new_height, new_width), corners), expected)


def test_the_two_conventions_differ() -> None:
    logits = np.random.default_rng(0).standard_normal((1, 3, 4, 4))
    assert (classify(logits, (16, 16), True) != classify(logits, (16, 16), False)).any()


def test_of_equal_logits_the_first_class_wins_and_a_nan_wins_over_all() -> None:
    logits = np.array([[0, 0, 0], [0, 2, 2], [1, np.nan, np.nan], [1, 0, np.nan]], np.float32)[
        ..., None, None
    ]
    assert classify(logits, (1, 1)).ravel().tolist() == [0, 1, 1, 2]


def resizing(*conventions: bool) -> bool:
    build = GraphBuilder()
    x = build.input()
    for convention in conventions:
        x = build.resize(x, size=(8, 8), align_corners=convention)
    x = build.resize(x, size=(4, 4), method="nearest")
    return align_corners(build.graph({"stage4": build.conv2d("head", x, 2)}))


def test_the_convention_is_that_of_the_graph() -> None:
    assert resizing(True, True)
    assert not resizing(False)
    assert not resizing()
    with pytest.raises(InputError, match="with and without align_corners"):
        resizing(True, False)


def test_an_undefined_score_is_null_in_json() -> None:
    scores = SegmentationScores(0.5, 1.0, 0.25, (0.5, float("nan")))
    assert as_json(scores, ("road", "car")) == {
        "mean_iou": 0.5,
        "pixel_accuracy": 1.0,
        "mean_accuracy": 0.25,
        "iou": {"road": 0.5, "car": None},
    }


class Pictures:
    """Pictures of one colour a class, two classes, of several sizes."""

    classes, palette = ("dark", "bright"), ((0, 0, 0), (255, 255, 255))

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> Sample:
        label = np.random.default_rng(index).choice([0, 1, 255], self._sizes[index]).astype(np.uint8)
        image = np.where(label == 1, 255, 0).astype(np.uint8)
        return Sample(np.stack([image] * 3, axis=-1), label, f"picture {index}")


class Brightness:
    """Calls bright what is bright, and the last column of every batch too."""

    def predict(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        logits = np.stack([-images.sum(1), images.sum(1)], axis=1)
        logits[..., -1] = [[0], [1]]
        return {"stage4": logits}


@given(st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=6), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_batches_change_no_score_and_every_picture_is_told(sizes: list[tuple[int, int]], batch: int) -> None:
    told: dict[str, NDArray[np.uint8]] = {}
    pictures = Pictures(sizes)
    found = evaluate(
        Brightness(), pictures, align_corners=False, batch=batch, threads=1, on_classes=told.__setitem__
    )
    expected = ConfusionMatrix(2)
    for index, size in enumerate(sizes):
        assert told[f"picture {index}"].shape == size
        expected.update(pictures[index].label, told[f"picture {index}"])
    np.testing.assert_equal(asdict(found), asdict(expected.scores()))
    assert list(told) == [f"picture {index}" for index in range(len(sizes))]


def test_labels_are_resized_by_nearest_where_asked_for() -> None:
    told: dict[str, NDArray[np.uint8]] = {}
    resized = Evaluation(Procedure(size=(4, 5)), resize_label=True)
    found = evaluate(
        Brightness(), Pictures([(8, 10)]), align_corners=False, batch=1, threads=1, evaluation=resized,
        on_classes=told.__setitem__,
    )  # fmt: skip
    expected = ConfusionMatrix(2)
    expected.update(Pictures([(8, 10)])[0].label[::2, ::2], told["picture 0"])
    assert found == expected.scores()
