"""What broken backends share: how to exchange one part of the oracle and keep all others sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from conformance.oracle import OracleBackend, OraclePredictor, OracleTrainer
from gsto_spec import Graph
from gsto_spec.backend import Batch, Speed, Training
from gsto_spec.graph import Node
from gsto_spec.ops import Op

Array = NDArray[Any]
Arrays = dict[str, Array]


class Mutant(OracleBackend):
    """The oracle with one fault, which the first line of a subclass's docstring names.

    `precision` is the one in which the fault shows, `trains` and `predicts` are what the backend makes.
    """

    name = "mutant"
    precision: ClassVar[str] = "float64"
    trains: ClassVar[type[OracleTrainer]] = OracleTrainer
    predicts: ClassVar[type[OraclePredictor]] = OraclePredictor

    def trainer(
        self, graph: Graph, weights: Mapping[str, Array], training: Training, *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> OracleTrainer:  # fmt: skip
        """A trainer of this mutant's class, for what the oracle would train."""
        sound = super().trainer(graph, weights, training, device=device, precision=precision, speed=speed)
        return self.trains(self, graph, weights, sound.dtype, training)

    def predictor(
        self, graph: Graph, weights: Mapping[str, Array], *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> OraclePredictor:  # fmt: skip
        """A predictor of this mutant's class, for what the oracle would predict with."""
        sound = super().predictor(graph, weights, device=device, precision=precision, speed=speed)
        return self.predicts(self, graph, weights, sound.dtype)


class Misreads(Mutant):
    """Computes another op, or of other operands, and differentiates what it computes."""

    def meant(self, op: Op, operands: Sequence[Array]) -> Op:
        """The op that is computed instead of `op`."""
        del operands
        return op

    def seen(self, op: Op, operands: Sequence[Array]) -> list[Array]:
        """The operands that are taken instead, by a linear map of each."""
        del op
        return list(operands)

    def unseen(self, op: Op, parts: list[Array | None], operands: Sequence[Array]) -> list[Array | None]:
        """The adjoint of `seen`, for the gradients."""
        del op, operands
        return parts

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        other = replace(node, op=self.meant(node.op, operands))
        return super().forward(other, self.seen(node.op, operands), training)

    def backward(
        self, node: Node, operands: Sequence[Array], result: Array, upper: Array
    ) -> Sequence[Array | None]:
        other = replace(node, op=self.meant(node.op, operands))
        parts = super().backward(other, self.seen(node.op, operands), result, upper)
        return self.unseen(node.op, list(parts), operands)


class Resamples(Mutant):
    """Resizes or pools by matrices of its own, one for each axis."""

    def matrix(self, op: Op, source: int, target: int) -> Array | None:
        """target x source; None for ops that stay sound."""
        raise NotImplementedError

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        result = super().forward(node, operands, training)
        ends = self._ends(node.op, operands[0], result)
        return result if ends is None else np.asarray(ends[0] @ operands[0] @ ends[1].T)

    def backward(
        self, node: Node, operands: Sequence[Array], result: Array, upper: Array
    ) -> Sequence[Array | None]:
        parts = super().backward(node, operands, result, upper)
        ends = self._ends(node.op, operands[0], result)
        return parts if ends is None else [ends[0].T @ upper @ ends[1], *parts[1:]]

    def _ends(self, op: Op, x: Array, result: Array) -> tuple[Array, Array] | None:
        if x.ndim != 4:
            return None
        rows, columns = (self.matrix(op, x.shape[axis], result.shape[axis]) for axis in (2, 3))
        return None if rows is None or columns is None else (rows, columns)


class Rewires(Mutant):
    """Builds other nodes than those of the graph, under the same names."""

    def rewired(self, graph: Graph, node: Node) -> tuple[Node, ...]:
        """What stands for a node: nodes of which the last bears its name."""
        raise NotImplementedError

    def rebuilt(self, graph: Graph) -> Graph:
        """The graph with every node rewired."""
        return replace(graph, nodes=tuple(new for node in graph.order for new in self.rewired(graph, node)))

    def prepare(self, graph: Graph) -> Graph:
        return self.rebuilt(graph)


class RewiresForInference(Rewires):
    """As `Rewires` in predictors alone, which optimise for themselves."""

    def prepare(self, graph: Graph) -> Graph:
        return graph

    def predictor(
        self, graph: Graph, weights: Mapping[str, Array], *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> OraclePredictor:  # fmt: skip
        return super().predictor(
            self.rebuilt(graph), weights, device=device, precision=precision, speed=speed
        )


class InPlaceTrainer(OracleTrainer):
    """Sound, but updates its arrays where they are, as torch does and as jit does with donated buffers."""

    def step(self, batch: Batch, learning_rate: float) -> dict[str, float]:
        before = ({**self.weights}, {**self.slots})
        losses = super().step(batch, learning_rate)
        for kept, now in zip(before, (self.weights, self.slots), strict=True):
            for name, array in kept.items():
                array[...] = now[name]
                now[name] = array
        return losses
