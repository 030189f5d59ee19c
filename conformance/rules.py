"""Every op by rule: its value, its gradient (reverse mode), and the magnitudes that each of them sums.

Written apart from `gsto_spec.reference` and from every backend; `meta/test_meta_oracle.py` proves it equal to
the former, and its gradients equal to the complex step through the former. Any real dtype, any order of
summation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from conformance.arithmetic import PLAIN, Arithmetic
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
from gsto_spec.reference import interpolation

Array = NDArray[Any]
Gradients = list[Array | None]
PIXELS = (0, 2, 3)


def value(op: Op, operands: Sequence[Array], training: bool, sums: Arithmetic = PLAIN) -> Array:
    """What the op computes; of a leaf, nothing."""
    x = operands[0]
    match op:
        case Input() | Parameter():
            raise AssertionError(f"a leaf has a value, it is not computed: {op.kind}")
        case Conv2d():
            return _conv2d(op, x, operands[1:], sums)
        case BatchNorm():
            return _batch_norm(op, operands, training, sums)
        case Relu():
            return np.maximum(x, 0)
        case Sigmoid():
            return _sigmoid(x)
        case Softmax():
            raised = np.exp(x - x.max(axis=1, keepdims=True))
            return np.asarray(raised / sums.total(raised, (1,)))
        case Add():
            return _add(operands)
        case Mul():
            return np.asarray(x * operands[1])
        case Concat():
            return np.concatenate(operands, axis=1)
        case Slice():
            return x[:, op.start : op.stop]
        case Resize() | AvgPool() | AdaptiveAvgPool():
            rows, columns = resampling(op, x, operands[-1], sums)
            return sums.product(sums.product(rows, x), columns.T)
        case MaxPool():
            return np.asarray(window_cells(op, x).max(axis=0))
        case _:
            assert_never(op)


def gradients(
    op: Op, operands: Sequence[Array], result: Array, upper: Array, sums: Arithmetic = PLAIN
) -> Gradients:
    """The loss's gradient for every operand in training, from the gradient `upper` for the result."""
    x = operands[0]
    match op:
        case Input() | Parameter():
            raise AssertionError(f"a leaf has no operands: {op.kind}")
        case Conv2d():
            return _conv2d_gradients(op, operands, upper, sums)
        case BatchNorm():
            return _batch_norm_gradients(op, operands, upper, sums)
        case Relu():
            return [np.where(x > 0, upper, 0).astype(upper.dtype)]
        case Sigmoid():
            return [upper * result * (1 - result)]
        case Softmax():
            return [result * (upper - sums.total(upper * result, (1,)))]
        case Add():
            return [upper] * len(operands)
        case Mul():
            sides = (upper * operands[1], upper * x)
            return [_unrepeat(side, o.shape, sums) for side, o in zip(sides, operands, strict=True)]
        case Concat():
            cuts = np.cumsum([operand.shape[1] for operand in operands])[:-1]
            return list(np.split(upper, cuts, axis=1))
        case Slice():
            around = ((0, 0), (op.start, x.shape[1] - op.stop), (0, 0), (0, 0))
            return [np.pad(upper, around)]
        case Resize() | AvgPool() | AdaptiveAvgPool():
            rows, columns = resampling(op, x, operands[-1], sums)
            down = sums.product(sums.product(rows.T, upper), columns)
            return [down, *[None] * (len(operands) - 1)]
        case MaxPool():
            return [_max_pool_gradient(op, x, upper)]
        case _:
            assert_never(op)


def _add(operands: Sequence[Array]) -> Array:
    total = operands[0]
    for operand in operands[1:]:
        total = total + operand
    return total


def _sigmoid(x: Array) -> Array:
    decay = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, decay) / (1 + decay))


def _unrepeat(upper: Array, shape: tuple[int, ...], sums: Arithmetic) -> Array:
    """The gradient for an operand that was repeated along its dimensions of 1."""
    repeated = tuple(axis for axis in range(4) if shape[axis] == 1 and upper.shape[axis] != 1)
    return sums.total(upper, repeated) if repeated else upper


# Windows


def _pad(x: Array, padding: Padding, fill: float = 0.0) -> Array:
    top, bottom, left, right = padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)


@dataclass(frozen=True)
class _Windows:
    """Where the cells of a window lie in a padded feature map, at every place of the window."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding
    dilation: tuple[int, int] = (1, 1)

    def slices(self, shape: Sequence[int]) -> list[tuple[slice, ...]]:
        """One slice per cell, row by row; `shape` is the unpadded map's."""
        places = [self._places(shape[2 + axis], axis) for axis in (0, 1)]
        return [
            (slice(None), slice(None), self._along(0, u, places[0]), self._along(1, v, places[1]))
            for u in range(self.kernel[0])
            for v in range(self.kernel[1])
        ]

    def _places(self, size: int, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        padded = size + self.padding[2 * axis] + self.padding[2 * axis + 1]
        return (padded - reach) // self.stride[axis] + 1

    def _along(self, axis: int, cell: int, places: int) -> slice:
        start, stride = cell * self.dilation[axis], self.stride[axis]
        return slice(start, start + (places - 1) * stride + 1, stride)

    def gather(self, x: Array, fill: float = 0.0) -> Array:
        """cells x N x C x h' x w'."""
        padded = _pad(x, self.padding, fill)
        return np.stack([padded[place] for place in self.slices(x.shape)])

    def scatter(self, cells: Array, shape: Sequence[int]) -> Array:
        """The adjoint of `gather`: every cell added back to where it came from."""
        top, bottom, left, right = self.padding
        padded = np.zeros((*shape[:2], shape[2] + top + bottom, shape[3] + left + right), cells.dtype)
        for cell, place in zip(cells, self.slices(shape), strict=True):
            padded[place] += cell
        return padded[:, :, top : top + shape[2], left : left + shape[3]]


# Convolution: per group a matrix O/g x K times columns K x (N h' w'), K = C/g kh kw


def _conv2d_windows(op: Conv2d, weight: Array) -> _Windows:
    return _Windows((weight.shape[2], weight.shape[3]), op.stride, op.padding, op.dilation)


def _columns(op: Conv2d, x: Array, weight: Array) -> Array:
    cells = _conv2d_windows(op, weight).gather(x)
    count, batch, channels, height, width = cells.shape
    grouped = cells.reshape(count, batch, op.groups, channels // op.groups, height * width)
    ordered = grouped.transpose(2, 3, 0, 1, 4)
    return ordered.reshape(op.groups, -1, batch * height * width)


def _matrix(op: Conv2d, weight: Array) -> Array:
    return weight.reshape(op.groups, weight.shape[0] // op.groups, -1)


def _conv2d(op: Conv2d, x: Array, stored: Sequence[Array], sums: Arithmetic) -> Array:
    weight = stored[0]
    height, width = _conv2d_windows(op, weight).gather(x[:1, :1]).shape[-2:]
    result = sums.product(_matrix(op, weight), _columns(op, x, weight))
    result = result.reshape(weight.shape[0], x.shape[0], height, width).swapaxes(0, 1)
    return result + stored[1][:, None, None] if len(stored) == 2 else result


def _conv2d_gradients(op: Conv2d, operands: Sequence[Array], upper: Array, sums: Arithmetic) -> Gradients:
    x, weight = operands[:2]
    flat = upper.swapaxes(0, 1).reshape(op.groups, weight.shape[0] // op.groups, -1)
    for_weight = sums.product(flat, _columns(op, x, weight).swapaxes(1, 2)).reshape(weight.shape)
    columns = sums.product(_matrix(op, weight).swapaxes(1, 2), flat)
    cells = columns.reshape(x.shape[1], -1, x.shape[0], *upper.shape[2:]).transpose(1, 2, 0, 3, 4)
    found: Gradients = [_conv2d_windows(op, weight).scatter(cells, x.shape), for_weight]
    return [*found, sums.total(upper, PIXELS).reshape(-1)] if len(operands) == 3 else found


# Batch norm


def _per_channel(*arrays: Array) -> tuple[Array, ...]:
    return tuple(array.reshape(1, -1, 1, 1) for array in arrays)


def batch_statistics(x: Array, sums: Arithmetic = PLAIN) -> tuple[Array, Array]:
    """Mean and variance over n of each channel, in two passes, as 1 x C x 1 x 1."""
    count = x.dtype.type(x[:, 0].size)
    mean = sums.total(x, PIXELS) / count
    return mean, sums.total(np.square(x - mean), PIXELS) / count


def _batch_norm(op: BatchNorm, operands: Sequence[Array], training: bool, sums: Arithmetic) -> Array:
    x = operands[0]
    weight, bias, mean, variance = _per_channel(*operands[1:])
    if training:
        mean, variance = batch_statistics(x, sums)
    if sums.folds:
        scale = weight / np.sqrt(variance + x.dtype.type(op.eps))
        return np.asarray(x * scale + (bias - mean * scale))
    return np.asarray((x - mean) / np.sqrt(variance + x.dtype.type(op.eps)) * weight + bias)


def normalised(op: BatchNorm, x: Array, sums: Arithmetic = PLAIN) -> tuple[Array, Array]:
    """(x - mean) / deviation and the deviation, by the batch's statistics."""
    mean, variance = batch_statistics(x, sums)
    deviation = np.sqrt(variance + x.dtype.type(op.eps))
    return (x - mean) / deviation, deviation


def _batch_norm_gradients(
    op: BatchNorm, operands: Sequence[Array], upper: Array, sums: Arithmetic
) -> Gradients:
    x, weight = operands[0], operands[1].reshape(1, -1, 1, 1)
    unit, deviation = normalised(op, x, sums)
    count = x.dtype.type(x[:, 0].size)
    for_weight, for_bias = sums.total(upper * unit, PIXELS), sums.total(upper, PIXELS)
    for_x = weight / deviation * (upper - for_bias / count - unit * for_weight / count)
    return [for_x, for_weight.reshape(-1), for_bias.reshape(-1), None, None]


def frozen_norm_gradients(
    op: BatchNorm, operands: Sequence[Array], upper: Array, sums: Arithmetic = PLAIN
) -> Gradients:
    """`gradients` of a batch norm that normalises by its running statistics."""
    x = operands[0]
    weight, _, mean, variance = _per_channel(*operands[1:])
    deviation = np.sqrt(variance + x.dtype.type(op.eps))
    for_weight = sums.total(upper * ((x - mean) / deviation), PIXELS).reshape(-1)
    return [upper * (weight / deviation), for_weight, sums.total(upper, PIXELS).reshape(-1), None, None]


# Resampling: a matrix for the rows and one for the columns


def resampling(
    op: Resize | AvgPool | AdaptiveAvgPool, x: Array, like: Array, sums: Arithmetic = PLAIN
) -> tuple[Array, Array]:
    """Matrices target x source whose products `rows @ x @ columns.T` are the op."""
    matrices = []
    for axis in (0, 1):
        source = x.shape[2 + axis]
        target = like.shape[2 + axis]
        match op:
            case AvgPool():
                matrix = _averaging(op, source, axis)
            case AdaptiveAvgPool():
                matrix = _bins(source, op.size[axis] if op.size else target)
            case Resize():
                rounded = x.dtype if sums.rounds_coordinates else None
                matrix = _taps(op, source, op.size[axis] if op.size else target, rounded)
        matrices.append(matrix.astype(x.dtype))
    return matrices[0], matrices[1]


def _taps(op: Resize, source: int, target: int, rounded: np.dtype[Any] | None) -> Array:
    matrix, index = np.zeros((target, source)), np.arange(target)
    if op.method == "nearest":
        matrix[index, index * source // target] = 1
        return matrix
    low, high, share = interpolation(source, target, op.align_corners)
    if rounded is not None:
        low, high, share = _rounded_interpolation(source, target, op.align_corners, rounded)
    np.add.at(matrix, (index, low), 1 - share)
    np.add.at(matrix, (index, high), share)
    return matrix


def _rounded_interpolation(
    source: int, target: int, align_corners: bool, dtype: np.dtype[Any]
) -> tuple[Array, Array, Array]:
    """`interpolation` by coordinates that are rounded numbers; a cell may be missed by an ulp."""
    index = np.arange(target).astype(dtype)
    if align_corners:
        where = index * dtype.type((source - 1) / max(target - 1, 1))
    else:
        half = dtype.type(0.5)
        where = np.maximum((index + half) * dtype.type(source / target) - half, dtype.type(0))
    low = np.minimum(where.astype(int), source - 1)
    return low, np.minimum(low + 1, source - 1), where - low.astype(dtype)


def _bins(source: int, target: int) -> Array:
    matrix = np.zeros((target, source))
    for i in range(target):
        low, high = i * source // target, -(-(i + 1) * source // target)
        matrix[i, low:high] = 1 / (high - low)
    return matrix


def _averaging(op: AvgPool, source: int, axis: int) -> Array:
    kernel, stride = op.kernel[axis], op.stride[axis]
    before, after = op.padding[2 * axis], op.padding[2 * axis + 1]
    places = (source + before + after - kernel) // stride + 1
    starts = np.arange(places)[:, None] * stride - before
    index = np.arange(source)
    inside = ((index >= starts) & (index < starts + kernel)).astype(float)
    return inside / (kernel if op.count_padding else inside.sum(axis=1, keepdims=True))


# Max pooling: the first of equals wins, row by row


def window_cells(op: MaxPool, x: Array) -> Array:
    """cells x N x C x h' x w': what each place of the window sees."""
    return _Windows(op.kernel, op.stride, op.padding).gather(x, -np.inf)


def _max_pool_gradient(op: MaxPool, x: Array, upper: Array) -> Array:
    cells = window_cells(op, x)
    winner = np.arange(len(cells)).reshape(-1, 1, 1, 1, 1) == cells.argmax(axis=0)
    return _Windows(op.kernel, op.stride, op.padding).scatter(winner * upper, x.shape)


# Magnitudes: the same sums, of absolute values

NEIGHBOURS = 1e-3
"""The share of adjacent cells in a bilinear resize's magnitude: a coordinate off by an ulp reaches them."""


def resampling_magnitude(
    op: Resize | AvgPool | AdaptiveAvgPool, x: Array, like: Array
) -> tuple[Array, Array]:
    """`resampling` with what rounded coordinates may mix in."""
    matrices = []
    for matrix, align in zip(resampling(op, x, like), (0, 1), strict=True):
        if isinstance(op, Resize) and op.method == "bilinear":
            low, _, _ = interpolation(x.shape[2 + align], len(matrix), op.align_corners)
            for shift in (-1, 0, 1, 2):
                near = np.clip(low + shift, 0, x.shape[2 + align] - 1)
                matrix[np.arange(len(matrix)), near] += NEIGHBOURS
        matrices.append(matrix)
    return matrices[0], matrices[1]


def value_magnitude(
    op: Op, operands: Sequence[Array], result: Array, training: bool, magnitudes: Sequence[Array]
) -> Array:
    """What was summed for the result; `magnitudes` are the operands', their own absolute values or more.

    Sums take the absolute values of what they add, ops without a sum pass on their operand's magnitude.
    """
    match op:
        case BatchNorm():
            return _batch_norm_magnitude(op, operands, training, magnitudes[0])
        case Relu():
            return magnitudes[0]
        case Sigmoid():
            return np.asarray(result + result * (1 - result) * magnitudes[0])
        case Softmax():
            weighted = result * magnitudes[0]
            return np.asarray(result + weighted + result * weighted.sum(axis=1, keepdims=True))
        case Conv2d():
            return value(op, [np.abs(operand) for operand in operands], training)
        case Resize():
            rows, columns = resampling_magnitude(op, operands[0], operands[-1])
            return np.asarray(rows @ magnitudes[0] @ columns.T)
        case _:
            return value(op, magnitudes, training)


def _batch_norm_magnitude(op: BatchNorm, operands: Sequence[Array], training: bool, x: Array) -> Array:
    weight, bias, mean, variance = _per_channel(*operands[1:])
    if training:
        mean, variance = batch_statistics(operands[0])
    factor = np.abs(weight) / np.sqrt(variance + op.eps)
    return np.asarray((x + np.abs(mean)) * factor + np.abs(bias))


def gradient_magnitudes(
    op: Op, operands: Sequence[Array], result: Array, upper: Array, magnitude: Array
) -> Gradients:
    """What was summed for each of `gradients`; `magnitude` is what was summed for `upper`."""
    match op:
        case BatchNorm():
            return _batch_norm_gradient_magnitudes(op, operands, upper, magnitude)
        case Sigmoid():
            # In 1 - s both terms count: where s is nearly 1 they cancel.
            return [magnitude * result * (1 + result)]
        case Softmax():
            mixed = (magnitude * result).sum(axis=1, keepdims=True)
            return [result * (magnitude + mixed)]
        case Conv2d():
            sizes = [np.abs(operand) for operand in operands]
            for_x = gradients(op, sizes, result, np.abs(upper))[:1]
            return [*for_x, *gradients(op, sizes, result, magnitude)[1:]]
        case Mul():
            return gradients(op, [np.abs(operand) for operand in operands], result, magnitude)
        case Resize():
            rows, columns = resampling_magnitude(op, operands[0], operands[-1])
            return [rows.T @ magnitude @ columns, *[None] * (len(operands) - 1)]
        case _:
            return gradients(op, operands, result, magnitude)


def frozen_norm_gradient_magnitudes(op: BatchNorm, operands: Sequence[Array], magnitude: Array) -> Gradients:
    """What was summed for each of `frozen_norm_gradients`; `magnitude` is what was summed for `upper`."""
    x = np.abs(operands[0])
    weight, _, mean, variance = _per_channel(*operands[1:])
    deviation = np.sqrt(variance + op.eps)
    for_weight = (magnitude * ((x + np.abs(mean)) / deviation)).sum(axis=PIXELS)
    return [magnitude * (np.abs(weight) / deviation), for_weight, magnitude.sum(axis=PIXELS), None, None]


def _batch_norm_gradient_magnitudes(
    op: BatchNorm, operands: Sequence[Array], upper: Array, magnitude: Array
) -> Gradients:
    x, weight = operands[0], np.abs(operands[1]).reshape(1, -1, 1, 1)
    unit, deviation = normalised(op, x)
    mean = np.abs(x - unit * deviation)
    # (|x| + |mean|) / deviation is what the difference x - mean was made of.
    size = (np.abs(x) + mean) / deviation
    for_weight, for_bias = (magnitude * size).sum(axis=PIXELS), magnitude.sum(axis=PIXELS)
    own = np.abs(upper)
    mixed = np.abs(unit) * (own * size).mean(axis=PIXELS, keepdims=True)
    for_x = weight / deviation * (own + own.mean(axis=PIXELS, keepdims=True) + mixed)
    return [for_x, for_weight, for_bias, None, None]
