"""The networks of the released code: names, shapes and arithmetic, in float64."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from gsto_spec import build, evaluate

DEAD_BRANCH = re.compile(r"att1\.1\.0\..*")
"""A branch of the released GSTO checkpoint that no output depends on."""

FILES = [
    ("gsto_release_w18_small_v2_c19", "gsto-hrnet-w18-small-v2", ["stage4", "stage3", "stage2"]),
    ("hrnetv2_w18_small_v2_c19", "hrnetv2-w18-small-v2", ["stage4"]),
    ("pose_hrnet_w32_k17", "pose-hrnet-w32", ["stage4"]),
]


@pytest.mark.parametrize(("stem", "name", "outputs"), FILES)
def test_names_and_shapes_are_the_released_ones(
    golden: Callable[[str], Any], stem: str, name: str, outputs: list[str]
) -> None:
    released, declared = golden(stem).parameters, dict(build(name).parameters)
    extra = {key: shape for key, shape in released.items() if DEAD_BRANCH.fullmatch(key)}
    assert {key: shape for key, shape in released.items() if key not in extra} == declared
    learnt = sum(int(np.prod(shape)) for key, shape in extra.items() if "running" not in key)
    assert learnt == (173 if name.startswith("gsto") else 0)


@pytest.mark.parametrize(("stem", "name", "outputs"), FILES)
def test_outputs_are_the_released_ones(
    golden: Callable[[str], Any], stem: str, name: str, outputs: list[str]
) -> None:
    released, graph = golden(stem), build(name)
    weights = {key: tensor for key, tensor in released.weights.items() if key in graph.parameters}
    found = evaluate(graph, weights, {"image": released.image})
    assert list(found) == outputs
    for array, wanted in zip(found.values(), released.outputs, strict=True):
        assert_allclose(array, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())
