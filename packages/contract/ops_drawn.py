"""Ops to compare with their definition: drawn over odd sizes, strides, paddings and dilations."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from contract.framework import Array
from gsto_spec.ops import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv2d,
    MaxPool,
    Mul,
    Op,
    Padding,
    Relu,
    Resize,
    Sigmoid,
    Slice,
    Softmax,
)


@dataclass(frozen=True)
class Applied:
    """An op on maps and stored tensors, which it owns or which are leaves on their own."""

    op: Op
    maps: tuple[Array, ...]
    stored: tuple[Array, ...] = ()
    owned: bool = False


def array(seed: int, *shape: int) -> Array:
    """Normally distributed values."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


SIZE = st.tuples(st.integers(1, 17), st.integers(1, 17))
TWO = st.tuples(st.integers(1, 3), st.integers(1, 3))
SEED = st.integers(0, 2**31)


@st.composite
def axes(draw: st.DrawFn, largest: int, padding: int | None = None) -> tuple[int, int, int, int, int]:
    """Along one axis: a kernel, padding on both sides, dilation, and a size that holds a window.

    Without a largest padding it is smaller than the kernel.
    """
    kernel = draw(st.integers(1, largest))
    before, after = (draw(st.integers(0, kernel - 1 if padding is None else padding)) for _ in range(2))
    dilation = 1 if padding is None else draw(st.integers(1, 3))
    reach = dilation * (kernel - 1) + 1
    return kernel, before, after, dilation, draw(st.integers(max(1, reach - before - after), 17))


def sides(rows: tuple[int, ...], columns: tuple[int, ...]) -> Padding:
    """Top, bottom, left, right."""
    return rows[1], rows[2], columns[1], columns[2]


@st.composite
def convolutions(draw: st.DrawFn) -> Applied:
    """Of every stride, padding, dilation and number of groups."""
    rows, columns, seed = draw(axes(5, 3)), draw(axes(3, 3)), draw(SEED)
    groups = draw(st.sampled_from([1, 2]))
    op = Conv2d(draw(TWO), sides(rows, columns), (rows[3], columns[3]), groups)
    weight, bias = array(seed + 1, 6, 4 // groups, rows[0], columns[0]), array(seed + 2, 6)
    stored = (weight, bias) if draw(st.booleans()) else (weight,)
    return Applied(op, (array(seed, 2, 4, rows[4], columns[4]),), stored, draw(st.booleans()))


@st.composite
def batch_norms(draw: st.DrawFn) -> Applied:
    """By statistics that are stored."""
    seed, eps = draw(SEED), draw(st.sampled_from([1e-5, 1e-3, 1.0]))
    stored = (array(seed, 3), array(seed + 1, 3), array(seed + 2, 3), array(seed + 3, 3) ** 2)
    return Applied(BatchNorm(eps), (array(seed, 2, 3, *draw(SIZE)),), stored)


@st.composite
def ops_of_one_operand(draw: st.DrawFn) -> Applied:
    """Those that have a value for every value, and slices."""
    ops: list[Op] = [Relu(), Sigmoid(), Softmax(), Slice(1, 3), Slice(0, 1)]
    return Applied(draw(st.sampled_from(ops)), (5 * array(draw(SEED), 2, 3, *draw(SIZE)),))


@st.composite
def sums(draw: st.DrawFn) -> Applied:
    """Of two to four maps."""
    size, seed = draw(SIZE), draw(SEED)
    return Applied(Add(), tuple(array(seed + k, 1, 3, *size) for k in range(draw(st.integers(2, 4)))))


@st.composite
def concatenations(draw: st.DrawFn) -> Applied:
    """Of two to four maps, of one channel and more."""
    size, seed = draw(SIZE), draw(SEED)
    return Applied(Concat(), tuple(array(seed + k, 1, k + 1, *size) for k in range(draw(st.integers(2, 4)))))


@st.composite
def products(draw: st.DrawFn) -> Applied:
    """With a gate of one channel before or after, or with a stored factor."""
    size, seed, kind = draw(SIZE), draw(SEED), draw(st.sampled_from(["before", "after", "stored"]))
    gate, x = array(seed, 2, 1, *size), array(seed + 1, 2, 3, *size)
    if kind == "stored":
        return Applied(Mul(), (x,), (array(seed + 2, 1, 3, 1, 1),))
    return Applied(Mul(), (gate, x) if kind == "before" else (x, gate))


@st.composite
def bilinear_resizes(draw: st.DrawFn) -> Applied:
    """To any size, aligned at the corners or not."""
    op = Resize("bilinear", draw(st.booleans()), draw(SIZE))
    return Applied(op, (array(draw(SEED), 2, 2, *draw(SIZE)),))


@st.composite
def nearest_resizes(draw: st.DrawFn) -> Applied:
    """Between large sizes, where rounding can take the wrong neighbour."""
    source, target = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    return Applied(Resize("nearest", size=(target, 3)), (np.arange(2.0 * source).reshape(1, 1, source, 2),))


@st.composite
def pools(draw: st.DrawFn) -> Applied:
    """Means with and without the padding, and maxima."""
    rows, columns, stride = draw(axes(4)), draw(axes(4)), draw(TWO)
    kernel, padding = (rows[0], columns[0]), sides(rows, columns)
    kind = draw(st.sampled_from(["avg", "mean", "max"]))
    op: Op = MaxPool(kernel, stride, padding)
    if kind != "max":
        op = AvgPool(kernel, stride, padding, count_padding=kind == "avg")
    return Applied(op, (array(draw(SEED), 2, 3, rows[4], columns[4]),))


@st.composite
def adaptive_pools(draw: st.DrawFn) -> Applied:
    """From any size to any size."""
    return Applied(AdaptiveAvgPool(draw(SIZE)), (array(draw(SEED), 2, 2, *draw(SIZE)),))


DRAWN: dict[str, st.SearchStrategy[Applied]] = {
    "conv2d": convolutions(),
    "batch_norm": batch_norms(),
    "one operand": ops_of_one_operand(),
    "add": sums(),
    "concat": concatenations(),
    "mul": products(),
    "resize bilinear": bilinear_resizes(),
    "resize nearest": nearest_resizes(),
    "pool": pools(),
    "adaptive pool": adaptive_pools(),
}
