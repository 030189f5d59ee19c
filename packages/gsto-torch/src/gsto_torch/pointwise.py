"""1x1 convolutions as they train quickly: the same sums, otherwise cut.

A head of `gsto_spec.heads` projects its branches before it resizes them, which also spares the gradient of a
concatenation: torch's resize takes ten times as long over its slices. One to a single channel, of which gated
fusions have dozens, takes oneDNN several times what a product of rows takes.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gsto_spec.heads import Head, Part
from gsto_torch.ops import resize

FEW = 4
"""Output channels up to which rows are quicker."""


class RowsConv2d(nn.Conv2d):
    """A 1x1 convolution as a product of its kernel and of pixels whose channels lie together."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(input.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


def quicken(model: nn.Module) -> None:
    """Give a model's 1x1 convolutions the quicker kernel; names, tensors and hooks stay."""
    alone = torch.get_num_threads() == 1 and _has_onednn()
    for module in model.modules():
        # Others than torch's own compute something else.
        if type(module) is not nn.Conv2d or not _sees_one_place(module):
            continue
        if module.out_channels <= FEW:
            module.__class__ = RowsConv2d
        elif alone and module.weight.dtype == torch.float32:
            # Nothing to one place, but what torch never leaves to its matrix products, half as fast here.
            module.dilation = (2, 2)


def _has_onednn() -> bool:
    has: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has and platform.machine().lower() in ("x86_64", "amd64")


def _sees_one_place(layer: nn.Conv2d) -> bool:
    unmoved = layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0)
    return unmoved and layer.groups == 1


def project(layer: nn.Conv2d, head: Head, values: Mapping[str, Tensor]) -> Tensor:
    """What the layer makes of the concatenated parts, each projected where it has fewer pixels."""
    widths = [values[part.source].shape[1] for part in head.parts]
    # Of rows, since gradients must lie as the kernel does: DistributedDataParallel copies others.
    rows = torch.split(layer.weight.flatten(1), widths, dim=1)
    total: Tensor | None = None
    for part, row in zip(head.parts, rows, strict=True):
        bias, kernel = layer.bias if total is None else None, row[:, :, None, None]
        term = _projected(part, partial(F.conv2d, weight=kernel, bias=bias, dilation=layer.dilation), values)
        # Nothing reads a sum but the next one.
        total = term if total is None else total.add_(term)
    assert total is not None
    return total


def _projected(part: Part, convolve: Callable[[Tensor], Tensor], values: Mapping[str, Tensor]) -> Tensor:
    x = values[part.source]
    if part.resize is None:
        return convolve(x)
    size = part.resize.size or (values[part.like].shape[2], values[part.like].shape[3])
    if x.shape[2] * x.shape[3] > size[0] * size[1]:
        return convolve(resize(part.resize, x, size))
    return resize(part.resize, convolve(x), size)
