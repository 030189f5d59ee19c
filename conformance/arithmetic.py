"""Orders of summation, and forms of a formula: in rounded arithmetic these are the result.

So the oracle can take several, all of them such as a sound backend may take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Arithmetic:
    """Sums and matrix products as numpy and its BLAS form them.

    `folds`: batch norm as x a + b, where (x - mean) / deviation * weight + bias is the definition's form.
    `rounds_coordinates`: source coordinates of a resize in the working precision, not as fractions.
    """

    name: str = "numpy"
    folds: bool = False
    rounds_coordinates: bool = False

    def total(self, x: Array, axes: tuple[int, ...]) -> Array:
        """The sum over `axes`, which stay as dimensions of 1."""
        return np.asarray(x.sum(axis=axes, keepdims=True))

    def product(self, left: Array, right: Array) -> Array:
        """The matrix product, ... x m x k by ... x k x n."""
        return np.asarray(left @ right)


class Ordered(Arithmetic):
    """Sums formed by `reduce`, which adds the terms along a first axis in an order of its own."""

    def __init__(
        self, name: str, reduce: Callable[[Array], Array], *, folds: bool, rounds_coordinates: bool
    ) -> None:
        self.name, self.reduce = name, reduce
        self.folds, self.rounds_coordinates = folds, rounds_coordinates

    def total(self, x: Array, axes: tuple[int, ...]) -> Array:
        """See `Arithmetic.total`."""
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        terms = np.moveaxis(x, axes, range(len(axes)))
        kept = terms.shape[len(axes) :]
        return self.reduce(terms.reshape(-1, *kept)).reshape(shape)

    def product(self, left: Array, right: Array) -> Array:
        """See `Arithmetic.product`."""
        terms = left[..., :, :, None] * right[..., None, :, :]
        return self.reduce(np.moveaxis(terms, -2, 0))


def sequential(terms: Array) -> Array:
    """One after another: the error of the textbook bound, which grows with the number of terms."""
    return np.asarray(np.add.accumulate(terms, axis=0)[-1])


def backwards(terms: Array) -> Array:
    """One after another from the last."""
    return sequential(terms[::-1])


def shuffled(terms: Array) -> Array:
    """One after another in a fixed random order."""
    return sequential(terms[np.random.default_rng(len(terms)).permutation(len(terms))])


def pairwise(terms: Array) -> Array:
    """Neighbours first, then neighbours of those: what a reduction tree does."""
    while len(terms) > 1:
        odd = terms[-1:] if len(terms) % 2 else terms[:0]
        terms = np.concatenate([terms[0:-1:2] + terms[1::2], odd])
    return np.asarray(terms[0])


PLAIN = Arithmetic()
ORDERS: tuple[Arithmetic, ...] = (
    PLAIN,
    Ordered("sequential", sequential, folds=True, rounds_coordinates=True),
    Ordered("backwards", backwards, folds=False, rounds_coordinates=True),
    Ordered("shuffled", shuffled, folds=True, rounds_coordinates=False),
    Ordered("pairwise", pairwise, folds=True, rounds_coordinates=True),
)
"""The five whose spread is the yardstick of whole graphs in float32."""
