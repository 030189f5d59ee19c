"""Layers inside layers, paths that torch cannot have, and weights of other types."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gsto_torch
from gsto_spec import Graph, GraphBuilder, GraphError, initial_weights


def two_layers(first: str, second: str) -> Graph:
    build = GraphBuilder()
    x = build.conv2d(second, build.conv2d(first, build.input(), 2), 2)
    return build.graph({"stage4": x})


@pytest.mark.parametrize("names", [("a", "a.b"), ("a.b", "a")])
def test_a_layer_may_lie_inside_another_in_any_order(names: tuple[str, str]) -> None:
    graph = two_layers(*names)
    model = gsto_torch.compile(graph)
    assert set(model.state_dict()) == set(graph.parameters)
    assert model(torch.zeros(1, 3, 2, 2))["stage4"].shape == (1, 2, 2, 2)


@pytest.mark.parametrize("name", ["_steps", "_inputs", "_outputs", "graph"])
def test_torch_c1_a_layer_is_not_called_like_a_part_of_the_module(name: str) -> None:
    with pytest.raises(GraphError, match=rf"{name}: expected a path that a torch module can have"):
        gsto_torch.compile(two_layers(name, "b"))


def test_a_bfloat16_model_is_saved_as_float32(tmp_path: Path) -> None:
    model = gsto_torch.compile(two_layers("a", "b"))
    gsto_torch.save(model.bfloat16(), tmp_path)
    again = gsto_torch.load(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.float())


def test_weights_of_another_byte_order_are_read() -> None:
    graph = two_layers("a", "b")
    weights: dict[str, Any] = {name: v.astype(">f4") for name, v in initial_weights(graph).items()}
    found = gsto_torch.weights_of(gsto_torch.compile(graph, weights))
    assert all(np.array_equal(found[name], value) for name, value in weights.items())
