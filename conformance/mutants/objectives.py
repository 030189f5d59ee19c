"""Backends that minimise something else: cross-entropy, hard examples, heatmaps, stage weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.losses import Loss, objective_losses
from conformance.mutants.broken import Array, Arrays, Mutant
from gsto_spec.backend import Batch
from gsto_spec.objective import CrossEntropy, Heatmap, Objective

Losses = dict[str, tuple[Loss, float]]


class OtherObjective(Mutant):
    """Minimises another objective, or on another batch; or scales a loss."""

    def minimised(self, objective: Objective, batch: Batch) -> Objective:
        """The objective that is computed instead."""
        del batch
        return objective

    def taken(self, objective: Objective, batch: Batch, output: Array) -> Mapping[str, Array]:
        """The batch that an output is held to instead."""
        del objective, output
        return batch

    def factor(self, objective: Objective, batch: Batch) -> float:
        """What every loss is multiplied by."""
        del objective, batch
        return 1.0

    def losses(self, objective: Objective, outputs: Arrays, magnitudes: Arrays, batch: Batch) -> Losses:
        other, factor = self.minimised(objective, batch), self.factor(objective, batch)
        found: Losses = {}
        for name, output in outputs.items():
            taken = self.taken(objective, batch, output)
            one = super().losses(other, {name: output}, {name: magnitudes[name]}, taken)
            found |= {name: (loss.scaled(factor), weight) for name, (loss, weight) in one.items()}
        return found


def with_loss(objective: Objective, change: Callable[[Any], Any], kind: type[Any]) -> Objective:
    """The objective with its loss changed, if it is of a kind."""
    loss = objective.loss
    return replace(objective, loss=change(loss)) if isinstance(loss, kind) else objective


def with_ohem(objective: Objective, **changes: float) -> Objective:
    """The objective with other fields of its hard examples, if it has any."""

    def changed(loss: CrossEntropy) -> CrossEntropy:
        return loss if loss.ohem is None else replace(loss, ohem=replace(loss.ohem, **changes))

    return with_loss(objective, changed, CrossEntropy)


def plain(objective: Objective) -> CrossEntropy | None:
    """The objective's cross-entropy, where it takes the mean over all valid pixels."""
    loss = objective.loss
    return loss if isinstance(loss, CrossEntropy) and loss.ohem is None else None


# Cross-entropy


class StageWeightsByOrder(Mutant):
    """Stage weights go to outputs in alphabetical order: two lists, zipped."""

    def losses(self, objective: Objective, outputs: Arrays, magnitudes: Arrays, batch: Batch) -> Losses:
        found = super().losses(objective, outputs, magnitudes, batch)
        weights = [found[name][1] for name in sorted(found)]
        return {name: (found[name][0], weight) for name, weight in zip(found, weights, strict=True)}


class ClassWeightsNotNormalised(OtherObjective):
    """The mean is over pixels, not over their class weights: Keras's class_weight, unlike torch's."""

    def factor(self, objective: Objective, batch: Batch) -> float:
        loss = plain(objective)
        if loss is None or loss.class_weights is None:
            return 1.0
        truth = batch["label"][batch["label"] != loss.ignore_label]
        return float(np.asarray(loss.class_weights)[truth].mean()) if truth.size else 1.0


class IgnoredInMean(OtherObjective):
    """The mean is over all pixels, the ignored ones being zeros: a mask multiplied before .mean()."""

    def factor(self, objective: Objective, batch: Batch) -> float:
        loss = plain(objective)
        return 1.0 if loss is None else float((batch["label"] != loss.ignore_label).mean())


class IgnoredAfterClipping(OtherObjective):
    """Labels are clipped to the classes before they are compared with the ignored one: one_hot's guard."""

    def taken(self, objective: Objective, batch: Batch, output: Array) -> Mapping[str, Array]:
        if "label" not in batch:
            return batch
        return {**batch, "label": batch["label"].clip(0, output.shape[1] - 1)}


class AlwaysIgnores255(OtherObjective):
    """The ignored label is 255, whatever is asked for, and others clip to a class: Cityscapes' constant."""

    def minimised(self, objective: Objective, batch: Batch) -> Objective:
        return with_loss(objective, lambda loss: replace(loss, ignore_label=255), CrossEntropy)

    def taken(self, objective: Objective, batch: Batch, output: Array) -> Mapping[str, Array]:
        if "label" not in batch:
            return batch
        return {**batch, "label": np.where(batch["label"] < 0, 0, batch["label"])}


class LogitsResizedOtherwise(OtherObjective):
    """Logits reach the label's size by the other align_corners: the loss has a resize of its own."""

    def minimised(self, objective: Objective, batch: Batch) -> Objective:
        return replace(objective, align_corners=not objective.align_corners)


class LabelsResized(OtherObjective):
    """Labels shrink to the logits, not logits to the labels: cheaper, and another loss."""

    def taken(self, objective: Objective, batch: Batch, output: Array) -> Mapping[str, Array]:
        if "label" not in batch:
            return batch
        label, (height, width) = batch["label"], output.shape[2:]
        rows = np.arange(height) * label.shape[1] // height
        columns = np.arange(width) * label.shape[2] // width
        return {**batch, "label": label[:, rows][:, :, columns]}


# Hard examples


class HardPerDevice(Mutant):
    """Hard examples are chosen image by image, and means averaged: a loss inside data parallelism."""

    def losses(self, objective: Objective, outputs: Arrays, magnitudes: Arrays, batch: Batch) -> Losses:
        loss = objective.loss
        if not isinstance(loss, CrossEntropy) or loss.ohem is None:
            return super().losses(objective, outputs, magnitudes, batch)
        each = [
            objective_losses(objective, _at(outputs, n), _at(magnitudes, n), _at(batch, n))
            for n in range(len(batch["image"]))
        ]
        return {name: (mean_of([part[name][0] for part in each]), each[0][name][1]) for name in outputs}


def _at(arrays: Mapping[str, Array], number: int) -> Arrays:
    return {name: array[number : number + 1] for name, array in arrays.items()}


def mean_of(losses: list[Loss]) -> Loss:
    """The mean of the losses of equal parts of a batch."""
    count = len(losses)
    return Loss(
        sum(loss.value for loss in losses) / count,
        np.concatenate([loss.gradient for loss in losses]) / count,
        sum(loss.value_magnitude for loss in losses) / count,
        np.concatenate([loss.gradient_magnitude for loss in losses]) / count,
    )


class HardCountNotScaled(OtherObjective):
    """kept_per_image counts for the whole batch: HRNet's min_kept is a device's."""

    def minimised(self, objective: Objective, batch: Batch) -> Objective:
        loss = objective.loss
        kept = loss.ohem.kept_per_image if isinstance(loss, CrossEntropy) and loss.ohem else 0.0
        return with_ohem(objective, kept_per_image=kept / len(batch["image"]))


class HardLimitKept(OtherObjective):
    """The pixel at the limit is kept, too: <= where HRNet's code has <."""

    def minimised(self, objective: Objective, batch: Batch) -> Objective:
        loss, count = objective.loss, len(batch["image"])
        kept = loss.ohem.kept_per_image if isinstance(loss, CrossEntropy) and loss.ohem else 0.0
        return with_ohem(objective, kept_per_image=(int(kept * count) + 1 + 1e-6) / count)


class HardByThresholdAlone(OtherObjective):
    """However few pixels lie under the threshold, no others are kept: min_kept left out."""

    def minimised(self, objective: Objective, batch: Batch) -> Objective:
        return with_ohem(objective, kept_per_image=0.0)


# Heatmaps


class HeatmapInvisibleCount(OtherObjective):
    """Invisible joints count: the weight of target_weight is left out."""

    def taken(self, objective: Objective, batch: Batch, output: Array) -> Mapping[str, Array]:
        seen = {"visibility": np.ones_like(batch["visibility"])} if "visibility" in batch else {}
        return {**batch, **seen}


class HeatmapNotHalved(OtherObjective):
    """Half the squared error became all of it: MSELoss has no half, HRNet's JointsMSELoss has."""

    def factor(self, objective: Objective, batch: Batch) -> float:
        return 2.0 if isinstance(objective.loss, Heatmap) else 1.0


class HeatmapWeightNotSquared(OtherObjective):
    """A joint's weight stands before the square, not in it."""

    def minimised(self, objective: Objective, batch: Batch) -> Objective:
        def rooted(loss: Heatmap) -> Heatmap:
            weights = loss.joint_weights
            return loss if weights is None else replace(loss, joint_weights=tuple(w**0.5 for w in weights))

        return with_loss(objective, rooted, Heatmap)
