"""From logits to scores: one evaluator for a score during training, at its end, and later."""

import math
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec.backend import Predictor
from gsto_spec.graph import Graph
from gsto_spec.ops import Resize
from gsto_spec.reference import interpolation
from gsto_train.data.loader import evaluation_batches
from gsto_train.data.samples import Dataset
from gsto_train.errors import InputError
from gsto_train.metrics import ConfusionMatrix, SegmentationScores

PROTOCOL = "whole pictures, one scale, no flip; logits resized bilinearly to the label"
"""What `evaluate` does; a score means nothing without it."""


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    *,
    align_corners: bool,
    batch: int,
    threads: int,
    on_pictures: Callable[[int], None] = lambda count: None,
) -> SegmentationScores:
    """Return the scores of the first output over every picture once; `on_pictures` hears of each batch."""
    confusion = ConfusionMatrix(len(dataset.classes))
    seen = 0
    with closing(evaluation_batches(dataset, batch=batch, threads=threads)) as batches:
        for loaded in batches:
            logits = next(iter(predictor.predict(loaded.image).values()))
            confusion.update(loaded.label, classify(logits, loaded.label.shape[1:], align_corners))
            seen += len(loaded.names)
            on_pictures(len(loaded.names))
    assert seen == len(dataset), f"scored {seen} pictures of {len(dataset)}"
    return confusion.scores()


def classify(
    logits: NDArray[np.floating], size: tuple[int, ...], align_corners: bool = False
) -> NDArray[np.uint8]:
    """Return the class with the largest logit at each pixel, (N, H, W), of (N, K, h, w) logits.

    The logits are resized as `gsto_spec.reference.resize_bilinear` does, one class at a time, so that no
    array of N x K x H x W is ever held. Of equal logits the first class wins, as in numpy's argmax.
    """
    best = _resize(logits[:, 0], size, align_corners)
    classes = np.zeros(best.shape, np.uint8)
    for index in range(1, logits.shape[1]):
        candidate = _resize(logits[:, index], size, align_corners)
        # A nan must win as it does in argmax, and no comparison with it is true.
        better = ~(candidate <= best) & ~np.isnan(best)
        classes[better] = index
        np.copyto(best, candidate, where=better)
    return classes


def as_json(scores: SegmentationScores, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the scores as result.json has them: None where a score is undefined."""
    return {
        "mean_iou": _defined(scores.mean_iou),
        "pixel_accuracy": _defined(scores.pixel_accuracy),
        "mean_accuracy": _defined(scores.mean_accuracy),
        "iou": {name: _defined(value) for name, value in zip(classes, scores.iou, strict=True)},
    }


def align_corners(graph: Graph) -> bool:
    """Return the graph's bilinear convention, False where it never resizes; raises InputError for two."""
    conventions = {
        node.op.align_corners
        for node in graph.nodes
        if isinstance(node.op, Resize) and node.op.method == "bilinear"
    }
    if len(conventions) > 1:
        raise InputError(
            "the architecture resizes with and without align_corners, so it does not say how its logits are "
            "to be resized to the label; use one of the two"
        )
    return conventions == {True}


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def _resize(plane: NDArray[np.floating], size: tuple[int, ...], align_corners: bool) -> NDArray[np.floating]:
    """Resize (N, h, w) to (N, H, W): rows first, then columns."""
    low, high, share = interpolation(plane.shape[1], size[0], align_corners)
    share = share.astype(plane.dtype)[:, None]
    rows = plane[:, low] * (1 - share) + plane[:, high] * share
    low, high, share = interpolation(plane.shape[2], size[1], align_corners)
    share = share.astype(plane.dtype)
    return np.asarray(rows.take(low, axis=2) * (1 - share) + rows.take(high, axis=2) * share)
