"""The losses of `gsto_spec.objective` in JAX, differentiable and of static shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple, assert_never

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from numpy.typing import NDArray

from gsto_jax.ops import resize_bilinear
from gsto_spec.errors import GstoError
from gsto_spec.objective import CrossEntropy, Heatmap, Objective, Ohem, ohem_position, stage_weight
from gsto_spec.sizes import show


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
    pixels. Raises `GstoError` for an output without a stage weight, and for targets or class weights that do
    not fit the outputs.
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
    _expect_shape("label", label, (len(output), *label.shape[-2:]))
    return resize_bilinear(output, (label.shape[1], label.shape[2]), objective.align_corners)


def negative_logs(objective: Objective, outputs: Mapping[str, Array], label: Array) -> dict[str, Array]:
    """Output -> -log of the true class's softmax, N x H x W: what OHEM selects by."""
    logs = {}
    for name, output in outputs.items():
        logits = _at_labels(objective, output, label)
        logs[name] = _negative_log(logits, _truth(label, logits.shape[-1]))
    return logs


def _expect_shape(name: str, target: Array, wanted: tuple[int, ...]) -> None:
    """Another shape may broadcast, and the loss would be wrong without a word."""
    if target.shape != wanted:
        raise GstoError(f"{name}: expected an array of {show(wanted)}, found {show(target.shape)}")


def _per_channel(name: str, weights: tuple[float, ...] | None, channels: int, dtype: DTypeLike) -> Array:
    if weights is None:
        return jnp.ones(channels, dtype)
    if len(weights) != channels:
        raise GstoError(f"{name}: expected {channels} numbers, found {len(weights)}")
    return jnp.asarray(weights, dtype)


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
    return jnp.where(truth, _per_channel("class_weights", loss.class_weights, classes, dtype), 0).sum(-1)


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
    images, height, width, joints = output.shape
    _expect_shape("heatmaps", target, (images, joints, height, width))
    _expect_shape("visibility", visibility, (images, joints))
    weight = visibility.astype(output.dtype) * _per_channel(
        "joint_weights", loss.joint_weights, joints, output.dtype
    )
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
