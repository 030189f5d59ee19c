"""Gradients and steps as the definition has them, for tests to compare with."""

from collections.abc import Callable
from typing import Any

import numpy as np

from contract.framework import Array, Arrays
from gsto_spec import Graph, evaluate, initial_weights
from gsto_spec.backend import Training
from gsto_spec.objective import Objective, objective_value, optimizer_step

STEP = 1e-30
"""Of the complex step, which is exact to rounding: no difference is ever taken."""


def complex_step(function: Callable[[Array], Any], point: Array) -> Array:
    """The gradient of a real function, value by value."""
    gradient = np.zeros(point.shape)
    moved = point.astype(complex)
    for index in np.ndindex(point.shape):
        moved[index] += STEP * 1j
        gradient[index] = np.imag(function(moved)) / STEP
        moved[index] = point[index]
    return gradient


def in_float64(graph: Graph, seed: int = 0) -> Arrays:
    """The initial weights."""
    return {name: array.astype(float) for name, array in initial_weights(graph, seed).items()}


def loss_gradients(
    graph: Graph, weights: Arrays, objective: Objective, batch: Arrays, *, train_mode: bool = True
) -> Arrays:
    """Of the loss by every learnt tensor; without `train_mode` every batch norm is frozen."""

    def gradient(name: str) -> Array:
        def loss(value: Array) -> Any:
            moved, image = {**weights, name: value}, {"image": batch["image"]}
            if train_mode:
                outputs, _ = evaluate(graph, moved, image, np.complex128, train_mode=True)
            else:
                outputs = evaluate(graph, moved, image, np.complex128)
            return objective_value(objective, outputs, batch)["loss"]

        return complex_step(loss, weights[name])

    return {name: gradient(name) for name in graph.trainable}


def step(
    graph: Graph, weights: Arrays, slots: Arrays, training: Training, batch: Arrays, rate: float
) -> tuple[dict[str, float], Arrays, Arrays]:
    """Losses before one step of the optimiser, weights and slots after it."""
    outputs, statistics = evaluate(graph, weights, {"image": batch["image"]}, train_mode=True)
    losses = objective_value(training.objective, outputs, batch)
    gradients = loss_gradients(graph, weights, training.objective, batch)
    learnt = {name: weights[name] for name in graph.trainable}
    learnt, slots = optimizer_step(training.optimizer, learnt, gradients, slots, rate)
    return losses, {**weights, **learnt, **statistics}, slots
