import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsto_spec import GraphBuilder
from gsto_spec.reference import resize_bilinear
from gsto_train.errors import InputError
from gsto_train.evaluation import align_corners, as_json, classify
from gsto_train.metrics import SegmentationScores

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
