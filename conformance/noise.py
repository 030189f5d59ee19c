"""How far the oracle itself strays: the yardstick of float32, and the test of whether a case is fair at all.

In float32 it runs once in each of five orders of summation; in two bytes a value it rounds to nearest, and
five times up or down at random. In float64 it runs with weights, pixels and the result of every op off by
`NUDGE` of what was summed for them, a thousand times what rounding may do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance import rules
from conformance.arithmetic import ORDERS
from conformance.cases import Case
from conformance.expected import EXACT, KEPT, Quantities, inference, statistics_of, training
from conformance.losses import Loss
from conformance.oracle import OracleBackend, OracleTrainer
from conformance.rounded import RoundedOracle
from gsto_spec.backend import Batch
from gsto_spec.graph import Node
from gsto_spec.objective import CrossEntropy, Objective
from gsto_spec.ops import BatchNorm, MaxPool, Relu
from gsto_spec.precision import LOW
from gsto_spec.reference import resize_bilinear

Array = NDArray[Any]
Arrays = dict[str, Array]

NUDGE = 1e-13
AMPLIFIED = 3e4
"""Of a nudge, in magnitudes: rounding thus amplified would take three hundredths of `tolerance.MEANING`."""
CALM = 3e3
"""The same for `tolerance.REMATERIALIZED`, of which it would take a third."""
ULP = float(np.finfo(np.float32).eps)
DECIDED = 4.0
"""A choice is clear where its margin is so many times the strays' largest error at that node."""


class SetAside(Exception):
    """A case that no honest backend could be held to; its text says why. Counted and shown, never silent."""


@dataclass(frozen=True)
class Observed:
    """One run of one step."""

    losses: Arrays
    gradients: Arrays
    statistics: Arrays
    values: Arrays

    def of(self, check: str) -> Arrays:
        """`losses`, `gradients` or `statistics`."""
        found: Arrays = getattr(self, check)
        return found


def observe(trainer: OracleTrainer, case: Case) -> Observed:
    """What one step of the oracle shows, without an update."""
    values = trainer.run(case.image, training=True)
    losses = trainer.losses(values, case.batch)
    found = trainer.gradients(values, losses)
    total = sum(weight * loss.value for loss, weight in losses.values())
    each = {f"loss_{name}": np.asarray(loss.value) for name, (loss, _) in losses.items()}
    gradients = {name: found[name] for name in trainer.learnt}
    return Observed({"loss": np.asarray(total), **each}, gradients, statistics_of(trainer, values), values)


class NudgedOracle(OracleBackend):
    """The oracle with an error of `NUDGE` in every sum that it forms, forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)

    def stored(self, name: str, array: Array, dtype: np.dtype[Any]) -> Array:
        return self._off(np.asarray(array, dtype), array)

    def image(self, images: Array, dtype: np.dtype[Any]) -> Array:
        return self._off(np.asarray(images, dtype), images)

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        result = super().forward(node, operands, training)
        if isinstance(node.op, EXACT):
            return result
        sizes = [np.abs(operand) for operand in operands]
        return self._off(result, rules.value_magnitude(node.op, operands, result, training, sizes))

    def backward(
        self, node: Node, operands: Sequence[Array], result: Array, upper: Array
    ) -> Sequence[Array | None]:
        found = super().backward(node, operands, result, upper)
        return self._all_off(
            found, rules.gradient_magnitudes(node.op, operands, result, upper, np.abs(upper))
        )

    def backward_frozen(self, op: BatchNorm, operands: Sequence[Array], upper: Array) -> list[Array | None]:
        found = super().backward_frozen(op, operands, upper)
        return self._all_off(found, rules.frozen_norm_gradient_magnitudes(op, operands, np.abs(upper)))

    def losses(
        self, objective: Objective, outputs: Arrays, magnitudes: Arrays, batch: Batch
    ) -> dict[str, tuple[Loss, float]]:
        found = super().losses(objective, outputs, magnitudes, batch)
        return {name: (self._loss_off(loss), weight) for name, (loss, weight) in found.items()}

    def _loss_off(self, loss: Loss) -> Loss:
        return replace(
            loss,
            value=self._off(np.asarray(loss.value), loss.value_magnitude),
            gradient=self._off(loss.gradient, loss.gradient_magnitude),
        )

    def _all_off(self, found: Sequence[Array | None], sizes: Sequence[Array | None]) -> list[Array | None]:
        return [
            part if part is None else self._off(part, size) for part, size in zip(found, sizes, strict=True)
        ]

    def _off(self, array: Array, size: Any) -> Array:
        return np.asarray(array + NUDGE * self.generator.standard_normal(array.shape) * size)


@lru_cache(maxsize=KEPT)
def strays(case: Case, precision: str) -> tuple[Observed, ...]:
    """The oracle's runs of a training step."""
    return tuple(observe(trainer, case) for trainer in stray_trainers(case, precision))


@lru_cache(maxsize=KEPT)
def inference_strays(case: Case, precision: str) -> tuple[Arrays, ...]:
    """The oracle's runs in inference mode: every node's value."""
    predictors = [
        backend.predictor(case.graph, case.weights, precision=precision) for backend in _strayed(precision)
    ]
    return tuple(predictor.run(case.image, training=False) for predictor in predictors)


def stray_trainers(case: Case, precision: str) -> list[OracleTrainer]:
    """The oracle in five orders of float32, or nudged in float64."""
    return [
        backend.trainer(case.graph, case.weights, case.training, precision=precision)
        for backend in _strayed(precision)
    ]


def _strayed(precision: str) -> list[OracleBackend]:
    if precision == "float64":
        return [NudgedOracle()]
    if precision in LOW:
        at_random = [RoundedOracle(precision, np.random.default_rng(run)) for run in range(len(ORDERS))]
        return [RoundedOracle(precision), *at_random]
    return [OracleBackend(sums) for sums in ORDERS]


def off_by_ulps(trainer: OracleTrainer, seed: str) -> OracleTrainer:
    """Move every weight of a float32 trainer by about one unit in the last place."""
    for name, array in trainer.weights.items():
        generator = np.random.default_rng(list(f"{seed} {name}".encode()))
        moved = np.asarray(array, np.float64) * (1 + ULP * generator.standard_normal(array.shape))
        trainer.weights[name] = moved.astype(array.dtype)
    return trainer


def require_conditioned(wanted: Quantities, strayed: Arrays, times: float = AMPLIFIED) -> None:
    """Raise `SetAside` where a nudge moves an answer further than any bound could follow."""
    for name, stray in strayed.items():
        allowed = times * NUDGE * wanted[name].magnitude
        if (np.abs(stray - wanted[name].want) > allowed).any():
            raise SetAside(f"rounding is amplified more than {times:,.0f} times")


def require_fair(case: Case, precision: str, times: float = AMPLIFIED) -> None:
    """Raise `SetAside` where a training step has no answer that rounding leaves alone.

    In a precision of two bytes some relu is always near 0: the strayed runs show what comes of it.
    """
    if precision in LOW:
        return
    runs = strays(case, precision)
    wanted = training(case)
    if precision == "float64":
        for check in ("losses", "gradients", "statistics"):
            require_conditioned(getattr(wanted, check), runs[0].of(check), times)
    require_decided(case, wanted.values, [run.values for run in runs])


def require_decided(case: Case, exact: Arrays, runs: Sequence[Arrays]) -> None:
    """Raise `SetAside` where a relu, a maximum or the choice of hard examples could fall either way."""
    for node in case.graph.order:
        x = node.operands[0] if node.operands else ""
        noise = _noise(exact[x], [run[x] for run in runs]) if x else 0.0
        if isinstance(node.op, Relu) and _near_zero(exact[x], [run[x] for run in runs], noise):
            raise SetAside("a relu's operand lies within rounding of 0")
        if isinstance(node.op, MaxPool) and _close_winners(
            node.op, exact[x], [run[x] for run in runs], noise
        ):
            raise SetAside("two values of a maximum lie within rounding of each other")
    loss = case.training.objective.loss
    if isinstance(loss, CrossEntropy) and loss.ohem is not None and not case.tied:
        _require_clear_examples(case, loss, exact, runs)


def _noise(exact: Array, runs: Sequence[Array]) -> float:
    return DECIDED * max(float(np.abs(run - exact).max(initial=0.0)) for run in runs)


def _near_zero(exact: Array, runs: Sequence[Array], noise: float) -> bool:
    always_zero = np.logical_and.reduce([run == 0 for run in runs]) & (exact == 0)
    return bool(((np.abs(exact) <= noise) & ~always_zero).any())


def _close_winners(op: MaxPool, exact: Array, runs: Sequence[Array], noise: float) -> bool:
    """Whether a loser within the noise is not simply equal to the winner, in every run."""
    close, tied = _runners_up(op, exact, 2 * noise), _runners_up(op, exact, 0.0)
    for run in runs:
        tied = tied & _runners_up(op, np.asarray(run, np.float64), 0.0)
    return bool((close & ~tied).any())


def _runners_up(op: MaxPool, x: Array, margin: float) -> Array:
    cells = rules.window_cells(op, x)
    winner = np.arange(len(cells)).reshape(-1, 1, 1, 1, 1) == cells.argmax(axis=0)
    return np.asarray((cells >= cells.max(axis=0) - margin) & ~winner)


def _require_clear_examples(case: Case, loss: CrossEntropy, exact: Arrays, runs: Sequence[Arrays]) -> None:
    assert loss.ohem is not None
    valid = case.batch["label"] != loss.ignore_label
    for output in case.graph.outputs.values():
        truth = _true_probability(case, exact[output])[valid]
        if not truth.size:
            continue
        position = min(int(loss.ohem.kept_per_image * len(valid)), truth.size - 1)
        ranked = float(np.sort(truth)[position])
        noise = _noise(truth, [_true_probability(case, run[output])[valid] for run in runs])
        near = np.abs(truth - max(loss.ohem.threshold, ranked)) <= noise
        # The pixel that is the limit lies at no distance from it, whatever the rounding.
        if near.sum() > (ranked > loss.ohem.threshold):
            raise SetAside("a pixel's probability lies within rounding of the hard examples' limit")


def _true_probability(case: Case, logits: Array) -> Array:
    objective, label = case.training.objective, case.batch["label"]
    assert isinstance(objective.loss, CrossEntropy)
    resized = resize_bilinear(np.asarray(logits, np.float64), label.shape[1:], objective.align_corners)
    raised = np.exp(resized - resized.max(axis=1, keepdims=True))
    truth = np.where(label == objective.loss.ignore_label, 0, label)[:, None]
    return np.asarray(np.take_along_axis(raised / raised.sum(axis=1, keepdims=True), truth, axis=1)[:, 0])


__all__ = ["SetAside", "inference", "inference_strays", "require_decided", "require_fair", "strays"]
