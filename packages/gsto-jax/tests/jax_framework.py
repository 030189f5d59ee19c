"""JAX for the tests of every backend; see `contract.framework`."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import gsto_jax
from gsto_jax.losses import objective_losses
from gsto_spec.backend import Speed
from gsto_spec.objective import Objective

Array = NDArray[Any]
Arrays = dict[str, Array]

SPEEDS: tuple[Speed, ...] = ("fast",)
EXAMPLES = 15


def float64() -> AbstractContextManager[Any]:
    wide: AbstractContextManager[Any] = jax.enable_x64(True)
    return wide


def dtype(name: str) -> np.dtype[Any]:
    return jnp.dtype(name)


def to_jax(array: Array) -> jax.Array:
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def to_numpy(array: jax.Array) -> Array:
    return np.asarray(array).transpose(0, 3, 1, 2)


def all_to_numpy(arrays: Mapping[str, jax.Array]) -> Arrays:
    return {name: to_numpy(array) for name, array in arrays.items()}


def compute(model: gsto_jax.CompiledGraph, *images: Array) -> Arrays:
    with jax.enable_x64(images[0].dtype == np.float64):
        return all_to_numpy(model(*map(to_jax, images)))


def outputs_and_slopes(
    model: gsto_jax.CompiledGraph, images: list[jax.Array], factors: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], tuple[jax.Array, ...]]:
    """In one program, since compiling is what takes the time."""
    outputs, pull = jax.vjp(lambda *images: dict(model(*images)), *images)
    return outputs, pull(factors)


def slopes(
    model: gsto_jax.CompiledGraph, images: Sequence[Array], factors: Arrays
) -> tuple[Arrays, list[Array]]:
    with jax.enable_x64(images[0].dtype == np.float64):
        pulled = {name: to_jax(factor) for name, factor in factors.items()}
        outputs, found = jax.jit(partial(outputs_and_slopes, model))([to_jax(x) for x in images], pulled)
        return {name: to_numpy(outputs[name]) for name in model.graph.outputs}, [to_numpy(x) for x in found]


def losses(objective: Objective, outputs: Arrays, batch: Arrays) -> tuple[Arrays, Arrays]:
    def total(outputs: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        losses = objective_losses(objective, outputs, batch)  # type: ignore[arg-type]
        return losses["loss"], losses

    with jax.enable_x64(any(array.dtype == np.float64 for array in outputs.values())):
        images = OrderedDict((name, to_jax(array)) for name, array in outputs.items())
        gradients, found = jax.jit(jax.grad(total, has_aux=True))(images)
        return {name: np.asarray(loss) for name, loss in found.items()}, all_to_numpy(gradients)


def assign(model: gsto_jax.CompiledGraph, name: str, value: float) -> None:
    variable = model.variable(name)
    variable.set_value(jnp.full(variable.shape, value, variable.dtype))
