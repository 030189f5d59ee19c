"""The losses of `gsto_spec.objective` in PyTorch, differentiable, of a batch or of a part of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from gsto_spec.objective import CrossEntropy, Heatmap, Objective, Ohem, ohem_position, stage_weight

_BEYOND = float("inf")
"""In place of the probability of a pixel that is not valid: valid ones are sorted first."""


@dataclass(frozen=True)
class Whole:
    """What the loss of a part has to know of the whole batch; the parts' losses add up to the batch's.

    `images`: how many it has. `weight`: the sum of its valid pixels' class weights. `probabilities`: of an
    output's name and of the part's `true_class_probabilities`, those of the whole batch, in any order.
    """

    images: int
    weight: Tensor
    probabilities: Callable[[str, Tensor], Tensor]


def whole_of(objective: Objective, batch: Mapping[str, Tensor]) -> Whole:
    """The batch as its own whole."""
    images = next(iter(batch.values())).shape[0]
    return Whole(images, label_weight(objective, batch), lambda name, probability: probability)


def objective_losses(
    objective: Objective,
    outputs: Mapping[str, Tensor],
    batch: Mapping[str, Tensor],
    whole: Whole | None = None,
) -> dict[str, Tensor]:
    """`loss` and `loss_<output>`, as `gsto_spec.objective.objective_value` defines them.

    With `whole`, the part of them that this part of the batch adds.
    """
    whole = whole or whole_of(objective, batch)
    losses = {name: _loss(objective, name, output, batch, whole) for name, output in outputs.items()}
    weighted = [stage_weight(objective, name) * value for name, value in losses.items()]
    return {"loss": torch.stack(weighted).sum(), **{f"loss_{name}": loss for name, loss in losses.items()}}


def label_weight(objective: Objective, batch: Mapping[str, Tensor]) -> Tensor:
    """The sum of the valid pixels' class weights, in float64; 0 where there are no labels."""
    if not isinstance(objective.loss, CrossEntropy):
        return torch.zeros((), dtype=torch.float64, device=next(iter(batch.values())).device)
    label = batch["label"].to(torch.int64)
    return _pixel_weights(objective.loss, label, torch.float64).sum()


def mines_hard_pixels(objective: Objective) -> bool:
    """Whether the loss chooses pixels by their probabilities."""
    return isinstance(objective.loss, CrossEntropy) and objective.loss.ohem is not None


def true_class_probabilities(
    objective: Objective, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Output -> N x H x W, of what online hard example mining chooses by; infinite where not valid."""
    loss = objective.loss
    assert isinstance(loss, CrossEntropy)
    label = batch["label"].to(torch.int64)
    return {
        name: _probability(loss, _pixel_losses(loss, _logits(objective, output, label), label), label)
        for name, output in outputs.items()
    }


def _loss(
    objective: Objective, name: str, output: Tensor, batch: Mapping[str, Tensor], whole: Whole
) -> Tensor:
    match objective.loss:
        case CrossEntropy() as loss:
            label = batch["label"].to(torch.int64)
            losses = _pixel_losses(loss, _logits(objective, output, label), label)
            return _cross_entropy(loss, name, losses, label, whole)
        case Heatmap() as loss:
            return _heatmap_loss(loss, output, batch["heatmaps"], batch["visibility"], whole.images)
        case unknown:
            assert_never(unknown)


def _logits(objective: Objective, output: Tensor, label: Tensor) -> Tensor:
    """An output, N x K x h x w, at the size of its label."""
    return F.interpolate(output, size=label.shape[1:], mode="bilinear", align_corners=objective.align_corners)


def _pixel_losses(loss: CrossEntropy, logits: Tensor, label: Tensor) -> Tensor:
    if not (_by_rows(logits) or torch.are_deterministic_algorithms_enabled()):
        return F.cross_entropy(logits, label, ignore_index=loss.ignore_label, reduction="none")
    # CUDA has no deterministic kernel for maps, but one for rows.
    rows = logits.movedim(1, -1).flatten(0, 2)
    losses = F.cross_entropy(rows, label.flatten(), ignore_index=loss.ignore_label, reduction="none")
    return losses.view_as(label)


def _by_rows(logits: Tensor) -> bool:
    """Whether pixels lie one after another on the CPU, where rows take half the time that maps do."""
    return logits.device.type == "cpu" and logits.is_contiguous(memory_format=torch.channels_last)


def _cross_entropy(loss: CrossEntropy, name: str, losses: Tensor, label: Tensor, whole: Whole) -> Tensor:
    """Of pixels N x H x W; 0 where no pixel is valid.

    Pixels are masked and never picked out: picking would wait for the device.
    """
    weights = _pixel_weights(loss, label, losses.dtype)
    if loss.ohem is None:
        return (weights * losses).sum() / torch.where(whole.weight > 0, whole.weight, 1).to(losses.dtype)
    own = _probability(loss, losses.detach(), label)
    everyone = whole.probabilities(name, own)
    bound = _hardest(loss.ohem, everyone, whole.images)
    return (weights * losses * (own < bound)).sum() / (everyone < bound).sum().clamp_min(1)


def _pixel_weights(loss: CrossEntropy, label: Tensor, dtype: torch.dtype) -> Tensor:
    valid = label != loss.ignore_label
    if loss.class_weights is None:
        return valid.to(dtype)
    table = _constant(tuple(loss.class_weights), dtype, label.device)
    return table[torch.where(valid, label, 0)] * valid


@cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Moved to the device once: to move it at every step would wait for the device."""
    return torch.tensor(values, dtype=dtype, device=device)


def _probability(loss: CrossEntropy, losses: Tensor, label: Tensor) -> Tensor:
    return torch.where(label != loss.ignore_label, torch.exp(-losses), _BEYOND)


def _hardest(ohem: Ohem, probability: Tensor, images: int) -> Tensor:
    """The probability below which a pixel is kept."""
    last = ((probability != _BEYOND).sum() - 1).clamp_min(0)
    position = last.clamp_max(ohem_position(ohem, images))
    bound = probability.flatten().sort().values.index_select(0, position.view(1))
    # Where no pixel is valid the bound is beyond them all, and beyond is not below beyond.
    return bound.clamp_min(ohem.threshold)


def _heatmap_loss(loss: Heatmap, output: Tensor, target: Tensor, visibility: Tensor, images: int) -> Tensor:
    """Outputs and targets N x K x h x w, visibilities N x K."""
    weight = visibility.to(output.dtype)
    if loss.joint_weights is not None:
        weight = weight * _constant(tuple(loss.joint_weights), output.dtype, output.device)
    weight = weight[:, :, None, None]
    squares = torch.square(weight * output - weight * target.to(output.dtype))
    _, joints, *size = output.shape
    return 0.5 * squares.sum() / (images * joints * size[0] * size[1])
