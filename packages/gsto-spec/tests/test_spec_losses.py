"""Losses against numbers worked out by hand and against loops written out here, with every edge case."""

from math import exp, log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from gsto_spec import GstoError
from gsto_spec.objective import (
    STAGE_WEIGHTS,
    CrossEntropy,
    Heatmap,
    Objective,
    Ohem,
    loss_value,
    objective_value,
    ohem_kept,
    ohem_position,
)

Array = NDArray[Any]


def two_classes(*probabilities: float) -> Array:
    """Logits of a row of pixels whose second class has these probabilities."""
    scores = [log(p / (1 - p)) for p in probabilities]
    return np.array([[0.0] * len(scores), scores])[None, :, None, :]


def labels(*values: int) -> Array:
    return np.array(values)[None, None, :]


def loss_of(loss: CrossEntropy | Heatmap, output: Array, **batch: Array) -> float:
    return float(loss_value(Objective(loss), output, batch))


def test_cross_entropy_by_hand() -> None:
    found = loss_of(CrossEntropy(), two_classes(0.75, 0.75, 0.5), label=labels(1, 0, 1))
    assert found == pytest.approx((-log(0.75) - log(0.25) - log(0.5)) / 3, rel=1e-14)


@pytest.mark.parametrize("wrong", [2, -1, 254])
def test_a_label_out_of_range_is_refused(wrong: int) -> None:
    with pytest.raises(GstoError, match=f"label: expected 0 to 1, or 255 to ignore, found {wrong}"):
        loss_of(CrossEntropy(), two_classes(0.75, 0.5, 0.5), label=labels(1, wrong, 255))


def test_class_weights_of_another_number_are_refused() -> None:
    with pytest.raises(GstoError, match="class_weights: expected 2 numbers, found 3"):
        loss_of(CrossEntropy(class_weights=(1, 1, 1)), two_classes(0.75), label=labels(1))


def test_ignored_pixels_have_no_part() -> None:
    output = two_classes(0.75, 0.1, 0.5)
    assert loss_of(CrossEntropy(), output, label=labels(1, 255, 1)) == pytest.approx(
        (-log(0.75) - log(0.5)) / 2, rel=1e-14
    )
    assert loss_of(CrossEntropy(ignore_label=7), output, label=labels(7, 7, 1)) == pytest.approx(-log(0.5))


def test_class_weights_divide_by_the_weight_of_what_is_there() -> None:
    loss = CrossEntropy(class_weights=(3.0, 0.5))
    found = loss_of(loss, two_classes(0.75, 0.75, 0.5), label=labels(1, 0, 255))
    assert found == pytest.approx((0.5 * -log(0.75) + 3 * -log(0.25)) / (0.5 + 3), rel=1e-14)


@pytest.mark.parametrize("ohem", [None, Ohem()])
def test_no_valid_pixel_is_no_loss(ohem: Ohem | None) -> None:
    assert loss_of(CrossEntropy(ohem=ohem), two_classes(0.5, 0.5), label=labels(255, 255)) == 0


def test_classes_of_weight_zero_are_no_loss() -> None:
    loss = CrossEntropy(class_weights=(1.0, 0.0))
    assert loss_of(loss, two_classes(0.5, 0.9), label=labels(1, 1)) == 0
    assert loss_of(loss, two_classes(0.5, 0.9), label=labels(0, 1)) == pytest.approx(-log(0.5))


def test_large_logits_do_not_overflow() -> None:
    output = np.array([1e4, 0.0]).reshape(1, 2, 1, 1)
    assert loss_of(CrossEntropy(), output, label=labels(1)) == 1e4
    assert loss_of(CrossEntropy(), output, label=labels(0)) == 0


@given(st.integers(0, 999), st.booleans(), st.integers(1, 3), st.integers(2, 4))
def test_cross_entropy_equals_its_sum(seed: int, weighted: bool, images: int, classes: int) -> None:
    draw = np.random.default_rng(seed)
    output = 3 * draw.standard_normal((images, classes, 3, 2))
    label = draw.choice([*range(classes), 255], (images, 3, 2))
    weights = tuple(draw.uniform(0.5, 2, classes).tolist()) if weighted else None
    total = share = 0.0
    for n, i, j in np.ndindex(label.shape):
        truth = int(label[n, i, j])
        if truth != 255:
            scores = output[n, :, i, j]
            weight = weights[truth] if weights else 1.0
            total += weight * (log(sum(exp(score) for score in scores)) - scores[truth])
            share += weight
    found = loss_of(CrossEntropy(class_weights=weights), output, label=label)
    assert found == pytest.approx(total / share if share else 0.0, rel=1e-12)


def test_logits_are_resized_to_the_label_by_the_networks_convention() -> None:
    scores = np.array([[[0.0, 0.0]], [[0.0, 4.0]]])[None]  # two classes on a grid of 1 x 2
    half_pixel, aligned = (
        loss_value(Objective(align_corners=flag), scores, {"label": labels(1, 1, 1, 1)})
        for flag in (False, True)
    )
    assert half_pixel == pytest.approx(np.mean([log(1 + exp(-x)) for x in (0, 1, 3, 4)]))
    assert aligned == pytest.approx(np.mean([log(1 + exp(-x)) for x in (0, 4 / 3, 8 / 3, 4)]))


@pytest.mark.parametrize(
    ("kept_per_image", "kept"),
    [
        (0, [True, True, False, False]),  # p_(0) = 0.1, so the threshold 0.9 rules
        (1, [True, True, False, False]),
        (2, [True, True, False, False]),  # p_(2) = 0.95 itself is not below 0.95
        (3, [True, True, True, False]),
        (99, [True, True, True, False]),  # past n: the last one, which is not below itself
    ],
)
def test_ohem_keeps_what_is_below_threshold_or_kth(kept_per_image: float, kept: list[bool]) -> None:
    probability = np.array([0.1, 0.5, 0.95, 0.99])
    assert ohem_kept(Ohem(0.9, kept_per_image), probability, images=1).tolist() == kept


def test_ohem_compares_with_the_sorted_probabilities() -> None:
    probability = np.array([0.99, 0.3, 0.95, 0.97])
    assert ohem_kept(Ohem(0.2, 2), probability, images=1).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("probability", "kept"), [([0.95] * 3, [False] * 3), ([0.95], [False]), ([0.5], [True]), ([0.9], [False])]
)
def test_ohem_can_keep_none(probability: list[float], kept: list[bool]) -> None:
    assert ohem_kept(Ohem(0.9, 1), np.array(probability), images=1).tolist() == kept


def test_ohem_counts_over_the_whole_batch() -> None:
    assert ohem_position(Ohem(), images=3) == 131072
    assert ohem_position(Ohem(), images=12) == 4 * 131072
    assert ohem_position(Ohem(), images=1) == 43690
    assert ohem_position(Ohem(kept_per_image=0.5), images=1) == 0


def test_ohem_averages_the_kept_losses_by_hand() -> None:
    loss = CrossEntropy(ohem=Ohem(0.7, 1))
    found = loss_of(loss, two_classes(0.6, 0.8, 0.2, 0.9), label=labels(1, 1, 1, 255))
    assert found == pytest.approx((-log(0.6) - log(0.2)) / 2, rel=1e-14)


def test_ohem_with_class_weights_divides_by_the_number_kept() -> None:
    loss = CrossEntropy(class_weights=(2.0, 5.0), ohem=Ohem(0.7, 1))
    found = loss_of(loss, two_classes(0.6, 0.8, 0.2), label=labels(1, 0, 0))
    assert found == pytest.approx((5 * -log(0.6) + 2 * -log(0.2)) / 2, rel=1e-14)


@pytest.mark.parametrize("output", [two_classes(0.95, 0.95), two_classes(0.95, 0.5)])
def test_ohem_that_keeps_none_is_no_loss(output: Array) -> None:
    assert loss_of(CrossEntropy(ohem=Ohem(0.9, 5)), output, label=labels(1, 255)) == 0
    assert loss_of(CrossEntropy(ohem=Ohem(0.9, 5)), output[..., :1], label=labels(1)) == 0


@given(st.integers(0, 999), st.floats(0.1, 1), st.floats(0, 4))
def test_ohem_loss_equals_its_sum(seed: int, threshold: float, kept_per_image: float) -> None:
    draw = np.random.default_rng(seed)
    output, label = draw.standard_normal((2, 3, 2, 2)), draw.choice([0, 1, 2, 255], (2, 2, 2))
    pixels = []
    for n, i, j in np.ndindex(label.shape):
        if label[n, i, j] != 255:
            raised = np.exp(output[n, :, i, j])
            pixels.append(float(raised[label[n, i, j]] / raised.sum()))
    wanted = 0.0
    if pixels:
        bound = max(threshold, sorted(pixels)[min(int(2 * kept_per_image), len(pixels) - 1)])
        hard = [-log(p) for p in pixels if p < bound * (1 - 1e-12)]
        wanted = sum(hard) / len(hard) if hard else 0.0
    found = loss_of(CrossEntropy(ohem=Ohem(threshold, kept_per_image)), output, label=label)
    assert found == pytest.approx(wanted, rel=1e-9)


OUTPUT = np.array([[[[1.0, 3.0]], [[5.0, 5.0]]]])
TARGET = np.array([[[[0.0, 1.0]], [[0.0, 0.0]]]])


def test_heatmap_loss_by_hand() -> None:
    batch = {"heatmaps": TARGET, "visibility": np.array([[1.0, 1.0]])}
    joints = [(1**2 + 2**2) / 2, (5**2 + 5**2) / 2]
    assert loss_of(Heatmap(), OUTPUT, **batch) == pytest.approx(0.5 * sum(joints) / 2)


def test_joints_out_of_sight_stay_in_the_denominator() -> None:
    batch = {"heatmaps": TARGET, "visibility": np.array([[1, 0]])}
    assert loss_of(Heatmap(), OUTPUT, **batch) == pytest.approx(0.5 * 2.5 / 2)


def test_joint_weights_act_squared() -> None:
    batch = {"heatmaps": TARGET, "visibility": np.array([[1.0, 1.0]])}
    found = loss_of(Heatmap(joint_weights=(2.0, 1.2)), OUTPUT, **batch)
    assert found == pytest.approx(0.5 * (2.0**2 * 2.5 + 1.2**2 * 25) / 2)


def test_heatmaps_are_averaged_over_the_batch() -> None:
    twice = np.concatenate([OUTPUT, 0 * OUTPUT])
    batch = {"heatmaps": np.concatenate([TARGET, 0 * TARGET]), "visibility": np.ones((2, 2))}
    alone = {"heatmaps": TARGET, "visibility": np.ones((1, 2))}
    assert loss_of(Heatmap(), twice, **batch) == pytest.approx(loss_of(Heatmap(), OUTPUT, **alone) / 2)


def test_stages_are_weighted_as_the_paper_says() -> None:
    assert dict(STAGE_WEIGHTS) == {"stage1": 0.2, "stage2": 0.3, "stage3": 0.5, "stage4": 1.0}
    outputs = {"stage4": two_classes(0.5), "stage3": two_classes(0.25), "stage2": two_classes(0.75)}
    found = objective_value(Objective(), outputs, {"label": labels(1)})
    assert list(found) == ["loss", "loss_stage4", "loss_stage3", "loss_stage2"]
    assert_allclose(
        list(found.values()),
        [-log(0.5) - 0.5 * log(0.25) - 0.3 * log(0.75), -log(0.5), -log(0.25), -log(0.75)],
        rtol=1e-14,
    )


def test_stage_weights_can_be_ones_own() -> None:
    objective = Objective(stage_weights={"main": 3.0})
    found = objective_value(objective, {"main": two_classes(0.5)}, {"label": labels(1)})
    assert found["loss"] == pytest.approx(3 * -log(0.5))


def test_an_output_without_a_weight_is_refused() -> None:
    with pytest.raises(GstoError) as caught:
        objective_value(Objective(), {"extra": two_classes(0.5)}, {"label": labels(1)})
    assert str(caught.value) == (
        "stage_weights: expected a weight for output extra, found weights for stage1, stage2, stage3, stage4"
    )
