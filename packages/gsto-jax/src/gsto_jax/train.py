"""Predicting and training with JAX, by the contract of `gsto_spec.backend`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, SupportsFloat

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from gsto_jax.losses import check_labels, objective_losses
from gsto_jax.optimizers import slot_kinds, slots_of, transformation, with_slots
from gsto_jax.program import (
    Program,
    Tensors,
    channels_last,
    errors_of_one_line,
    split,
    to_canonical,
    to_native,
)
from gsto_spec import Graph
from gsto_spec.backend import OPTIMIZER_PREFIX, Batch, Training
from gsto_spec.objective import Adam, Heatmap
from gsto_spec.weights import check_tensors, check_weights

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Place:
    """Where and how arrays are computed: a device, a type, and JAX's name for the precision of products."""

    device: jax.Device
    dtype: type[np.floating[Any]]
    products: str

    @contextmanager
    def active(self) -> Iterator[None]:
        """JAX set to this precision, whatever it is set to outside; x64 is on for float64 alone."""
        x64, products = jax.enable_x64(self.dtype is np.float64), jax.default_matmul_precision(self.products)
        with x64, products, errors_of_one_line():
            yield

    def put(self, array: NDArray[Any], dtype: Any = None) -> Array:
        """A copy on the device; JAX may otherwise share memory that the caller writes to later."""
        copy: Array = jax.device_put(np.array(array, dtype or self.dtype), self.device)
        return copy

    def tensor(self, array: NDArray[Any]) -> Array:
        """A canonical stored tensor on the device, in this backend's layout."""
        moved: Array = jax.device_put(to_native(array, self.dtype), self.device)
        return moved


class JaxPredictor:
    """A graph in inference mode on one device; a `gsto_spec.backend.Predictor`."""

    def __init__(self, program: Program, weights: Mapping[str, NDArray[Any]], place: Place) -> None:
        check_weights(program.graph, weights)
        self.program, self.place = program, place
        self.parameters, self.statistics = self._stored(weights)
        self._predict = jax.jit(self._outputs)

    def predict(self, images: NDArray[Any]) -> Arrays:
        """Output name -> N x K x h x w, in the predictor's precision; compiled once per shape."""
        with self.place.active():
            outputs = self._predict(self.parameters, self.statistics, self.place.put(images))
        return {name: np.array(output) for name, output in outputs.items()}

    def _outputs(self, parameters: Tensors, statistics: Tensors, images: Array) -> OrderedDict[str, Array]:
        inputs = [channels_last(self.program.graph, images)]
        return self.program.channels_first(self.program(parameters, statistics, inputs, training=False)[0])

    def _stored(self, weights: Mapping[str, NDArray[Any]]) -> tuple[Tensors, Tensors]:
        with self.place.active():
            tensors = {name: self.place.tensor(array) for name, array in weights.items()}
        return split(self.program.graph, tensors)


class JaxTrainer(JaxPredictor):
    """A graph with its objective and optimiser; a `gsto_spec.backend.Trainer`.

    Parameters, statistics and slots stay on the device; a step is one compiled function, which takes over
    their memory. The learning rate is an argument of it, so that no step compiles anew.
    """

    def __init__(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], training: Training, place: Place
    ) -> None:
        if (problem := graph.training_form_violation()) is not None:
            raise problem
        super().__init__(Program(graph, training.batch_norm_momentum), weights, place)
        self.training = training
        self._transformation = transformation(training.optimizer)
        self._slots = self._fresh_slots(self.parameters)
        self._stepped = False
        self._train = jax.jit(self._updated, donate_argnums=(0, 1, 2))

    def step(self, batch: Batch, learning_rate: float) -> Mapping[str, SupportsFloat]:
        """Forward pass, gradient and update; the losses are those before the update, still on the device.

        Raises `GstoError` for a label that is no class, and for targets that do not fit the images.
        """
        targets = self._targets(batch)
        with self.place.active():
            images = self.place.put(batch["image"])
            rate = self.place.dtype(learning_rate)
            losses: OrderedDict[str, Array]
            self.parameters, self.statistics, self._slots, losses = self._train(
                self.parameters, self.statistics, self._slots, images, targets, rate
            )
        self._stepped = True
        return losses

    def _targets(self, batch: Batch) -> Tensors:
        loss = self.training.objective.loss
        with self.place.active():
            if isinstance(loss, Heatmap):
                return {name: self.place.put(batch[name]) for name in ("heatmaps", "visibility")}
            check_labels(batch["label"], self._classes(), loss.ignore_label)
            return {"label": self.place.put(batch["label"], np.int32)}

    def _classes(self) -> int:
        graph = self.program.graph
        channels = [graph.shapes[node][1] for node in graph.outputs.values()]
        return min(count for count in channels if isinstance(count, int))

    def _updated(
        self, parameters: Tensors, statistics: Tensors, slots: Any, images: Array, targets: Tensors,
        rate: Array,
    ) -> tuple[Tensors, Tensors, Any, OrderedDict[str, Array]]:  # fmt: skip
        inputs = [channels_last(self.program.graph, images)]

        def loss(parameters: Tensors) -> tuple[Array, tuple[Tensors, OrderedDict[str, Array]]]:
            outputs, updated = self.program(parameters, statistics, inputs, training=True)
            losses = objective_losses(self.training.objective, outputs, targets)
            return losses["loss"], (updated, losses)

        gradients, (statistics, losses) = jax.grad(loss, has_aux=True)(parameters)
        directions, slots = self._transformation.update(gradients, slots, parameters)
        moved = jax.tree.map(lambda weight, direction: weight - rate * direction, parameters, directions)
        return moved, statistics, slots, losses

    def state(self) -> Arrays:
        """Weights, running statistics and slots (`optimizer/momentum/NAME`, ...), copied to numpy."""
        tensors = {**self.parameters, **self.statistics}
        state = {name: to_canonical(tensors[name]) for name in self.program.graph.parameters}
        for kind, slot in slots_of(self._slots).items() if self._stepped else ():
            if kind == "step":
                state[f"{OPTIMIZER_PREFIX}step"] = np.asarray(int(slot))
            else:
                prefix = f"{OPTIMIZER_PREFIX}{kind}/"
                state |= {prefix + name: to_canonical(array) for name, array in slot.items()}
        return state

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`; raises `WeightsError`, listing what does not fit, before anything changes."""
        weights = {name: array for name, array in state.items() if not name.startswith(OPTIMIZER_PREFIX)}
        slots = {
            name.removeprefix(OPTIMIZER_PREFIX): array for name, array in state.items() if name not in weights
        }
        expected = dict(self.program.graph.parameters) | (self._slot_shapes() if slots else {})
        check_tensors("state", expected, state)
        self.parameters, self.statistics = self._stored(weights)
        fresh = self._fresh_slots(self.parameters)
        self._slots = with_slots(fresh, self._restored(slots)) if slots else fresh
        self._stepped = bool(slots)

    def _slot_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {
            f"{OPTIMIZER_PREFIX}{kind}/{name}": shape
            for kind in slot_kinds(self.training.optimizer)
            for name, shape in self.program.graph.trainable.items()
        }
        return shapes | ({f"{OPTIMIZER_PREFIX}step": ()} if isinstance(self.training.optimizer, Adam) else {})

    def _fresh_slots(self, parameters: Tensors) -> Any:
        with self.place.active():
            return jax.device_put(self._transformation.init(parameters), self.place.device)

    def _restored(self, slots: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        names = self.program.graph.trainable
        with self.place.active():
            restored: dict[str, Any] = {
                kind: {name: self.place.tensor(slots[f"{kind}/{name}"]) for name in names}
                for kind in slot_kinds(self.training.optimizer)
            }
            if "step" in slots:
                restored["step"] = self.place.put(slots["step"], np.int32)
        return restored
