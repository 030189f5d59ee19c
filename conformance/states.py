"""Checks of what goes in and out of a trainer: states, exchanged weights, and inputs to be refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance import expected, noise, tolerance, trajectory
from conformance.cases import Case, Subject, another_image
from conformance.checks import RATE, compare_inference, compare_states, needed
from conformance.compare import Comparison
from conformance.failures import Disagreement
from gsto_spec import Graph, GraphError, GstoError, WeightsError
from gsto_spec.backend import OPTIMIZER_PREFIX, BackendError, Trainer
from gsto_spec.graph import Node
from gsto_spec.objective import SGD

Array = NDArray[Any]
State = Mapping[str, Array]
Check = Callable[[Subject, Case], None]
STEP = f"{OPTIMIZER_PREFIX}step"


def resumes(subject: Subject, case: Case) -> None:
    """A state loaded into a trainer that began elsewhere goes on as if nothing had happened, bit for bit."""
    row = Comparison(subject, case, "resuming", across=False)
    first = subject.trainer(case)
    for _ in range(2):
        first.step(case.batch, RATE)
    state = first.state()
    second = subject.trainer(replace(case, seed=case.seed + 1))
    _has_all(row, case, state)
    handed = dict(reversed(_copies(state).items()))
    second.load(handed)
    _scribble(handed)
    _identical(row, second.state(), state)
    for trainer in (first, second):
        trainer.step(case.batch, RATE)
    _identical(row, second.state(), first.state())


def _has_all(row: Comparison, case: Case, state: State) -> None:
    """Told by name, before a load of it could raise."""
    weights = [name for name in state if not name.startswith(OPTIMIZER_PREFIX)]
    row.agree("names of the state", sorted(weights), sorted(case.graph.parameters))


def begins_anew(subject: Subject, case: Case) -> None:
    """A state of weights alone starts the optimiser afresh."""
    row = Comparison(subject, case, "resuming", across=False)
    once, again = subject.trainer(case), subject.trainer(case)
    once.step(case.batch, RATE)
    for _ in range(2):
        again.step(case.batch, RATE)
    again.load(case.weights)
    again.step(case.batch, RATE)
    _identical(row, again.state(), once.state())


def exchanges(subject: Subject, case: Case) -> None:
    """One step by the oracle, one by the backend, one by the oracle again, each from the other's state."""
    rates = (RATE,) * 3
    trajectory.require_fair(case, rates, subject.precision)
    row = Comparison(subject, case, "exchanged states", across=False)
    oracle: Trainer = expected.oracle_trainer(case, subject.precision)
    trainer = subject.trainer(replace(case, seed=case.seed + 1))
    oracle.step(case.batch, RATE)
    trainer.load(oracle.state())
    _identical(row, needed(case, trainer.state()), needed(case, oracle.state()))
    trainer.step(case.batch, RATE)
    oracle.load(trainer.state())
    oracle.step(case.batch, RATE)
    compare_states(subject, case, "exchanged states", rates, oracle.state())


def leaves_alone(subject: Subject, case: Case) -> None:
    """What is given is neither changed nor kept, states handed out do not change, predictions follow."""
    row = Comparison(subject, case, "states", across=False)
    given, batch = _copies(case.weights), _copies(case.batch)
    trainer = subject.trainer(case, given)
    _scribble(given)
    before = trainer.state()
    _identical(row, before, {name: array.astype(subject.precision) for name, array in case.weights.items()})
    kept = _copies(before)
    trainer.predict(batch["image"])
    _identical(row, trainer.state(), kept)
    trainer.step(batch, RATE)
    _identical(row, batch, case.batch)
    _identical(row, before, kept)
    _predicts(subject, case, trainer)
    trainer.load(kept)
    _predicts(subject, case, trainer)


MANY_STEPS = 1000


def changes_batch(subject: Subject, case: Case) -> None:
    """One trainer steps on batches of two sizes, the second time from a state of many steps."""
    batch, channels, height, width = case.shape
    more = case.training.micro_batches
    larger = replace(another_image(case), shape=(batch + more, channels, height + 1, width + 2))
    for each in (case, larger):
        noise.require_fair(each, subject.precision)
    wanted = _both_steps(expected.oracle_trainer(case, subject.precision), case, larger)
    (nudged,) = (_both_steps(each, case, larger) for each in noise.stray_trainers(case, subject.precision))
    got = _both_steps(subject.trainer(case), case, larger)
    row = Comparison(subject, case, "batches of two sizes", across=False)
    row.agree("names of the state", sorted(needed(case, got)), sorted(needed(case, wanted)))
    for name, scale in trajectory.scales(case, (RATE,) * 2).items():
        if name in needed(case, wanted):
            bound = tolerance.STATES * max(scale, trajectory.scales(larger, (RATE,) * 2)[name])
            trajectory.require_near(nudged[name], wanted[name], bound)
            row.pointwise(name, got[name], wanted[name], bound)


def _both_steps(trainer: Trainer, case: Case, larger: Case) -> dict[str, Array]:
    trainer.step(larger.batch, RATE)
    state = trainer.state()
    trainer.load({**state, **({STEP: np.asarray(MANY_STEPS)} if STEP in state else {})})
    trainer.step(case.batch, RATE)
    return trainer.state()


def _copies(arrays: State) -> dict[str, Array]:
    return {name: np.array(array) for name, array in arrays.items()}


def _scribble(arrays: State) -> None:
    for array in arrays.values():
        array[...] = 7


def _predicts(subject: Subject, case: Case, trainer: Trainer) -> None:
    """A trainer's predictions are those of its present weights, in inference mode."""
    state = trainer.state()
    now = replace(case, drawn=case, given={name: state[name] for name in case.graph.parameters})
    got = trainer.predict(case.image)
    Comparison(subject, now, "predictions of a trainer").agree("names", list(got), list(case.graph.outputs))
    compare_inference(subject, now, "predictions of a trainer", case.graph.outputs, got)


def _identical(row: Comparison, got: State, want: State) -> None:
    row.agree("names of the state", sorted(got), sorted(want))
    for name, array in want.items():
        row.agree(
            f"kind of numbers of {name}", np.asarray(got[name]).dtype.kind, np.asarray(array).dtype.kind
        )
        row.identical(name, got[name], np.asarray(array))


# Steps that are not finite


def steps_over_what_is_not_finite(subject: Subject, case: Case) -> None:
    """A step whose loss or gradient is not finite says so and changes nothing; the next is as if alone."""
    row = Comparison(subject, case, "steps not finite", across=False)
    broken = {**case.batch, "image": case.image.copy()}
    broken["image"][-1] = np.nan
    if expected.oracle_trainer(case, subject.precision).step(broken, RATE)["finite"]:
        raise noise.SetAside("no loss depends on the picture that is not finite")
    trainer, other = subject.trainer(case), subject.trainer(case)
    for _ in range(2):  # before there are any slots, and when there are
        before = _copies(trainer.state())
        row.agree("finite", float(trainer.step(broken, RATE)["finite"]), 0.0)
        _identical(row, trainer.state(), before)
        for each in (trainer, other):
            row.agree("finite", float(each.step(case.batch, RATE)["finite"]), 1.0)
    _identical(row, trainer.state(), other.state())


def names_what_is_not_finite(subject: Subject, case: Case, where: str, factors: Mapping[str, float]) -> None:
    """Some tensors and the image, multiplied by so much, overflow `where`; looking for it changes nothing."""
    row = Comparison(subject, case, "first not finite", across=False)
    big = {
        name: np.asarray(array, np.float64) * factors.get(name, 1.0) for name, array in case.weights.items()
    }
    weights = {name: array.astype(subject.precision) for name, array in big.items()}
    image = (np.asarray(case.image, np.float64) * factors.get("image", 1.0)).astype(subject.precision)
    trainer = subject.trainer(case, weights)
    before = _copies(trainer.state())
    batch = {**case.batch, "image": image}
    row.agree("first not finite", str(trainer.first_not_finite(batch)), where)
    _identical(row, trainer.state(), before)
    row.agree("finite", float(trainer.step(batch, RATE)["finite"]), float(where == "None"))
    if where != "None":
        _identical(row, trainer.state(), before)


# What must be refused


def refuses(subject: Subject, case: Case) -> None:
    """Tensors that are missing, undeclared, misshapen or not finite: named, and nothing has changed."""
    trainer = subject.trainer(case)
    trainer.step(case.batch, RATE)
    state = trainer.state()
    # Other values, so that a load that gives up half-way is seen.
    moved = {name: np.asarray(2 * array) for name, array in state.items()}
    for name in (next(iter(case.graph.trainable)), _a_slot(case)):
        for broken in _broken(moved, name):
            _refused(subject, case, WeightsError, name, partial(trainer.load, broken))
    extra = {**moved, "nobody.weight": np.zeros(1)}
    _refused(subject, case, WeightsError, "nobody.weight", partial(trainer.load, extra))
    _identical(Comparison(subject, case, "refusals", across=False), trainer.state(), state)


def refuses_at_the_start(subject: Subject, case: Case) -> None:
    """The same of the weights that a predictor or trainer starts from; and graphs that cannot be trained."""
    name, graph = next(iter(case.graph.trainable)), case.graph
    for broken in _broken(case.weights, name):
        _refused(subject, case, WeightsError, name, partial(subject.predictor, graph, broken))
        _refused(subject, case, WeightsError, name, partial(subject.trainer, case, broken))
    shared = replace(case, graph=_shared_leaf(graph))
    _refused(subject, case, GraphError, "training_c1", partial(subject.trainer, shared))
    for words in ("floot32", "moon"):
        moon = words == "moon"
        other = replace(subject, device=words) if moon else replace(subject, precision=words)
        _refused(subject, case, BackendError, words, partial(other.trainer, case))
        _refused(subject, case, BackendError, words, partial(other.predictor, graph, case.weights))


def refuses_one_value(subject: Subject, case: Case) -> None:
    """Statistics of one value per channel mean nothing: the batch norm is named."""
    trainer = subject.trainer(case)
    _refused(subject, case, GraphError, "batch_norm_c5", partial(trainer.step, case.batch, RATE))


def _a_slot(case: Case) -> str:
    kind = "momentum" if isinstance(case.training.optimizer, SGD) else "first"
    return f"{OPTIMIZER_PREFIX}{kind}/{list(case.graph.trainable)[-1]}"


def _broken(state: State, name: str) -> list[dict[str, Array]]:
    array = np.asarray(state[name])
    infinite = array.copy()
    infinite.reshape(-1)[-1] = np.inf
    missing = {other: value for other, value in state.items() if other != name}
    return [missing, {**state, name: array[None]}, {**state, name: infinite}]


def _shared_leaf(graph: Graph) -> Graph:
    """The graph with a node more that reads a stored tensor a second time."""
    name = next(iter(graph.trainable))
    user = next(node for node in graph.nodes if name in node.operands)
    again = Node(f"{user.name}/again", user.op, user.operands)
    return replace(graph, nodes=(*graph.nodes, again))


def _refused(
    subject: Subject, case: Case, kind: type[GstoError], words: str, attempt: Callable[[], object]
) -> None:
    row = Comparison(subject, case, "refusals", across=False)
    try:
        attempt()
    except kind as error:
        place = words.removeprefix(OPTIMIZER_PREFIX)
        row.agree(words, (place in str(error), "\n" in str(error)), (True, False))
        return
    except Exception as error:
        raise Disagreement(
            row.row, subject, words, "-", f"{type(error).__name__}: {error}", kind.__name__
        ) from error
    raise Disagreement(row.row, subject, words, "-", "no error", f"{kind.__name__} naming {words}")
