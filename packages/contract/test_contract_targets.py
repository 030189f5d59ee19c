"""Batches that do not fit a graph, which a framework may broadcast or wrap: refused in one line."""

import numpy as np
import pytest

from contract.framework import Arrays
from contract.networks import equal, normed
from gsto_spec import GstoError, initial_weights
from gsto_spec.backend import Backend, Training
from gsto_spec.objective import CrossEntropy, Heatmap, Objective

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 6, 4)).astype(np.float32)
LABEL = np.zeros((2, 6, 4), np.int64)
HEATMAPS, VISIBILITY = np.zeros((2, 2, 3, 2)), np.ones((2, 2))


@pytest.mark.parametrize(
    ("loss", "changes", "message"),
    [
        (CrossEntropy(), {"label": LABEL[:1]}, "label: expected an array of 2 x 6 x 4, found 1 x 6 x 4"),
        (
            CrossEntropy(), {"label": LABEL[None]},
            "label: expected an array of 2 x 6 x 4, found 1 x 2 x 6 x 4",
        ),
        (CrossEntropy(), {"label": LABEL + 2}, "label: expected 0 to 1, or 255 to ignore, found 2"),
        (CrossEntropy(), {"label": LABEL - 1}, "label: expected 0 to 1, or 255 to ignore, found -1"),
        (CrossEntropy(class_weights=(1.0,)), {"label": LABEL}, "class_weights: expected 2 numbers, found 1"),
        (CrossEntropy(), {}, "label: expected in a batch, found image"),
        (
            Heatmap(), {"heatmaps": HEATMAPS[..., :1, :1], "visibility": VISIBILITY},
            "heatmaps: expected an array of 2 x 2 x 3 x 2, found 2 x 2 x 1 x 1",
        ),
        (
            Heatmap(), {"heatmaps": HEATMAPS, "visibility": VISIBILITY[:, :1]},
            "visibility: expected an array of 2 x 2, found 2 x 1",
        ),
        (
            Heatmap((1.0,)), {"heatmaps": HEATMAPS, "visibility": VISIBILITY},
            "joint_weights: expected 2 numbers, found 1",
        ),
        (
            CrossEntropy(), {"image": IMAGES[0], "label": LABEL},
            "image: expected an array of N x 3 x H x W, found 3 x 6 x 4 [graph_c5]",
        ),
        (
            CrossEntropy(), {"image": IMAGES[:, :2], "label": LABEL},
            "image: expected an array of N x 3 x H x W, found 2 x 2 x 6 x 4 [graph_c5]",
        ),
    ],
)  # fmt: skip
def test_batches_that_do_not_fit_are_refused_and_change_nothing(
    backend: Backend, loss: CrossEntropy | Heatmap, changes: Arrays, message: str
) -> None:
    weights = initial_weights(normed())
    made = backend.trainer(normed(), weights, Training(Objective(loss)), device="cpu")
    with pytest.raises(GstoError) as caught:
        made.step({"image": IMAGES, **changes}, 0.1)
    assert str(caught.value) == message
    assert getattr(caught.value, "__notes__", []) == []
    assert equal(made.state(), dict(weights))


def test_ignored_pixels_are_no_class(backend: Backend) -> None:
    made = backend.trainer(normed(), initial_weights(normed()), Training(), device="cpu")
    losses = made.step({"image": IMAGES, "label": np.full_like(LABEL, 255)}, 0.1)
    assert float(losses["loss"]) == 0
