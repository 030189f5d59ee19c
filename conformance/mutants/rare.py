"""Backends that are right at first, for small sizes, or for one caller: caches, buffers, thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from conformance.mutants.broken import Array, Arrays, Mutant
from conformance.oracle import OraclePredictor, OracleTrainer
from gsto_spec import Graph
from gsto_spec.backend import Batch
from gsto_spec.graph import Node
from gsto_spec.objective import SGD, Adam
from gsto_spec.ops import BatchNorm, Conv2d, Resize

# Caches and buffers


class _StaleTrainer(OracleTrainer):
    before: Arrays | None = None

    def load(self, state: Mapping[str, Array]) -> None:
        before = dict(self.weights)
        super().load(state)
        self.before = before

    def step(self, batch: Batch, learning_rate: float) -> dict[str, float]:
        self.before = None
        return super().step(batch, learning_rate)

    def predict(self, images: Array) -> Arrays:
        now = self.weights
        self.weights = now if self.before is None else self.before
        found = super().predict(images)
        self.weights = now
        return found


class PredictsBeforeLoad(Mutant):
    """After a load it predicts with the old weights until the next step: folded weights that stay cached."""

    trains = _StaleTrainer


class _RememberingPredictor(OraclePredictor):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.answers: dict[tuple[int, ...], Arrays] = {}

    def predict(self, images: Array) -> Arrays:
        answer = self.answers.setdefault(images.shape, super().predict(images))
        return {name: array.copy() for name, array in answer.items()}


class AnswersByShape(Mutant):
    """A second image of one size gets the first one's answer: a cache keyed by shape alone."""

    predicts = _RememberingPredictor


class _OneBufferPredictor(OraclePredictor):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.buffers: dict[tuple[Any, ...], Array] = {}

    def predict(self, images: Array) -> Arrays:
        found = super().predict(images)
        for name, array in found.items():
            buffer = self.buffers.setdefault((name, array.shape), array)
            buffer[...] = array
            found[name] = buffer
        return found


class OutputsOverwritten(Mutant):
    """Outputs are handed out in the same buffers again: arrays over a device's memory, or donated ones."""

    predicts = _OneBufferPredictor


class _BorrowingPredictor(OraclePredictor):
    def __init__(self, backend: Mutant, graph: Graph, weights: Mapping[str, Array], dtype: Any) -> None:
        super().__init__(backend, graph, weights, dtype)
        self.given = weights

    def predict(self, images: Array) -> Arrays:
        self.weights = {name: np.asarray(array, self.dtype) for name, array in self.given.items()}
        return super().predict(images)


class PredictorBorrows(Mutant):
    """A predictor keeps the caller's arrays: torch.from_numpy shares memory."""

    predicts = _BorrowingPredictor


# Later steps, other batches


class _OneSizeTrainer(OracleTrainer):
    size = 0

    def step(self, batch: Batch, learning_rate: float) -> dict[str, float]:
        self.size = self.size or len(batch["image"])
        last = len(batch["image"]) - 1
        index = np.minimum(np.arange(max(self.size, last + 1)), last)
        return super().step({name: array[index] for name, array in batch.items()}, learning_rate)


class PadsSmallBatches(Mutant):
    """A smaller batch is filled up with its last image: shapes kept static for the compiler."""

    trains = _OneSizeTrainer


class _TwiceTrainer(OracleTrainer):
    def step(self, batch: Batch, learning_rate: float) -> dict[str, float]:
        losses = super().step(batch, learning_rate)
        return {name: 2 * loss for name, loss in losses.items()} if self.steps > 1 else losses


class LaterLossesSummed(Mutant):
    """From the second step on losses are those of two steps: a running sum that is logged as a mean."""

    precision = "float32"
    trains = _TwiceTrainer


class StepSaturates(Mutant):
    """Adam counts to ten at most: a warm-up's length mistaken for the count's."""

    def update(
        self, optimizer: SGD | Adam, weights: Arrays, gradients: Arrays, slots: Arrays, rate: float
    ) -> tuple[Arrays, Arrays]:
        if "step" in slots:
            slots = {**slots, "step": np.minimum(slots["step"], 10)}
        return super().update(optimizer, weights, gradients, slots, rate)


class _DecayingTrainer(OracleTrainer):
    def step(self, batch: Batch, learning_rate: float) -> dict[str, float]:
        losses = super().step(batch, learning_rate)
        shrink = 1 - learning_rate * self.training.optimizer.weight_decay
        for name in set(self.graph.parameters) - set(self.graph.trainable):
            if not name.endswith(("running_mean", "running_var")):
                self.weights[name] = self.weights[name] * shrink
        return losses


class FixedDecays(Mutant):
    """What is not learnt decays: an optimiser over all parameters, without a mask."""

    trains = _DecayingTrainer


# Sizes


class NormOfFour(Mutant):
    """Batches of five and more are normalised in fours: ghost batch norm left on."""

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        if training and isinstance(node.op, BatchNorm) and len(operands[0]) > 4:
            x, *rest = operands
            parts = [super(NormOfFour, self).forward(node, [part, *rest], True) for part in (x[:4], x[4:])]
            return np.concatenate(parts)
        return super().forward(node, operands, training)


class LargeStride(Mutant):
    """Strides above three are off by a pixel."""

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        if isinstance(node.op, Conv2d) and max(node.op.stride) > 3:
            operands = [np.roll(operands[0], 1, axis=-1), *operands[1:]]
        return super().forward(node, operands, training)


class WideResize(Mutant):
    """Resizes to eighty columns and more are off by a hundredth: a faster kernel for large images."""

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        result = super().forward(node, operands, training)
        return result * 1.01 if isinstance(node.op, Resize) and result.shape[-1] >= 80 else result
