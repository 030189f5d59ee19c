"""Linear resampling along one axis: every output position is a weighted sum of a few input positions.

Which positions and which weights is known before anything runs. The gradient is the same kind of sum with the
table transposed; left to JAX it would be a scatter, several times slower on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial, reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from gsto_spec.reference import interpolation

MOST_TAPS, SMALL_SIZE = 8, 32
"""Sums of more terms, and axes no longer than this, are done as a matrix product: quicker to compile."""


@dataclass(frozen=True, eq=False)
class Taps:
    """output[i] = sum over k of `weight[i, k]` input[`index[i, k]`]; rows are filled up with weight 0."""

    source: int
    index: NDArray[np.int32]
    weight: NDArray[np.float64]

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """The map as a target x source matrix."""
        matrix = np.zeros((len(self.index), self.source))
        np.add.at(matrix, (np.arange(len(self.index))[:, None], self.index), self.weight)
        return matrix

    @cached_property
    def transposed(self) -> Taps:
        """The taps of the transposed map, from outputs back to inputs."""
        target, count = self.index.shape
        used = self.weight.ravel() != 0
        reader = np.repeat(np.arange(target), count)[used]
        return _taps(target, self.source, self.index.ravel()[used], reader, self.weight.ravel()[used])


def _taps(
    source: int, target: int, outputs: NDArray[Any], inputs: NDArray[Any], weights: NDArray[Any]
) -> Taps:
    """Taps from a list of (output, input, weight)."""
    order = np.argsort(outputs, kind="stable")
    outputs = outputs[order]
    rank = np.arange(len(outputs)) - np.searchsorted(outputs, outputs)
    index = np.zeros((target, int(rank.max(initial=0)) + 1), np.int32)
    weight = np.zeros(index.shape)
    index[outputs, rank], weight[outputs, rank] = inputs[order], weights[order]
    return Taps(source, index, weight)


@lru_cache(maxsize=1024)
def bilinear(source: int, target: int, align_corners: bool) -> Taps:
    """Linear interpolation from `source` to `target` positions; see `gsto_spec.reference.interpolation`."""
    low, high, share = interpolation(source, target, align_corners)
    return Taps(source, np.stack([low, high], 1).astype(np.int32), np.stack([1 - share, share], 1))


@lru_cache(maxsize=1024)
def nearest(source: int, target: int) -> Taps:
    """Position floor(i source / target)."""
    index = np.arange(target)[:, None] * source // target
    return Taps(source, index.astype(np.int32), np.ones(index.shape))


@lru_cache(maxsize=1024)
def bin_means(source: int, target: int) -> Taps:
    """The mean of positions floor(i source / target) up to, without, ceil((i + 1) source / target)."""
    starts = np.arange(target) * source // target
    lengths = -(-(np.arange(target) + 1) * source // target) - starts
    outputs = np.repeat(np.arange(target), lengths)
    inputs = np.arange(len(outputs)) - np.repeat(np.cumsum(lengths) - lengths - starts, lengths)
    return _taps(source, target, outputs, inputs, 1 / lengths[outputs])


def resample(x: Array, axis: int, table: Callable[[int, int], Taps], target: int) -> Array:
    """`x` with `axis` resampled to `target` positions by `bilinear`, `nearest` or `bin_means`.

    Differentiable in reverse mode, any number of times.
    """
    source = x.shape[axis]
    return x if source == target else _apply(x, axis, table(source, target))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _apply(x: Array, axis: int, taps: Taps) -> Array:
    target, count = taps.index.shape
    if count > MOST_TAPS or max(taps.source, target) <= SMALL_SIZE:
        return _product(x, axis, taps)
    return _weighted_sum(x, axis, taps)


def _forward(x: Array, axis: int, taps: Taps) -> tuple[Array, None]:
    return _apply(x, axis, taps), None


def _backward(axis: int, taps: Taps, _: None, gradient: Array) -> tuple[Array]:
    return (_apply(gradient, axis, taps.transposed),)


_apply.defvjp(_forward, _backward)


def _weighted_sum(x: Array, axis: int, taps: Taps) -> Array:
    along = [-1 if dimension == axis else 1 for dimension in range(x.ndim)]
    terms = [
        x.take(index, axis=axis, mode="clip") * weight.astype(x.dtype).reshape(along)
        for index, weight in zip(taps.index.T, taps.weight.T, strict=True)
    ]
    total: Array = reduce(add, terms)
    return total


def _product(x: Array, axis: int, taps: Taps) -> Array:
    axes = "ih,nhwc->niwc" if axis == 1 else "iw,nhwc->nhic"
    return jnp.einsum(axes, taps.matrix.astype(x.dtype), x, precision=lax.Precision.HIGHEST)
