"""The losses of `gsto_spec.objective` in PyTorch, differentiable."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from gsto_spec.objective import CrossEntropy, Heatmap, Objective, Ohem, ohem_position, stage_weight


def objective_losses(
    objective: Objective, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`loss` and `loss_<output>`, as `gsto_spec.objective.objective_value` defines them."""
    losses = {name: _loss(objective, output, batch) for name, output in outputs.items()}
    weighted = [stage_weight(objective, name) * value for name, value in losses.items()]
    return {"loss": torch.stack(weighted).sum(), **{f"loss_{name}": loss for name, loss in losses.items()}}


def _loss(objective: Objective, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    match objective.loss:
        case CrossEntropy() as loss:
            label = batch["label"].to(torch.int64)
            size = label.shape[1:]
            logits = F.interpolate(output, size=size, mode="bilinear", align_corners=objective.align_corners)
            return cross_entropy(loss, logits, label)
        case Heatmap() as loss:
            return heatmap_loss(loss, output, batch["heatmaps"], batch["visibility"])
        case unknown:
            assert_never(unknown)


def cross_entropy(loss: CrossEntropy, logits: Tensor, label: Tensor) -> Tensor:
    """Logits N x K x H x W and labels N x H x W; 0 where no pixel is valid.

    Pixels are masked and never picked out: picking would wait for the device.
    """
    valid = label != loss.ignore_label
    losses = F.cross_entropy(logits, label, ignore_index=loss.ignore_label, reduction="none")
    weights = _pixel_weights(loss, logits, label, valid)
    if loss.ohem is not None:
        kept = _hard_pixels(loss.ohem, losses.detach(), valid)
        return (weights * losses * kept).sum() / kept.sum().clamp_min(1)
    share = weights.sum()
    return (weights * losses).sum() / torch.where(share > 0, share, 1)


def _pixel_weights(loss: CrossEntropy, logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
    if loss.class_weights is None:
        return valid.to(logits.dtype)
    table = _constant(tuple(loss.class_weights), logits.dtype, logits.device)
    return table[torch.where(valid, label, 0)] * valid


@cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Moved to the device once: to move it at every step would wait for the device."""
    return torch.tensor(values, dtype=dtype, device=device)


def _hard_pixels(ohem: Ohem, losses: Tensor, valid: Tensor) -> Tensor:
    beyond = 2.0  # above every probability, so that valid pixels are sorted first
    probability = torch.where(valid, torch.exp(-losses), beyond)
    last = (valid.sum() - 1).clamp_min(0)
    position = last.clamp_max(ohem_position(ohem, images=valid.shape[0]))
    bound = probability.flatten().sort().values.index_select(0, position.view(1))
    return valid & (probability < bound.clamp_min(ohem.threshold))


def heatmap_loss(loss: Heatmap, output: Tensor, target: Tensor, visibility: Tensor) -> Tensor:
    """Outputs and targets N x K x h x w, visibilities N x K."""
    weight = visibility.to(output.dtype)
    if loss.joint_weights is not None:
        weight = weight * _constant(tuple(loss.joint_weights), output.dtype, output.device)
    weight = weight[:, :, None, None]
    squares = torch.square(weight * output - weight * target.to(output.dtype))
    return 0.5 * squares.mean(dim=(0, 2, 3)).mean()
