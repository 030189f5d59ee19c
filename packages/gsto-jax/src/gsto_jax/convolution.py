"""Convolutions as XLA's compiler for CPUs is quick at them: the sums of `gsto_jax.ops.conv2d`, otherwise cut.

Measured with jaxlib 0.10 on two cores: its convolutions reach what its matrix products do, with exceptions. A
strided one with few output channels runs at a third of that on maps that no cache holds. The gradient by x of
a strided one becomes a convolution of a map full of zeros, two to six times slower than it need be. The
gradient by the kernel, for few output channels of many input channels, takes twice the time of a matrix
product; for a 1x1 kernel JAX would have XLA write the incoming gradient once more, transposed.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from gsto_jax import ops
from gsto_spec.ops import Conv2d

CACHE = 16 << 20
"""Bytes of a feature map above which it is read from memory more than from a cache."""
LANES = 32
"""Output channels that a CPU's kernels compute at a time, at most."""
NARROW = 4
"""A convolution is narrow that has so many times fewer output channels than input channels."""


def conv2d(op: Conv2d, x: Array, kernel: Array) -> Array:
    """See `gsto_jax.ops.conv2d`; differentiable in reverse mode."""
    if op.groups > 1 or op.dilation != (1, 1):
        return ops.conv2d(op, x, kernel)
    return _convolved(op, x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolved(op: Conv2d, x: Array, kernel: Array) -> Array:
    channels = kernel.shape[3]
    if op.stride == (1, 1) or not _narrow(kernel) or x.nbytes <= CACHE:
        return ops.conv2d(op, x, kernel)
    filled = jnp.pad(kernel, (*((0, 0),) * 3, (0, -channels % LANES)))
    return ops.conv2d(op, x, filled)[..., :channels]


def _forward(op: Conv2d, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolved(op, x, kernel), (x, kernel)


def _backward(op: Conv2d, operands: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = operands
    strided = op.stride != (1, 1)
    if strided:
        to_x = _gradient_by_phases(op, x, kernel, gradient)
    else:
        (to_x,) = jax.vjp(lambda x: ops.conv2d(op, x, kernel), x)[1](gradient)
    if not strided and (_narrow(kernel) or kernel.shape[:2] == (1, 1)):
        to_kernel = _gradient_by_product(op, x, kernel, gradient)
    else:
        (to_kernel,) = jax.vjp(lambda kernel: ops.conv2d(op, x, kernel), kernel)[1](gradient)
    return to_x, to_kernel


_convolved.defvjp(_forward, _backward)


def _narrow(kernel: Array) -> bool:
    return kernel.shape[3] * NARROW <= kernel.shape[2]


def _gradient_by_product(op: Conv2d, x: Array, kernel: Array, gradient: Array) -> Array:
    """By the kernel of an unstrided convolution: x times the gradient as each cell of the kernel meets it."""
    height, width, source, target = kernel.shape
    met = [_met(op, x, gradient, (row, column)) for row in range(height) for column in range(width)]
    product = lax.dot_general(x, jnp.concatenate(met, -1), (((0, 1, 2), (0, 1, 2)), ((), ())))
    return product.reshape(source, height, width, target).transpose(1, 2, 0, 3)


def _met(op: Conv2d, x: Array, gradient: Array, cell: tuple[int, int]) -> Array:
    """At each place of `x` the gradient of the output that meets it under a cell of the kernel, or 0."""
    before = (cell[0] - op.padding[0], cell[1] - op.padding[2])
    sides = [(low, x.shape[a] - gradient.shape[a] - low, 0) for a, low in zip((1, 2), before, strict=True)]
    return lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *sides, (0, 0, 0)])


def _gradient_by_phases(op: Conv2d, x: Array, kernel: Array, gradient: Array) -> Array:
    """By the x of a strided convolution: one unstrided convolution makes all phases of the stride at once.

    Row i = stride a + phase of x meets row a + d of the output under row phase + padding - stride d of the
    kernel; so for columns.
    """
    count, height, width, source = x.shape
    (rows, row_start), (columns, column_start) = (
        _phases(kernel.shape[axis], op.stride[axis], op.padding[2 * axis]) for axis in (0, 1)
    )
    # One row and column of zeros more, for the cells that no row and column of the kernel meets.
    filled = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))[rows][:, :, columns]
    phases = filled.transpose(0, 2, 5, 1, 3, 4).reshape(len(rows), len(columns), kernel.shape[3], -1)
    cells = -(-height // op.stride[0]), -(-width // op.stride[1])
    sides = [
        (-start, cells[axis] + start + len(table) - 1 - gradient.shape[1 + axis])
        for axis, (table, start) in enumerate(((rows, row_start), (columns, column_start)))
    ]
    made = lax.conv_general_dilated(
        gradient, phases, (1, 1), sides, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    apart = made.reshape(count, *cells, *op.stride, source).transpose(0, 1, 3, 2, 4, 5)
    whole = apart.reshape(count, cells[0] * op.stride[0], cells[1] * op.stride[1], source)
    return whole[:, :height, :width]


def _phases(kernel: int, stride: int, padding: int) -> tuple[NDArray[np.int64], int]:
    """The kernel's row by d - `start` and phase, `kernel` where there is none; and `start`, the least d."""
    phase = np.arange(stride)
    start, stop = -((kernel - 1 - padding) // stride), (stride - 1 + padding) // stride + 1
    row = phase + padding - stride * np.arange(start, stop)[:, None]
    return np.where((row >= 0) & (row < kernel), row, kernel), start
