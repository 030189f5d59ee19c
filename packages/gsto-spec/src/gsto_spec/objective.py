"""What training minimises and how it steps, as data, each with its definition in numpy float64.

Sources: losses and stage weights, section 3.2.2 and HRNet's training code; optimisers and schedules,
section 4.3. A backend computes gradients and updates itself and agrees with the functions here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from gsto_spec.errors import GstoError
from gsto_spec.reference import resize_bilinear
from gsto_spec.sizes import show

Array = NDArray[Any]

STAGE_WEIGHTS: Mapping[str, float] = {"stage1": 0.2, "stage2": 0.3, "stage3": 0.5, "stage4": 1.0}
"""The weight of each stage's loss (section 3.2.2); a stage without a predictor has no term."""


@dataclass(frozen=True, slots=True)
class Ohem:
    """Online hard example mining, one selection over the global batch.

    Of n valid pixels those are kept whose true-class probability is *below* max(`threshold`, p_(k)), p_(k)
    the sorted probability at index min(k, n - 1), k = `kept_per_image` x images. Ties, or a single valid
    pixel, can keep none. Source: HRNet's training code, where k is 131072 per three images of a device.
    """

    threshold: float = 0.9
    kept_per_image: float = 131072 / 3


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """sum(w_y l) / sum(w_y) over the valid pixels of the global batch, 0 where there are none.

    Logits are first resized bilinearly to the label. With `ohem`: the sum of the kept weighted losses over
    their number. Labels equal to `ignore_label` are not valid.
    """

    ignore_label: int = 255
    class_weights: tuple[float, ...] | None = None
    ohem: Ohem | None = None


@dataclass(frozen=True, slots=True)
class Heatmap:
    """The mean over joints of half the mean over batch and pixels of (w p - w t)^2.

    w is the batch's visibility of a joint times `joint_weights`; joints of weight 0 stay in the denominator.
    Source: HRNet's pose code.
    """

    joint_weights: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss for every output of a graph, and the weight of each; `align_corners` is the network's."""

    loss: CrossEntropy | Heatmap = CrossEntropy()
    stage_weights: Mapping[str, float] = field(default_factory=lambda: STAGE_WEIGHTS)
    align_corners: bool = False


@dataclass(frozen=True, slots=True)
class SGD:
    """v <- momentum v + (g + weight_decay w); w <- w - rate v; v starts as the first step's gradient."""

    momentum: float = 0.9
    weight_decay: float = 5e-4


@dataclass(frozen=True, slots=True)
class Adam:
    """Kingma and Ba 2015 with bias correction; weight decay is added to the gradient (not decoupled)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0


@dataclass(frozen=True, slots=True)
class Poly:
    """base (1 - t / total)^power, t = 0 at the first step (section 4.3.1: power 0.9)."""

    base: float
    power: float = 0.9

    def rate(self, step: int, total_steps: int) -> float:
        """The learning rate of 0-based step `step` of `total_steps`."""
        _check_step(step, total_steps)
        return self.base * float((1.0 - step / total_steps) ** self.power)


@dataclass(frozen=True, slots=True)
class Steps:
    """base x factor for every milestone passed; a milestone is a fraction of all steps, to the nearest step.

    Source: section 4.3.2.
    """

    base: float
    milestones: tuple[float, ...]
    factor: float = 0.1

    def rate(self, step: int, total_steps: int) -> float:
        """The learning rate of 0-based step `step` of `total_steps`."""
        _check_step(step, total_steps)
        return self.base * self.factor ** sum(step >= round(part * total_steps) for part in self.milestones)


def _check_step(step: int, total_steps: int) -> None:
    if not 0 <= step < total_steps:
        raise GstoError(f"step: expected 0 <= step < {total_steps}, found {step}")


def objective_value(
    objective: Objective, outputs: Mapping[str, Array], batch: Mapping[str, Array]
) -> dict[str, float]:
    """`loss`, the weighted sum, and `loss_<output>` of each output (N x K x h x w).

    The batch holds `label` (N x H x W) for cross-entropy, `heatmaps` (N x K x h x w) and `visibility`
    (N x K) for heatmaps. Raises `GstoError` for an output that has no stage weight, and as `check_targets`.
    """
    losses = {name: loss_value(objective, logits, batch) for name, logits in outputs.items()}
    total = sum(stage_weight(objective, name) * value for name, value in losses.items())
    return {"loss": total, **{f"loss_{name}": value for name, value in losses.items()}}


def stage_weight(objective: Objective, output: str) -> float:
    """The weight of an output's loss. Raises `GstoError` where it has none."""
    if output not in objective.stage_weights:
        known = ", ".join(objective.stage_weights)
        raise GstoError(f"stage_weights: expected a weight for output {output}, found weights for {known}")
    return objective.stage_weights[output]


def check_targets(
    objective: Objective, outputs: Mapping[str, Sequence[int]], batch: Mapping[str, Array]
) -> None:
    """Raise `GstoError` unless a batch's targets fit outputs of these shapes, N x K x h x w.

    Targets of another shape may broadcast, and compiled code takes a label that is no class for some class:
    the loss would be wrong without a word.
    """
    images, _, height, width = next(iter(outputs.values()))
    channels = min(shape[1] for shape in outputs.values())
    match objective.loss:
        case CrossEntropy() as loss:
            label = _target(batch, "label")
            _expect_shape("label", label, (images, *label.shape[-2:]))
            _expect_one_each("class_weights", loss.class_weights, channels)
            _expect_classes(label, channels, loss.ignore_label)
        case Heatmap() as loss:
            _expect_shape("heatmaps", _target(batch, "heatmaps"), (images, channels, height, width))
            _expect_shape("visibility", _target(batch, "visibility"), (images, channels))
            _expect_one_each("joint_weights", loss.joint_weights, channels)
        case unknown:
            assert_never(unknown)


def _target(batch: Mapping[str, Array], name: str) -> Array:
    if name not in batch:
        raise GstoError(f"{name}: expected in a batch, found {', '.join(batch) or 'an empty one'}")
    return batch[name]


def _expect_shape(name: str, target: Array, wanted: tuple[int, ...]) -> None:
    if tuple(target.shape) != wanted:
        raise GstoError(f"{name}: expected an array of {show(wanted)}, found {show(target.shape)}")


def _expect_one_each(name: str, weights: Sequence[float] | None, channels: int) -> None:
    if weights is not None and len(weights) != channels:
        raise GstoError(f"{name}: expected {channels} numbers, found {len(weights)}")


def _expect_classes(label: Array, classes: int, ignore_label: int) -> None:
    wrong = ((label < 0) | (label >= classes)) & (label != ignore_label)
    if wrong.any():
        expected = f"0 to {classes - 1}, or {ignore_label} to ignore"
        raise GstoError(f"label: expected {expected}, found {label[wrong][0]}")


def loss_value(objective: Objective, output: Array, batch: Mapping[str, Array]) -> float:
    """The loss of one output, unweighted (complex where the output is). Raises as `check_targets` does."""
    check_targets(objective, {"output": output.shape}, batch)
    output = np.asarray(output, np.result_type(output, np.float64))
    match objective.loss:
        case CrossEntropy() as loss:
            label = batch["label"]
            return cross_entropy(
                loss, resize_bilinear(output, label.shape[1:], objective.align_corners), label
            )
        case Heatmap() as loss:
            return heatmap_loss(loss, output, batch["heatmaps"], batch["visibility"])
        case unknown:
            assert_never(unknown)


def cross_entropy(loss: CrossEntropy, logits: Array, label: Array) -> float:
    """`CrossEntropy` for logits (N x K x H x W) at the label's size (N x H x W)."""
    valid = label != loss.ignore_label
    if not valid.any():
        return 0.0
    classes = np.moveaxis(logits, 1, -1)[valid]
    truth = label[valid]
    shifted = classes - classes.real.max(axis=1, keepdims=True)
    negative_log = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(truth)), truth]
    weights = np.ones(classes.shape[1]) if loss.class_weights is None else np.asarray(loss.class_weights)
    weighted = weights[truth] * negative_log
    if loss.ohem is None:
        total = weights[truth].sum()
        return weighted.sum() / total if total > 0 else 0.0
    kept = ohem_kept(loss.ohem, np.exp(-negative_log.real), images=len(label))
    return weighted[kept].mean() if kept.any() else 0.0


def ohem_kept(ohem: Ohem, probability: Array, images: int) -> NDArray[np.bool_]:
    """Which of the valid pixels, by their true-class probability, `Ohem` keeps."""
    position = min(ohem_position(ohem, images), probability.size - 1)
    return np.asarray(probability < max(ohem.threshold, float(np.sort(probability)[position])))


def ohem_position(ohem: Ohem, images: int) -> int:
    """k: how many of the hardest pixels of so many images are kept at least."""
    return int(ohem.kept_per_image * images)


def heatmap_loss(loss: Heatmap, output: Array, target: Array, visibility: Array) -> float:
    """`Heatmap` for outputs and targets N x K x h x w and visibilities N x K."""
    weight = np.asarray(visibility, np.float64)
    if loss.joint_weights is not None:
        weight = weight * np.asarray(loss.joint_weights)
    weight = weight[:, :, None, None]
    squares = np.square(weight * output - weight * target)
    per_joint = squares.mean(axis=(0, 2, 3))
    value: float = 0.5 * per_joint.mean()
    return value


def optimizer_step(
    optimizer: SGD | Adam, weights: Mapping[str, Array], gradients: Mapping[str, Array],
    slots: Mapping[str, Array], rate: float,
) -> tuple[dict[str, Array], dict[str, Array]]:  # fmt: skip
    """One update: the new weights and the new slots; `slots` is empty before the first step.

    Slots are called `momentum/NAME` for SGD, `first/NAME`, `second/NAME` and `step` for Adam.
    """
    match optimizer:
        case SGD():
            return _sgd_step(optimizer, weights, gradients, slots, rate)
        case Adam():
            return _adam_step(optimizer, weights, gradients, slots, rate)
        case unknown:
            assert_never(unknown)


def _sgd_step(
    optimizer: SGD, weights: Mapping[str, Array], gradients: Mapping[str, Array],
    slots: Mapping[str, Array], rate: float,
) -> tuple[dict[str, Array], dict[str, Array]]:  # fmt: skip
    new_weights, new_slots = {}, {}
    for name, weight in weights.items():
        slot = f"momentum/{name}"
        velocity = gradients[name] + optimizer.weight_decay * weight
        if slot in slots:
            velocity = optimizer.momentum * slots[slot] + velocity
        new_slots[slot] = velocity
        new_weights[name] = weight - rate * velocity
    return new_weights, new_slots


def _adam_step(
    optimizer: Adam, weights: Mapping[str, Array], gradients: Mapping[str, Array],
    slots: Mapping[str, Array], rate: float,
) -> tuple[dict[str, Array], dict[str, Array]]:  # fmt: skip
    step = int(slots.get("step", 0)) + 1
    rate = rate / (1 - optimizer.beta1**step)
    new_weights: dict[str, Array] = {}
    new_slots: dict[str, Array] = {"step": np.asarray(step)}
    for name, weight in weights.items():
        gradient = gradients[name] + optimizer.weight_decay * weight
        first = _moving(optimizer.beta1, slots.get(f"first/{name}"), gradient)
        second = _moving(optimizer.beta2, slots.get(f"second/{name}"), np.square(gradient))
        spread = np.sqrt(second) / np.sqrt(1 - optimizer.beta2**step) + optimizer.epsilon
        new_slots |= {f"first/{name}": first, f"second/{name}": second}
        new_weights[name] = weight - rate * first / spread
    return new_weights, new_slots


def _moving(keep: float, old: Array | None, new: Array) -> Array:
    return (1 - keep) * new if old is None else keep * old + (1 - keep) * new
