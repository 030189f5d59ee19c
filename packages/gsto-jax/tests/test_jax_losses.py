"""Losses and their gradients against the definition, whose gradients come from the complex step."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from gsto_jax.losses import objective_losses
from gsto_spec import GstoError
from gsto_spec.objective import CrossEntropy, Heatmap, Objective, Ohem, loss_value, objective_value

Array = NDArray[Any]
Arrays = dict[str, Array]
few = settings(max_examples=15)


def complex_step(function: Callable[[Array], Any], point: Array) -> Array:
    """The gradient of a real function, exact to rounding: no difference is ever taken."""
    gradient = np.zeros(point.shape)
    for index in np.ndindex(point.shape):
        moved = point.astype(complex)
        moved[index] += 1e-30j
        gradient[index] = np.imag(function(moved)) / 1e-30
    return gradient


def agree(objective: Objective, outputs: Arrays, batch: Arrays) -> None:
    wanted = objective_value(objective, outputs, batch)

    def total(outputs: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        losses = objective_losses(objective, outputs, batch)  # type: ignore[arg-type]
        return losses["loss"], losses

    with jax.enable_x64(True):
        images = OrderedDict(
            (name, jnp.asarray(array.transpose(0, 2, 3, 1))) for name, array in outputs.items()
        )
        slopes, losses = jax.jit(jax.grad(total, has_aux=True))(images)
    assert list(losses) == list(wanted)
    for name, value in wanted.items():
        assert float(losses[name]) == pytest.approx(value, rel=1e-12, abs=1e-14)
    for name, array in outputs.items():

        def loss(logits: Array, name: str = name) -> Any:
            return loss_value(objective, logits, batch) * objective.stage_weights[name]

        slope = np.asarray(slopes[name]).transpose(0, 3, 1, 2)
        assert_allclose(slope, complex_step(loss, array), rtol=1e-9, atol=1e-14)


def segmentation(seed: int, images: int = 2, ignored: float = 0.3) -> tuple[Arrays, Arrays]:
    draw = np.random.default_rng(seed)
    outputs = {
        "stage4": 2 * draw.standard_normal((images, 3, 2, 3)),
        "stage2": draw.standard_normal((images, 3, 1, 2)),
    }
    label = draw.integers(0, 3, (images, 5, 4))
    label[draw.random(label.shape) < ignored] = 255
    return outputs, {"label": label}


@few
@given(st.integers(0, 9999), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.5, 0.98]))
def test_cross_entropy(seed: int, weighted: bool, aligned: bool, ignored: float) -> None:
    weights = (0.5, 2.0, 1.25) if weighted else None
    objective = Objective(CrossEntropy(class_weights=weights), align_corners=aligned)
    agree(objective, *segmentation(seed, ignored=ignored))


@settings(max_examples=20)
@given(
    st.integers(0, 9999), st.booleans(), st.floats(0.2, 1.0), st.floats(0, 30), st.sampled_from([0.0, 0.9])
)
def test_ohem(seed: int, weighted: bool, threshold: float, kept: float, ignored: float) -> None:
    loss = CrossEntropy(class_weights=(0.5, 2.0, 1.25) if weighted else None, ohem=Ohem(threshold, kept))
    # Aligned at the corners: else resizing repeats rows, whose equal probabilities only rounding tells apart.
    agree(Objective(loss, align_corners=True), *segmentation(seed, ignored=ignored))


@few
@given(st.integers(0, 9999), st.booleans())
def test_heatmaps(seed: int, weighted: bool) -> None:
    draw = np.random.default_rng(seed)
    outputs = {"stage4": draw.standard_normal((2, 3, 4, 3)), "stage3": draw.standard_normal((2, 3, 4, 3))}
    batch = {"heatmaps": draw.random((2, 3, 4, 3)), "visibility": draw.integers(0, 2, (2, 3))}
    agree(Objective(Heatmap((1.0, 1.2, 1.5) if weighted else None)), outputs, batch)


@pytest.mark.parametrize("ohem", [None, Ohem(0.9, 4)])
@pytest.mark.parametrize("valid", [0, 1])
@pytest.mark.parametrize("weights", [None, (0.0, 0.0, 0.0), (0.0, 1.0, 2.0)])
def test_few_valid_pixels_and_classes_of_no_weight(
    ohem: Ohem | None, valid: int, weights: tuple[float, ...] | None
) -> None:
    outputs, batch = segmentation(0, ignored=1.0)
    batch["label"][0, 0, :valid] = 1
    agree(Objective(CrossEntropy(class_weights=weights, ohem=ohem)), outputs, batch)


def test_ties_keep_none() -> None:
    outputs = {"stage4": np.zeros((1, 3, 2, 2))}
    batch = {"label": np.ones((1, 2, 2), np.int64)}
    objective = Objective(CrossEntropy(ohem=Ohem(0.1, 2)))
    agree(objective, outputs, batch)
    losses = objective_losses(objective, {"stage4": jnp.zeros((1, 2, 2, 3))}, batch)  # type: ignore[arg-type]
    assert float(losses["loss"]) == 0


def test_another_ignored_label() -> None:
    outputs, batch = segmentation(3, ignored=0.0)
    agree(Objective(CrossEntropy(ignore_label=2)), outputs, batch)
    strict = CrossEntropy(ignore_label=2, class_weights=(1.0, 3.0, 9.0), ohem=Ohem(0.8, 3))
    agree(Objective(strict), outputs, batch)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("ohem", [None, Ohem(0.7, 3)])
def test_labels_are_integers_of_any_kind(kind: Any, ohem: Ohem | None) -> None:
    outputs, batch = segmentation(4)
    objective = Objective(CrossEntropy(class_weights=(1.0, 2.0, 3.0), ohem=ohem))
    agree(objective, outputs, {"label": batch["label"].astype(kind)})


def test_large_logits_stay_finite() -> None:
    outputs = {"stage4": np.array([1e4, 0.0]).reshape(1, 2, 1, 1)}
    for truth in (0, 1):
        agree(Objective(), outputs, {"label": np.full((1, 1, 1), truth)})


def test_losses_of_float32_are_float32() -> None:
    outputs, batch = segmentation(5)
    images = {name: jnp.asarray(array.transpose(0, 2, 3, 1), np.float32) for name, array in outputs.items()}
    for ohem in (None, Ohem(0.9, 4)):
        losses = objective_losses(
            Objective(CrossEntropy(class_weights=(1.0, 2.0, 3.0), ohem=ohem)),
            images,
            batch,  # type: ignore[arg-type]
        )
        assert {loss.dtype for loss in losses.values()} == {np.dtype(np.float32)}


def test_an_output_without_a_weight_is_refused_as_the_definition_refuses_it() -> None:
    outputs, batch = {"extra": np.zeros((1, 2, 1, 1))}, {"label": np.zeros((1, 1, 1), np.int64)}
    with pytest.raises(GstoError) as wanted:
        objective_value(Objective(), outputs, batch)
    with pytest.raises(GstoError) as found:
        objective_losses(Objective(), {"extra": jnp.zeros((1, 1, 1, 2))}, batch)  # type: ignore[arg-type]
    assert str(found.value) == str(wanted.value)
