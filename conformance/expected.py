"""What a case must give: values by the definition, gradients by the rules, and the magnitude of each.

All in float64. `training` also says how far the oracle itself strays: in float32, summing in five orders, and
in float64, started a little off, which shows a case so ill-conditioned that no bound could be held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance import rules, tolerance
from conformance.cases import Case
from conformance.losses import Loss
from conformance.oracle import OracleBackend, OracleTrainer, in_parts, interleaved, joined
from gsto_spec.backend import Training
from gsto_spec.graph import Node
from gsto_spec.ops import BatchNorm, Concat, Input, MaxPool, Parameter, Relu, Slice
from gsto_spec.reference import batch_norm, compute, evaluate_nodes

Array = NDArray[Any]
Arrays = dict[str, Array]

EXACT = (Relu, Concat, Slice, MaxPool)
"""Ops that hand on values as they are."""
KEPT = 512
"""Cases whose answers are kept, so that the next backend finds them."""


@dataclass(frozen=True)
class Quantity:
    """An exact value, the magnitude of what was summed for it, and how many terms that had."""

    want: Array
    magnitude: Array
    terms: int


Quantities = dict[str, Quantity]


@dataclass(frozen=True)
class Answers:
    """What one training step shows, by check and then by name; `values` are every node's."""

    losses: Quantities
    gradients: Quantities
    statistics: Quantities
    values: Arrays


@lru_cache(maxsize=KEPT)
def inference(case: Case) -> Quantities:
    """Every node's value in inference mode."""
    (name,) = case.graph.inputs
    values = evaluate_nodes(case.graph, case.weights, {name: case.image})
    magnitudes = _magnitudes(case, values, None)
    return {node: Quantity(value, magnitudes[node], 1) for node, value in values.items()}


def _magnitudes(case: Case, values: Mapping[str, Array], training: Training | None) -> Arrays:
    found: Arrays = {}
    for node in case.graph.order:
        if isinstance(node.op, (Input, Parameter)):
            found[node.name] = np.abs(values[node.name])
            continue
        operands = [values[name] for name in node.operands]
        sizes = [found[name] for name in node.operands]
        found[node.name] = _magnitude(node, operands, values[node.name], training, sizes)
    return found


def _magnitude(
    node: Node, operands: list[Array], result: Array, training: Training | None, sizes: list[Array]
) -> Array:
    if training is None or not isinstance(node.op, BatchNorm) or node.operands[1] in training.frozen:
        return rules.value_magnitude(node.op, operands, result, False, sizes)
    stored = operands[1:]
    return interleaved([
        rules.value_magnitude(node.op, [x, *stored], value, True, [size])
        for x, value, size in in_parts(training, operands[0], result, sizes[0])
    ])  # fmt: skip


def one_op(node: Node, operands: list[Array]) -> Array:
    """The value of one op in inference mode, by the definition."""
    if isinstance(node.op, BatchNorm):
        x, weight, bias, mean, variance = operands
        return batch_norm(x, weight, bias, mean, variance, node.op.eps)
    assert not isinstance(node.op, (Input, Parameter))
    return compute(node.op, operands)


def local_floor(case: Case, name: str, precision: str) -> float:
    """The norm of a node's own bound, its operands taken as exact; of what does not round, its operands'."""
    return tolerance.norm(_local(case, case.graph.by_name[name], precision))


def _local(case: Case, node: Node, precision: str) -> Array:
    values = inference(case)
    if not node.operands:
        return np.zeros_like(values[node.name].want)
    operands, result = [values[operand].want for operand in node.operands], values[node.name].want
    bound = tolerance.op_bound(node.op, operands, result, precision)
    if not isinstance(node.op, EXACT):
        return bound
    before = [_local(case, case.graph.by_name[operand], precision) for operand in node.operands]
    return bound + tolerance.carried(node.op, operands, result, before)


def oracle_trainer(case: Case, precision: str) -> OracleTrainer:
    """The oracle set to train a case."""
    return OracleBackend().trainer(case.graph, case.weights, case.training, precision=precision)


@lru_cache(maxsize=KEPT)
def training(case: Case) -> Answers:
    """Losses, gradients and new running statistics of the first step."""
    trainer = oracle_trainer(case, "float64")
    values = trainer.run(case.batch["image"], training=True)
    sizes = _magnitudes(case, values, case.training)
    outputs = {name: values[node] for name, node in case.graph.outputs.items()}
    output_sizes = {name: sizes[node] for name, node in case.graph.outputs.items()}
    losses = trainer.backend.losses(case.training.objective, outputs, output_sizes, case.batch)
    found = trainer.gradients(values, losses)
    reached = _gradient_magnitudes(case, values, found, losses)
    gradients = {
        name: Quantity(found[name], reached[name], _gradient_terms(case, values, name))
        for name in trainer.learnt
    }
    return Answers(_losses(losses, case), gradients, _statistics(trainer, values, sizes), values)


def _losses(losses: Mapping[str, tuple[Loss, float]], case: Case) -> Quantities:
    pixels = int(np.prod(case.shape)) * len(losses)
    parts = [loss.scaled(weight) for loss, weight in losses.values()]
    total = Quantity(
        np.asarray(sum(part.value for part in parts)),
        np.asarray(sum(part.value_magnitude for part in parts)), pixels,
    )  # fmt: skip
    each = {
        f"loss_{name}": Quantity(np.asarray(loss.value), np.asarray(loss.value_magnitude), pixels)
        for name, (loss, _) in losses.items()
    }
    return {"loss": total, **each}


def _gradient_magnitudes(
    case: Case, values: Mapping[str, Array], found: Mapping[str, Array],
    losses: Mapping[str, tuple[Loss, float]],
) -> Arrays:  # fmt: skip
    reached = {name: np.zeros_like(array) for name, array in values.items()}
    for output, (loss, weight) in losses.items():
        reached[case.graph.outputs[output]] = (
            reached[case.graph.outputs[output]] + weight * loss.gradient_magnitude
        )
    for node in reversed([node for node in case.graph.order if node.operands]):
        operands = [values[name] for name in node.operands]
        parts = _slope_magnitudes(
            node, operands, values[node.name], found[node.name], reached[node.name], case.training
        )
        for name, part in zip(node.operands, parts, strict=True):
            if part is not None:
                reached[name] = reached[name] + part
    return reached


def _slope_magnitudes(
    node: Node, operands: list[Array], result: Array, upper: Array, magnitude: Array, training: Training
) -> list[Array | None]:
    op, stored = node.op, operands[1:]
    if not isinstance(op, BatchNorm):
        return rules.gradient_magnitudes(op, operands, result, upper, magnitude)
    if node.operands[1] in training.frozen:
        return rules.frozen_norm_gradient_magnitudes(op, operands, magnitude)
    return joined([
        rules.gradient_magnitudes(op, [x, *stored], *rest)
        for x, *rest in in_parts(training, operands[0], result, upper, magnitude)
    ])  # fmt: skip


def _gradient_terms(case: Case, values: Mapping[str, Array], leaf: str) -> int:
    """Places that a parameter's gradient is summed over."""
    user = next((node for node in case.graph.nodes if leaf in node.operands), None)
    return 1 if user is None else max(int(values[user.name][:, 0].size), 1)


def statistics_of(trainer: OracleTrainer, values: Mapping[str, Array]) -> Arrays:
    """Every running statistic after a step; a frozen batch norm's as they were."""
    found: Arrays = {}
    for node in trainer.graph.order:
        if isinstance(node.op, BatchNorm):
            found |= {name: trainer.weights[name] for name in node.operands[3:]}
            if not trainer.is_frozen(node):
                found |= trainer.statistics(node, values[node.operands[0]])
    return found


def _statistics(
    trainer: OracleTrainer, values: Mapping[str, Array], sizes: Mapping[str, Array]
) -> Quantities:
    found: Quantities = {}
    fresh = statistics_of(trainer, values)
    for node in trainer.graph.order:
        if isinstance(node.op, BatchNorm):
            x, size = (arrays[node.operands[0]] for arrays in (values, sizes))
            before = tuple(np.abs(trainer.weights[name]) for name in node.operands[3:])
            summed = before if trainer.is_frozen(node) else _summed(trainer, node.op, before, x, size)
            for name, magnitude in zip(node.operands[3:], summed, strict=True):
                found[name] = Quantity(fresh[name], magnitude, int(x[:, 0].size))
    return found


def _summed(
    trainer: OracleTrainer, op: BatchNorm, before: tuple[Array, ...], x: Array, size: Array
) -> tuple[Array, ...]:
    """What was summed for a running mean and variance that take in the parts of a batch."""
    momentum = trainer.backend.momentum(op, trainer.training)
    for part, part_size in in_parts(trainer.training, x, size):
        mean, variance = rules.batch_statistics(part)
        spread = 2 * np.abs(part - mean) * (part_size + np.abs(mean))
        new = (part_size.mean(axis=rules.PIXELS), variance.reshape(-1) + spread.mean(axis=rules.PIXELS))
        before = tuple(
            (1 - momentum) * old + 2 * momentum * fresh for old, fresh in zip(before, new, strict=True)
        )
    return before
