"""`OracleBackend`: a whole backend in numpy by the rules of `conformance.rules` and `conformance.losses`.

It is the suite's source of gradients, the toy adapter that `docs/conformance.md` shows, and the base class of
the broken backends that test the suite: each method below is one thing that a port can get wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance import rules
from conformance.arithmetic import PLAIN, Arithmetic
from conformance.losses import Loss, objective_losses
from gsto_spec import Graph
from gsto_spec.backend import (
    OPTIMIZER_PREFIX,
    BackendError,
    Batch,
    Speed,
    Training,
    resolve_device,
    split_state,
)
from gsto_spec.graph import Node
from gsto_spec.objective import SGD, Adam, Objective, optimizer_step
from gsto_spec.ops import BatchNorm, Input, Parameter
from gsto_spec.reference import require_spread
from gsto_spec.weights import check_weights

Array = NDArray[Any]
Arrays = dict[str, Array]


class OracleBackend:
    """numpy as a `gsto_spec.backend.Backend`; `sums` is the order in which it adds."""

    name = "oracle"
    precisions: tuple[str, ...] = ("float32", "float64")
    speeds: tuple[Speed, ...] = ("plain",)
    process_index = 0
    process_count = 1

    def __init__(self, sums: Arithmetic = PLAIN) -> None:
        self.sums = sums

    def devices(self) -> tuple[str, ...]:
        """The processor alone."""
        return ("cpu",)

    def versions(self) -> dict[str, str]:
        """numpy's."""
        return {"numpy": np.__version__}

    def sum_over_processes(self, array: Array) -> Array:
        """The array itself: one process."""
        return array

    def trainer(
        self, graph: Graph, weights: Mapping[str, Array], training: Training, *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> OracleTrainer:  # fmt: skip
        """See `gsto_spec.backend.Backend.trainer`."""
        if (problem := graph.training_form_violation()) is not None:
            raise problem
        return OracleTrainer(self, graph, weights, self._resolve(device, precision), training)

    def predictor(
        self, graph: Graph, weights: Mapping[str, Array], *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> OraclePredictor:  # fmt: skip
        """See `gsto_spec.backend.Backend.predictor`."""
        return OraclePredictor(self, graph, weights, self._resolve(device, precision))

    def _resolve(self, device: str, precision: str) -> np.dtype[Any]:
        resolve_device(self, device, precision)
        return np.dtype(precision)

    # What a port can get wrong, one thing each

    def prepare(self, graph: Graph) -> Graph:
        """The graph that is really built for `graph`."""
        return graph

    def stored(self, name: str, array: Array, dtype: np.dtype[Any]) -> Array:
        """How a canonical tensor is kept; `canonical` is the way back."""
        del name
        return np.array(array, dtype)

    def canonical(self, name: str, array: Array) -> Array:
        """A kept tensor under its canonical name, in its canonical layout."""
        del name
        return array.copy()

    def image(self, images: Array, dtype: np.dtype[Any]) -> Array:
        """The images as the network takes them."""
        return np.asarray(images, dtype)

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        """The value of a node that is no leaf."""
        return rules.value(node.op, operands, training, self.sums)

    def backward(
        self, node: Node, operands: Sequence[Array], result: Array, upper: Array
    ) -> Sequence[Array | None]:
        """The gradient of each operand of a node, from the gradient `upper` of its value, in training."""
        return rules.gradients(node.op, operands, result, upper, self.sums)

    def backward_frozen(self, op: BatchNorm, operands: Sequence[Array], upper: Array) -> list[Array | None]:
        """As `backward`, of a batch norm that normalises by its running statistics in training."""
        return rules.frozen_norm_gradients(op, operands, upper, self.sums)

    def running(self, op: BatchNorm, mean: Array, variance: Array, x: Array) -> tuple[Array, Array]:
        """The running statistics after a batch whose operand was `x`."""
        fresh_mean, fresh_variance = (part.reshape(-1) for part in rules.batch_statistics(x, self.sums))
        count = x[:, 0].size
        correction = count / (count - 1) if op.unbiased else 1.0
        keep = 1 - op.momentum
        new_variance = keep * variance + op.momentum * correction * fresh_variance
        return keep * mean + op.momentum * fresh_mean, new_variance

    def momentum(self, op: BatchNorm, training: Training) -> float:
        """The weight of the new batch in a node's running statistics."""
        return op.momentum if training.batch_norm_momentum is None else training.batch_norm_momentum

    def losses(
        self, objective: Objective, outputs: Arrays, magnitudes: Arrays, batch: Batch
    ) -> dict[str, tuple[Loss, float]]:
        """Each output's loss and the weight that it has in the sum."""
        return objective_losses(objective, outputs, magnitudes, batch, self.sums)

    def update(
        self, optimizer: SGD | Adam, weights: Arrays, gradients: Arrays, slots: Arrays, rate: float
    ) -> tuple[Arrays, Arrays]:
        """The weights and slots after one step."""
        return optimizer_step(optimizer, weights, gradients, slots, rate)

    def rate(self, rate: float, step: int) -> float:
        """The learning rate that 0-based step `step` really takes."""
        del step
        return rate


class OraclePredictor:
    """A network in inference mode; a `gsto_spec.backend.Predictor`."""

    def __init__(
        self, backend: OracleBackend, graph: Graph, weights: Mapping[str, Array], dtype: np.dtype[Any]
    ) -> None:
        check_weights(graph, weights)
        self.backend, self.graph, self.dtype = backend, graph, dtype
        self.built = backend.prepare(graph)
        self.weights = {name: backend.stored(name, array, dtype) for name, array in weights.items()}

    def predict(self, images: Array) -> Arrays:
        """Output name -> N x K x h x w."""
        values = self.run(images, training=False)
        return {name: values[node].copy() for name, node in self.built.outputs.items()}

    def run(self, images: Array, *, training: bool) -> Arrays:
        """Every node's value."""
        values: Arrays = {}
        for node in self.built.order:
            operands = [values[name] for name in node.operands]
            values[node.name] = self._value(node, operands, images, training)
        return values

    def _value(self, node: Node, operands: Sequence[Array], images: Array, training: bool) -> Array:
        if isinstance(node.op, Input):
            return self.backend.image(images, self.dtype)
        if isinstance(node.op, Parameter):
            return self.weights[node.name]
        if training and isinstance(node.op, BatchNorm):
            return self._normalized(node, operands)
        return np.asarray(self.backend.forward(node, operands, training), self.dtype)

    def _normalized(self, node: Node, operands: Sequence[Array]) -> Array:
        """A batch norm in training."""
        require_spread(node.name, operands[0].shape)
        return np.asarray(self.backend.forward(node, operands, True), self.dtype)


class OracleTrainer(OraclePredictor):
    """A network being trained; a `gsto_spec.backend.Trainer`."""

    def __init__(
        self, backend: OracleBackend, graph: Graph, weights: Mapping[str, Array], dtype: np.dtype[Any],
        training: Training,
    ) -> None:  # fmt: skip
        super().__init__(backend, graph, weights, dtype)
        self.training, self.learnt = training, training.learnt(graph)
        self.slots: Arrays = {}
        self.steps = 0

    def step(self, batch: Batch, learning_rate: float) -> dict[str, float]:
        """See `gsto_spec.backend.Trainer.step`."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.run(batch["image"], training=True)
            losses = self.losses(values, batch)
            gradients = self.gradients(values, losses)
            fresh = self.fresh_statistics(values)
        total = sum(weight * loss.value for loss, weight in losses.values())
        finite = self.finite(total, gradients, fresh)
        if finite:
            self.weights |= fresh
            self._update(gradients, learning_rate)
        told = {f"loss_{name}": loss.value for name, (loss, _) in losses.items()}
        return {"loss": total, **told, "finite": float(finite)}

    def finite(self, total: Any, gradients: Arrays, statistics: Arrays) -> bool:
        """Whether a step may be taken."""
        slopes = [gradients[name] for name in self.learnt]
        return all(np.isfinite(array).all() for array in (total, *slopes, *statistics.values()))

    def _update(self, gradients: Arrays, learning_rate: float) -> None:
        rate = self.backend.rate(learning_rate, self.steps)
        before, self.slots = self.slots, {}
        for factor in {1.0, *self.training.rate_factors.values()}:
            named = [name for name in self.learnt if self.training.rate_factors.get(name, 1.0) == factor]
            self._update_some({name: self.weights[name] for name in named}, gradients, before, factor * rate)
        self.steps += 1

    def _update_some(self, learnt: Arrays, gradients: Arrays, slots: Arrays, rate: float) -> None:
        """Update the weights of one rate."""
        new, fresh = self.backend.update(self.training.optimizer, learnt, gradients, slots, rate)
        self.weights |= {name: np.asarray(array, self.dtype) for name, array in new.items()}
        self.slots |= {name: _kept(name, array, self.dtype) for name, array in fresh.items()}

    def first_not_finite(self, batch: Batch) -> str | None:
        """See `gsto_spec.backend.Trainer.first_not_finite`."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.run(batch["image"], training=True)
            losses = self.losses(values, batch)
            gradients = self.gradients(values, losses)
            fresh = {f"new {name}": value for name, value in self.fresh_statistics(values).items()}
        told = {f"loss_{name}": loss.value for name, (loss, _) in losses.items()}
        slopes = {f"gradient of {name}": gradients[name] for name in self.learnt}
        every = {**values, **told, **slopes, **fresh}
        return next((name for name, value in every.items() if not np.isfinite(value).all()), None)

    def losses(self, values: Arrays, batch: Batch) -> dict[str, tuple[Loss, float]]:
        """Each output's loss and weight, from every node's value."""
        outputs = {name: values[node] for name, node in self.built.outputs.items()}
        sizes = {name: np.abs(output) for name, output in outputs.items()}
        return self.backend.losses(self.training.objective, outputs, sizes, batch)

    def gradients(self, values: Arrays, losses: Mapping[str, tuple[Loss, float]]) -> Arrays:
        """The gradient of every node, in reverse mode; zeros where no output depends on it."""
        found = {name: np.zeros_like(value) for name, value in values.items()}
        for output, (loss, weight) in losses.items():
            end = self.built.outputs[output]
            found[end] = found[end] + weight * loss.gradient
        for node in reversed([node for node in self.built.order if node.operands]):
            operands = [values[name] for name in node.operands]
            parts = self._slopes(node, operands, values[node.name], found[node.name])
            for name, part in zip(node.operands, parts, strict=True):
                if part is not None:
                    found[name] = np.asarray(found[name] + part, self.dtype)
        return found

    def _slopes(
        self, node: Node, operands: Sequence[Array], result: Array, upper: Array
    ) -> Sequence[Array | None]:
        if not isinstance(node.op, BatchNorm):
            return self.backend.backward(node, operands, result, upper)
        if self.is_frozen(node):
            return self.backend.backward_frozen(node.op, operands, upper)
        found = [
            self.backend.backward(node, [x, *operands[1:]], *rest)
            for x, *rest in in_parts(self.training, operands[0], result, upper)
        ]
        return joined(found)

    def _normalized(self, node: Node, operands: Sequence[Array]) -> Array:
        if self.is_frozen(node):
            return np.asarray(self.backend.forward(node, operands, False), self.dtype)
        whole, stored = super()._normalized, operands[1:]
        return interleaved([whole(node, [x, *stored]) for (x,) in in_parts(self.training, operands[0])])

    def is_frozen(self, node: Node) -> bool:
        """Whether a batch norm normalises by its running statistics in training, too."""
        return node.operands[1] in self.training.frozen

    def fresh_statistics(self, values: Arrays) -> Arrays:
        """Every running statistic after the step, but for frozen ones."""
        fresh: Arrays = {}
        for node in self.built.order:
            if isinstance(node.op, BatchNorm) and not self.is_frozen(node):
                fresh |= self.statistics(node, values[node.operands[0]])
        return fresh

    def statistics(self, node: Node, operand: Array) -> Arrays:
        """A batch norm's running statistics after a batch: one part of it taken in after another."""
        assert isinstance(node.op, BatchNorm)
        op = replace(node.op, momentum=self.backend.momentum(node.op, self.training))
        mean, variance = (self.weights[name] for name in node.operands[3:])
        for (x,) in in_parts(self.training, operand):
            fresh = self.backend.running(op, mean, variance, x)
            mean, variance = (np.asarray(array, self.dtype) for array in fresh)
        return dict(zip(node.operands[3:], (mean, variance), strict=True))

    def state(self) -> Arrays:
        """See `gsto_spec.backend.Trainer.state`."""
        weights = {name: self.backend.canonical(name, array) for name, array in self.weights.items()}
        slots = {name: self.backend.canonical(_of(name), array) for name, array in self.slots.items()}
        return {**weights, **{f"{OPTIMIZER_PREFIX}{name}": array for name, array in slots.items()}}

    def load(self, state: Mapping[str, Array]) -> None:
        """See `gsto_spec.backend.Trainer.load`."""
        weights, slots = split_state(self.graph, self.training, state)
        self.weights = {name: self._stored(name, array) for name, array in weights.items()}
        self.slots = {
            name: np.array(array) if name == "step" else self._stored(_of(name), array)
            for name, array in slots.items()
        }

    def _stored(self, name: str, array: Array) -> Array:
        return self.backend.stored(name, array, self.dtype)


def in_parts(training: Training, *arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The parts of a batch, of each array N x ..., as they go through the network."""
    count = training.micro_batches
    if odd := [len(array) for array in arrays if len(array) % count]:
        raise BackendError(f"micro_batches: expected a divisor of a batch of {odd[0]}, found {count}")
    return zip(*([array[k::count] for k in range(count)] for array in arrays), strict=True)


def interleaved(parts: Sequence[Array]) -> Array:
    """The batch whose equal parts `in_parts` gives."""
    return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def joined(parts: Sequence[Sequence[Array | None]]) -> list[Array | None]:
    """A batch norm's gradients out of those of its parts: for its operand, weight and bias."""
    x, weight, bias = ([each[place] for each in parts] for place in range(3))
    return [interleaved(x), np.sum(weight, axis=0), np.sum(bias, axis=0), None, None]  # type: ignore[arg-type]


def _kept(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    return np.asarray(array, None if name == "step" else dtype)


def _of(slot: str) -> str:
    """The tensor that an optimiser slot belongs to."""
    return slot.partition("/")[2]
