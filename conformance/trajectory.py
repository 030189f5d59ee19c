"""Several optimiser steps: the oracle's, what they may be off by, and how far its own runs part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.cases import Case
from conformance.expected import oracle_trainer, training
from conformance.noise import (
    AMPLIFIED,
    NUDGE,
    ULP,
    SetAside,
    off_by_ulps,
    require_decided,
    stray_trainers,
)  # fmt: skip
from conformance.oracle import OracleTrainer
from conformance.tolerance import MEANING, RUNS, STATES, norm, summation
from gsto_spec.backend import OPTIMIZER_PREFIX
from gsto_spec.objective import SGD

Array = NDArray[Any]
Arrays = dict[str, Array]

Rates = tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """The state after all steps, the loss of each, and every node's value at each."""

    state: Arrays
    losses: tuple[float, ...]
    values: tuple[Arrays, ...]


def run(trainer: OracleTrainer, case: Case, rates: Rates) -> Run:
    """Step once per rate on the case's batch."""
    losses, values = [], []
    for rate in rates:
        values.append(trainer.run(case.batch["image"], training=True))
        losses.append(float(trainer.step(case.batch, rate)["loss"]))
    return Run(trainer.state(), tuple(losses), tuple(values))


@lru_cache(maxsize=64)
def exact(case: Case, rates: Rates) -> Run:
    """The oracle's in float64."""
    return run(oracle_trainer(case, "float64"), case, rates)


@lru_cache(maxsize=64)
def strays(case: Case, rates: Rates, precision: str) -> tuple[Run, ...]:
    """The oracle's own runs: five in float32, an ulp apart and each in its order, or one that was nudged."""
    trainers = stray_trainers(case, precision)
    if precision == "float32":
        trainers = [off_by_ulps(trainer, str(number)) for number, trainer in enumerate(trainers)]
    return tuple(run(trainer, case, rates) for trainer in trainers)


def require_fair(case: Case, rates: Rates, precision: str) -> None:
    """Raise `SetAside` where rounding decides what the steps lead to."""
    wanted, runs = exact(case, rates), strays(case, rates, precision)
    for step, values in enumerate(wanted.values):
        require_decided(case, values, [other.values[step] for other in runs])
    if precision == "float64":
        sizes = scales(case, rates)
        for name, array in runs[0].state.items():
            require_near(array, wanted.state[name], STATES * sizes[name])


def require_near(nudged: Array, wanted: Array, bound: float) -> None:
    """Raise `SetAside` where a nudge moves a state further than its bound could follow."""
    if (np.abs(nudged - wanted) > AMPLIFIED * NUDGE / MEANING * bound).any():
        raise SetAside("rounding is amplified more than 300,000 times")


@lru_cache(maxsize=64)
def scales(case: Case, rates: Rates) -> dict[str, float]:
    """What was summed for each tensor of the state: the most that its start and its updates could come to."""
    answers = training(case)
    found: dict[str, float] = {f"{OPTIMIZER_PREFIX}step": 1.0}
    for name, array in case.weights.items():
        size = float(np.abs(array).max())
        if name in answers.statistics:
            found[name] = size + float(answers.statistics[name].magnitude.max())
        elif name not in answers.gradients:
            found[name] = size
        else:
            slope = float(answers.gradients[name].magnitude.max())
            factor = case.training.rate_factors.get(name, 1.0)
            found |= _learnt_scales(case, name, size, slope, factor * sum(rates))
    return found


def _learnt_scales(case: Case, name: str, size: float, slope: float, total_rate: float) -> dict[str, float]:
    optimizer = case.training.optimizer
    slope += optimizer.weight_decay * size
    if isinstance(optimizer, SGD):
        velocity = slope / (1 - optimizer.momentum)
        return {name: size + total_rate * velocity, f"{OPTIMIZER_PREFIX}momentum/{name}": velocity}
    slots = {"first": slope, "second": slope * slope}
    # Kingma and Ba 2015, section 2.1: the largest step, in learning rates.
    furthest = max((1 - optimizer.beta1) / math.sqrt(1 - optimizer.beta2), 1.0)
    return {
        name: size + furthest * total_rate,
        **{f"{OPTIMIZER_PREFIX}{key}/{name}": s for key, s in slots.items()},
    }


def parting(case: Case, rates: Rates, name: str) -> float:
    """float32: how far apart a tensor may be: `RUNS` x the largest distance of the oracle's own runs.

    And rounding to the nearest number at each step, which runs that agree by chance would not show.
    """
    arrays = [np.asarray(other.state[name], np.float64) for other in strays(case, rates, "float32")]
    largest = max(norm(a - b) for a, b in combinations(arrays, 2))
    rounding = len(rates) * ULP * scales(case, rates)[name] * np.sqrt(arrays[0].size)
    return RUNS * largest + float(rounding)


def loss_bound(case: Case, rates: Rates, precision: str) -> Array:
    """How far the loss of each step may lie from the exact one."""
    want, first = np.asarray(exact(case, rates).losses), training(case).losses["loss"]
    size = np.maximum(first.magnitude, np.abs(want))
    if precision == "float64":
        return np.asarray(STATES * size)
    runs = np.array([other.losses for other in strays(case, rates, precision)])
    largest = np.max([np.abs(a - b) for a, b in combinations(runs, 2)], axis=0)
    return np.asarray(RUNS * largest + summation(first.terms + 4, ULP / 2) * size)
