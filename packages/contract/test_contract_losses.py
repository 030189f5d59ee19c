"""Losses and their gradients against the definition, whose gradients come from the complex step."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from contract.definition import complex_step
from contract.framework import Array, Arrays, Framework
from gsto_spec import GstoError
from gsto_spec.objective import CrossEntropy, Heatmap, Objective, Ohem, loss_value, objective_value

Case = tuple[Objective, Arrays, Arrays]
SEED = st.integers(0, 9999)


def agree(framework: Framework, objective: Objective, outputs: Arrays, batch: Arrays) -> None:
    wanted = objective_value(objective, outputs, batch)
    losses, gradients = framework.losses(objective, outputs, batch)
    assert list(losses) == list(wanted)
    for name, value in wanted.items():
        assert float(losses[name]) == pytest.approx(value, rel=1e-12, abs=1e-14)
    for name, array in outputs.items():
        weighted = partial(weighted_loss, objective, name, batch)
        assert_allclose(gradients[name], complex_step(weighted, array), rtol=1e-9, atol=1e-14)


def weighted_loss(objective: Objective, name: str, batch: Arrays, logits: Array) -> Any:
    return loss_value(objective, logits, batch) * objective.stage_weights[name]


def segmentation(
    seed: int, ignored: float = 0.3, size: tuple[int, int] | None = None
) -> tuple[Arrays, Arrays]:
    """Outputs of two images, of sizes of their own or of one, and labels of 5 x 4."""
    draw = np.random.default_rng(seed)
    outputs = {
        "stage4": 2 * draw.standard_normal((2, 3, *(size or (2, 3)))),
        "stage2": draw.standard_normal((2, 3, *(size or (1, 2)))),
    }
    label = draw.integers(0, 3, (2, 5, 4))
    label[draw.random(label.shape) < ignored] = 255
    return outputs, {"label": label}


CLASS_WEIGHTS = st.sampled_from([None, (0.5, 2.0, 1.25)])


@st.composite
def cross_entropies(draw: st.DrawFn) -> Case:
    objective = Objective(CrossEntropy(class_weights=draw(CLASS_WEIGHTS)), align_corners=draw(st.booleans()))
    return objective, *segmentation(draw(SEED), draw(st.sampled_from([0.0, 0.5, 0.98])))


@st.composite
def ohems(draw: st.DrawFn, size: tuple[int, int] | None) -> Case:
    ohem = Ohem(draw(st.floats(0.2, 1.0)), draw(st.floats(0, 30)))
    # Aligned at the corners: else resizing repeats rows, whose equal probabilities only rounding tells apart.
    objective = Objective(CrossEntropy(class_weights=draw(CLASS_WEIGHTS), ohem=ohem), align_corners=True)
    return objective, *segmentation(draw(SEED), draw(st.sampled_from([0.0, 0.9])), size)


@st.composite
def heatmaps(draw: st.DrawFn) -> Case:
    drawn = np.random.default_rng(draw(SEED))
    outputs = {name: drawn.standard_normal((2, 3, 4, 3)) for name in ("stage4", "stage3")}
    batch = {"heatmaps": drawn.random((2, 3, 4, 3)), "visibility": drawn.integers(0, 2, (2, 3))}
    return Objective(Heatmap(draw(st.sampled_from([None, (1.0, 1.2, 1.5)])))), outputs, batch


DRAWN: dict[str, st.SearchStrategy[Case]] = {
    "cross entropy": cross_entropies(), "ohem": ohems((5, 4)), "ohem, resized": ohems(None),
    "heatmaps": heatmaps(),
}  # fmt: skip


@pytest.mark.parametrize("kind", DRAWN)
def test_a_loss_and_its_gradients_are_those_of_the_definition(framework: Framework, kind: str) -> None:
    @settings(max_examples=max(20, framework.EXAMPLES))
    @given(DRAWN[kind])
    def every_one(case: Case) -> None:
        agree(framework, *case)

    every_one()


@pytest.mark.parametrize("ohem", [None, Ohem(0.9, 4)])
@pytest.mark.parametrize("valid", [0, 1])
@pytest.mark.parametrize("weights", [None, (0.0, 0.0, 0.0), (0.0, 1.0, 2.0)])
def test_few_valid_pixels_and_classes_of_no_weight(
    framework: Framework, ohem: Ohem | None, valid: int, weights: tuple[float, ...] | None
) -> None:
    outputs, batch = segmentation(0, ignored=1.0)
    batch["label"][0, 0, :valid] = 1
    agree(framework, Objective(CrossEntropy(class_weights=weights, ohem=ohem)), outputs, batch)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_ties_keep_none(framework: Framework, kind: Any) -> None:
    outputs, batch = {"stage4": np.zeros((1, 3, 2, 2), kind)}, {"label": np.ones((1, 2, 2), np.int64)}
    objective = Objective(CrossEntropy(ohem=Ohem(0.1, 2)))
    agree(framework, objective, outputs, batch)
    assert float(framework.losses(objective, outputs, batch)[0]["loss"]) == 0


def test_another_ignored_label(framework: Framework) -> None:
    outputs, batch = segmentation(3, ignored=0.0)
    agree(framework, Objective(CrossEntropy(ignore_label=2)), outputs, batch)
    strict = CrossEntropy(ignore_label=2, class_weights=(1.0, 3.0, 9.0), ohem=Ohem(0.8, 3))
    agree(framework, Objective(strict), outputs, batch)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("ohem", [None, Ohem(0.7, 3)])
def test_labels_are_integers_of_any_kind(framework: Framework, kind: Any, ohem: Ohem | None) -> None:
    outputs, batch = segmentation(4)
    objective = Objective(CrossEntropy(class_weights=(1.0, 2.0, 3.0), ohem=ohem))
    agree(framework, objective, outputs, {"label": batch["label"].astype(kind)})


def test_large_logits_stay_finite(framework: Framework) -> None:
    outputs = {"stage4": np.array([1e4, 0.0]).reshape(1, 2, 1, 1)}
    for truth in (0, 1):
        agree(framework, Objective(), outputs, {"label": np.full((1, 1, 1), truth)})


@pytest.mark.parametrize("ohem", [None, Ohem(0.9, 4)])
def test_losses_of_float32_are_float32(framework: Framework, ohem: Ohem | None) -> None:
    outputs, batch = segmentation(5)
    narrow = {name: array.astype(np.float32) for name, array in outputs.items()}
    objective = Objective(CrossEntropy(class_weights=(1.0, 2.0, 3.0), ohem=ohem))
    losses, _ = framework.losses(objective, narrow, batch)
    assert {loss.dtype for loss in losses.values()} == {np.dtype(np.float32)}


def test_an_output_without_a_weight_is_refused_as_the_definition_refuses_it(framework: Framework) -> None:
    outputs, batch = {"extra": np.zeros((1, 2, 1, 1))}, {"label": np.zeros((1, 1, 1), np.int64)}
    with pytest.raises(GstoError) as wanted:
        objective_value(Objective(), outputs, batch)
    with pytest.raises(GstoError) as found:
        framework.losses(Objective(), outputs, batch)
    assert str(found.value) == str(wanted.value)
