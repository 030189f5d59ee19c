"""Leaves on their own, as variables of a flax module."""

import pytest
from flax import nnx

import gsto_jax
from contract.networks import arithmetic_on_leaves
from gsto_spec import GraphBuilder, GraphError
from gsto_spec.ops import Parameter


def test_a_leaf_that_is_not_learnt_is_no_param() -> None:
    model = gsto_jax.compile(arithmetic_on_leaves())
    assert isinstance(model.variable("offset"), nnx.BatchStat)
    assert isinstance(model.variable("conv1.scale"), nnx.Param)


@pytest.mark.parametrize("name", ["train", "stem.items", "conv1.weight.x", "_program"])
def test_jax_c1_a_leaf_has_a_path_that_a_module_can_have(name: str) -> None:
    builder = GraphBuilder()
    image = builder.input()
    leaves = [builder.parameter(leaf, Parameter((1, 3, 1, 1))) for leaf in ("conv1.weight", name)]
    graph = builder.graph(
        {"y": builder.mul(leaves[1], builder.mul(leaves[0], image, name="a/b"), name="a/c")}
    )
    with pytest.raises(
        GraphError, match=rf"^{name}: expected a path that a flax module can have, .* \[jax_c1\]$"
    ):
        gsto_jax.compile(graph)
