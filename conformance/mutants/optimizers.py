"""Backends that step otherwise: momentum, weight decay, Adam, the schedule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from conformance.mutants.broken import Arrays, Mutant
from conformance.oracle import OracleTrainer
from gsto_spec.backend import Batch
from gsto_spec.objective import SGD, Adam

Step = tuple[Arrays, Arrays]


class _LateTrainer(OracleTrainer):
    late: float | None = None

    def step(self, batch: Batch, learning_rate: float) -> dict[str, float]:
        rate = learning_rate if self.late is None else self.late
        self.late = learning_rate
        return super().step(batch, rate)


class RateOfStepBefore(Mutant):
    """Each step takes the rate of the one before: scheduler.step() after the loop has read it."""

    trains = _LateTrainer


class DecayDecoupled(Mutant):
    """Weight decay shrinks the weights beside the gradient's step: AdamW, optax.adamw."""

    def update(
        self, optimizer: SGD | Adam, weights: Arrays, gradients: Arrays, slots: Arrays, rate: float
    ) -> Step:
        found, new = super().update(replace(optimizer, weight_decay=0.0), weights, gradients, slots, rate)
        shrink = rate * optimizer.weight_decay
        return {name: array - shrink * weights[name] for name, array in found.items()}, new


class DecaySparesVectors(Mutant):
    """No weight decay for biases and batch norm: a mask by number of dimensions, as optax examples have."""

    def update(
        self, optimizer: SGD | Adam, weights: Arrays, gradients: Arrays, slots: Arrays, rate: float
    ) -> Step:
        spared = {
            name: gradient - optimizer.weight_decay * weights[name] * (weights[name].ndim == 1)
            for name, gradient in gradients.items() if name in weights
        }  # fmt: skip
        return super().update(optimizer, weights, spared, slots, rate)


class DecayOfKeras(Mutant):
    """The gradient of decay |w|^2 is twice decay w: keras.regularizers.l2 has no half."""

    def update(
        self, optimizer: SGD | Adam, weights: Arrays, gradients: Arrays, slots: Arrays, rate: float
    ) -> Step:
        doubled = replace(optimizer, weight_decay=2 * optimizer.weight_decay)
        return super().update(doubled, weights, gradients, slots, rate)


class Nesterov(Mutant):
    """Looks ahead: the flag that many published configurations set."""

    def update(
        self, optimizer: SGD | Adam, weights: Arrays, gradients: Arrays, slots: Arrays, rate: float
    ) -> Step:
        found, new = super().update(optimizer, weights, gradients, slots, rate)
        if isinstance(optimizer, Adam):
            return found, new
        for name, weight in weights.items():
            slope = gradients[name] + optimizer.weight_decay * weight
            found[name] = weight - rate * (slope + optimizer.momentum * new[f"momentum/{name}"])
        return found, new


class Dampening(Mutant):
    """The velocity is a moving average, (1 - momentum) g after the first step: optax.ema for optax.trace."""

    def update(
        self, optimizer: SGD | Adam, weights: Arrays, gradients: Arrays, slots: Arrays, rate: float
    ) -> Step:
        if isinstance(optimizer, SGD) and slots:
            decay, keep = optimizer.weight_decay, 1 - optimizer.momentum
            gradients = {
                name: keep * (gradients[name] + decay * weight) - decay * weight
                for name, weight in weights.items()
            }
        return super().update(optimizer, weights, gradients, slots, rate)


class _RateInVelocityTrainer(OracleTrainer):
    before: float | None = None

    def step(self, batch: Batch, learning_rate: float) -> dict[str, float]:
        if isinstance(self.training.optimizer, SGD) and self.before is not None:
            self.slots = {name: array * (self.before / learning_rate) for name, array in self.slots.items()}
        self.before = learning_rate
        return super().step(batch, learning_rate)


class RateInVelocity(Mutant):
    """The rate multiplies what enters the velocity, so old rates live on in it: Caffe's and Keras's SGD."""

    trains = _RateInVelocityTrainer


class AdamWithoutCorrection(Mutant):
    """No bias correction: the moments as they are."""

    def update(
        self, optimizer: SGD | Adam, weights: Arrays, gradients: Arrays, slots: Arrays, rate: float
    ) -> Step:
        found, new = super().update(optimizer, weights, gradients, slots, rate)
        if isinstance(optimizer, Adam):
            for name, weight in weights.items():
                spread = np.sqrt(new[f"second/{name}"]) + optimizer.epsilon
                found[name] = weight - rate * new[f"first/{name}"] / spread
        return found, new


class AdamEpsilonInRoot(Mutant):
    """Epsilon is added under the root: optax's eps_root, RMSProp's habit."""

    def update(
        self, optimizer: SGD | Adam, weights: Arrays, gradients: Arrays, slots: Arrays, rate: float
    ) -> Step:
        found, new = super().update(optimizer, weights, gradients, slots, rate)
        if isinstance(optimizer, Adam):
            first, second = (1 - beta ** int(new["step"]) for beta in (optimizer.beta1, optimizer.beta2))
            for name, weight in weights.items():
                spread = np.sqrt(new[f"second/{name}"] / second + optimizer.epsilon)
                found[name] = weight - rate / first * new[f"first/{name}"] / spread
        return found, new


class AdamEpsilonHat(Mutant):
    """Epsilon is added before the second moment is corrected: TensorFlow's "epsilon hat"."""

    def update(
        self, optimizer: SGD | Adam, weights: Arrays, gradients: Arrays, slots: Arrays, rate: float
    ) -> Step:
        if isinstance(optimizer, Adam):
            step = int(slots.get("step", 0)) + 1
            hat = optimizer.epsilon / (1 - optimizer.beta2**step) ** 0.5
            optimizer = replace(optimizer, epsilon=hat)
        return super().update(optimizer, weights, gradients, slots, rate)
