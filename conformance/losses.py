"""Losses by rule: value, gradient for the output, and the magnitudes that each of them sums.

Written apart from `gsto_spec.objective` and from every backend; `meta/test_meta_oracle.py` proves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from conformance.arithmetic import PLAIN, Arithmetic
from conformance.rules import resampling, resampling_magnitude
from gsto_spec.objective import CrossEntropy, Heatmap, Objective, Ohem, stage_weight
from gsto_spec.ops import Resize

Array = NDArray[Any]


@dataclass(frozen=True)
class Loss:
    """The loss of one output and its gradient, each with the magnitude of what it sums."""

    value: Any
    gradient: Array
    value_magnitude: Any
    gradient_magnitude: Array

    def scaled(self, factor: float) -> Loss:
        """This loss times a number of at least 0."""
        parts = (self.value, self.gradient, self.value_magnitude, self.gradient_magnitude)
        return Loss(*(factor * part for part in parts))


def output_loss(
    objective: Objective,
    output: Array,
    magnitude: Array,
    batch: Mapping[str, Array],
    sums: Arithmetic = PLAIN,
) -> Loss:
    """The unweighted loss of an output N x K x h x w; `magnitude` is what was summed for it."""
    match objective.loss:
        case CrossEntropy() as loss:
            return _at_label(objective, loss, output, magnitude, batch["label"], sums)
        case Heatmap() as loss:
            return _heatmap(loss, output, magnitude, batch["heatmaps"], batch["visibility"], sums)
        case unknown:
            assert_never(unknown)


def objective_losses(
    objective: Objective, outputs: Mapping[str, Array], magnitudes: Mapping[str, Array],
    batch: Mapping[str, Array], sums: Arithmetic = PLAIN,
) -> dict[str, tuple[Loss, float]]:  # fmt: skip
    """Each output's loss and its stage weight."""
    return {
        name: (output_loss(objective, output, magnitudes[name], batch, sums), stage_weight(objective, name))
        for name, output in outputs.items()
    }


def _at_label(
    objective: Objective, loss: CrossEntropy, output: Array, magnitude: Array, label: Array, sums: Arithmetic
) -> Loss:
    """Cross-entropy of the logits resized to the label, its gradient brought back through the resize."""
    size = (label.shape[1], label.shape[2])
    op = Resize("bilinear", objective.align_corners, size)
    rows, columns = resampling(op, output, output, sums)
    wide_rows, wide_columns = resampling_magnitude(op, output, output)
    logits = sums.product(sums.product(rows, output), columns.T)
    at_label = _cross_entropy(loss, logits, wide_rows @ magnitude @ wide_columns.T, label, sums)
    return Loss(
        at_label.value,
        sums.product(sums.product(rows.T, at_label.gradient), columns),
        at_label.value_magnitude,
        wide_rows.T @ at_label.gradient_magnitude @ wide_columns,
    )


def _cross_entropy(loss: CrossEntropy, logits: Array, sizes: Array, label: Array, sums: Arithmetic) -> Loss:
    valid = label != loss.ignore_label
    truth = np.where(valid, label, 0)[:, None]
    shifted = logits - logits.max(axis=1, keepdims=True)
    normaliser = np.log(sums.total(np.exp(shifted), (1,)))
    negative_log = (normaliser - np.take_along_axis(shifted, truth, axis=1))[:, 0]
    share = _shares(loss, negative_log, valid, truth[:, 0], sums)[:, None]
    probability = np.exp(shifted - normaliser)
    right = np.arange(logits.shape[1]).reshape(1, -1, 1, 1) == truth
    spread = sizes + (probability * sizes).sum(axis=1, keepdims=True)
    return Loss(
        sums.total(share[:, 0] * negative_log, (0, 1, 2)).reshape(()),
        share * (probability - right),
        (share * (negative_log[:, None] + 2 * sizes.max(axis=1, keepdims=True))).sum(),
        share * (probability * (1 + spread) + right),
    )


def _shares(loss: CrossEntropy, negative_log: Array, valid: Array, truth: Array, sums: Arithmetic) -> Array:
    """What each pixel's term is multiplied by: its class weight over the denominator, 0 where left out."""
    weights = np.ones(negative_log.shape, negative_log.dtype)
    if loss.class_weights is not None:
        weights = np.asarray(loss.class_weights, negative_log.dtype)[truth]
    if loss.ohem is not None:
        kept = hard_examples(loss.ohem, negative_log, valid)
        return np.asarray(weights * kept / negative_log.dtype.type(max(kept.sum(), 1)))
    weights = weights * valid
    total = sums.total(weights, (0, 1, 2))
    return np.asarray(weights / np.where(total > 0, total, 1))


def hard_examples(ohem: Ohem, negative_log: Array, valid: Array) -> Array:
    """Which pixels N x H x W `ohem` keeps."""
    probability = np.exp(-negative_log)
    candidates = np.sort(probability[valid])
    if not candidates.size:
        return np.zeros_like(valid)
    position = min(int(ohem.kept_per_image * len(valid)), candidates.size - 1)
    return np.asarray(valid & (probability < max(ohem.threshold, candidates[position])))


def _heatmap(
    loss: Heatmap, output: Array, magnitude: Array, target: Array, visibility: Array, sums: Arithmetic
) -> Loss:
    weight = visibility.astype(output.dtype)
    if loss.joint_weights is not None:
        weight = weight * np.asarray(loss.joint_weights, output.dtype)
    weight = weight[:, :, None, None]
    count = output.dtype.type(output.size)
    difference = weight * output - weight * target.astype(output.dtype)
    size = np.abs(weight) * (magnitude + np.abs(target))
    half = output.dtype.type(0.5)
    value = half * sums.total(np.square(difference), (0, 1, 2, 3)).reshape(()) / count
    return Loss(
        value,
        weight * difference / count,
        value + (np.abs(difference) * size).sum() / count,
        np.abs(weight) * size / count,
    )
