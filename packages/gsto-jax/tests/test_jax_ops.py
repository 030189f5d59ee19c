"""Ops under the transformations that JAX has besides the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax.ops import compute
from gsto_spec.ops import (
    Resize,
)


def test_ops_of_static_tables_can_be_mapped_and_differentiated_twice() -> None:
    x = jnp.asarray(np.random.default_rng(3).standard_normal((2, 1, 4, 5, 2)), jnp.float32)
    op = Resize("bilinear", size=(8, 12))
    mapped = jax.vmap(lambda each: compute(op, [each]))(x)
    for one, many in zip(x, mapped, strict=True):
        assert jnp.array_equal(compute(op, [one]), many)

    def cubes(x: jax.Array) -> jax.Array:
        return (compute(op, [x]) ** 3).sum() / 6

    point, direction = x[0], x[1]
    curved = jax.grad(lambda x: (jax.grad(cubes)(x) * direction).sum())(point)
    resized, along = compute(op, [point]), compute(op, [direction])
    assert float((curved * direction).sum()) == pytest.approx(float((resized * along**2).sum()), rel=1e-4)
