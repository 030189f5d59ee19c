"""Leaves on their own, as tensors of a torch module."""

import pytest
from torch import nn

import gsto_torch
from contract.networks import arithmetic_on_leaves
from gsto_spec import GraphError


def test_a_leaf_that_is_not_learnt_is_a_buffer() -> None:
    model = gsto_torch.compile(arithmetic_on_leaves())
    assert dict(model.named_buffers()).keys() == {"offset"}
    assert "conv1.scale" in dict(model.named_parameters())
    assert isinstance(model.get_submodule("conv1"), nn.Conv2d)


@pytest.mark.parametrize("name", ["train", "stem.forward", "a/b"])
def test_torch_c1_a_leaf_has_a_path_that_a_module_can_have(name: str) -> None:
    with pytest.raises(
        GraphError, match=rf"^{name}: expected a path that a torch module can have, .* \[torch_c1\]$"
    ):
        gsto_torch.compile(arithmetic_on_leaves(name))
