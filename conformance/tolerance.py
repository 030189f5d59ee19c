"""How far a result may lie from the exact one; `docs/numerics.md` derives every number here.

`u` is the unit roundoff: 2^-24 in float32, 2^-53 in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from conformance.rounded import FORMATS, roundings
from conformance.rules import resampling, value
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
    Parameter,
    Relu,
    Resize,
    Sigmoid,
    Slice,
    Softmax,
)  # fmt: skip
from gsto_spec.reference import interpolation

Array = NDArray[Any]

MEANING = 1e-10
"""float64: past this share of the magnitude summed it is another operation, not rounding."""
REMATERIALIZED = 1e-12
"""float64: the same between two runs of one backend, of which one computes a part of it twice."""
STATES = 1e-9
"""float64: the same after up to ten optimiser steps."""
SPREADS = 4.0
"""float32, whole graphs: how many times the largest error of the oracle's own five orders."""
RUNS = 3.0
"""float32, optimiser steps: how many times the largest difference of the oracle's own five runs."""

WIDE = 2.0**-24
"""u of float32, in which precisions of two bytes compute what `gsto_spec.precision` says."""

CHECKED_VALUES = 1e9
FAILURE = 1e-6
"""The probability that any of so many honest values passes its probabilistic bound."""

EXP_ROUNDINGS = 8
"""Error of a library's exp in units of u: 4 units in the last place."""
COORDINATE_ROUNDINGS = 4
"""Roundings in a source coordinate computed in the working precision."""


def meaning(magnitude: Array) -> Array:
    """float64: how far a value may lie from the definition's; subnormal numbers may be taken for 0."""
    return np.asarray(MEANING * magnitude + np.finfo(np.float64).tiny)


def confidence(terms: int) -> float:
    """lambda of Higham and Mary 2019, theorem 3.1, so that `FAILURE` holds for sums of so many terms."""
    return math.sqrt(2 * math.log(2 * max(terms, 1) * CHECKED_VALUES / FAILURE))


def summation(terms: int, u: float) -> float:
    """Relative error of a sum of products, in the magnitude summed: the smaller of two bounds.

    The certain one, n u / (1 - n u), and the probabilistic one, exp(lambda sqrt(n) u + n u^2 / (1 - u)) - 1.
    """
    certain = terms * u / (1 - terms * u) if terms * u < 1 else math.inf
    probable = math.expm1(confidence(terms) * math.sqrt(terms) * u + terms * u * u / (1 - u))
    return min(certain, probable)


def local_bound(op: Op, operands: Sequence[Array], result: Array, u: float) -> Array:
    """The largest error of one op in inference whose operands are given exactly, value by value."""
    tiny = float(np.finfo(np.float32).tiny) if u > 1e-10 else float(np.finfo(np.float64).tiny)
    return np.asarray(_rounding(op, operands, result, u) + tiny)


def op_bound(op: Op, operands: Sequence[Array], result: Array, precision: str) -> Array:
    """`local_bound` in float32 or float64; in a precision of two bytes with the roundings to it.

    There `operands` are those of `rounded.read`.
    """
    if precision not in FORMATS:
        return local_bound(op, operands, result, float(np.finfo(precision).eps) / 2)
    form, count = FORMATS[precision], roundings(op, len(operands))
    u, tiny = form.unit_roundoff, form.smallest_normal
    if isinstance(op, Add):
        return np.asarray(summation(count, u) * value(op, [np.abs(x) for x in operands], False) + tiny)
    wide = local_bound(op, operands, result, WIDE)
    bound = wide + (u * (np.abs(result) + wide) if count else 0.0) + tiny
    if count == 2:  # before a bias is added, and after
        bound += (u + u * u) * (np.abs(result - operands[2][:, None, None]) + wide)
    return np.asarray(bound)


def carried(op: Op, operands: Sequence[Array], result: Array, errors: Sequence[Array]) -> Array:
    """How far a result moves where its operands are off by so much."""
    match op:
        case BatchNorm():
            weight, variance = operands[1][:, None, None], operands[4][:, None, None]
            return np.asarray(errors[0] * np.abs(weight) / np.sqrt(variance + op.eps))
        case Sigmoid():
            return np.asarray(errors[0] / 4)
        case Softmax():
            return np.asarray(result * (errors[0] + (result * errors[0]).sum(axis=1, keepdims=True)))
        case Mul():
            left, right = (np.abs(operand) for operand in operands)
            return np.asarray(left * errors[1] + right * errors[0] + errors[0] * errors[1])
        case Conv2d():
            return value(op, [errors[0], np.abs(operands[1])], False)
        case _:
            return value(op, errors, False)


def _rounding(op: Op, operands: Sequence[Array], result: Array, u: float) -> Array:
    sizes = [np.abs(operand) for operand in operands]
    match op:
        case Input() | Parameter() | Relu() | Concat() | Slice() | MaxPool():
            return np.zeros_like(result)
        case Conv2d():
            terms = math.prod(operands[1].shape[1:]) + len(operands) - 2
            return summation(terms, u) * value(op, sizes, False)
        case BatchNorm():
            return summation(8, u) * _batch_norm_size(op, operands)
        case Sigmoid():
            return np.full_like(result, (EXP_ROUNDINGS / 2 + 1) * u)
        case Softmax():
            return _softmax(operands[0], result, u)
        case Add():
            return summation(len(operands) - 1, u) * value(op, sizes, False)
        case Mul():
            return u * np.abs(result)
        case AvgPool() | AdaptiveAvgPool():
            return summation(_cells(op, operands) + 4, u) * value(op, sizes, False)
        case Resize():
            return _resize(op, operands, u)
        case _:
            assert_never(op)


def _batch_norm_size(op: BatchNorm, operands: Sequence[Array]) -> Array:
    x, weight, bias, mean, variance = operands
    weight, bias, mean, variance = (v[:, None, None] for v in (weight, bias, mean, variance))
    scale = np.abs(weight) / np.sqrt(variance + op.eps)
    return np.asarray((np.abs(x) + np.abs(mean)) * scale + np.abs(bias))


def _softmax(x: Array, result: Array, u: float) -> Array:
    distance = np.abs(x - x.max(axis=1, keepdims=True))
    mean_distance = (result * distance).sum(axis=1, keepdims=True)
    return np.asarray(u * result * (distance + mean_distance + 2 * EXP_ROUNDINGS + x.shape[1] + 2))


def _cells(op: AvgPool | AdaptiveAvgPool, operands: Sequence[Array]) -> int:
    """The most cells that one mean is taken of."""
    rows, columns = resampling(op, operands[0], operands[-1])
    return int((rows > 0).sum(axis=1).max() * (columns > 0).sum(axis=1).max())


def _resize(op: Resize, operands: Sequence[Array], u: float) -> Array:
    """Rounding of the taps' sum, and of the coordinates: their error x the difference of neighbours."""
    x = operands[0]
    rows, columns = resampling(op, x, operands[-1])
    if op.method == "nearest":
        return np.zeros((*x.shape[:2], len(rows), len(columns)))
    size = (len(rows), len(columns))
    summed = rows @ np.abs(x) @ columns.T
    down = _coordinate_error(op, x.shape[2], size[0], u)[:, None] * _steepest(op, x, size)
    flipped = _steepest(op, x.swapaxes(2, 3), size[::-1]).swapaxes(2, 3)
    return np.asarray(8 * u * summed + down + _coordinate_error(op, x.shape[3], size[1], u) * flipped)


def _coordinate_error(op: Resize, source: int, target: int, u: float) -> Array:
    low, _, share = interpolation(source, target, op.align_corners)
    return np.asarray(COORDINATE_ROUNDINGS * u * (low + share + 1))


def _steepest(op: Resize, x: Array, size: Sequence[int]) -> Array:
    """The largest difference of vertical neighbours near each target cell, a cell around it included."""
    steps = np.abs(np.diff(x, axis=2)) if x.shape[2] > 1 else np.zeros_like(x)
    low, _, _ = interpolation(x.shape[2], size[0], op.align_corners)
    near = [steps[:, :, np.clip(low + shift, 0, steps.shape[2] - 1)] for shift in (-1, 0, 1)]
    rows = np.maximum.reduce(near)
    low, high, _ = interpolation(x.shape[3], size[1], op.align_corners)
    return np.asarray(np.maximum(rows[:, :, :, low], rows[:, :, :, high]))


def spread(exact: Array, runs: Sequence[Array]) -> float:
    """`SPREADS` x the largest norm of the errors of the oracle's own runs."""
    return SPREADS * max(norm(np.asarray(run, np.float64) - exact) for run in runs)


def norm(x: Array) -> float:
    """The Euclidean norm, in float64."""
    return float(np.linalg.norm(np.asarray(x, np.float64)))
