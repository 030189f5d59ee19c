"""Backends that compute in two bytes what `gsto_spec.precision` wants in four."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conformance import rules
from conformance.losses import Loss
from conformance.mutants.broken import Array, Arrays, Mutant
from conformance.rounded import FORMATS, RoundedOracle
from gsto_spec.backend import Batch
from gsto_spec.graph import Node
from gsto_spec.objective import SGD, Adam, Objective
from gsto_spec.ops import AdaptiveAvgPool, AvgPool, BatchNorm, Conv2d, Resize, Sigmoid, Softmax

BFLOAT16 = FORMATS["bfloat16"].rounded


class _Short(RoundedOracle, Mutant):
    precision = "bfloat16"


class _ShortForward(_Short):
    """One op's value computed otherwise; gradients stay sound."""

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        found = self.value(node, operands, training)
        return super().forward(node, operands, training) if found is None else BFLOAT16(found)

    def value(self, node: Node, operands: Sequence[Array], training: bool) -> Array | None:
        """The value of the ops that are not sound."""
        raise NotImplementedError


def _statistics(x: Array) -> tuple[Array, Array]:
    mean = BFLOAT16(x.mean(axis=rules.PIXELS, keepdims=True))
    return mean, BFLOAT16(BFLOAT16(np.square(BFLOAT16(x - mean))).mean(axis=rules.PIXELS, keepdims=True))


class StatisticsInBfloat16(_Short):
    """A batch's mean and variance are taken in bfloat16: the whole network under one cast."""

    def running(self, op: BatchNorm, mean: Array, variance: Array, x: Array) -> tuple[Array, Array]:
        fresh_mean, fresh_variance = (part.reshape(-1) for part in _statistics(x))
        count, keep = x[:, 0].size, 1 - op.momentum
        correction = count / (count - 1) if op.unbiased else 1.0
        new = keep * variance + op.momentum * correction * fresh_variance
        return keep * mean + op.momentum * fresh_mean, new


class NormInBfloat16(_ShortForward):
    """A batch norm's tensors are bfloat16 and so is its arithmetic: model.to(torch.bfloat16)."""

    def value(self, node: Node, operands: Sequence[Array], training: bool) -> Array | None:
        if training or not isinstance(node.op, BatchNorm):
            return None
        weight, bias, mean, variance = (BFLOAT16(x)[:, None, None] for x in operands[1:])
        root = BFLOAT16(1 / np.sqrt(BFLOAT16(variance + node.op.eps)))
        return BFLOAT16(BFLOAT16(BFLOAT16(operands[0] - mean) * root) * weight) + bias


class ResizeInBfloat16(_ShortForward):
    """A resize's taps are bfloat16, and so is the sum along each axis."""

    def value(self, node: Node, operands: Sequence[Array], training: bool) -> Array | None:
        if not isinstance(node.op, Resize):
            return None
        rows, columns = (BFLOAT16(each) for each in rules.resampling(node.op, operands[0], operands[-1]))
        return BFLOAT16(rows @ operands[0]) @ columns.T


class PoolInBfloat16(_ShortForward):
    """A mean is summed along one axis, rounded, and summed along the other."""

    def value(self, node: Node, operands: Sequence[Array], training: bool) -> Array | None:
        if not isinstance(node.op, (AvgPool, AdaptiveAvgPool)):
            return None
        rows, columns = (BFLOAT16(each) for each in rules.resampling(node.op, operands[0], operands[-1]))
        return BFLOAT16(rows @ operands[0]) @ columns.T


class GateInBfloat16(_ShortForward):
    """A sigmoid is made of an exponential, a sum and a quotient in bfloat16."""

    def value(self, node: Node, operands: Sequence[Array], training: bool) -> Array | None:
        if not isinstance(node.op, Sigmoid):
            return None
        return np.asarray(1 / BFLOAT16(1 + BFLOAT16(np.exp(-operands[0]))))


class SoftmaxInBfloat16(_ShortForward):
    """A softmax is made of exponentials, a sum and a quotient in bfloat16."""

    def value(self, node: Node, operands: Sequence[Array], training: bool) -> Array | None:
        if not isinstance(node.op, Softmax):
            return None
        x = operands[0]
        raised = BFLOAT16(np.exp(BFLOAT16(x - x.max(axis=1, keepdims=True))))
        return np.asarray(raised / BFLOAT16(raised.sum(axis=1, keepdims=True)))


class ProductsSummedInBfloat16(_ShortForward):
    """A convolution rounds the sum of each input channel's products: no float32 accumulator."""

    def value(self, node: Node, operands: Sequence[Array], training: bool) -> Array | None:
        if not isinstance(node.op, Conv2d) or node.op.groups > 1:
            return None
        x, weight, *bias = operands
        weight = BFLOAT16(weight)
        total: Any = 0.0
        for channel in range(x.shape[1]):
            part = rules.value(node.op, [x[:, [channel]], weight[:, [channel]]], training)
            total = BFLOAT16(total + BFLOAT16(part))
        return np.asarray(total + sum(BFLOAT16(each)[:, None, None] for each in bias))


class LossInBfloat16(_Short):
    """The loss is computed from logits in bfloat16, and is bfloat16."""

    def losses(
        self, objective: Objective, outputs: Arrays, magnitudes: Arrays, batch: Batch
    ) -> dict[str, tuple[Loss, float]]:
        found = super().losses(objective, outputs, magnitudes, batch)
        return {
            name: (replace(loss, value=BFLOAT16(np.asarray(loss.value))), weight)
            for name, (loss, weight) in found.items()
        }


class UpdateInBfloat16(_Short):
    """The weights are kept in bfloat16, in which a small step vanishes."""

    def update(
        self, optimizer: SGD | Adam, weights: Arrays, gradients: Arrays, slots: Arrays, rate: float
    ) -> tuple[Arrays, Arrays]:
        new, fresh = super().update(optimizer, weights, gradients, slots, rate)
        return {name: BFLOAT16(array) for name, array in new.items()}, fresh


class BiasGradientInBfloat16(_Short):
    """A bias's gradient is added up in bfloat16, row by row: XLA's sum of what is bfloat16."""

    def backward(
        self, node: Node, operands: Sequence[Array], result: Array, upper: Array
    ) -> Sequence[Array | None]:
        found = list(super().backward(node, operands, result, upper))
        if isinstance(node.op, Conv2d) and len(operands) == 3:
            total = np.zeros(upper.shape[1], np.float32)
            for place in np.moveaxis(upper, 1, -1).reshape(-1, upper.shape[1]):
                total = BFLOAT16(total + place)
            found[2] = total
        return found


class NotRounded(_Short):
    """A precision that is asked for and ignored: all is float32."""

    precision = "bfloat16"

    def kept(self, x: Array) -> Array:
        return np.asarray(x, np.float32)


class Float16ForBfloat16(_Short):
    """float16 in place of bfloat16: three bits more, and a range that ends at 65504."""

    def kept(self, x: Array) -> Array:
        return FORMATS["float16"].rounded(x)
