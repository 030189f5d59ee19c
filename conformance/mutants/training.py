"""Backends that train otherwise: batch norm and gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conformance import rules
from conformance.losses import Loss
from conformance.mutants.broken import Array, Arrays, Mutant
from conformance.oracle import OracleTrainer
from gsto_spec.backend import Training
from gsto_spec.graph import Node
from gsto_spec.ops import BatchNorm, MaxPool, Mul, Relu

# Batch norm


class NormMomentumSwapped(Mutant):
    """1 - momentum: Keras and flax weigh the old statistics, torch the new ones."""

    def momentum(self, op: BatchNorm, training: Training) -> float:
        return 1 - super().momentum(op, training)


class NormMomentumNotReplaced(Mutant):
    """The momentum that training asks for is ignored: a constant of the layer."""

    def momentum(self, op: BatchNorm, training: Training) -> float:
        return op.momentum


class RunningVarianceBiased(Mutant):
    """The running variance is over n: flax and TensorFlow."""

    def running(self, op: BatchNorm, mean: Array, variance: Array, x: Array) -> tuple[Array, Array]:
        return super().running(replace(op, unbiased=False), mean, variance, x)


class StatisticsTwice(Mutant):
    """Running statistics move twice a step: a forward pass recomputed for its gradients."""

    def running(self, op: BatchNorm, mean: Array, variance: Array, x: Array) -> tuple[Array, Array]:
        return super().running(op, *super().running(op, mean, variance, x), x)


class VarianceInOnePass(Mutant):
    """max(E[x^2] - E[x]^2, 0): flax's use_fast_variance. Equal to two passes but for rounding."""

    precision = "float32"

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        if not training or not isinstance(node.op, BatchNorm):
            return super().forward(node, operands, training)
        x, weight, bias, *_ = operands
        mean = x.mean(axis=rules.PIXELS)
        variance = np.maximum(np.square(x).mean(axis=rules.PIXELS) - np.square(mean), 0)
        return super().forward(node, [x, weight, bias, mean, variance], False)


class NormFrozen(Mutant):
    """Training normalises by the running statistics: training=False passed on, model.eval() left on."""

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        return super().forward(node, operands, training and not isinstance(node.op, BatchNorm))

    def backward(
        self, node: Node, operands: Sequence[Array], result: Array, upper: Array
    ) -> Sequence[Array | None]:
        if not isinstance(node.op, BatchNorm):
            return super().backward(node, operands, result, upper)
        x, weight, _, mean, variance = (o.reshape(1, -1, 1, 1) if o.ndim == 1 else o for o in operands)
        deviation = np.sqrt(variance + node.op.eps)
        for_weight = (upper * (x - mean) / deviation).sum(axis=rules.PIXELS)
        return [upper * weight / deviation, for_weight, upper.sum(axis=rules.PIXELS), None, None]


class StatisticsConstant(Mutant):
    """No gradient through the batch's statistics: stop_gradient, or a detach, around them."""

    def backward(
        self, node: Node, operands: Sequence[Array], result: Array, upper: Array
    ) -> Sequence[Array | None]:
        parts = super().backward(node, operands, result, upper)
        if not isinstance(node.op, BatchNorm):
            return parts
        _, deviation = rules.normalised(node.op, operands[0])
        return [upper * operands[1].reshape(1, -1, 1, 1) / deviation, *parts[1:]]


class NormPerImage(Mutant):
    """Each image is normalised by its own statistics: batch norm per device, not over all of them."""

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        if not training or not isinstance(node.op, BatchNorm):
            return super().forward(node, operands, training)
        x, *stored = operands
        images = np.split(x, len(x))
        return np.concatenate([rules.value(node.op, [image, *stored], True) for image in images])

    def backward(
        self, node: Node, operands: Sequence[Array], result: Array, upper: Array
    ) -> Sequence[Array | None]:
        if not isinstance(node.op, BatchNorm):
            return super().backward(node, operands, result, upper)
        (x, *stored), count = operands, len(result)
        split = zip(np.split(x, count), np.split(result, count), np.split(upper, count), strict=True)
        parts: Any = [rules.gradients(node.op, [a, *stored], b, c) for a, b, c in split]
        for_x, for_weight, for_bias, *_ = zip(*parts, strict=True)
        return [np.concatenate(for_x), sum(for_weight), sum(for_bias), None, None]


class _PatientTrainer(OracleTrainer):
    def _value(self, node: Node, operands: Sequence[Array], images: Array, training: bool) -> Array:
        if training and isinstance(node.op, BatchNorm):
            return np.asarray(self.backend.forward(node, operands, True), self.dtype)
        return super()._value(node, operands, images, training)


class StatisticsOfOneValue(Mutant):
    """Statistics of one value per channel pass: flax and TensorFlow go on where torch refuses."""

    trains = _PatientTrainer

    def running(self, op: BatchNorm, mean: Array, variance: Array, x: Array) -> tuple[Array, Array]:
        several = x[:, 0].size > 1
        return super().running(replace(op, unbiased=op.unbiased and several), mean, variance, x)


class _TrainingPredictor(OracleTrainer):
    def predict(self, images: Array) -> Arrays:
        values = self.run(images, training=True)
        return {name: values[node].copy() for name, node in self.built.outputs.items()}


class PredictsInTrainingMode(Mutant):
    """A trainer predicts by the batch's statistics: model.eval() forgotten before validation."""

    trains = _TrainingPredictor


# Gradients


class ReluHalfAtZero(Mutant):
    """The gradient of relu at 0 is 1/2: jax.grad of jnp.maximum(x, 0)."""

    def backward(
        self, node: Node, operands: Sequence[Array], result: Array, upper: Array
    ) -> Sequence[Array | None]:
        if not isinstance(node.op, Relu):
            return super().backward(node, operands, result, upper)
        return [upper * (np.sign(operands[0]) + 1) / 2]


class MaximumShared(Mutant):
    """Equal maxima share the gradient (here the first and the last): jnp.max over patches, tf.reduce_max."""

    def backward(
        self, node: Node, operands: Sequence[Array], result: Array, upper: Array
    ) -> Sequence[Array | None]:
        if not isinstance(node.op, MaxPool):
            return super().backward(node, operands, result, upper)
        x = operands[0]
        rising = x + 1e-11 * np.arange(x.size).reshape(x.shape) / x.size
        ends = [rules.gradients(node.op, [each], result, upper / 2)[0] for each in (x, rising)]
        return [np.asarray(sum(end for end in ends if end is not None))]


class GateDetached(Mutant):
    """No gradient reaches a gate of one channel: a stop_gradient meant for the labels."""

    def backward(
        self, node: Node, operands: Sequence[Array], result: Array, upper: Array
    ) -> Sequence[Array | None]:
        parts = super().backward(node, operands, result, upper)
        if not isinstance(node.op, Mul):
            return parts
        gates = [o.shape[1] == 1 and result.shape[1] > 1 for o in operands]
        return [None if gate else part for gate, part in zip(gates, parts, strict=True)]


class _OverwritingTrainer(OracleTrainer):
    def gradients(self, values: Arrays, losses: Mapping[str, tuple[Loss, float]]) -> Arrays:
        found = {name: np.zeros_like(value) for name, value in values.items()}
        for output, (loss, weight) in losses.items():
            found[self.built.outputs[output]] = weight * loss.gradient
        for node in reversed([node for node in self.built.order if node.operands]):
            operands = [values[name] for name in node.operands]
            parts = self.backend.backward(node, operands, values[node.name], found[node.name])
            pairs = zip(node.operands, parts, strict=True)
            found |= {name: np.asarray(part, self.dtype) for name, part in pairs if part is not None}
        return found


class GradientOverwritten(Mutant):
    """Of several users of a feature map one alone gives it a gradient: a tape that assigns, not adds."""

    trains = _OverwritingTrainer
