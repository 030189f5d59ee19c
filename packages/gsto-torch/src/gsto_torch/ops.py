"""Every op of gsto-spec in PyTorch, on N x C x h x w tensors; `gsto_spec.reference` says what each means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

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
from gsto_spec.precision import Precision, computes_in, stored_in

DTYPES = {
    "float32": torch.float32, "float64": torch.float64,
    "bfloat16": torch.bfloat16, "float16": torch.float16,
}  # fmt: skip
"""The types that `gsto_spec.precision` speaks of."""


def compute_in(
    precision: Precision, op: Op, operands: Sequence[Tensor], *, overwrite: bool = False
) -> Tensor:
    """`compute` by `gsto_spec.precision`, for precisions whose feature maps take two bytes a value."""
    stored, computed = DTYPES[stored_in(precision)], DTYPES[computes_in(op, precision)]
    if isinstance(op, Mul):
        product: Tensor = _WideProduct.apply(*(operand.to(stored) for operand in operands))  # type: ignore[no-untyped-call]
        return product
    # What only lends its size stays as it is.
    read = 1 if isinstance(op, (Resize, AdaptiveAvgPool)) else len(operands)
    wide = [operand.to(computed) for operand in operands[:read]]
    return compute(op, [*wide, *operands[read:]], overwrite=overwrite).to(stored)


class _WideProduct(torch.autograd.Function):
    """A product and its gradient computed in float32, which keeps its factors in their own type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return (x.float() * y.float()).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        gradient = gradients[0].float()
        return tuple(
            (gradient * other.float()).sum_to_size(own.shape).to(own.dtype) for own, other in ((x, y), (y, x))
        )


def compute(op: Op, operands: Sequence[Tensor], *, overwrite: bool = False) -> Tensor:
    """The result of one op whose leaves are plain operands, in inference mode.

    With `overwrite` a relu or sum may put it in the place of its first operand.
    """
    x = operands[0]
    match op:
        case Input() | Parameter():
            raise AssertionError(f"a leaf has a value, it is not computed: {op.kind}")
        case Conv2d():
            bias = operands[2] if len(operands) == 3 else None
            x, padding = split_padding(safe_operand(op, x, operands[1].shape[2:]), op.padding)
            return F.conv2d(x, operands[1], bias, op.stride, padding, op.dilation, op.groups)
        case BatchNorm():
            weight, bias, mean, variance = operands[1:]
            return F.batch_norm(x, mean, variance, weight, bias, eps=op.eps)
        case Relu():
            return F.relu(x, inplace=overwrite)
        case Sigmoid():
            return torch.sigmoid(x)
        case Softmax():
            return F.softmax(x, dim=1)
        case Add():
            return _sum(operands, overwrite)
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
            return adaptive_avg_pool(x, op.size or _size(operands[1]))
        case _:
            assert_never(op)


def _sum(operands: Sequence[Tensor], overwrite: bool) -> Tensor:
    total, *others = operands
    for other in others:
        fits = all(own >= its for own, its in zip(total.shape, other.shape, strict=True))
        total = total.add_(other) if overwrite and fits else total + other
        overwrite = True  # an intermediate sum is nobody else's
    return total


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def _torch_order(padding: Padding) -> tuple[int, int, int, int]:
    top, bottom, left, right = padding
    return left, right, top, bottom


def split_padding(x: Tensor, padding: Padding) -> tuple[Tensor, tuple[int, int]]:
    """What torch's own padding cannot express is padded here; the rest is left to the convolution."""
    if symmetric(padding):
        return x, (padding[0], padding[2])
    return F.pad(x, _torch_order(padding)), (0, 0)


def safe_operand(op: Conv2d, x: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """What a convolution reads, in a layout with which torch's CPU kernels go right."""
    if x.shape[1] == 1:
        # Its strides may be those of channels_last, which torch's CPU kernels then misread (pytorch#82060).
        return x.squeeze(1).unsqueeze(1)
    if x.device.type == "cpu" and op.stride != (1, 1) and kernel == (1, 1):
        # In channels_last the gradient of torch 2.13 writes 16 channels at a time beyond a map of fewer.
        return x.contiguous() if x.shape[1] % 16 else x
    return x


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


def adaptive_avg_pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The mean of each of the windows that divide `x` into `size`."""
    if not torch.are_deterministic_algorithms_enabled():
        return F.adaptive_avg_pool2d(x, size)
    # CUDA has no deterministic gradient of it; of products of matrices it has.
    rows, columns = (_windows(x.shape[2 + axis], size[axis]).to(x) for axis in (0, 1))
    return rows @ x @ columns.T


def _windows(source: int, target: int) -> Tensor:
    """target x source: the weight of every value in every window's mean."""
    window, place = torch.arange(target)[:, None], torch.arange(source)
    start, stop = window * source // target, -(-(window + 1) * source // target)
    return ((place >= start) & (place < stop)) / (stop - start)
