"""The optimisers of `gsto_spec.objective` as optax transformations, and their slots by gsto-spec's names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, assert_never

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from jax import Array

from gsto_spec.objective import SGD, Adam

_FIELDS = {"momentum": "trace", "first": "mu", "second": "nu", "step": "count"}
"""gsto-spec's names of optimiser slots, and optax's."""


def transformation(optimizer: SGD | Adam) -> optax.GradientTransformation:
    """Gradients to directions: one step is `weight - learning_rate * direction`."""
    decay = optax.add_decayed_weights(optimizer.weight_decay)
    match optimizer:
        case SGD():
            momentum = optax.trace(optimizer.momentum) if optimizer.momentum else optax.identity()
            return optax.chain(decay, momentum)
        case Adam():
            return optax.chain(decay, _adam(optimizer))
        case unknown:
            assert_never(unknown)


def _adam(optimizer: Adam) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with bias corrections that are right to a few ulp.

    optax's own, 1 - beta^t in float32, put the first step of beta = 0.999 off by 6.6e-6, 55 ulp.
    """

    def update(gradients: Any, state: Any, parameters: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        del parameters
        step = state.count + 1
        first = jax.tree.map(lambda g, m: _moving(optimizer.beta1, m, g), gradients, state.mu)
        second = jax.tree.map(lambda g, v: _moving(optimizer.beta2, v, g * g), gradients, state.nu)

        def direction(m: Array, v: Array) -> Array:
            spread = jnp.sqrt(v) / jnp.sqrt(_correction(optimizer.beta2, step, v)) + optimizer.epsilon
            return m / _correction(optimizer.beta1, step, m) / spread

        return jax.tree.map(direction, first, second), optax.ScaleByAdamState(step, first, second)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


def _moving(keep: float, old: Array, new: Array) -> Array:
    return keep * old + (1 - keep) * new


def _correction(beta: float, step: Array, like: Array) -> Array:
    """1 - beta^step in the type of `like`, without cancellation."""
    logarithm = math.log(beta) if beta > 0 else -math.inf
    return -jnp.expm1(step.astype(like.dtype) * logarithm)


def slots_of(state: Any) -> dict[str, Any]:
    """The slots in a transformation's state: kind -> name -> array, and `step`."""
    return {kind: getattr(state[1], field) for kind, field in _FIELDS.items() if field in state[1]._fields}


def with_slots(state: Any, slots: Mapping[str, Any]) -> Any:
    """A transformation's state holding those of `slots` that it has a place for."""
    fields = {field: slots[kind] for kind, field in _FIELDS.items() if field in state[1]._fields}
    return (state[0], state[1]._replace(**fields))
