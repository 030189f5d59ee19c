"""What a case must give: values by the definition, gradients by the rules, and the magnitude of each.

All in float64. `training` also says how far the oracle itself strays: in float32, summing in five orders, and
in float64, started a little off, which shows a case so ill-conditioned that no bound could be held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance import rules, tolerance
from conformance.cases import Case
from conformance.losses import Loss
from conformance.oracle import OracleBackend, OracleTrainer
from gsto_spec.graph import Node
from gsto_spec.ops import BatchNorm, Input, Parameter
from gsto_spec.reference import batch_norm, compute, evaluate_nodes

Array = NDArray[Any]
Arrays = dict[str, Array]

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
    magnitudes = _magnitudes(case, values, training=False)
    return {node: Quantity(value, magnitudes[node], 1) for node, value in values.items()}


def _magnitudes(case: Case, values: Mapping[str, Array], *, training: bool) -> Arrays:
    found: Arrays = {}
    for node in case.graph.order:
        if isinstance(node.op, (Input, Parameter)):
            found[node.name] = np.abs(values[node.name])
            continue
        operands = [values[name] for name in node.operands]
        sizes = [found[name] for name in node.operands]
        found[node.name] = rules.value_magnitude(node.op, operands, values[node.name], training, sizes)
    return found


def one_op(node: Node, operands: list[Array]) -> Array:
    """The value of one op in inference mode, by the definition."""
    if isinstance(node.op, BatchNorm):
        x, weight, bias, mean, variance = operands
        return batch_norm(x, weight, bias, mean, variance, node.op.eps)
    assert not isinstance(node.op, (Input, Parameter))
    return compute(node.op, operands)


def local_floor(case: Case, name: str, u: float) -> float:
    """The norm of a node's own bound, its operands taken as exact."""
    values, node = inference(case), case.graph.by_name[name]
    if not node.operands:
        return 0.0
    operands = [values[operand].want for operand in node.operands]
    return tolerance.norm(tolerance.local_bound(node.op, operands, values[name].want, u))


def oracle_trainer(case: Case, precision: str) -> OracleTrainer:
    """The oracle set to train a case."""
    return OracleBackend().trainer(case.graph, case.weights, case.training, precision=precision)


@lru_cache(maxsize=KEPT)
def training(case: Case) -> Answers:
    """Losses, gradients and new running statistics of the first step."""
    trainer = oracle_trainer(case, "float64")
    values = trainer.run(case.batch["image"], training=True)
    sizes = _magnitudes(case, values, training=True)
    outputs = {name: values[node] for name, node in case.graph.outputs.items()}
    output_sizes = {name: sizes[node] for name, node in case.graph.outputs.items()}
    losses = trainer.backend.losses(case.training.objective, outputs, output_sizes, case.batch)
    found = trainer.gradients(values, losses)
    reached = _gradient_magnitudes(case, values, found, losses)
    gradients = {
        name: Quantity(found[name], reached[name], _gradient_terms(case, values, name))
        for name in case.graph.trainable
    }
    return Answers(_losses(losses, case), gradients, _statistics(case, trainer, values, sizes), values)


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
        parts = rules.gradient_magnitudes(
            node.op, operands, values[node.name], found[node.name], reached[node.name]
        )
        for name, part in zip(node.operands, parts, strict=True):
            if part is not None:
                reached[name] = reached[name] + part
    return reached


def _gradient_terms(case: Case, values: Mapping[str, Array], leaf: str) -> int:
    """Places that a parameter's gradient is summed over."""
    user = next((node for node in case.graph.nodes if leaf in node.operands), None)
    return 1 if user is None else max(int(values[user.name][:, 0].size), 1)


def norms(case: Case) -> list[tuple[Node, BatchNorm]]:
    """The batch norms of a case, with the momentum that training gives them."""
    given = case.training.batch_norm_momentum
    found = [(node, node.op) for node in case.graph.order if isinstance(node.op, BatchNorm)]
    return [(node, op if given is None else replace(op, momentum=given)) for node, op in found]


def _statistics(
    case: Case, trainer: OracleTrainer, values: Mapping[str, Array], sizes: Mapping[str, Array]
) -> Quantities:
    found: Quantities = {}
    for node, op in norms(case):
        x, size, (mean_name, variance_name) = (
            values[node.operands[0]],
            sizes[node.operands[0]],
            node.operands[3:],
        )
        old = [trainer.weights[name] for name in (mean_name, variance_name)]
        fresh = trainer.backend.running(op, old[0], old[1], x)
        mean, variance = rules.batch_statistics(x)
        spread = 2 * np.abs(x - mean) * (size + np.abs(mean))
        summed = (size.mean(axis=rules.PIXELS), variance.reshape(-1) + spread.mean(axis=rules.PIXELS))
        for name, new, before, part in zip((mean_name, variance_name), fresh, old, summed, strict=True):
            magnitude = (1 - op.momentum) * np.abs(before) + 2 * op.momentum * part
            found[name] = Quantity(new, magnitude, int(x[:, 0].size))
    return found
