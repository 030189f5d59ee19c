"""Sizes as expressions in the input's height and width, with an exact test of equality.

Every size that a chain of windows can make of an input size n has the form

    (n + offset) // stride + constant,    0 <= offset < stride,

because floor((floor(x / s) + c) / t) = floor((x + s c) / (s t)) for integers. The triple is unique, so two
sizes are equal for *every* input exactly when their triples are: no sampling of sizes, no false alarm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BATCH = "N"
HEIGHT = "H"
WIDTH = "W"


@dataclass(frozen=True, slots=True)
class Size:
    """`(symbol + offset) // stride + constant`; build one with `Size.of(symbol)` and `window`."""

    symbol: str
    offset: int = 0
    stride: int = 1
    constant: int = 0

    def window(self, kernel: int, stride: int, padding: int, dilation: int) -> Size:
        """The number of places of a window: `(n + padding - dilation (kernel - 1) - 1) // stride + 1`."""
        reach = padding - dilation * (kernel - 1) - 1
        offset = self.offset + self.stride * (self.constant + reach)
        whole, rest = divmod(offset, self.stride * stride)
        return Size(self.symbol, rest, self.stride * stride, whole + 1)

    def at(self, values: Mapping[str, int]) -> int:
        """The number at given values of the symbols."""
        return (values[self.symbol] + self.offset) // self.stride + self.constant

    def __str__(self) -> str:
        inner = f"({self.symbol}+{self.offset})" if self.offset else self.symbol
        text = f"{inner}//{self.stride}" if self.stride > 1 else inner
        return f"{text}{self.constant:+d}" if self.constant else text


Dim = int | Size
Shape = tuple[Dim, ...]

BATCH_SIZE = Size(BATCH)


def feature_shape(channels: int, height: Dim, width: Dim) -> Shape:
    """The shape of a feature map, N x C x h x w."""
    return (BATCH_SIZE, channels, height, width)


def window_size(size: Dim, kernel: int, stride: int, padding: int, dilation: int) -> Dim:
    """`Size.window` for an expression or a fixed number."""
    if isinstance(size, Size):
        return size.window(kernel, stride, padding, dilation)
    return (size + padding - dilation * (kernel - 1) - 1) // stride + 1


def is_feature(shape: Shape) -> bool:
    """Whether a shape is a feature map's: four dimensions, the first of them the batch."""
    return len(shape) == 4 and shape[0] == BATCH_SIZE


def concrete(shape: Shape, values: Mapping[str, int]) -> tuple[int, ...]:
    """A shape at given values of N, H and W."""
    return tuple(dim.at(values) if isinstance(dim, Size) else dim for dim in shape)


def show(shape: Sequence[Dim]) -> str:
    """A shape as people write it: `N x 18 x (H+3)//4 x (W+3)//4`."""
    return " x ".join(str(dim) for dim in shape) if shape else "scalar"
