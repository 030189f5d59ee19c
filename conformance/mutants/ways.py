"""Backends that take a step otherwise: frozen tensors, rates of their own, parts of a batch, broken steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from conformance.losses import Loss
from conformance.mutants.broken import Array, Arrays, Mutant
from conformance.mutants.objectives import mean_of
from conformance.oracle import OracleTrainer
from gsto_spec import Graph
from gsto_spec.backend import Batch, Training
from gsto_spec.graph import Node
from gsto_spec.objective import CrossEntropy
from gsto_spec.ops import BatchNorm

Losses = dict[str, tuple[Loss, float]]


class _MovingTrainer(OracleTrainer):
    def fresh_statistics(self, values: Arrays) -> Arrays:
        fresh: Arrays = {}
        for node in self.built.order:
            if isinstance(node.op, BatchNorm):
                fresh |= self.statistics(node, values[node.operands[0]])
        return fresh


class FrozenNormMoves(Mutant):
    """A frozen batch norm's running statistics move: requires_grad is off, but the layer is in train()."""

    trains = _MovingTrainer


class _ThawedNormTrainer(OracleTrainer):
    def is_frozen(self, node: Node) -> bool:
        return False


class FrozenNormByBatch(Mutant):
    """A frozen batch norm normalises by the batch's statistics, and takes them in: only its update is off."""

    trains = _ThawedNormTrainer


class _DecayingTrainer(OracleTrainer):
    def _update(self, gradients: Arrays, learning_rate: float) -> None:
        super()._update(gradients, learning_rate)
        for name in self.training.frozen:
            self.weights[name] = self.weights[name] * (1 - learning_rate * 0.05)


class FrozenDecays(Mutant):
    """Weight decay shrinks what is frozen: its gradient is set to 0, and the optimiser still has it."""

    trains = _DecayingTrainer


class _OneRateTrainer(OracleTrainer):
    def _update(self, gradients: Arrays, learning_rate: float) -> None:
        asked, self.training = self.training, replace(self.training, rate_factors={})
        super()._update(gradients, learning_rate)
        self.training = asked


class RateFactorsIgnored(Mutant):
    """One learning rate for all: the schedule overwrites every group's own."""

    trains = _OneRateTrainer


class _DecayFactorTrainer(OracleTrainer):
    def _update(self, gradients: Arrays, learning_rate: float) -> None:
        before, self.slots, asked = self.slots, {}, self.training
        for name in self.learnt:
            factor = asked.rate_factors.get(name, 1.0)
            decay = factor * asked.optimizer.weight_decay
            self.training = replace(asked, optimizer=replace(asked.optimizer, weight_decay=decay))
            self._update_some({name: self.weights[name]}, gradients, before, learning_rate)
        self.training = asked


class RateFactorsOfDecay(Mutant):
    """A rate factor multiplies the weight decay alone: lr_mult and decay_mult mixed up."""

    trains = _DecayFactorTrainer


# Parts of a batch


class _PartLossTrainer(OracleTrainer):
    hard = False

    def losses(self, values: Arrays, batch: Batch) -> Losses:
        loss, count = self.training.objective.loss, self.training.micro_batches
        if (isinstance(loss, CrossEntropy) and loss.ohem is not None) != self.hard:
            return super().losses(values, batch)
        cut = [_part(values, count, index) for index in range(count)]
        labels = [_part(batch, count, index) for index in range(count)]
        each = [super(_PartLossTrainer, self).losses(*pair) for pair in zip(cut, labels, strict=True)]
        return {
            name: (mean_of([part[name][0] for part in each]), weight)
            for name, (_, weight) in each[0].items()
        }  # fmt: skip


def _part(arrays: Mapping[str, Array], count: int, index: int) -> Arrays:
    """A part of every array of images; parameters are as long as they are."""
    return {
        name: array[index::count] if len(array) % count == 0 else array
        for name, array in arrays.items() if array.ndim > 1
    }  # fmt: skip


class _PartHardTrainer(_PartLossTrainer):
    hard = True


class LossesOfPartsAveraged(Mutant):
    """The mean of the parts' means: loss / parts, though some have fewer valid pixels than others."""

    trains = _PartLossTrainer


class HardPerPart(Mutant):
    """Hard examples are chosen part by part: the loss called once for each."""

    trains = _PartHardTrainer


class _WholeNormTrainer(OracleTrainer):
    def __init__(
        self, backend: Mutant, graph: Graph, weights: Mapping[str, Array], dtype: np.dtype[np.generic],
        training: Training,
    ) -> None:  # fmt: skip
        super().__init__(backend, graph, weights, dtype, replace(training, micro_batches=1))


class PartsNormalisedTogether(Mutant):
    """Batch norm takes the statistics of the whole batch, whatever the parts: the setting is ignored."""

    trains = _WholeNormTrainer


class _LastPartTrainer(OracleTrainer):
    def statistics(self, node: Node, operand: Array) -> Arrays:
        count = self.training.micro_batches
        last = operand[count - 1 :: count]
        asked, self.training = self.training, replace(self.training, micro_batches=1)
        found = super().statistics(node, last)
        self.training = asked
        return found


class StatisticsOfLastPart(Mutant):
    """The running statistics take in the last part alone: the state before the step given to each."""

    trains = _LastPartTrainer


# Steps that are not finite


class _ForgetfulTrainer(OracleTrainer):
    def step(self, batch: Batch, learning_rate: float) -> dict[str, float]:
        told = super().step(batch, learning_rate)
        if not told["finite"]:
            with np.errstate(over="ignore", invalid="ignore"):
                self.weights |= self.fresh_statistics(self.run(batch["image"], training=True))
        return told


class StatisticsOfBrokenStep(Mutant):
    """A step that is not finite moves the statistics all the same: a scaler skips the update alone."""

    trains = _ForgetfulTrainer


class _TrustingTrainer(OracleTrainer):
    def finite(self, total: float, gradients: Arrays, statistics: Arrays) -> bool:
        return bool(np.isfinite(total))


class GradientsTrusted(Mutant):
    """Of a step only the loss is looked at, and gradients that overflowed are taken."""

    trains = _TrustingTrainer


class _VarianceTrustingTrainer(OracleTrainer):
    def finite(self, total: float, gradients: Arrays, statistics: Arrays) -> bool:
        return super().finite(total, gradients, {})


class StatisticsTrusted(Mutant):
    """Loss and gradients are looked at, and a running variance that overflowed is taken."""

    trains = _VarianceTrustingTrainer


class _LateWatchTrainer(OracleTrainer):
    def first_not_finite(self, batch: Batch) -> str | None:
        found = super().first_not_finite(batch)
        return found if found is None or "gradient" in found else "loss_" + next(iter(self.built.outputs))


class NodesNotWatched(Mutant):
    """The loss is named, though a node was not finite before it."""

    trains = _LateWatchTrainer
