"""The losses of `gsto_spec.objective` in JAX, differentiable and of static shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple, assert_never

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from gsto_jax.ops import resize_bilinear
from gsto_spec.objective import CrossEntropy, Heatmap, Objective, Ohem, ohem_position, stage_weight


class Selection(NamedTuple):
    """Which pixels of a batch have a loss, and what the sum of their losses is divided by."""

    pixels: Array
    total: Array


def objective_losses(
    objective: Objective, outputs: Mapping[str, Array], batch: Mapping[str, Array],
    selections: Mapping[str, Selection] | None = None, parts: int = 1,
) -> OrderedDict[str, Array]:  # fmt: skip
    """`loss` and `loss_<output>`, as `gsto_spec.objective.objective_value` defines them.

    Outputs are N x h x w x K; the batch is that of `gsto_spec.backend.Batch`. Of one of `parts` of a batch,
    whose losses add up to the batch's, with `selections`: each output's in the whole batch, this part's
    pixels. Raises `GstoError` for an output without a stage weight; targets are taken to be those that
    `gsto_spec.objective.check_targets` lets pass.
    """
    chosen = selections or {}
    losses = {
        name: _loss(objective, output, batch, chosen.get(name), parts) for name, output in outputs.items()
    }
    weighted = [stage_weight(objective, name) * value for name, value in losses.items()]
    total = jnp.stack(weighted).sum()
    return OrderedDict(loss=total, **{f"loss_{name}": loss for name, loss in losses.items()})


def _loss(
    objective: Objective, output: Array, batch: Mapping[str, Array], selection: Selection | None, parts: int
) -> Array:
    match objective.loss:
        case CrossEntropy() as loss:
            label = batch["label"]
            return cross_entropy(loss, _at_labels(objective, output, label), label, selection)
        case Heatmap() as loss:
            return heatmap_loss(loss, output, batch["heatmaps"], batch["visibility"]) / parts
        case unknown:
            assert_never(unknown)


def _at_labels(objective: Objective, output: Array, label: Array) -> Array:
    return resize_bilinear(output, (label.shape[1], label.shape[2]), objective.align_corners)


def negative_logs(objective: Objective, outputs: Mapping[str, Array], label: Array) -> dict[str, Array]:
    """Output -> -log of the true class's softmax, N x H x W: what OHEM selects by."""
    logs = {}
    for name, output in outputs.items():
        logits = _at_labels(objective, output, label)
        logs[name] = _negative_log(logits, _truth(label, logits.shape[-1]))
    return logs


def _per_channel(weights: tuple[float, ...] | None, channels: int, dtype: DTypeLike) -> Array:
    return jnp.ones(channels, dtype) if weights is None else jnp.asarray(weights, dtype)


def cross_entropy(
    loss: CrossEntropy, logits: Array, label: Array, selection: Selection | None = None
) -> Array:
    """Logits N x H x W x K and labels N x H x W; 0 where no pixel is valid.

    With `selection`, of a whole batch, the part's share of the batch's loss.
    """
    classes = logits.shape[-1]
    negative_log = _negative_log(logits, _truth(label, classes))
    weight = pixel_weights(loss, label, classes, logits.dtype)
    pixels, total = selection or select(loss, label, weight, lax.stop_gradient(negative_log))
    return jnp.where(pixels, weight * negative_log, 0).sum() / jnp.where(total > 0, total, 1)


def pixel_weights(loss: CrossEntropy, label: Array, classes: int, dtype: DTypeLike) -> Array:
    """The class weight of every pixel, N x H x W; 0 where it is not valid."""
    truth = _truth(label, classes) & (label != loss.ignore_label)[..., None]
    return jnp.where(truth, _per_channel(loss.class_weights, classes, dtype), 0).sum(-1)


def select(loss: CrossEntropy, label: Array, weight: Array, negative_log: Array | None) -> Selection:
    """What `loss` sums over a batch; `negative_log` is read by OHEM alone. All are N x H x W."""
    valid = label != loss.ignore_label
    if loss.ohem is None:
        return Selection(valid, weight.sum())
    assert negative_log is not None
    kept = _hard_examples(loss.ohem, negative_log, valid)
    return Selection(kept, kept.sum())


def _truth(label: Array, classes: int) -> Array:
    # A comparison with every class instead of an index: its gradient is no scatter.
    return label[..., None] == jnp.arange(classes)


def _negative_log(logits: Array, truth: Array) -> Array:
    """-log of the true class's softmax; `truth` is N x H x W x K, true at the class."""
    shifted = logits - lax.stop_gradient(logits.max(-1, keepdims=True))
    return jnp.log(jnp.exp(shifted).sum(-1)) - jnp.where(truth, shifted, 0).sum(-1)


def _hard_examples(ohem: Ohem, negative_log: Array, valid: Array) -> Array:
    """Which pixels `Ohem` keeps."""
    probability = jnp.where(valid, jnp.exp(-negative_log), jnp.inf)
    last = jnp.maximum(valid.sum() - 1, 0)
    position = jnp.minimum(ohem_position(ohem, images=valid.shape[0]), last)
    # Pixels that are not valid sort behind all others, so the position counts valid ones.
    limit = jnp.maximum(jnp.sort(probability, axis=None)[position], ohem.threshold)
    return valid & (probability < limit)


def heatmap_loss(loss: Heatmap, output: Array, target: Array, visibility: Array) -> Array:
    """Outputs N x h x w x K, targets N x K x h x w, visibilities N x K."""
    joints = output.shape[-1]
    weight = visibility.astype(output.dtype) * _per_channel(loss.joint_weights, joints, output.dtype)
    weight = weight[:, None, None, :]
    wanted = jnp.moveaxis(target, 1, -1).astype(output.dtype)
    squares = lax.square(weight * output - weight * wanted)
    return 0.5 * squares.mean((0, 1, 2)).mean()
