"""The losses of `gsto_spec.objective` in JAX, differentiable and of static shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, assert_never

import jax.numpy as jnp
from jax import Array, lax
from numpy.typing import NDArray

from gsto_jax.ops import resize_bilinear
from gsto_spec.errors import GstoError
from gsto_spec.objective import CrossEntropy, Heatmap, Objective, Ohem, ohem_position, stage_weight
from gsto_spec.sizes import show


def objective_losses(
    objective: Objective, outputs: Mapping[str, Array], batch: Mapping[str, Array]
) -> OrderedDict[str, Array]:
    """`loss` and `loss_<output>`, as `gsto_spec.objective.objective_value` defines them.

    Outputs are N x h x w x K; the batch is that of `gsto_spec.backend.Batch`. Raises `GstoError` for an
    output without a stage weight, and for targets or class weights that do not fit the outputs.
    """
    losses = {name: _loss(objective, output, batch) for name, output in outputs.items()}
    weighted = [stage_weight(objective, name) * value for name, value in losses.items()]
    total = jnp.stack(weighted).sum()
    return OrderedDict(loss=total, **{f"loss_{name}": loss for name, loss in losses.items()})


def _loss(objective: Objective, output: Array, batch: Mapping[str, Array]) -> Array:
    match objective.loss:
        case CrossEntropy() as loss:
            label = batch["label"]
            _expect_shape("label", label, (len(output), *label.shape[-2:]))
            size = (label.shape[1], label.shape[2])
            return cross_entropy(loss, resize_bilinear(output, size, objective.align_corners), label)
        case Heatmap() as loss:
            return heatmap_loss(loss, output, batch["heatmaps"], batch["visibility"])
        case unknown:
            assert_never(unknown)


def _expect_shape(name: str, target: Array, wanted: tuple[int, ...]) -> None:
    """Another shape may broadcast, and the loss would be wrong without a word."""
    if target.shape != wanted:
        raise GstoError(f"{name}: expected an array of {show(wanted)}, found {show(target.shape)}")


def _per_channel(name: str, weights: tuple[float, ...] | None, output: Array) -> Array:
    channels = output.shape[-1]
    if weights is None:
        return jnp.ones(channels, output.dtype)
    if len(weights) != channels:
        raise GstoError(f"{name}: expected {channels} numbers, found {len(weights)}")
    return jnp.asarray(weights, output.dtype)


def cross_entropy(loss: CrossEntropy, logits: Array, label: Array) -> Array:
    """Logits N x H x W x K and labels N x H x W; 0 where no pixel is valid."""
    valid = label != loss.ignore_label
    # A comparison with every class instead of an index: its gradient is no scatter.
    truth = (label[..., None] == jnp.arange(logits.shape[-1])) & valid[..., None]
    negative_log = _negative_log(logits, truth)
    class_weights = _per_channel("class_weights", loss.class_weights, logits)
    weight = jnp.where(truth, class_weights, 0).sum(-1, dtype=logits.dtype)
    if loss.ohem is None:
        return _mean(weight * negative_log, weight.sum())
    kept = _hard_examples(loss.ohem, lax.stop_gradient(negative_log), valid)
    return _mean(jnp.where(kept, weight * negative_log, 0), kept.sum())


def _negative_log(logits: Array, truth: Array) -> Array:
    """-log of the true class's softmax; `truth` is N x H x W x K, true at the class."""
    shifted = logits - lax.stop_gradient(logits.max(-1, keepdims=True))
    return jnp.log(jnp.exp(shifted).sum(-1)) - jnp.where(truth, shifted, 0).sum(-1)


def _mean(values: Array, total: Array) -> Array:
    return values.sum() / jnp.where(total > 0, total, 1)


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
    images, height, width, joints = output.shape
    _expect_shape("heatmaps", target, (images, joints, height, width))
    _expect_shape("visibility", visibility, (images, joints))
    weight = visibility.astype(output.dtype) * _per_channel("joint_weights", loss.joint_weights, output)
    weight = weight[:, None, None, :]
    wanted = jnp.moveaxis(target, 1, -1).astype(output.dtype)
    squares = lax.square(weight * output - weight * wanted)
    return 0.5 * squares.mean((0, 1, 2)).mean()


def check_labels(label: NDArray[Any], classes: int, ignore_label: int) -> None:
    """Raise `GstoError` for a label that is no class: compiled code cannot, and its loss would be wrong."""
    wrong = ((label < 0) | (label >= classes)) & (label != ignore_label)
    if wrong.any():
        expected = f"0 to {classes - 1}, or {ignore_label} to ignore"
        raise GstoError(f"label: expected {expected}, found {label[wrong][0]}")
