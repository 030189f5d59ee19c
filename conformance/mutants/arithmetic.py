"""Backends that compute something else: resizing, windows, channels, precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.mutants.broken import Array, Misreads, Mutant, Resamples
from gsto_spec.graph import Node
from gsto_spec.ops import AdaptiveAvgPool, AvgPool, BatchNorm, Concat, Conv2d, MaxPool, Op, Resize, Softmax

# Resizing


class CornersFlipped(Misreads):
    """align_corners the other way round: a default that changed between versions of torch."""

    def meant(self, op: Op, operands: Sequence[Array]) -> Op:
        if not isinstance(op, Resize) or op.method == "nearest":
            return op
        return replace(op, align_corners=not op.align_corners)


class CornersIgnored(Misreads):
    """align_corners is never on: tf.image.resize and jax.image.resize do not know it."""

    def meant(self, op: Op, operands: Sequence[Array]) -> Op:
        return replace(op, align_corners=False) if isinstance(op, Resize) else op


class Antialiased(Resamples):
    """Averages while it shrinks: what jax.image.resize does unless told otherwise."""

    def matrix(self, op: Op, source: int, target: int) -> Array | None:
        if not isinstance(op, Resize) or op.method == "nearest" or op.align_corners:
            return None
        scale = source / target
        distance = (np.arange(target)[:, None] + 0.5) * scale - 0.5 - np.arange(source)
        near = np.maximum(1 - np.abs(distance) / max(scale, 1.0), 0)
        return np.asarray(near / near.sum(axis=1, keepdims=True))


class NearestByCentres(Resamples):
    """The nearest centre, not floor(i in / out): torch's nearest-exact, and jax.image.resize's nearest."""

    def matrix(self, op: Op, source: int, target: int) -> Array | None:
        if not isinstance(op, Resize) or op.method != "nearest":
            return None
        index = np.arange(target)
        return np.asarray(np.eye(source)[((2 * index + 1) * source) // (2 * target)])


class WholeScaleFactor(Resamples):
    """Up-samples by a whole factor although sizes are odd: nn.Upsample(scale_factor=2) in HRNet's fusion."""

    def matrix(self, op: Op, source: int, target: int) -> Array | None:
        if not isinstance(op, Resize) or op.method == "nearest" or op.align_corners:
            return None
        factor = max(round(target / source), 1) if target > source else target / source
        where = np.clip((np.arange(target) + 0.5) / factor - 0.5, 0, source - 1)
        return np.asarray(np.maximum(1 - np.abs(where[:, None] - np.arange(source)), 0))


class EvenBins(Resamples):
    """Adaptive pooling by one window and one stride: how exporters replace AdaptiveAvgPool2d."""

    def matrix(self, op: Op, source: int, target: int) -> Array | None:
        if not isinstance(op, AdaptiveAvgPool):
            return None
        stride = max(source // target, 1)
        starts = np.minimum(np.arange(target) * stride, source - 1)[:, None]
        kernel = max(source - (target - 1) * stride, 1)
        inside = (np.arange(source) >= starts) & (np.arange(source) < starts + kernel)
        return np.asarray(inside / inside.sum(axis=1, keepdims=True))


# Windows


class SamePadding(Misreads):
    """Strided convolutions are padded more at the end than before: "same" in TensorFlow and flax."""

    def meant(self, op: Op, operands: Sequence[Array]) -> Op:
        if not isinstance(op, Conv2d) or max(op.stride) == 1:
            return op
        sizes = zip(operands[0].shape[2:], operands[1].shape[2:], (0, 1), strict=True)
        pads = [self._same(op, size, kernel, axis) for size, kernel, axis in sizes]
        return replace(op, padding=(*pads[0], *pads[1]))

    def _same(self, op: Conv2d, size: int, kernel: int, axis: int) -> tuple[int, int]:
        stride, reach = op.stride[axis], op.dilation[axis] * (kernel - 1) + 1
        declared = op.padding[2 * axis : 2 * axis + 2]
        places = (size + sum(declared) - reach) // stride + 1
        total = max((places - 1) * stride + reach - size, 0)
        fits = places == -(-size // stride)
        return (total // 2, total - total // 2) if fits else (declared[0], declared[1])


class PaddingSidesSwapped(Misreads):
    """Before and after exchanged on each axis: F.pad counts from the last axis, jnp.pad from the first."""

    def meant(self, op: Op, operands: Sequence[Array]) -> Op:
        if not isinstance(op, Conv2d | MaxPool | AvgPool):
            return op
        top, bottom, left, right = op.padding
        return replace(op, padding=(bottom, top, right, left))


class KernelFlipped(Misreads):
    """Convolution as in textbooks, with the kernel turned round: scipy.signal.convolve2d."""

    def seen(self, op: Op, operands: Sequence[Array]) -> list[Array]:
        x, *stored = operands
        return [x, stored[0][:, :, ::-1, ::-1], *stored[1:]] if isinstance(op, Conv2d) else [x, *stored]

    def unseen(self, op: Op, parts: list[Array | None], operands: Sequence[Array]) -> list[Array | None]:
        if isinstance(op, Conv2d) and parts[1] is not None:
            parts[1] = parts[1][:, :, ::-1, ::-1]
        return parts


class GroupsInterleaved(Misreads):
    """Every g-th channel makes a group, not a run of channels: a reshape to (C / g, g), not (g, C / g)."""

    def seen(self, op: Op, operands: Sequence[Array]) -> list[Array]:
        x, *stored = operands
        return [x[:, self._order(op, x)], *stored] if isinstance(op, Conv2d) else [x, *stored]

    def unseen(self, op: Op, parts: list[Array | None], operands: Sequence[Array]) -> list[Array | None]:
        if isinstance(op, Conv2d) and parts[0] is not None:
            parts[0] = parts[0][:, np.argsort(self._order(op, operands[0]))]
        return parts

    def _order(self, op: Conv2d, x: Array) -> Array:
        return np.arange(x.shape[1]).reshape(-1, op.groups).T.reshape(-1)


class DilationOfRowsAlone(Misreads):
    """Columns are not dilated, though padded for it: one number taken for both axes."""

    def meant(self, op: Op, operands: Sequence[Array]) -> Op:
        return replace(op, dilation=(op.dilation[0], 1)) if isinstance(op, Conv2d) else op

    def seen(self, op: Op, operands: Sequence[Array]) -> list[Array]:
        x, *stored = operands
        if not isinstance(op, Conv2d):
            return [x, *stored]
        more = (op.dilation[1] - 1) * (stored[0].shape[3] - 1)
        return [x, np.pad(stored[0], ((0, 0), (0, 0), (0, 0), (0, more))), *stored[1:]]

    def unseen(self, op: Op, parts: list[Array | None], operands: Sequence[Array]) -> list[Array | None]:
        if isinstance(op, Conv2d) and parts[1] is not None:
            parts[1] = parts[1][..., : operands[1].shape[3]]
        return parts


class PaddingCounted(Misreads):
    """Padded zeros always count in the mean: AvgPool2d's default, where TensorFlow leaves them out."""

    def meant(self, op: Op, operands: Sequence[Array]) -> Op:
        return replace(op, count_padding=True) if isinstance(op, AvgPool) else op


class PaddingLeftOut(Misreads):
    """Padded zeros never count: TensorFlow's, where AvgPool2d counts them."""

    def meant(self, op: Op, operands: Sequence[Array]) -> Op:
        return replace(op, count_padding=False) if isinstance(op, AvgPool) else op


class MaxPoolPadsZeros(Misreads):
    """The maximum is taken with padded zeros: a pad layer before an unpadded pool."""

    def meant(self, op: Op, operands: Sequence[Array]) -> Op:
        return replace(op, padding=(0, 0, 0, 0)) if isinstance(op, MaxPool) else op

    def seen(self, op: Op, operands: Sequence[Array]) -> list[Array]:
        if not isinstance(op, MaxPool):
            return list(operands)
        return [np.pad(operands[0], ((0, 0), (0, 0), op.padding[:2], op.padding[2:]))]

    def unseen(self, op: Op, parts: list[Array | None], operands: Sequence[Array]) -> list[Array | None]:
        if isinstance(op, MaxPool) and parts[0] is not None:
            (top, _, left, _), (height, width) = op.padding, operands[0].shape[2:]
            parts[0] = parts[0][:, :, top : top + height, left : left + width]
        return parts


# Channels


class SoftmaxOverColumns(Mutant):
    """Over the last axis, which is the channels' in N x H x W x C alone: axis=-1 left as it was."""

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        turned = isinstance(node.op, Softmax)
        given = [operands[0].swapaxes(1, 3)] if turned else operands
        result = super().forward(node, given, training)
        return result.swapaxes(1, 3) if turned else result

    def backward(
        self, node: Node, operands: Sequence[Array], result: Array, upper: Array
    ) -> Sequence[Array | None]:
        if not isinstance(node.op, Softmax):
            return super().backward(node, operands, result, upper)
        turned = [array.swapaxes(1, 3) for array in (operands[0], result, upper)]
        (part,) = super().backward(node, turned[:1], *turned[1:])
        return [None if part is None else part.swapaxes(1, 3)]


class ConcatReversed(Misreads):
    """The last branch comes first: a list that was built by recursion."""

    def seen(self, op: Op, operands: Sequence[Array]) -> list[Array]:
        return list(reversed(operands)) if isinstance(op, Concat) else list(operands)

    def unseen(self, op: Op, parts: list[Array | None], operands: Sequence[Array]) -> list[Array | None]:
        return parts[::-1] if isinstance(op, Concat) else parts


class EpsilonOfKeras(Misreads):
    """Batch norm's eps is 1e-3 whatever the graph says: Keras's default."""

    def meant(self, op: Op, operands: Sequence[Array]) -> Op:
        return replace(op, eps=1e-3) if isinstance(op, BatchNorm) else op


class ImageBlueFirst(Mutant):
    """The image's channels come in reverse: pictures read by OpenCV."""

    def image(self, images: Array, dtype: np.dtype[Any]) -> Array:
        return super().image(images, dtype)[:, ::-1]


class ImageDividedTwice(Mutant):
    """The image is divided by 255 again: a Rescaling layer kept in the model."""

    def image(self, images: Array, dtype: np.dtype[Any]) -> Array:
        return np.asarray(super().image(images, dtype) / 255)


# Precision


class DoublesAsFloats(Mutant):
    """float64 that went through float32: JAX without its x64."""

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        return super().forward(node, [operand.astype(np.float32) for operand in operands], training)


class TensorFloat32(Mutant):
    """Products of ten bits under the name float32: torch.backends.cuda.matmul.allow_tf32."""

    precision = "float32"

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        short = isinstance(node.op, Conv2d)
        return super().forward(node, [_ten_bits(o) for o in operands] if short else operands, training)


def _ten_bits(array: Array) -> Array:
    fraction, exponent = np.frexp(array)
    return np.ldexp(np.round(fraction * 2**11) / 2**11, exponent)
