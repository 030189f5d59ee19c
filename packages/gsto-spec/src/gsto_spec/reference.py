"""The definition of every op: slow, obvious numpy, float64 unless told otherwise.

Whatever a backend computes is right when it agrees with this file. Nothing here is fast on purpose. Complex
numbers pass through, every choice being made on the real part: a tiny imaginary part carries a derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gsto_spec.errors import FEW, GraphError, WeightsError, listed
from gsto_spec.graph import Graph, Node
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
    Padding,
    Parameter,
    Relu,
    Resize,
    Sigmoid,
    Slice,
    Softmax,
)  # fmt: skip
from gsto_spec.sizes import show

Array = NDArray[Any]
Arrays = dict[str, Array]


@overload
def evaluate(graph: Graph, weights: Mapping[str, Array], inputs: Mapping[str, Array],
             dtype: DTypeLike = ..., *, train_mode: bool) -> tuple[Arrays, Arrays]: ...  # fmt: skip
@overload
def evaluate(graph: Graph, weights: Mapping[str, Array], inputs: Mapping[str, Array],
             dtype: DTypeLike = ...) -> Arrays: ...  # fmt: skip
def evaluate(
    graph: Graph, weights: Mapping[str, Array], inputs: Mapping[str, Array],
    dtype: DTypeLike = np.float64, *, train_mode: bool = False,
) -> Any:  # fmt: skip
    """The outputs of a graph: output name -> N x C x h x w, in the order of `graph.outputs`.

    `weights` holds exactly `graph.parameters`; `inputs` an N x C x H x W array for each input. With
    `train_mode=True` batch norm takes the batch's statistics, and the answer is a pair (outputs, new
    running statistics by canonical name).

    Errors: `WeightsError` for missing, undeclared or misshapen arrays; `GraphError` for sizes.
    """
    values, statistics = _run(graph, weights, inputs, dtype, train_mode)
    outputs = {name: values[node] for name, node in graph.outputs.items()}
    return (outputs, statistics) if train_mode else outputs


def evaluate_nodes(
    graph: Graph, weights: Mapping[str, Array], inputs: Mapping[str, Array],
    dtype: DTypeLike = np.float64, *, train_mode: bool = False,
) -> Arrays:  # fmt: skip
    """As `evaluate`, but every node's value, leaves included."""
    return _run(graph, weights, inputs, dtype, train_mode)[0]


def _run(
    graph: Graph,
    weights: Mapping[str, Array],
    inputs: Mapping[str, Array],
    dtype: DTypeLike,
    train_mode: bool,
) -> tuple[Arrays, Arrays]:
    check_arrays("weights", graph.parameters, weights)
    _check_inputs(graph, inputs)
    evaluation = _Evaluation(np.dtype(dtype), train_mode, weights, inputs)
    values: Arrays = {}
    for node in graph.order:
        values[node.name] = evaluation.node(node, [values[name] for name in node.operands])
    return values, evaluation.statistics


@dataclass
class _Evaluation:
    dtype: np.dtype[Any]
    train_mode: bool
    weights: Mapping[str, Array]
    inputs: Mapping[str, Array]
    statistics: Arrays = field(default_factory=dict)

    def node(self, node: Node, operands: list[Array]) -> Array:
        match node.op:
            case Input():
                return np.asarray(self.inputs[node.name], self.dtype)
            case Parameter():
                return np.asarray(self.weights[node.name], self.dtype)
            case BatchNorm():
                return self._batch_norm(node, node.op, operands)
            case _:
                return compute(node.op, operands)

    def _batch_norm(self, node: Node, op: BatchNorm, operands: Sequence[Array]) -> Array:
        x, weight, bias, mean, variance = operands
        if self.train_mode:
            require_spread(node.name, x.shape)
            fresh_mean, fresh_variance = batch_statistics(x)
            names = node.operands[3:]
            updated = running_statistics(op, mean, variance, fresh_mean, fresh_variance, x[:, 0].size)
            self.statistics.update(zip(names, updated, strict=True))
            mean, variance = fresh_mean, fresh_variance
        return batch_norm(x, weight, bias, mean, variance, op.eps)


def compute(
    op: Conv2d | Relu | Sigmoid | Softmax | Add | Mul | Concat | Slice | Resize | AvgPool | MaxPool
    | AdaptiveAvgPool, operands: Sequence[Array],
) -> Array:  # fmt: skip
    """The result of one op that has neither state nor a leaf's value."""
    x = operands[0]
    match op:
        case Conv2d():
            return conv2d(op, x, operands[1], operands[2] if len(operands) == 3 else None)
        case Relu():
            return np.where(x.real <= 0, 0, x).astype(x.dtype)
        case Sigmoid():
            return sigmoid(x)
        case Softmax():
            return softmax(x)
        case Add():
            return _fold_add(operands)
        case Mul():
            return x * operands[1]
        case Concat():
            return np.concatenate(operands, axis=1)
        case Slice():
            return x[:, op.start : op.stop]
        case Resize():
            return resize(op, x, op.size or operands[1].shape[2:])
        case AvgPool():
            return avg_pool(op, x)
        case MaxPool():
            return max_pool(op, x)
        case AdaptiveAvgPool():
            return adaptive_avg_pool(x, op.size or operands[1].shape[2:])
        case _:
            assert_never(op)


def _fold_add(operands: Sequence[Array]) -> Array:
    total = operands[0]
    for operand in operands[1:]:
        total = total + operand
    return total


def conv2d(op: Conv2d, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """y[n, o, i, j] = sum over c, u, v of W[o, c, u, v] x[n, c, i s + u d, j s + v d] + bias[o]."""
    padded = _pad(x, op.padding, 0.0)
    groups = [
        _conv2d_group(op, part, kernel)
        for part, kernel in zip(np.split(padded, op.groups, axis=1), np.split(weight, op.groups), strict=True)
    ]
    result = np.concatenate(groups, axis=1)
    return result if bias is None else result + bias[:, None, None]


def _conv2d_group(op: Conv2d, x: Array, weight: Array) -> Array:
    out, _, rows, columns = weight.shape
    reach = (op.dilation[0] * (rows - 1) + 1, op.dilation[1] * (columns - 1) + 1)
    height, width = _places(x, reach, op.stride)
    result = np.zeros((out, x.shape[0], height, width), x.dtype)
    for u in range(rows):
        for v in range(columns):
            seen = _strided(x, u * op.dilation[0], v * op.dilation[1], (height, width), op.stride)
            result += np.tensordot(weight[:, :, u, v], seen, axes=([1], [1]))
    return np.moveaxis(result, 0, 1)


def _pad(x: Array, padding: Padding, value: float) -> Array:
    top, bottom, left, right = padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def _places(x: Array, reach: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    height, width = ((x.shape[2 + axis] - reach[axis]) // stride[axis] + 1 for axis in (0, 1))
    return height, width


def _strided(x: Array, top: int, left: int, places: tuple[int, int], stride: tuple[int, int]) -> Array:
    """The value under one cell of a window, at every place of the window."""
    rows = slice(top, top + (places[0] - 1) * stride[0] + 1, stride[0])
    columns = slice(left, left + (places[1] - 1) * stride[1] + 1, stride[1])
    return x[:, :, rows, columns]


def batch_norm(x: Array, weight: Array, bias: Array, mean: Array, variance: Array, eps: float) -> Array:
    """(x - mean) / sqrt(variance + eps) * weight + bias, each a value per channel."""
    mean, variance, weight, bias = (v[:, None, None] for v in (mean, variance, weight, bias))
    return np.asarray((x - mean) / np.sqrt(variance + np.asarray(eps, x.dtype)) * weight + bias)


def batch_statistics(x: Array) -> tuple[Array, Array]:
    """Mean and variance (over n, two passes) of each channel over batch, rows and columns."""
    mean = x.mean(axis=(0, 2, 3))
    return mean, np.square(x - mean[:, None, None]).mean(axis=(0, 2, 3))


def running_statistics(
    op: BatchNorm, mean: Array, variance: Array, fresh_mean: Array, fresh_variance: Array, count: int
) -> tuple[Array, Array]:
    """old (1 - momentum) + new momentum; the variance first times n / (n - 1) where `op.unbiased`."""
    correction = count / (count - 1) if op.unbiased else 1.0
    keep = 1 - op.momentum
    new_variance = keep * variance + op.momentum * (fresh_variance * correction)
    return keep * mean + op.momentum * fresh_mean, new_variance


def require_spread(node: str, shape: Sequence[int]) -> None:
    """Raise `GraphError` where training statistics would come from one value per channel."""
    if shape[0] * shape[2] * shape[3] < 2:  # batch_norm_c5
        raise GraphError(node, "more than one value per channel in training (a larger batch or picture)",
                         f"an operand of {' x '.join(map(str, shape))}", "batch_norm_c5")  # fmt: skip


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), written so that exp never overflows."""
    positive = x.real >= 0
    decay = np.exp(np.where(positive, -x, x))
    return np.where(positive, 1 / (1 + decay), decay / (1 + decay)).astype(x.dtype)


def softmax(x: Array) -> Array:
    """exp(x) / sum exp(x) over the channels, shifted by the maximum so that exp never overflows."""
    raised = np.exp(x - x.real.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def resize(op: Resize, x: Array, size: Sequence[int]) -> Array:
    """`x` resampled to `size` by the op's method and coordinates."""
    if op.method == "bilinear":
        return resize_bilinear(x, size, op.align_corners)
    rows, columns = (np.arange(size[axis]) * x.shape[2 + axis] // size[axis] for axis in (0, 1))
    return x[:, :, rows][:, :, :, columns]


def resize_bilinear(x: Array, size: Sequence[int], align_corners: bool = False) -> Array:
    """Linear interpolation along rows, then columns; the coordinates are those of `interpolation`."""
    low, high, share = interpolation(x.shape[2], size[0], align_corners)
    share = share.astype(x.dtype)[:, None]
    x = x[:, :, low] * (1 - share) + x[:, :, high] * share
    low, high, share = interpolation(x.shape[3], size[1], align_corners)
    share = share.astype(x.dtype)
    return np.asarray(x[:, :, :, low] * (1 - share) + x[:, :, :, high] * share)


def interpolation(source: int, target: int, align_corners: bool) -> tuple[Array, Array, Array]:
    """For each target index: the source index below, the one above, and the share of the one above.

    The source coordinate is (i + 1/2) source / target - 1/2, raised to 0 where negative; with
    `align_corners` i (source - 1) / (target - 1), and 0 where the target is 1. Both are fractions, so the
    index is found in integers and no rounding can move it.
    """
    index = np.arange(target)
    if align_corners:
        above, below = index * (source - 1), max(target - 1, 1)
    else:
        above, below = np.maximum((2 * index + 1) * source - target, 0), 2 * target
    low = np.minimum(above // below, source - 1)
    high = np.minimum(low + 1, source - 1)
    return low, high, (above - low * below) / below


def avg_pool(op: AvgPool, x: Array) -> Array:
    """The mean of each window; without `count_padding` over the cells that are not padding."""
    total = _window_reduce(op, _pad(x, op.padding, 0.0), np.add)
    if op.count_padding:
        return np.asarray(total / x.dtype.type(op.kernel[0] * op.kernel[1]))
    inside = _pad(np.ones_like(x[:1, :1]), op.padding, 0.0)
    return total / _window_reduce(op, inside, np.add)


def max_pool(op: MaxPool, x: Array) -> Array:
    """The largest value of each window."""
    return _window_reduce(op, _pad(x, op.padding, -np.inf), np.maximum)


def _window_reduce(op: AvgPool | MaxPool, x: Array, combine: Callable[[Array, Array], Array]) -> Array:
    places = _places(x, op.kernel, op.stride)
    cells = [_strided(x, u, v, places, op.stride) for u in range(op.kernel[0]) for v in range(op.kernel[1])]
    result = cells[0]
    for cell in cells[1:]:
        result = combine(result, cell)
    return result


def adaptive_avg_pool(x: Array, size: Sequence[int]) -> Array:
    """Cell (i, j) is the mean of rows floor(i h/h') to ceil((i+1) h/h'), columns alike."""
    rows, columns = (_bins(x.shape[2 + axis], size[axis]) for axis in (0, 1))
    result = np.empty((*x.shape[:2], *size), x.dtype)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            result[:, :, i, j] = x[:, :, row, column].mean(axis=(2, 3))
    return result


def _bins(source: int, target: int) -> list[slice]:
    return [slice(i * source // target, -(-(i + 1) * source // target)) for i in range(target)]


def check_arrays(what: str, expected: Mapping[str, Sequence[int]], found: Mapping[str, Array]) -> None:
    """Raise `WeightsError`, listing every missing, undeclared and misshapen tensor at once."""
    if problems := array_problems(expected, found):
        raise misfit(what, expected, found, problems)


def misfit(
    what: str, expected: Mapping[str, Sequence[int]], found: Mapping[str, Array], problems: Sequence[str]
) -> WeightsError:
    """The error of tensors with these problems; where they are many, how many fit stands first."""
    if len(problems) <= FEW:
        return WeightsError(f"{what}: {listed(problems)}", problems)
    fit = sum(name in found and tuple(found[name].shape) == tuple(expected[name]) for name in expected)
    others = sum(name not in expected for name in found)
    verdict = f"of the {len(expected):,} tensors expected {fit:,} are there in their shape"
    verdict += f", and {others:,} others" if others else ""
    foreign = others or fit < len(expected)
    ending = "; are they of another architecture? " if foreign else ": "
    return WeightsError(f"{what}: {verdict}{ending}{listed(problems)}", problems)


def array_problems(expected: Mapping[str, Sequence[int]], found: Mapping[str, Array]) -> list[str]:
    """What is missing, undeclared or misshapen, a text for each."""
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not declared" for name in found if name not in expected]
    return problems + [
        f"{name} has shape {tuple(found[name].shape)}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]


def _check_inputs(graph: Graph, inputs: Mapping[str, Array]) -> None:
    missing = sorted(set(graph.inputs) ^ set(inputs))
    if missing:
        raise GraphError("inputs", ", ".join(graph.inputs), ", ".join(inputs) or "none", "graph_c5")
    shapes = [np.shape(inputs[name]) for name in graph.inputs]
    for (name, channels), shape in zip(graph.inputs.items(), shapes, strict=True):
        if len(shape) != 4:
            raise GraphError(name, "an array of N x C x H x W", show(shape), "graph_c5")
        wanted = (shapes[0][0], channels, *shapes[0][2:])
        if shape != wanted:  # graph_c5
            raise GraphError(name, f"an array of {show(wanted)}", show(shape), "graph_c5")
    if shapes:
        batch, channels, height, width = shapes[0]
        graph.check((batch, channels, height, width))
