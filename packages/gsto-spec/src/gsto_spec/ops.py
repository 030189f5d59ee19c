"""The closed set of operations: fields, shape rule, cost rule, labelled constraints.

An op is frozen data. What it computes is defined once, in `gsto_spec.reference`; `docs/ops.md` has a section
for each. A label such as `conv2d_c4` names one constraint: a heading there, a comment at the line here that
enforces it, and a test. Fields marked `TRAINING` do not change what inference computes and stay out of a
graph's digest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from gsto_spec.errors import require
from gsto_spec.sizes import HEIGHT, WIDTH, Shape, Size, feature_shape, is_feature, show, window_size

TRAINING = {"training_only": True}
"""Metadata of fields that only training reads."""

Padding = tuple[int, int, int, int]
"""Rows and columns of padding: top, bottom, left, right."""

Concrete = tuple[int, ...]


class OpBase:
    """What every op offers: its `kind` (the name in JSON and in errors) and two rules."""

    __slots__ = ()
    kind: ClassVar[str]

    def infer(self, operands: Sequence[Shape]) -> Shape:
        """The shape of the result. Raises `ConstraintError` where the operands do not fit."""
        raise NotImplementedError

    def multiply_adds(self, operands: Sequence[Concrete], result: Concrete) -> int:
        """Multiply-adds of one evaluation; additions, comparisons and exponentials count nothing."""
        del operands, result
        return 0


def _arity(label: str, operands: Sequence[Shape], expected: str, holds: bool) -> None:
    require(holds, label, expected, f"{len(operands)}")


def _feature(label: str, shape: Shape) -> None:
    require(is_feature(shape), label, "a feature map (N x C x h x w)", show(shape))


_TO_ONE_SIZE = "bring them to one size with resize(like=...)"


def _mend(operands: Sequence[Shape], channels: str) -> str:
    """The advice for operands that differ: `channels` where only those of feature maps do."""
    of_one_size = all(is_feature(shape) and shape[2:] == operands[0][2:] for shape in operands)
    return channels if of_one_size else _TO_ONE_SIZE


def _channels(shape: Shape) -> int:
    assert isinstance(shape[1], int)
    return shape[1]


def _window_fields(label: str, stride: tuple[int, int], padding: Padding, *least_one: int) -> None:
    sane = min(*stride, *least_one) >= 1 and min(padding) >= 0
    require(sane, label, "kernel, stride and dilation of at least 1, padding of at least 0",
            f"stride {stride}, padding {padding}, kernel and dilation {least_one}")  # fmt: skip


def _windowed(
    shape: Shape, channels: int, kernel: Sequence[int], stride: Sequence[int],
    padding: Padding, dilation: Sequence[int] = (1, 1),
) -> Shape:  # fmt: skip
    top, bottom, left, right = padding
    height = window_size(shape[2], kernel[0], stride[0], top + bottom, dilation[0])
    width = window_size(shape[3], kernel[1], stride[1], left + right, dilation[1])
    return feature_shape(channels, height, width)


@dataclass(frozen=True, slots=True)
class Input(OpBase):
    """A leaf: an image or feature map given by the caller, N x `channels` x H x W."""

    kind: ClassVar[str] = "input"
    channels: int = 3

    def infer(self, operands: Sequence[Shape]) -> Shape:
        _arity("input_c1", operands, "no operands", not operands)  # input_c1
        require(self.channels >= 1, "input_c2", "at least 1 channel", self.channels)  # input_c2
        return feature_shape(self.channels, Size(HEIGHT), Size(WIDTH))


@dataclass(frozen=True, slots=True)
class Parameter(OpBase):
    """A leaf: a stored tensor, learnt or (running statistics) kept.

    `initial` and `scale` say how a new network draws it: `constant` fills with `scale`, `normal` has that
    standard deviation, `fan_in_normal` has `scale / sqrt(values per output channel)`.
    """

    kind: ClassVar[str] = "parameter"
    shape: tuple[int, ...]
    initial: Literal["constant", "normal", "fan_in_normal"] = field(default="constant", metadata=TRAINING)
    scale: float = field(default=0.0, metadata=TRAINING)
    trainable: bool = field(default=True, metadata=TRAINING)

    def infer(self, operands: Sequence[Shape]) -> Shape:
        _arity("parameter_c1", operands, "no operands", not operands)  # parameter_c1
        sane = len(self.shape) >= 1 and min(self.shape) >= 1
        require(sane, "parameter_c2", "one or more dimensions of at least 1", self.shape)  # parameter_c2
        return self.shape


@dataclass(frozen=True, slots=True)
class Conv2d(OpBase):
    """Cross-correlation of x (N x C x h x w) with a kernel (O x C/groups x kh x kw), and a bias (O)."""

    kind: ClassVar[str] = "conv2d"
    stride: tuple[int, int] = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def infer(self, operands: Sequence[Shape]) -> Shape:
        _arity("conv2d_c1", operands, "x, weight and optionally bias", len(operands) in (2, 3))  # conv2d_c1
        x, weight = operands[:2]
        _feature("conv2d_c2", x)  # conv2d_c2
        sane = len(weight) == 4 and all(isinstance(dim, int) for dim in weight)
        require(sane, "conv2d_c3", "a weight of O x I x kh x kw", show(weight))  # conv2d_c3
        out, per_group, *kernel = (dim for dim in weight if isinstance(dim, int))
        self._check_groups(x, out, per_group)
        fits = len(operands) == 2 or operands[2] == (out,)
        require(fits, "conv2d_c5", f"a bias of shape {out}", show(operands[-1]))  # conv2d_c5
        _window_fields("conv2d_c6", self.stride, self.padding, *kernel, *self.dilation)  # conv2d_c6
        return _windowed(x, out, kernel, self.stride, self.padding, self.dilation)

    def _check_groups(self, x: Shape, out: int, per_group: int) -> None:
        divides = self.groups >= 1 and _channels(x) == per_group * self.groups and out % self.groups == 0
        require(divides, "conv2d_c4",
                f"a weight of shape O x {_channels(x)}/groups x kh x kw with O divisible by groups",
                f"O = {out}, I = {per_group}, groups = {self.groups}")  # conv2d_c4 # fmt: skip

    def multiply_adds(self, operands: Sequence[Concrete], result: Concrete) -> int:
        return math.prod(operands[1][1:]) * math.prod(result)


@dataclass(frozen=True, slots=True)
class BatchNorm(OpBase):
    """`(x - mean) / sqrt(var + eps) * weight + bias` per channel, over running or batch statistics.

    `momentum` is the weight of the new batch in the running statistics; `unbiased` says whether the running
    variance takes n - 1 in the denominator (the normalisation itself always takes n).
    """

    kind: ClassVar[str] = "batch_norm"
    eps: float = 1e-5
    momentum: float = field(default=0.1, metadata=TRAINING)
    unbiased: bool = field(default=True, metadata=TRAINING)

    def infer(self, operands: Sequence[Shape]) -> Shape:
        names = "x, weight, bias, running_mean and running_var"
        _arity("batch_norm_c1", operands, names, len(operands) == 5)  # batch_norm_c1
        _feature("batch_norm_c2", operands[0])  # batch_norm_c2
        per_channel = (_channels(operands[0]),)
        wrong = [show(shape) for shape in operands[1:] if shape != per_channel]
        require(not wrong, "batch_norm_c3", f"{names} of {per_channel[0]} values", wrong)  # batch_norm_c3
        sane = self.eps > 0 and 0 <= self.momentum <= 1
        require(sane, "batch_norm_c4", "eps > 0 and 0 <= momentum <= 1",
                f"eps {self.eps}, momentum {self.momentum}")  # batch_norm_c4 # fmt: skip
        return operands[0]

    def multiply_adds(self, operands: Sequence[Concrete], result: Concrete) -> int:
        return math.prod(result)


@dataclass(frozen=True, slots=True)
class Relu(OpBase):
    """`max(x, 0)`; the derivative at 0 is 0."""

    kind: ClassVar[str] = "relu"

    def infer(self, operands: Sequence[Shape]) -> Shape:
        _arity("relu_c1", operands, "one operand", len(operands) == 1)  # relu_c1
        return operands[0]


@dataclass(frozen=True, slots=True)
class Sigmoid(OpBase):
    """`1 / (1 + exp(-x))`."""

    kind: ClassVar[str] = "sigmoid"

    def infer(self, operands: Sequence[Shape]) -> Shape:
        _arity("sigmoid_c1", operands, "one operand", len(operands) == 1)  # sigmoid_c1
        return operands[0]


@dataclass(frozen=True, slots=True)
class Softmax(OpBase):
    """`exp(x) / sum exp(x)` over the channels."""

    kind: ClassVar[str] = "softmax"

    def infer(self, operands: Sequence[Shape]) -> Shape:
        _arity("softmax_c1", operands, "one operand", len(operands) == 1)  # softmax_c1
        _feature("softmax_c2", operands[0])  # softmax_c2
        return operands[0]


@dataclass(frozen=True, slots=True)
class Add(OpBase):
    """The sum of two or more operands of one shape, added from left to right.

    A parameter of 1 x C x 1 x 1 may be added to a feature map: a bias, repeated at every place.
    """

    kind: ClassVar[str] = "add"

    def infer(self, operands: Sequence[Shape]) -> Shape:
        _arity("add_c1", operands, "two operands or more", len(operands) >= 2)  # add_c1
        fitting = [operands[0]]
        if is_feature(operands[0]):
            fitting.append((1, operands[0][1], 1, 1))
        odd = [show(shape) for shape in operands if shape not in fitting]
        mend = _mend(operands, "bring them to one number of channels with a 1x1 conv2d")
        require(not odd, "add_c2", f"operands of one shape, {show(operands[0])} ({mend})",
                ", ".join(odd))  # add_c2 # fmt: skip
        return operands[0]


@dataclass(frozen=True, slots=True)
class Mul(OpBase):
    """The product of two operands; a dimension that is 1 in one of them is repeated (a gate's channels)."""

    kind: ClassVar[str] = "mul"

    def infer(self, operands: Sequence[Shape]) -> Shape:
        _arity("mul_c1", operands, "two operands", len(operands) == 2)  # mul_c1
        left, right = operands
        pairs = list(zip(left, right, strict=False))
        meets = len(left) == len(right) and all(a == b or 1 in (a, b) for a, b in pairs)
        mend = _mend(operands, "their channels differ; a gate has 1, or as many as the features")
        require(meets, "mul_c2", f"shapes equal or 1 in every dimension of {show(left)} ({mend})",
                show(right))  # mul_c2 # fmt: skip
        return tuple(b if a == 1 else a for a, b in pairs)

    def multiply_adds(self, operands: Sequence[Concrete], result: Concrete) -> int:
        return math.prod(result)


@dataclass(frozen=True, slots=True)
class Concat(OpBase):
    """Feature maps of one size, one after another along the channels."""

    kind: ClassVar[str] = "concat"

    def infer(self, operands: Sequence[Shape]) -> Shape:
        _arity("concat_c1", operands, "two operands or more", len(operands) >= 2)  # concat_c1
        for shape in operands:
            _feature("concat_c2", shape)  # concat_c2
        odd = [show(shape) for shape in operands if shape[2:] != operands[0][2:]]
        require(not odd, "concat_c3", f"operands of one size, {show(operands[0][2:])} ({_TO_ONE_SIZE})",
                ", ".join(odd))  # concat_c3 # fmt: skip
        return feature_shape(sum(_channels(shape) for shape in operands), *operands[0][2:])


@dataclass(frozen=True, slots=True)
class Slice(OpBase):
    """Channels `start` up to, without, `stop`."""

    kind: ClassVar[str] = "slice"
    start: int
    stop: int

    def infer(self, operands: Sequence[Shape]) -> Shape:
        _arity("slice_c1", operands, "one operand", len(operands) == 1)  # slice_c1
        _feature("slice_c2", operands[0])  # slice_c2
        inside = 0 <= self.start < self.stop <= _channels(operands[0])
        require(inside, "slice_c3", f"0 <= start < stop <= {_channels(operands[0])}",
                f"start {self.start}, stop {self.stop}")  # slice_c3 # fmt: skip
        return feature_shape(self.stop - self.start, *operands[0][2:])


def _target(label: str, operands: Sequence[Shape], size: tuple[int, int] | None) -> Shape:
    """The size that `resize` and `adaptive_avg_pool` make: a number, or a reference operand's."""
    wanted = "x alone, for a fixed size" if size else "x and the node whose size to take"
    meets = len(operands) == (1 if size else 2)
    _arity(f"{label}_c1", operands, wanted, meets)  # resize_c1 adaptive_avg_pool_c1
    for shape in operands:
        _feature(f"{label}_c2", shape)  # resize_c2 adaptive_avg_pool_c2
    sane = size is None or min(size) >= 1
    require(sane, f"{label}_c3", "a size of at least 1 x 1", size)  # resize_c3 adaptive_avg_pool_c3
    return feature_shape(_channels(operands[0]), *(size or operands[1][2:]))


@dataclass(frozen=True, slots=True)
class Resize(OpBase):
    """Resampling to `size`, or to the size of a second operand; never antialiased.

    `bilinear` takes half-pixel centres, or corner centres with `align_corners`; `nearest` takes source
    `floor(i in / out)`.
    """

    kind: ClassVar[str] = "resize"
    method: Literal["bilinear", "nearest"] = "bilinear"
    align_corners: bool = False
    size: tuple[int, int] | None = None

    def infer(self, operands: Sequence[Shape]) -> Shape:
        result = _target("resize", operands, self.size)
        sane = self.method == "bilinear" or not self.align_corners
        require(sane, "resize_c4", "align_corners only with method bilinear", self.method)  # resize_c4
        return result

    def multiply_adds(self, operands: Sequence[Concrete], result: Concrete) -> int:
        return 4 * math.prod(result) if self.method == "bilinear" else 0


def _infer_pool(label: str, pool: AvgPool | MaxPool, operands: Sequence[Shape]) -> Shape:
    _arity(f"{label}_c1", operands, "one operand", len(operands) == 1)  # avg_pool_c1 max_pool_c1
    _feature(f"{label}_c2", operands[0])  # avg_pool_c2 max_pool_c2
    _window_fields(f"{label}_c3", pool.stride, pool.padding, *pool.kernel)  # avg_pool_c3 max_pool_c3
    covered = max(pool.padding[:2]) < pool.kernel[0] and max(pool.padding[2:]) < pool.kernel[1]
    require(covered, f"{label}_c4", f"padding below the kernel {pool.kernel}, so that every window "
            "holds a value", pool.padding)  # avg_pool_c4 max_pool_c4 # fmt: skip
    return _windowed(operands[0], _channels(operands[0]), pool.kernel, pool.stride, pool.padding)


@dataclass(frozen=True, slots=True)
class AvgPool(OpBase):
    """The mean of each window; `count_padding` says whether padded zeros count in the denominator."""

    kind: ClassVar[str] = "avg_pool"
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding = (0, 0, 0, 0)
    count_padding: bool = True

    def infer(self, operands: Sequence[Shape]) -> Shape:
        return _infer_pool("avg_pool", self, operands)

    def multiply_adds(self, operands: Sequence[Concrete], result: Concrete) -> int:
        return math.prod(self.kernel) * math.prod(result)


@dataclass(frozen=True, slots=True)
class MaxPool(OpBase):
    """The largest value of each window; padding never wins."""

    kind: ClassVar[str] = "max_pool"
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding = (0, 0, 0, 0)

    def infer(self, operands: Sequence[Shape]) -> Shape:
        return _infer_pool("max_pool", self, operands)


@dataclass(frozen=True, slots=True)
class AdaptiveAvgPool(OpBase):
    """The mean of the source cells that a target cell touches, rows floor(i in/out) to ceil((i+1) in/out)."""

    kind: ClassVar[str] = "adaptive_avg_pool"
    size: tuple[int, int] | None = None

    def infer(self, operands: Sequence[Shape]) -> Shape:
        return _target("adaptive_avg_pool", operands, self.size)

    def multiply_adds(self, operands: Sequence[Concrete], result: Concrete) -> int:
        rows, columns = (_cells(operands[0][axis], result[axis]) for axis in (2, 3))
        return result[0] * result[1] * rows * columns


def _cells(source: int, target: int) -> int:
    """Source cells read along one axis: a cell that a boundary of the target cuts is read twice."""
    return source + target - math.gcd(source, target)


Op = (
    Input | Parameter | Conv2d | BatchNorm | Relu | Sigmoid | Softmax | Add | Mul | Concat | Slice
    | Resize | AvgPool | MaxPool | AdaptiveAvgPool
)  # fmt: skip

OPS: dict[str, type[Op]] = {op.kind: op for op in get_args(Op)}
"""The closed set, by the name that JSON and errors use."""
