"""Every op of gsto-spec in PyTorch, on N x C x h x w tensors; `gsto_spec.reference` says what each means."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from gsto_spec.ops import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv2d,
    Input,
    MaxPool,
    Mul,
    Op,
    Padding,
    Parameter,
    Relu,
    Resize,
    Sigmoid,
    Slice,
    Softmax,
)  # fmt: skip


def compute(op: Op, operands: Sequence[Tensor]) -> Tensor:
    """The result of one op whose leaves are plain operands, in inference mode."""
    x = operands[0]
    match op:
        case Input() | Parameter():
            raise AssertionError(f"a leaf has a value, it is not computed: {op.kind}")
        case Conv2d():
            bias = operands[2] if len(operands) == 3 else None
            x, padding = split_padding(x, op.padding)
            return F.conv2d(x, operands[1], bias, op.stride, padding, op.dilation, op.groups)
        case BatchNorm():
            weight, bias, mean, variance = operands[1:]
            return F.batch_norm(x, mean, variance, weight, bias, eps=op.eps)
        case Relu():
            return F.relu(x)
        case Sigmoid():
            return torch.sigmoid(x)
        case Softmax():
            return F.softmax(x, dim=1)
        case Add():
            return reduce(torch.add, operands)
        case Mul():
            return x * operands[1]
        case Concat():
            return torch.cat(list(operands), dim=1)
        case Slice():
            return x[:, op.start : op.stop]
        case Resize():
            return resize(op, x, op.size or _size(operands[1]))
        case AvgPool():
            return avg_pool(op, x)
        case MaxPool():
            x = F.pad(x, _torch_order(op.padding), value=float("-inf")) if any(op.padding) else x
            return F.max_pool2d(x, op.kernel, op.stride)
        case AdaptiveAvgPool():
            return F.adaptive_avg_pool2d(x, op.size or _size(operands[1]))
        case _:
            assert_never(op)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def _torch_order(padding: Padding) -> tuple[int, int, int, int]:
    top, bottom, left, right = padding
    return left, right, top, bottom


def split_padding(x: Tensor, padding: Padding) -> tuple[Tensor, tuple[int, int]]:
    """What torch's own padding cannot express is padded here; the rest is left to the convolution."""
    if x.shape[1] == 1:
        # Its strides may be those of channels_last, which torch's CPU kernels then misread (pytorch#82060).
        x = x.squeeze(1).unsqueeze(1)
    if symmetric(padding):
        return x, (padding[0], padding[2])
    return F.pad(x, _torch_order(padding)), (0, 0)


def symmetric(padding: Padding) -> bool:
    """Whether opposite sides are padded alike."""
    return padding[0] == padding[1] and padding[2] == padding[3]


def resize(op: Resize, x: Tensor, size: tuple[int, int]) -> Tensor:
    """`x` at `size`; never antialiased."""
    if op.method == "bilinear":
        return F.interpolate(x, size=size, mode="bilinear", align_corners=op.align_corners)
    if all(_power_of_two(size[axis], x.shape[2 + axis]) for axis in (0, 1)):
        return F.interpolate(x, size=size, mode="nearest")
    # torch finds the source index in float32 and misses floor(i in / out), even at some whole factors (41).
    rows, columns = (
        torch.arange(size[axis], device=x.device) * x.shape[2 + axis] // size[axis] for axis in (0, 1)
    )
    return x[:, :, rows][:, :, :, columns]


def _power_of_two(target: int, source: int) -> bool:
    factor, rest = divmod(target, source)
    return rest == 0 and factor.bit_count() == 1


def avg_pool(op: AvgPool, x: Tensor) -> Tensor:
    """The mean of each window."""
    if not any(op.padding):
        return F.avg_pool2d(x, op.kernel, op.stride)
    sides = _torch_order(op.padding)
    mean = F.avg_pool2d(F.pad(x, sides), op.kernel, op.stride)
    if op.count_padding:
        return mean
    return mean / F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), sides), op.kernel, op.stride)
