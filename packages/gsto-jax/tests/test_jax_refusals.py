"""Targets that do not fit the outputs, which JAX would broadcast: refused in one line."""

import numpy as np
import pytest

from contract.framework import Arrays
from contract.networks import equal, normed
from gsto_jax.backend import JaxBackend
from gsto_spec import GstoError, initial_weights
from gsto_spec.backend import Training
from gsto_spec.objective import CrossEntropy, Heatmap, Objective

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 6, 4)).astype(np.float32)
BATCH: Arrays = {"image": IMAGES, "label": np.zeros((2, 6, 4), np.int64)}


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (
            CrossEntropy(), {"label": np.zeros((1, 6, 4), np.int64)},
            "label: expected an array of 2 x 6 x 4, found 1 x 6 x 4",
        ),
        (
            CrossEntropy(), {"label": np.zeros((2, 1, 6, 4), np.int64)},
            "label: expected an array of 2 x 6 x 4, found 2 x 1 x 6 x 4",
        ),
        (
            CrossEntropy(class_weights=(1.0,)), {"label": BATCH["label"]},
            "class_weights: expected 2 numbers, found 1",
        ),
        (
            Heatmap(), {"heatmaps": np.zeros((2, 2, 1, 1)), "visibility": np.ones((2, 2))},
            "heatmaps: expected an array of 2 x 2 x 3 x 2, found 2 x 2 x 1 x 1",
        ),
        (
            Heatmap(), {"heatmaps": np.zeros((2, 2, 3, 2)), "visibility": np.ones((2, 1))},
            "visibility: expected an array of 2 x 2, found 2 x 1",
        ),
        (
            Heatmap((1.0,)), {"heatmaps": np.zeros((2, 2, 3, 2)), "visibility": np.ones((2, 2))},
            "joint_weights: expected 2 numbers, found 1",
        ),
    ],
)  # fmt: skip
def test_targets_that_would_broadcast_are_refused_and_change_nothing(
    loss: CrossEntropy | Heatmap, targets: Arrays, message: str
) -> None:
    weights = initial_weights(normed())
    made = JaxBackend().trainer(normed(), weights, Training(Objective(loss)), device="cpu")
    with pytest.raises(GstoError) as caught:
        made.step({"image": IMAGES, **targets}, 0.1)
    assert str(caught.value) == message
    assert getattr(caught.value, "__notes__", []) == []
    assert equal(made.state(), dict(weights))
