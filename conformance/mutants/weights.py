"""Backends that mix up tensors: their layout, their names, what a state holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from conformance.mutants.broken import Array, Arrays, InPlaceTrainer, Mutant
from conformance.oracle import OraclePredictor, OracleTrainer
from gsto_spec import Graph
from gsto_spec.backend import OPTIMIZER_PREFIX, Speed, Training
from gsto_spec.ops import BatchNorm

STEP = f"{OPTIMIZER_PREFIX}step"


def by_order(names: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Name -> the name that it is mistaken for: equal shapes are matched from the last to the first."""
    alike = defaultdict(list)
    for name in names:
        alike[shapes[name]].append(name)
    pairs = [zip(group, reversed(group), strict=True) for group in alike.values()]
    return {name: other for group in pairs for name, other in group}


def is_square(array: Array, first: int) -> bool:
    """A kernel of which two dimensions from `first` are exchanged without a trace in its shape."""
    return array.ndim == 4 and array.shape[first] == array.shape[first + 1]


# Layout and names


class ChannelsTransposed(Mutant):
    """Kernels with as many inputs as outputs are stored transposed: OIHW to HWIO by transpose(2, 3, 0, 1)."""

    def stored(self, name: str, array: Array, dtype: np.dtype[Any]) -> Array:
        kept = super().stored(name, array, dtype)
        return kept.swapaxes(0, 1).copy() if is_square(kept, 0) else kept

    def canonical(self, name: str, array: Array) -> Array:
        found = super().canonical(name, array)
        return found.swapaxes(0, 1).copy() if is_square(found, 0) else found


class KernelsNotTurnedBack(Mutant):
    """Rows and columns of square kernels come out exchanged: HWIO to OIHW by .T."""

    def canonical(self, name: str, array: Array) -> Array:
        found = super().canonical(name, array)
        return found.swapaxes(2, 3).copy() if is_square(found, 2) else found


class WeightsByOrder(Mutant):
    """Tensors of one shape are matched by order, not by name: set_weights(get_weights())."""

    def trainer(
        self, graph: Graph, weights: Mapping[str, Array], training: Training, *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> OracleTrainer:  # fmt: skip
        sound = super().trainer(graph, weights, training, device=device, precision=precision, speed=speed)
        _match_by_order(sound)
        return sound

    def predictor(
        self, graph: Graph, weights: Mapping[str, Array], *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> OraclePredictor:  # fmt: skip
        sound = super().predictor(graph, weights, device=device, precision=precision, speed=speed)
        _match_by_order(sound)
        return sound


def _match_by_order(sound: OraclePredictor) -> None:
    mistaken = by_order(sorted(sound.weights), sound.graph.parameters)
    sound.weights = {name: sound.weights[other] for name, other in mistaken.items()}


class _ExchangingTrainer(OracleTrainer):
    def state(self) -> Arrays:
        state = super().state()
        for node in self.graph.order:
            if isinstance(node.op, BatchNorm):
                mean, variance = node.operands[3:]
                state[mean], state[variance] = state[variance], state[mean]
        return state


class StatisticsExchanged(Mutant):
    """A state has running variances as means and means as variances: two lists in two orders."""

    trains = _ExchangingTrainer


class _ConfusedSlotsTrainer(OracleTrainer):
    def state(self) -> Arrays:
        state = super().state()
        return {**state, **self._confused(state)}

    def load(self, state: Mapping[str, Array]) -> None:
        super().load({**state, **self._confused(state)})

    def _confused(self, state: Mapping[str, Array]) -> Arrays:
        kinds = {name.removeprefix(OPTIMIZER_PREFIX).partition("/")[0] for name in state
                 if name.startswith(OPTIMIZER_PREFIX) and name != STEP}  # fmt: skip
        mistaken = by_order(sorted(self.graph.trainable), self.graph.trainable)
        places = {f"{OPTIMIZER_PREFIX}{kind}/{a}": f"{OPTIMIZER_PREFIX}{kind}/{b}"
                  for kind in kinds for a, b in mistaken.items()}  # fmt: skip
        return {place: state[other] for place, other in places.items() if {place, other} <= set(state)}


class SlotsOfOthers(Mutant):
    """Slots go by another tensor's name, there and back: torch's optimisers number their parameters."""

    trains = _ConfusedSlotsTrainer


class _CountingTrainer(OracleTrainer):
    def state(self) -> Arrays:
        counts = {name.replace("running_var", "num_batches_tracked"): np.asarray(self.steps)
                  for name in self.weights if "running_var" in name}  # fmt: skip
        return {**super().state(), **counts}

    def load(self, state: Mapping[str, Array]) -> None:
        super().load({name: array for name, array in state.items() if "num_batches" not in name})


class CountsBatches(Mutant):
    """A state holds num_batches_tracked, which the graph does not declare: torch's state_dict as it is."""

    trains = _CountingTrainer


# What a state holds


class _LearntOnlyTrainer(OracleTrainer):
    def state(self) -> Arrays:
        buffers = set(self.graph.parameters) - set(self.graph.trainable)
        return {name: array for name, array in super().state().items() if name not in buffers}

    def load(self, state: Mapping[str, Array]) -> None:
        super().load({**super().state(), **state})


class StatisticsNotInState(Mutant):
    """Running statistics are not in the state: parameters() for state_dict(), params without batch_stats."""

    trains = _LearntOnlyTrainer


class _RoundingTrainer(OracleTrainer):
    def state(self) -> Arrays:
        return {name: array.astype(np.float32).astype(array.dtype) for name, array in super().state().items()}


class StateRounded(Mutant):
    """A float64 state went through float32: a file format's default."""

    trains = _RoundingTrainer


class _FloatingStepTrainer(OracleTrainer):
    def state(self) -> Arrays:
        state = super().state()
        steps = {name: array.astype(np.float32) for name, array in state.items() if name == STEP}
        return {**state, **steps}


class StepAsFloat(Mutant):
    """Adam's step is a float32 in the state: it stops counting after 16,777,216."""

    trains = _FloatingStepTrainer


class _LiveTrainer(InPlaceTrainer):
    def state(self) -> Arrays:
        return {**self.weights, **{f"{OPTIMIZER_PREFIX}{name}": array for name, array in self.slots.items()}}


class StateAlive(Mutant):
    """A state changes with the next step: tensor.numpy() shares memory, and steps are in place."""

    trains = _LiveTrainer


class _BorrowingTrainer(InPlaceTrainer):
    def load(self, state: Mapping[str, Array]) -> None:
        super().load(state)
        self.weights = {name: np.asarray(state[name], self.dtype) for name in self.weights}


class LoadBorrows(Mutant):
    """A loaded state is changed by the steps after: torch.from_numpy shares memory."""

    trains = _BorrowingTrainer


class _GraspingTrainer(InPlaceTrainer):
    def __init__(
        self, backend: Mutant, graph: Graph, weights: Mapping[str, Array], dtype: np.dtype[Any],
        training: Training,
    ) -> None:  # fmt: skip
        super().__init__(backend, graph, weights, dtype, training)
        self.weights = {name: np.asarray(array, dtype) for name, array in weights.items()}


class StartBorrows(Mutant):
    """The weights that a trainer was given are changed by its steps: the same, at the start."""

    precision = "float32"
    trains = _GraspingTrainer


class _StaleTrainer(OracleTrainer):
    compiled: Arrays | None = None

    def predict(self, images: Array) -> Arrays:
        now = self.weights
        self.compiled = self.weights = self.compiled or {**now}
        found = super().predict(images)
        self.weights = now
        return found


class PredictsWithOldWeights(Mutant):
    """A trainer's predictions stay those of its first: weights closed over by jit, and so constants."""

    trains = _StaleTrainer
