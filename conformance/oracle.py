"""`OracleBackend`: a whole backend in numpy by the rules of `conformance.rules` and `conformance.losses`.

It is the suite's source of gradients, the toy adapter that `docs/conformance.md` shows, and the base class of
the broken backends that test the suite: each method below is one thing that a port can get wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance import rules
from conformance.arithmetic import PLAIN, Arithmetic
from conformance.losses import Loss, objective_losses
from gsto_spec import Graph, WeightsError
from gsto_spec.backend import OPTIMIZER_PREFIX, BackendError, Batch, Training
from gsto_spec.errors import nearest
from gsto_spec.graph import Node
from gsto_spec.objective import SGD, Adam, Objective, optimizer_step
from gsto_spec.ops import BatchNorm, Input, Parameter
from gsto_spec.reference import check_arrays, require_spread
from gsto_spec.weights import check_weights

Array = NDArray[Any]
Arrays = dict[str, Array]


class OracleBackend:
    """numpy as a `gsto_spec.backend.Backend`; `sums` is the order in which it adds."""

    name = "oracle"
    precisions: tuple[str, ...] = ("float32", "float64")
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
        device: str = "auto", precision: str = "float32",
    ) -> OracleTrainer:  # fmt: skip
        """See `gsto_spec.backend.Backend.trainer`."""
        if (problem := graph.training_form_violation()) is not None:
            raise problem
        return OracleTrainer(self, graph, weights, self._resolve(device, precision), training)

    def predictor(
        self, graph: Graph, weights: Mapping[str, Array], *, device: str = "auto", precision: str = "float32"
    ) -> OraclePredictor:
        """See `gsto_spec.backend.Backend.predictor`."""
        return OraclePredictor(self, graph, weights, self._resolve(device, precision))

    def _resolve(self, device: str, precision: str) -> np.dtype[Any]:
        for what, given, known in (
            ("device", device, ("auto", *self.devices())),
            ("precision", precision, self.precisions),
        ):
            if given not in known:
                hint = nearest(given, known)
                raise BackendError(f"{what}: expected one of {', '.join(known)}, found {given}{hint}")
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
            require_spread(node.name, operands[0].shape)
        return np.asarray(self.backend.forward(node, operands, training), self.dtype)


class OracleTrainer(OraclePredictor):
    """A network being trained; a `gsto_spec.backend.Trainer`."""

    def __init__(
        self, backend: OracleBackend, graph: Graph, weights: Mapping[str, Array], dtype: np.dtype[Any],
        training: Training,
    ) -> None:  # fmt: skip
        super().__init__(backend, graph, weights, dtype)
        self.training = training
        self.slots: Arrays = {}
        self.steps = 0

    def step(self, batch: Batch, learning_rate: float) -> dict[str, float]:
        """See `gsto_spec.backend.Trainer.step`."""
        values = self.run(batch["image"], training=True)
        losses = self.losses(values, batch)
        gradients = self.gradients(values, losses)
        self._update_statistics(values)
        learnt = {name: self.weights[name] for name in self.graph.trainable}
        rate = self.backend.rate(learning_rate, self.steps)
        new, slots = self.backend.update(self.training.optimizer, learnt, gradients, self.slots, rate)
        self.weights |= {name: np.asarray(array, self.dtype) for name, array in new.items()}
        self.slots = {name: _kept(name, array, self.dtype) for name, array in slots.items()}
        self.steps += 1
        total = sum(weight * loss.value for loss, weight in losses.values())
        return {"loss": total, **{f"loss_{name}": loss.value for name, (loss, _) in losses.items()}}

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
            parts = self.backend.backward(node, operands, values[node.name], found[node.name])
            for name, part in zip(node.operands, parts, strict=True):
                if part is not None:
                    found[name] = np.asarray(found[name] + part, self.dtype)
        return found

    def _update_statistics(self, values: Arrays) -> None:
        for node in self.built.order:
            if isinstance(node.op, BatchNorm):
                x, *_, mean, variance = node.operands
                op = replace(node.op, momentum=self.backend.momentum(node.op, self.training))
                fresh = self.backend.running(op, self.weights[mean], self.weights[variance], values[x])
                arrays = (np.asarray(array, self.dtype) for array in fresh)
                self.weights |= dict(zip((mean, variance), arrays, strict=True))

    def state(self) -> Arrays:
        """See `gsto_spec.backend.Trainer.state`."""
        weights = {name: self.backend.canonical(name, array) for name, array in self.weights.items()}
        slots = {name: self.backend.canonical(_of(name), array) for name, array in self.slots.items()}
        return {**weights, **{f"{OPTIMIZER_PREFIX}{name}": array for name, array in slots.items()}}

    def load(self, state: Mapping[str, Array]) -> None:
        """See `gsto_spec.backend.Trainer.load`."""
        slots = {
            name.removeprefix(OPTIMIZER_PREFIX): array
            for name, array in state.items() if name.startswith(OPTIMIZER_PREFIX)
        }  # fmt: skip
        weights = {name: array for name, array in state.items() if not name.startswith(OPTIMIZER_PREFIX)}
        check_weights(self.graph, weights)
        self._check_slots(slots)
        self.weights = {name: self._stored(name, array) for name, array in weights.items()}
        self.slots = {
            name: np.array(array) if name == "step" else self._stored(_of(name), array)
            for name, array in slots.items()
        }

    def _stored(self, name: str, array: Array) -> Array:
        return self.backend.stored(name, array, self.dtype)

    def _check_slots(self, slots: Mapping[str, Array]) -> None:
        kinds = ("momentum",) if isinstance(self.training.optimizer, SGD) else ("first", "second")
        shapes = self.graph.trainable.items()
        expected = {f"{kind}/{name}": shape for kind in kinds for name, shape in shapes} if slots else {}
        if slots and isinstance(self.training.optimizer, Adam):
            expected["step"] = ()
        check_arrays("optimizer", expected, slots)
        broken = [name for name, array in slots.items() if not np.isfinite(array).all()]
        if broken:
            raise WeightsError(f"optimizer: expected finite values, found others in {', '.join(broken)}")


def _kept(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    return np.asarray(array, None if name == "step" else dtype)


def _of(slot: str) -> str:
    """The tensor that an optimiser slot belongs to."""
    return slot.partition("/")[2]
