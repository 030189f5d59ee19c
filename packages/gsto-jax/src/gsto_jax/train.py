"""Training with JAX, by the contract of `gsto_spec.backend`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any, SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from gsto_jax.gradients import Descent, all_finite
from gsto_jax.inference import Arrays, Inference, memory_of
from gsto_jax.optimizers import slots_of, transformation, with_slots
from gsto_jax.place import Place, numbers
from gsto_jax.program import Program, Tensors, split, to_canonical
from gsto_spec import Graph
from gsto_spec.backend import (
    LOSS_SCALE,
    OPTIMIZER_PREFIX,
    BackendError,
    Batch,
    Speed,
    Training,
    check_batch,
    slot_kinds,
    split_state,
)
from gsto_spec.objective import Heatmap
from gsto_spec.weights import check_weights

Slots = tuple[Array, Any]
"""Whether a step was taken, and the state of the optimiser's transformation."""


class JaxTrainer:
    """A graph with its objective and optimiser; a `gsto_spec.backend.Trainer`.

    The tensors stay on the devices, all of them on each; a step is one compiled function, which takes over
    their memory; the fast one on CPUs does not, and is quicker for it. The global batch is cut over the
    devices of all processes, and XLA makes statistics, losses and gradients those of the whole batch. A batch
    that the devices do not divide is cut over as many as do, and the others repeat their work: the same
    result, later. The learning rate is an argument, so that no step compiles anew.

    `Training.deterministic` is XLA's own switch, `xla_gpu_deterministic_ops`: on a GPU only kernels that add
    in one order, slower ones where the quick ones do not. The same result is to be had on the same kind and
    number of devices with the same versions of JAX and driver, no further. A CPU's compiler reads none of it.
    """

    def __init__(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], training: Training, place: Place,
        speed: Speed = "fast",
    ) -> None:  # fmt: skip
        if (problem := graph.training_form_violation()) is not None:
            raise problem
        check_weights(graph, weights)
        self.graph, self.training, self.place = graph, training, place
        self._names = training.learnt(graph)
        quick = speed != "plain" and place.on_cpu
        program = Program(graph, training.batch_norm_momentum, training.frozen, place.precision, quick)
        self._inference = Inference(program, place)
        self._descent = Descent(program, training, self._laid_out)
        self._transformation = transformation(training.optimizer)
        self._learnt, self._kept = self._stored(weights)
        self._slots = self._fresh_slots()
        options = {"xla_gpu_deterministic_ops": True} if training.deterministic else None
        # XLA's compiler for CPUs copies every tensor first whose memory a step takes over.
        donated = () if quick else (0, 1, 2)
        self._train = jax.jit(
            self._updated, donate_argnums=donated, compiler_options=options, out_shardings=place.everywhere
        )

    def step(self, batch: Batch, learning_rate: float) -> Mapping[str, SupportsFloat]:
        """Forward pass, gradient and update; the losses are those before the update, still on the device.

        Raises as `gsto_spec.backend.check_batch` does, and for a batch that `micro_batches` does not divide.
        """
        arrays = self._arrays(batch)
        with self.place.active():
            rate = self.place.dtype(learning_rate)
            losses: OrderedDict[str, Array]
            self._learnt, self._kept, self._slots, losses = self._train(
                self._learnt, self._kept, self._slots, self._placed(arrays), rate
            )
        return losses

    def predict(self, images: NDArray[Any]) -> Arrays:
        """See `JaxPredictor.predict`: every process its own images, on its own devices."""
        learnt, kept = (self.place.seen_here(tensors) for tensors in (self._learnt, self._kept))
        return self._inference.predict(learnt, kept, images)

    def first_not_finite(self, batch: Batch) -> str | None:
        """See `gsto_spec.backend.Trainer.first_not_finite`; it compiles a program of its own."""
        arrays = self._arrays(batch)
        with self.place.active():
            finite = jax.jit(self._watched)(self._learnt, self._kept, self._placed(arrays))
        names = [node.name for node in self.graph.order]
        names += [f"loss_{output}" for output in self.graph.outputs]
        names += [f"gradient of {name}" for name in self._names]
        names += [f"new {name}" for name in self._kept]
        return next((name for name in names if not finite[name]), None)

    def memory_analysis(self, shape: tuple[int, int, int, int]) -> dict[str, int]:
        """What a step takes of global batches of N x C x H x W, in bytes a device; see `memory_of`."""
        with self.place.active():
            batch = {
                name: self.place.to_come(size, dtype) for name, (size, dtype) in self._batch_of(shape).items()
            }
            rate = self.place.dtype(0)
            return memory_of(self._train.lower(self._learnt, self._kept, self._slots, batch, rate))

    def state(self) -> Arrays:
        """Weights, running statistics and slots (`optimizer/momentum/NAME`, ...), copied to numpy."""
        tensors = {**self._learnt, **self._kept}
        state = {name: to_canonical(tensors[name]) for name in self.graph.parameters}
        stepped, slots = self._slots
        for kind, slot in slots_of(slots).items() if stepped else ():
            if kind == "step":
                state[f"{OPTIMIZER_PREFIX}step"] = np.asarray(int(slot))
            else:
                prefix = f"{OPTIMIZER_PREFIX}{kind}/"
                state |= {prefix + name: to_canonical(slot[name]) for name in self._names}
        return state

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`; raises `WeightsError`, listing what does not fit, before anything changes.

        The scale that a state of float16 has for its loss is left out: no precision here needs one.
        """
        unscaled = {name: array for name, array in state.items() if name not in LOSS_SCALE}
        weights, slots = split_state(self.graph, self.training, unscaled)
        self._learnt, self._kept = self._stored(weights)
        self._slots = self._fresh_slots()
        if slots:
            with self.place.active():
                stepped = self.place.put(np.asarray(True), np.bool_)
                self._slots = stepped, with_slots(self._slots[1], self._restored(slots))

    def _updated(
        self, learnt: Tensors, kept: Tensors, slots: Slots, batch: Tensors, rate: Array
    ) -> tuple[Tensors, Tensors, Slots, OrderedDict[str, Array]]:
        images, targets = _split_batch(batch)
        slope = self._descent.slope(learnt, kept, images, targets)
        finite = all_finite((slope.losses["loss"], slope.gradients, slope.statistics))
        directions, after = self._transformation.update(slope.gradients, slots[1], learnt)
        moved = {name: self._moved(name, learnt[name], directions[name], rate) for name in learnt}
        new, old = (moved, slope.statistics, (finite, after)), (learnt, kept, slots)
        chosen: tuple[Tensors, Tensors, Slots] = jax.tree.map(partial(jnp.where, finite), new, old)
        losses = OrderedDict(slope.losses, finite=finite.astype(rate.dtype))
        return *chosen, losses

    def _moved(self, name: str, weight: Array, direction: Array, rate: Array) -> Array:
        factors = self.training.rate_factors
        return weight - (rate * factors[name] if name in factors else rate) * direction

    def _watched(self, learnt: Tensors, kept: Tensors, batch: Tensors) -> dict[str, Array]:
        images, targets = _split_batch(batch)
        slope = self._descent.slope(learnt, kept, images, targets, watch=True)
        losses = {name: all_finite(loss) for name, loss in slope.losses.items()}
        gradients = {f"gradient of {name}": all_finite(array) for name, array in slope.gradients.items()}
        statistics = {f"new {name}": all_finite(array) for name, array in slope.statistics.items()}
        return {**losses, **gradients, **statistics, **slope.finite}

    def _laid_out(self, parts: Array) -> Array:
        """Arrays of parts x images x ..., every part of which all devices share."""
        laid_out: Array = jax.lax.with_sharding_constraint(  # type: ignore[no-untyped-call]
            parts, self.place.by_image(parts.shape[1], axis=1)
        )
        return laid_out

    def _arrays(self, batch: Batch) -> Arrays:
        """This process's share as copies of the types that the step takes."""
        types = {"image": self.place.dtype, **self._target_types}
        given = {name: numbers(name, batch[name]) for name in types if name in batch}
        check_batch(self.graph, self.training.objective, given)
        return {name: np.array(given[name], dtype) for name, dtype in types.items()}

    @property
    def _target_types(self) -> dict[str, Any]:
        if isinstance(self.training.objective.loss, Heatmap):
            return dict.fromkeys(("heatmaps", "visibility"), self.place.dtype)
        return {"label": np.int32}

    def _placed(self, arrays: Arrays) -> Tensors:
        batch = self.place.batch(arrays)
        images, parts = len(batch["image"]), self.training.micro_batches
        if images % parts:
            raise BackendError(f"micro_batches: expected a divisor of a batch of {images}, found {parts}")
        return batch

    def _batch_of(self, shape: tuple[int, int, int, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
        """The shape and type of every array of a batch of images of a shape."""
        count, _, height, width = shape
        shapes: dict[str, tuple[int, ...]] = {"image": shape, "label": (count, height, width)}
        if isinstance(self.training.objective.loss, Heatmap):
            shapes["heatmaps"] = self.graph.check(shape)[next(iter(self.graph.outputs.values()))]
            shapes["visibility"] = shapes["heatmaps"][:2]
        types = {"image": self.place.dtype, **self._target_types}
        return {name: (shapes[name], dtype) for name, dtype in types.items()}

    def _stored(self, weights: Mapping[str, NDArray[Any]]) -> tuple[Tensors, Tensors]:
        with self.place.active():
            tensors = {name: self.place.tensor(array) for name, array in weights.items()}
        return split(self.graph, tensors, self._names)

    def _fresh_slots(self) -> Slots:
        with self.place.active():
            init = jax.jit(self._transformation.init, out_shardings=self.place.everywhere)
            return self.place.put(np.asarray(False), np.bool_), init(self._learnt)

    def _restored(self, slots: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        restored: dict[str, Any] = {
            kind: {name: self.place.tensor(slots[f"{kind}/{name}"]) for name in self._names}
            for kind in slot_kinds(self.training.optimizer)
        }
        if "step" in slots:
            restored["step"] = self.place.put(slots["step"], np.int32)
        return restored


def _split_batch(batch: Tensors) -> tuple[Array, Tensors]:
    return batch["image"], {name: array for name, array in batch.items() if name != "image"}
