"""The checks: each puts one case to one backend, through the contract alone, and raises `Disagreement`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance import expected, noise, tolerance, trajectory
from conformance.cases import Case, Subject, another_image, computed, every_node
from conformance.compare import Comparison
from conformance.expected import Quantities, Quantity
from conformance.rounded import FORMATS, read
from conformance.rules import value_magnitude
from gsto_spec import Graph, cost, optimize
from gsto_spec.backend import LOSS_SCALE, OPTIMIZER_PREFIX, Trainer
from gsto_spec.graph import Node
from gsto_spec.objective import SGD, stage_weight
from gsto_spec.ops import Conv2d
from gsto_spec.precision import LOW

Array = NDArray[Any]
Arrays = Mapping[str, Array]

RATE = 0.01
MOST_HALVINGS = 128
"""From the largest float32 number to the smallest normal one."""
MOMENTUM = f"{OPTIMIZER_PREFIX}momentum/"


# Inference


def nodes(subject: Subject, case: Case) -> None:
    """Every intermediate: its shape, its value from the backend's own operands, and from the start."""
    graph = every_node(case.graph)
    # By name, not by order: the tensors come the other way round than the graph declares them.
    weights = dict(reversed(case.weights.items()))
    got = subject.predictor(graph, weights).predict(case.image)
    _names(subject, case, "shapes", got, graph.outputs)
    _shapes(subject, case, graph, got)
    _each_op(subject, case, got)
    compare_inference(subject, case, "every node", {node.name: node.name for node in computed(graph)}, got)


def _each_op(subject: Subject, case: Case, got: Arrays) -> None:
    """One op at a time, from the backend's own operands.

    A compiler may compute an operand anew for each of its readers (never a convolution), and round it
    otherwise: in float32 what such an operand may be off by is carried on.
    """
    row = Comparison(subject, case, "each op", across=False)
    bounds: dict[str, Array] = {}
    for node in computed(case.graph):
        operands = _read(subject, node, [_given(case, got, name) for name in node.operands])
        result = expected.one_op(node, operands)
        if subject.precision == "float64":
            sizes = [np.abs(operand) for operand in operands]
            bound = tolerance.meaning(value_magnitude(node.op, operands, result, False, sizes))
        else:
            bound = tolerance.op_bound(node.op, operands, result, subject.precision)
            errors = [
                bounds.get(name, np.zeros_like(o)) for name, o in zip(node.operands, operands, strict=True)
            ]
            strayed = tolerance.carried(node.op, operands, result, errors)
            if not isinstance(node.op, Conv2d):
                bounds[node.name] = bound + strayed
            elif subject.precision in LOW:  # XLA may hand on what it has not rounded yet
                bounds[node.name] = bound
            # The operand shown may lie to one side of the exact one, the operand read to the other.
            bound = bound + 2 * strayed
        row.pointwise(node.name, got[node.name], result, bound)


def _read(subject: Subject, node: Node, operands: list[Array]) -> list[Array]:
    form = FORMATS.get(subject.precision)
    return operands if form is None else [np.asarray(x, np.float64) for x in read(node.op, operands, form)]


def _given(case: Case, got: Arrays, name: str) -> Array:
    """An operand as the backend had it, in float64."""
    if name in got:
        return np.asarray(got[name], np.float64)
    leaf = case.image if name in case.graph.inputs else case.weights[name]
    return np.asarray(leaf, np.float64)


def forward(subject: Subject, case: Case, *other_shapes: tuple[int, int, int, int]) -> None:
    """The outputs of the graph as its JSON has it, for image after image of one predictor.

    The second is of the first one's size and lies otherwise in memory; what the first gave stays as it was.
    """
    given = {name: array.copy() for name, array in case.weights.items()}
    predictor = subject.predictor(_reread(subject, case), given)
    for array in given.values():
        array[...] = 7
    first = predictor.predict(case.image)
    kept = {name: np.array(array) for name, array in first.items()}
    _outputs(subject, case, first)
    again = another_image(case)
    _outputs(subject, again, predictor.predict(np.asfortranarray(again.image)))
    for name, array in kept.items():
        Comparison(subject, case, "outputs", across=False).identical(f"{name}, kept", first[name], array)
    for shape in other_shapes:
        sized = replace(case, shape=shape)
        _outputs(subject, sized, predictor.predict(sized.image))


def _outputs(subject: Subject, case: Case, got: Arrays) -> None:
    _names(subject, case, "outputs", got, case.graph.outputs)
    compare_inference(subject, case, "outputs", case.graph.outputs, got)


def _reread(subject: Subject, case: Case) -> Graph:
    """The graph, written as JSON and read again."""
    graph = Graph.from_json(case.graph.to_json())
    facts = Comparison(subject, case, "JSON and back", across=False)
    facts.agree("nodes", graph.nodes, case.graph.nodes)
    facts.agree("outputs", list(graph.outputs.items()), list(case.graph.outputs.items()))
    facts.agree("digest", graph.digest, case.graph.digest)
    return graph


def optimized(subject: Subject, case: Case) -> None:
    """The outputs of the graph's inference form: as its own definition has them, and as the graph's has."""
    graph, weights = optimize(case.graph, case.weights)
    other = replace(case, graph=graph, given=weights, drawn=case)
    got = subject.predictor(graph, weights).predict(case.image)
    _names(subject, other, "inference form", got, case.graph.outputs)
    compare_inference(subject, other, "inference form", graph.outputs, got)
    if subject.precision == "float64":
        _same_as_drawn(subject, case, expected.inference(other), graph, got)


def _same_as_drawn(subject: Subject, case: Case, rewritten: Quantities, graph: Graph, got: Arrays) -> None:
    comparison, drawn = Comparison(subject, case, "inference form", across=False), expected.inference(case)
    for name, node in case.graph.outputs.items():
        quantity = drawn[node]
        size = quantity.magnitude + rewritten[graph.outputs[name]].magnitude
        comparison.pointwise(name, got[name], quantity.want, tolerance.meaning(size))


def _names(subject: Subject, case: Case, row: str, got: Arrays, outputs: Mapping[str, str]) -> None:
    """The declared names in the declared order, in the precision asked for."""
    facts = Comparison(subject, case, row)
    facts.agree("names and order of outputs", list(got), list(outputs))
    kinds = {str(np.asarray(array).dtype) for array in got.values()}
    facts.agree("dtype of outputs", kinds, {subject.stored})


def _shapes(subject: Subject, case: Case, graph: Graph, got: Arrays) -> None:
    facts, shapes = Comparison(subject, case, "shapes"), graph.check(case.shape)
    for node in computed(graph):
        facts.agree(node.name, np.shape(got[node.name]), shapes[node.name])


def compare_inference(subject: Subject, case: Case, row: str, wanted: Mapping[str, str], got: Arrays) -> None:
    """Outputs (name -> node) in inference mode, from the start."""
    answers = expected.inference(case)
    runs = noise.inference_strays(case, subject.precision)
    if subject.precision == "float64":
        noise.require_conditioned(answers, {node: runs[0][node] for node in wanted.values()})
    comparison = Comparison(subject, case, row)
    for name, node in wanted.items():
        quantity = answers[node]
        if subject.precision == "float64":
            comparison.pointwise(name, got[name], quantity.want, tolerance.meaning(quantity.magnitude))
        else:
            bound = tolerance.spread(quantity.want, [run[node] for run in runs])
            floor = expected.local_floor(case, node, subject.precision)
            comparison.normwise(name, got[name], quantity.want, bound + floor)


# Training


def training(subject: Subject, case: Case) -> None:
    """One step: losses, every gradient, running statistics, counts; then two more: statistics again."""
    noise.require_fair(case, subject.precision)
    trainer = subject.trainer(case)
    losses = step(subject, case, trainer)
    state = trainer.state()
    counts(subject, case, state)
    answers = expected.training(case)
    compare(subject, case, "losses", losses)
    backwards = dict(reversed(answers.gradients.items()))
    compare(subject, case, "gradients", {name: state[f"{MOMENTUM}{name}"] for name in backwards})
    compare(subject, case, "statistics", {name: state[name] for name in answers.statistics})
    if subject.precision == "float64":
        _two_more_steps(subject, case, trainer)


def step(subject: Subject, case: Case, trainer: Trainer, rate: float = RATE) -> dict[str, float]:
    """The losses of a step that must be finite; in float16 of the first whose loss was not scaled too far."""
    for _ in range(MOST_HALVINGS):
        scale = _loss_scale(subject, trainer)
        told = {name: float(value) for name, value in trainer.step(case.batch, rate).items()}
        finite = told.pop("finite", None)
        Comparison(subject, case, "losses", across=False).agree("finite", finite, 1.0)
        if _loss_scale(subject, trainer) >= scale:
            break
    return told


def _loss_scale(subject: Subject, trainer: Trainer) -> float:
    return float(trainer.state()[LOSS_SCALE[0]]) if subject.precision == "float16" else 1.0


def rematerialized(subject: Subject, case: Case) -> None:
    """One step with everything kept and one with parts computed twice: the same numbers."""
    noise.require_fair(case, subject.precision, noise.CALM)
    row, found = Comparison(subject, case, "rematerialised", across=False), []
    for again in (False, True):
        trainer = subject.trainer(replace(case, training=replace(case.training, rematerialize=again)))
        losses = step(subject, case, trainer)
        found.append({name: np.asarray(array) for name, array in (losses | trainer.state()).items()})
    answers = expected.training(case)
    gradients = {f"{MOMENTUM}{name}": quantity for name, quantity in answers.gradients.items()}
    for name, quantity in {**answers.losses, **gradients, **answers.statistics}.items():
        row.pointwise(name, found[1][name], found[0][name], tolerance.REMATERIALIZED * quantity.magnitude)


def compare(subject: Subject, case: Case, check: str, got: Mapping[str, Any], row: str = "") -> None:
    """`losses`, `gradients` or `statistics` of one step, counted in a row of that name or another."""
    answers: Quantities = getattr(expected.training(case), check)
    comparison = Comparison(subject, case, row or check)
    comparison.agree(f"names of {check}", sorted(got), sorted(answers))
    for name, found in got.items():
        quantity = answers[name]
        if subject.precision == "float64":
            comparison.pointwise(name, found, quantity.want, tolerance.meaning(quantity.magnitude))
        else:
            runs = [run.of(check)[name] for run in noise.strays(case, subject.precision)]
            bound = tolerance.spread(quantity.want, runs) + floor(quantity, subject, check)
            comparison.normwise(name, found, quantity.want, bound)


def floor(quantity: Quantity, subject: Subject, check: str) -> float:
    """The bound of the last sum alone, for tensors so small that five runs may agree by chance.

    A gradient may be rounded once to a type of two bytes, losses and statistics not.
    """
    summed = tolerance.summation(quantity.terms + 4, subject.unit_roundoff) * quantity.magnitude
    if subject.precision in FORMATS and check == "gradients":
        summed = summed + FORMATS[subject.precision].unit_roundoff * np.abs(quantity.want)
    return tolerance.norm(summed)


def counts(subject: Subject, case: Case, state: Arrays) -> None:
    """What the backend really keeps: every tensor and no more, a slot for each learnt one, in its shape."""
    facts, graph = Comparison(subject, case, "counts"), case.graph
    slots = {f"{MOMENTUM}{name}": shape for name, shape in case.training.learnt(graph).items()}
    wanted = {**graph.parameters, **slots}
    scale = LOSS_SCALE if subject.precision == "float16" else ()
    facts.agree("names of the state", sorted(state), sorted([*wanted, *scale]))
    for name, shape in wanted.items():
        facts.agree(name, np.shape(state[name]), shape)
    learnt = sum(np.size(state[name]) for name in graph.trainable)
    facts.agree("parameters", learnt, cost(graph, case.shape).parameters)
    kinds = {str(state[name].dtype) for name in wanted}
    facts.agree("dtype of the state", kinds, {subject.stored})


def _two_more_steps(subject: Subject, case: Case, trainer: Trainer) -> None:
    rates, row = (RATE,) * 3, "state after 3 steps"
    try:
        trajectory.require_fair(case, rates, subject.precision)
    except noise.SetAside as reason:  # of these steps alone: the first one has been compared
        Comparison(subject, case, row).set_aside(reason)
        return
    for rate in rates[1:]:
        trainer.step(case.batch, rate)
    compare_states(subject, case, row, rates, trainer.state())


def steps(subject: Subject, case: Case, schedule: Any, count: int) -> None:
    """So many optimiser steps at the rates of a schedule: every loss, weight, statistic and slot."""
    rates = tuple(schedule.rate(step, count) for step in range(count))
    trajectory.require_fair(case, rates, subject.precision)
    trainer = subject.trainer(case)
    losses = [step(subject, case, trainer, rate) for rate in rates]
    kind = "SGD" if isinstance(case.training.optimizer, SGD) else "Adam"
    row = f"{kind}, {type(schedule).__name__}"
    comparison = Comparison(subject, case, row)
    want = np.asarray(trajectory.exact(case, rates).losses)
    bound = trajectory.loss_bound(case, rates, subject.precision)
    comparison.pointwise("loss of each step", [each["loss"] for each in losses], want, bound)
    _weighted_sums(replace(comparison, across=False), losses)
    compare_states(subject, case, row, rates, trainer.state())


def _weighted_sums(comparison: Comparison, losses: list[dict[str, float]]) -> None:
    """The loss of every step is that of its outputs, weighted."""
    objective, graph = comparison.case.training.objective, comparison.case.graph
    weights = {f"loss_{name}": stage_weight(objective, name) for name in graph.outputs}
    each = np.array([[step[name] for name in weights] for step in losses])
    comparison.agree("all losses are finite", bool(np.isfinite(each).all()), True)
    want = each @ np.array(list(weights.values()))
    size = np.abs(each) @ np.abs(list(weights.values()))
    bound = tolerance.summation(len(weights) + 2, comparison.subject.unit_roundoff) * size
    comparison.pointwise("loss as its outputs' sum", [step["loss"] for step in losses], want, bound)


def compare_states(subject: Subject, case: Case, row: str, rates: tuple[float, ...], state: Arrays) -> None:
    """A state after steps at these rates: weights, running statistics and slots."""
    wanted, sizes = trajectory.exact(case, rates).state, trajectory.scales(case, rates)
    comparison = Comparison(subject, case, row)
    wanted = needed(case, wanted)
    comparison.agree("names of the state", sorted(needed(case, state)), sorted(wanted))
    for name, want in wanted.items():
        if subject.precision == "float64":
            comparison.pointwise(name, state[name], want, tolerance.STATES * sizes[name])
        else:
            bound = trajectory.parting(case, rates, name)
            comparison.normwise(name, state[name], want, bound)


def needed(case: Case, state: Arrays) -> dict[str, Array]:
    """A state without the velocities of a momentum of 0, which nothing reads: they may be kept or not."""
    optimizer = case.training.optimizer
    idle = isinstance(optimizer, SGD) and optimizer.momentum == 0
    return {name: array for name, array in state.items() if not (idle and name.startswith(MOMENTUM))}
