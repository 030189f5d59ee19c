"""Every op of gsto-spec in JAX, on N x h x w x C arrays; `gsto_spec.reference` says what each means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import add
from typing import assert_never

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from gsto_jax.resampling import bilinear, bin_means, nearest, resample
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

Convolve = Callable[[Conv2d, Array, Array], Array]
"""An implementation of `conv2d`."""


def compute(op: Op, operands: Sequence[Array], convolve: Convolve | None = None) -> Array:
    """The result of one op in inference mode; kernels are kh x kw x I x O."""
    convolve = convolve or conv2d
    x = operands[0]
    match op:
        case Input() | Parameter():
            raise AssertionError(f"a leaf has a value, it is not computed: {op.kind}")
        case Conv2d():
            result = convolve(op, x, operands[1])
            return _biased(result, operands[2]) if len(operands) == 3 else result
        case BatchNorm():
            weight, bias, mean, variance = operands[1:]
            return batch_norm(x, weight, bias, mean, variance, op.eps)
        case Relu():
            # Not jnp.maximum, whose derivative at 0 is 1/2; the comparison lets NaN through.
            return jnp.where(x <= 0, 0, x)
        case Sigmoid():
            return lax.logistic(x)
        case Softmax():
            return softmax(x)
        case Add():
            return _sum(operands)
        case Mul():
            return x * operands[1]
        case Concat():
            return jnp.concatenate(operands, axis=-1)
        case Slice():
            return x[..., op.start : op.stop]
        case Resize():
            return resize(op, x, op.size or _size(operands[1]))
        case AvgPool():
            return avg_pool(op, x)
        case MaxPool():
            return max_pool(op, x)
        case AdaptiveAvgPool():
            return adaptive_avg_pool(x, op.size or _size(operands[1]))
        case _:
            assert_never(op)


def _biased(x: Array, bias: Array) -> Array:
    # Of two bytes, the bias's gradient would be summed over all places in two bytes.
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return (x.astype(wide) + bias.astype(wide)).astype(x.dtype)


def _sum(operands: Sequence[Array]) -> Array:
    total: Array = reduce(add, operands)
    return total


def _size(x: Array) -> tuple[int, int]:
    return x.shape[1], x.shape[2]


def _sides(padding: Padding) -> tuple[tuple[int, int], tuple[int, int]]:
    top, bottom, left, right = padding
    return (top, bottom), (left, right)


def conv2d(op: Conv2d, x: Array, kernel: Array) -> Array:
    """Cross-correlation with a kernel of kh x kw x C/groups x O."""
    pointwise = kernel.shape[:2] == op.stride == (1, 1) and op.groups == 1 and not any(op.padding)
    if pointwise:  # a matrix product: XLA's gradients of it are two to four times faster on a CPU
        return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
    return lax.conv_general_dilated(
        x, kernel, op.stride, _sides(op.padding), rhs_dilation=op.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=op.groups,
    )  # fmt: skip


def batch_norm(x: Array, weight: Array, bias: Array, mean: Array, variance: Array, eps: float) -> Array:
    """(x - mean) / sqrt(variance + eps) * weight + bias, each a value per channel."""
    return (x - mean) * (weight / jnp.sqrt(variance + eps)) + bias


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def train_batch_norm(x: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, Array, Array]:
    """Batch norm over the statistics of `x`: the result, and mean and variance (over n, two passes).

    It computes in the type of `weight`; the result is rounded to that of `x`. Differentiable in reverse mode;
    the statistics are given for keeping and have no gradient. What JAX would derive from the formula is twice
    the code, and the compiler's time with it.
    """
    return _train_batch_norm_forward(x, weight, bias, eps)[0]


def _batch_statistics(x: Array) -> tuple[Array, Array]:
    mean = x.mean((0, 1, 2))
    return mean, lax.square(x - mean).mean((0, 1, 2))


_Residuals = tuple[Array, Array, Array, Array]


def _train_batch_norm_forward(
    x: Array, weight: Array, bias: Array, eps: float
) -> tuple[tuple[Array, Array, Array], _Residuals]:
    wide = x.astype(weight.dtype)
    mean, variance = _batch_statistics(wide)
    result = batch_norm(wide, weight, bias, mean, variance, eps).astype(x.dtype)
    return (result, mean, variance), (x, weight, mean, 1 / jnp.sqrt(variance + eps))


def _train_batch_norm_backward(
    eps: float, residuals: _Residuals, gradients: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    """dx = weight / std (g - mean(g) - y mean(g y)), y = normalised x (Ioffe and Szegedy 2015, sec. 3)."""
    del eps
    x, weight, mean, inverse = residuals
    gradient = gradients[0].astype(weight.dtype)
    normalised = (x.astype(weight.dtype) - mean) * inverse
    to_bias = gradient.sum((0, 1, 2))
    to_weight = (gradient * normalised).sum((0, 1, 2))
    count = x.size // x.shape[3]
    to_x = (gradient - to_bias / count - normalised * (to_weight / count)) * (weight * inverse)
    return to_x.astype(x.dtype), to_weight, to_bias


train_batch_norm.defvjp(_train_batch_norm_forward, _train_batch_norm_backward)


def softmax(x: Array) -> Array:
    """exp(x) / sum exp(x) over the channels."""
    raised = jnp.exp(x - lax.stop_gradient(x.max(-1, keepdims=True)))
    return raised / raised.sum(-1, keepdims=True)


def resize(op: Resize, x: Array, size: tuple[int, int]) -> Array:
    """`x` at `size`; never antialiased."""
    if op.method == "bilinear":
        return resize_bilinear(x, size, op.align_corners)
    return resample(resample(x, 1, nearest, size[0]), 2, nearest, size[1])


def resize_bilinear(x: Array, size: tuple[int, int], align_corners: bool = False) -> Array:
    """Linear interpolation along rows, then columns."""
    table = partial(bilinear, align_corners=align_corners)
    return resample(resample(x, 1, table, size[0]), 2, table, size[1])


def adaptive_avg_pool(x: Array, size: tuple[int, int]) -> Array:
    """The mean of the source cells that each target cell touches."""
    return resample(resample(x, 1, bin_means, size[0]), 2, bin_means, size[1])


def max_pool(op: MaxPool, x: Array) -> Array:
    """The largest value of each window; of equal ones the first has the gradient."""
    largest: Array = lax.reduce_window(x, -jnp.inf, lax.max, *_windows(op))
    return largest


def avg_pool(op: AvgPool, x: Array) -> Array:
    """The mean of each window."""
    total: Array = lax.reduce_window(x, 0.0, lax.add, *_windows(op))
    if op.count_padding:
        return total / (op.kernel[0] * op.kernel[1])
    rows, columns = (
        _cells_inside(x.shape[1 + axis], op.kernel[axis], op.stride[axis], *_sides(op.padding)[axis])
        for axis in (0, 1)
    )
    return total / np.multiply.outer(rows, columns)[..., None].astype(x.dtype)


def _cells_inside(size: int, kernel: int, stride: int, before: int, after: int) -> NDArray[np.int64]:
    """How many cells of each window along one axis are not padding."""
    starts = np.arange(0, before + size + after - kernel + 1, stride)
    return np.minimum(starts + kernel, before + size) - np.maximum(starts, before)


def _windows(op: AvgPool | MaxPool) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Sizes, strides and padding of windows over N x h x w x C."""
    return (1, *op.kernel, 1), (1, *op.stride, 1), ((0, 0), *_sides(op.padding), (0, 0))
