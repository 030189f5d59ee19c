"""Backends that load carelessly: parts that are not restored, tensors that should be refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from conformance.mutants.broken import Array, Mutant
from conformance.oracle import OraclePredictor, OracleTrainer
from gsto_spec import Graph
from gsto_spec.backend import OPTIMIZER_PREFIX, Batch, Speed, Training
from gsto_spec.weights import initial_weights

# Parts that are not restored


class _ForgetfulTrainer(OracleTrainer):
    def load(self, state: Mapping[str, Array]) -> None:
        super().load({name: array for name, array in state.items() if name in self.graph.parameters})


class SlotsNotRestored(Mutant):
    """Optimiser slots begin anew: the model's state alone is loaded."""

    trains = _ForgetfulTrainer


class _KeepingSlotsTrainer(OracleTrainer):
    def load(self, state: Mapping[str, Array]) -> None:
        before = self.slots
        super().load(state)
        self.slots = self.slots or before


class SlotsNotForgotten(Mutant):
    """A state of weights alone leaves the old slots in place: fine-tuning with another run's momentum."""

    trains = _KeepingSlotsTrainer


class _OwnCountTrainer(OracleTrainer):
    def step(self, batch: Batch, learning_rate: float) -> dict[str, float]:
        if "step" in self.slots:
            self.slots["step"] = np.asarray(self.steps)
        return super().step(batch, learning_rate)


class StepNotRestored(Mutant):
    """Adam counts its steps since the process began: a counter outside the state."""

    trains = _OwnCountTrainer


class _LearntOnlyTrainer(OracleTrainer):
    def load(self, state: Mapping[str, Array]) -> None:
        before = self.weights
        super().load(state)
        self.weights |= {name: array for name, array in before.items() if name not in self.graph.trainable}


class StatisticsNotRestored(Mutant):
    """Running statistics stay as they were: flax's batch_stats is a collection of its own."""

    trains = _LearntOnlyTrainer


# Tensors that should be refused


class MissingDrawn(Mutant):
    """Missing tensors are filled with initial values: load_state_dict(strict=False)."""

    def trainer(
        self, graph: Graph, weights: Mapping[str, Array], training: Training, *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> OracleTrainer:  # fmt: skip
        filled = {**initial_weights(graph), **weights}
        return super().trainer(graph, filled, training, device=device, precision=precision, speed=speed)

    def predictor(
        self, graph: Graph, weights: Mapping[str, Array], *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> OraclePredictor:  # fmt: skip
        filled = {**initial_weights(graph), **weights}
        return super().predictor(graph, filled, device=device, precision=precision, speed=speed)


class _FillingTrainer(OracleTrainer):
    def load(self, state: Mapping[str, Array]) -> None:
        super().load({**self.state(), **state})


class MissingKept(Mutant):
    """Tensors that a state lacks stay as they are: the same, in a run."""

    trains = _FillingTrainer


class _IgnoringTrainer(OracleTrainer):
    def load(self, state: Mapping[str, Array]) -> None:
        known = self.graph.parameters
        super().load({name: array for name, array in state.items()
                      if name in known or name.startswith(OPTIMIZER_PREFIX)})  # fmt: skip


class ExtraIgnored(Mutant):
    """Tensors that the graph does not declare are dropped without a word: unexpected_keys unread."""

    trains = _IgnoringTrainer


class _TrustingTrainer(OracleTrainer):
    def load(self, state: Mapping[str, Array]) -> None:
        super().load({name: np.nan_to_num(array) for name, array in state.items()})


class NonFiniteAccepted(Mutant):
    """Infinite values are loaded: nobody looks into a checkpoint of a run that diverged."""

    trains = _TrustingTrainer


class _ReshapingTrainer(OracleTrainer):
    def load(self, state: Mapping[str, Array]) -> None:
        shapes = {name: array.shape for name, array in self.state().items()}
        super().load({name: _reshaped(array, shapes.get(name)) for name, array in state.items()})


def _reshaped(array: Array, shape: tuple[int, ...] | None) -> Array:
    fits = shape is not None and array.size == math.prod(shape)
    return array.reshape(shape) if fits else array


class MisshapenAccepted(Mutant):
    """A tensor of another shape is loaded if it has as many values: reshape where a check belongs."""

    trains = _ReshapingTrainer


class _HastyTrainer(OracleTrainer):
    def load(self, state: Mapping[str, Array]) -> None:
        good = {
            name: array for name, array in state.items()
            if name in self.weights and np.shape(array) == self.weights[name].shape
            and np.isfinite(array).all()
        }  # fmt: skip
        self.weights |= {name: np.array(array, self.dtype) for name, array in good.items()}
        super().load(state)


class LoadsBeforeRefusing(Mutant):
    """What fits has been loaded by the time that the rest is refused: a loop that raises half-way."""

    trains = _HastyTrainer


class AnyDevice(Mutant):
    """A device that nobody knows is the processor: a fallback where an error belongs."""

    def _resolve(self, device: str, precision: str) -> np.dtype[Any]:
        return super()._resolve(device if device in self.devices() else "auto", precision)
