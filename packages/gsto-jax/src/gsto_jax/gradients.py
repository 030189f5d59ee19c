"""A batch's losses, their gradients and the statistics after it, as a pure function; whole or in parts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gsto_jax.losses import Selection, negative_logs, objective_losses, pixel_weights, select
from gsto_jax.program import Program, Tensors, channels, channels_last
from gsto_spec.backend import Training
from gsto_spec.objective import CrossEntropy


class Slope(NamedTuple):
    """`losses` and `gradients` of a batch, and its `statistics`: what is not learnt, after the batch.

    `finite` says of every node whether its values are, where that was asked for.
    """

    losses: OrderedDict[str, Array]
    gradients: Tensors
    statistics: Tensors
    finite: dict[str, Array]


@dataclass(frozen=True)
class Descent:
    """What is differentiated: a program, and the objective and parts that `training` says.

    `parts` constrains arrays of parts x images x ... to where they are to lie.
    """

    program: Program
    training: Training
    parts: Callable[[Array], Array]

    def slope(
        self, learnt: Tensors, kept: Tensors, images: Array, targets: Tensors, *, watch: bool = False
    ) -> Slope:
        """Of a batch: images N x C x H x W and targets; `learnt` and `kept` are the stored tensors.

        With `watch` nothing is rematerialised, and `finite` is filled.
        """
        count = self.training.micro_batches
        if count == 1:
            return self._of_part(learnt, kept, images, targets, None, watch)
        batch = jax.tree.map(self._cut, (images, targets))
        selections = self._selections(learnt, kept, *batch)
        totals = {name: selection.total for name, selection in selections.items()}
        pixels = {name: selection.pixels for name, selection in selections.items()}
        start = Slope(self._no_losses(), jax.tree.map(jnp.zeros_like, learnt), kept, {})

        def add(total: Slope, part: tuple[Array, Tensors, Tensors]) -> tuple[Slope, dict[str, Array]]:
            images, targets, pixels = part
            chosen = {name: Selection(pixels[name], totals[name]) for name in pixels}
            slope = self._of_part(learnt, total.statistics, images, targets, chosen, watch)
            losses, gradients = jax.tree.map(jnp.add, total[:2], slope[:2])
            return Slope(losses, gradients, slope.statistics, {}), slope.finite

        # One part after another: unrolled, XLA would be free to keep the feature maps of several.
        slope, finite = lax.scan(add, start, (*batch, pixels))
        return slope._replace(finite=jax.tree.map(jnp.all, finite))

    def _cut(self, array: Array) -> Array:
        """N x ... as parts x images x ...: image i in part i mod parts."""
        count = self.training.micro_batches
        return self.parts(array.reshape(len(array) // count, count, *array.shape[1:]).swapaxes(0, 1))

    def _of_part(
        self, learnt: Tensors, kept: Tensors, images: Array, targets: Tensors,
        selections: dict[str, Selection] | None, watch: bool,
    ) -> Slope:  # fmt: skip
        def loss(learnt: Tensors) -> tuple[Array, tuple[Any, ...]]:
            outputs, statistics, finite = self._forward(learnt, kept, images, watch)
            parts = self.training.micro_batches
            losses = objective_losses(self.training.objective, outputs, targets, selections, parts)
            return losses["loss"], (losses, statistics, finite)

        gradients, (losses, statistics, finite) = jax.grad(loss, has_aux=True)(learnt)
        return Slope(losses, gradients, statistics, finite)

    def _forward(
        self, learnt: Tensors, kept: Tensors, images: Array, watch: bool
    ) -> tuple[OrderedDict[str, Array], Tensors, dict[str, Array]]:
        inputs = [channels_last(self.program.graph, images)]
        if watch:
            outputs, statistics, values = self.program.everything(learnt, kept, inputs)
            return outputs, statistics, {name: jnp.isfinite(x).all() for name, x in values.items()}
        rematerialize = self.training.rematerialize
        return *self.program(learnt, kept, inputs, training=True, rematerialize=rematerialize), {}

    def _selections(
        self, learnt: Tensors, kept: Tensors, images: Array, targets: Tensors
    ) -> dict[str, Selection]:
        """Each output's selection of the whole batch, its pixels in parts."""
        loss = self.training.objective.loss
        if not isinstance(loss, CrossEntropy):
            return {}
        label = targets["label"]
        logs = self._negative_logs(learnt, kept, images, label) if loss.ohem else {}
        graph = self.program.graph
        return {
            name: self._selection(loss, label, channels(graph, node), logs.get(name))
            for name, node in graph.outputs.items()
        }

    def _selection(self, loss: CrossEntropy, label: Array, classes: int, log: Array | None) -> Selection:
        whole = label.reshape(-1, *label.shape[2:])
        weight = pixel_weights(loss, whole, classes, self._dtype)
        pixels, total = select(loss, whole, weight, None if log is None else log.reshape(whole.shape))
        return Selection(self.parts(pixels.reshape(label.shape)), total)

    def _negative_logs(self, learnt: Tensors, kept: Tensors, images: Array, label: Array) -> Tensors:
        """OHEM selects over the whole batch, so every part goes through the network once before."""

        def of_part(part: tuple[Array, Array]) -> Tensors:
            outputs, _, _ = self._forward(learnt, kept, part[0], False)
            return negative_logs(self.training.objective, outputs, part[1])

        logs: Tensors = lax.map(of_part, (images, label))
        return logs

    @property
    def _dtype(self) -> type[np.floating[Any]]:
        return np.float64 if self.program.precision == "float64" else np.float32

    def _no_losses(self) -> OrderedDict[str, Array]:
        names = ["loss", *(f"loss_{output}" for output in self.program.graph.outputs)]
        return OrderedDict((name, jnp.zeros((), self._dtype)) for name in names)


def all_finite(tree: Any) -> Array:
    """Whether every value in the arrays of a tree is finite."""
    finite = jnp.stack([jnp.isfinite(array).all() for array in jax.tree.leaves(tree)])
    # The least of them by sorting: a reduction XLA would compute anew in the kernel of every tensor that
    # hangs on it, which takes a network's step several times as long to compile.
    least: Array = lax.sort(finite)[0]
    return least
