"""Whole networks: the released ones, and those of both forms at odd sizes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from contract.framework import Array, Arrays, Framework
from contract.networks import GSTO, NARROW
from gsto_spec import Graph, HRNet, build, evaluate, initial_weights
from gsto_spec.backend import Backend, Speed

FILES = [
    ("gsto_release_w18_small_v2_c19", "gsto-hrnet-w18-small-v2"),
    ("hrnetv2_w18_small_v2_c19", "hrnetv2-w18-small-v2"),
    ("pose_hrnet_w32_k17", "pose-hrnet-w32"),
]


def predictions(
    backend: Backend, graph: Graph, weights: Arrays, image: Array, precision: str, speed: Speed
) -> Arrays:
    options: Any = {"device": "cpu", "precision": precision, "speed": speed}
    found = backend.predictor(graph, weights, **options).predict(image)
    assert list(found) == list(graph.outputs)
    assert {array.dtype for array in found.values()} == {np.dtype(precision)}
    return found


@pytest.mark.parametrize(("precision", "bound"), [("float64", 1e-9), ("float32", 2e-5)])
@pytest.mark.parametrize(("stem", "name"), FILES)
def test_outputs_are_the_released_ones(
    backend: Backend, framework: Framework, golden: Callable[[str], Any], stem: str, name: str,
    precision: str, bound: float,
) -> None:  # fmt: skip
    released, graph = golden(stem), build(name)
    weights = {key: tensor for key, tensor in released.weights.items() if key in graph.parameters}
    for speed in framework.SPEEDS:
        found = predictions(backend, graph, weights, released.image, precision, speed)
        for array, wanted in zip(found.values(), released.outputs, strict=True):
            assert_allclose(array, wanted, rtol=0, atol=bound * np.abs(wanted).max())


SUPERVISED = replace(GSTO, supervised_stages=(1, 2, 3))


@pytest.mark.parametrize("size", [(33, 47), (32, 64), (5, 9)])
@pytest.mark.parametrize(
    "chosen",
    [
        NARROW,
        SUPERVISED,
        replace(SUPERVISED, form="paper"),
        replace(SUPERVISED, align_corners=True),
        replace(SUPERVISED, form="paper", align_corners=True, transition_gate="unsupervised"),
        replace(NARROW, upsampling="nearest", head="hrnetv1"),
    ],
    ids=["plain", "release", "paper", "release aligned", "paper aligned unsupervised", "pose"],
)
def test_both_forms_equal_the_definition_at_any_size(
    backend: Backend, framework: Framework, chosen: HRNet, size: tuple[int, int]
) -> None:
    graph = build(chosen)
    draw = np.random.default_rng(1)
    weights = {
        name: np.abs(draw.standard_normal(shape))
        if name.endswith("_var")
        else draw.standard_normal(shape) / 3
        for name, shape in graph.parameters.items()
    }
    image = draw.standard_normal((2, 3, *size))
    wanted = evaluate(graph, weights, {"image": image})
    for speed in framework.SPEEDS:
        for name, array in predictions(backend, graph, weights, image, "float64", speed).items():
            assert_allclose(array, wanted[name], rtol=0, atol=1e-10 * np.abs(wanted[name]).max())


@pytest.mark.parametrize("size", [(64, 96), (41, 57)])
@pytest.mark.parametrize("form", ["release", "paper"])
def test_training_mode_equals_the_definition(
    package: Any, framework: Framework, form: Any, size: tuple[int, int]
) -> None:
    graph = build(replace(SUPERVISED, form=form))
    weights = initial_weights(graph, seed=3)
    image = np.random.default_rng(2).standard_normal((2, 3, *size))
    wanted, statistics = evaluate(graph, weights, {"image": image}, train_mode=True)
    with framework.float64():
        model = package.compile(graph, weights, dtype=framework.dtype("float64"))
        found, kept = framework.compute(model, image), package.weights_of(model)
    assert list(found) == list(wanted)
    for name, exact in wanted.items():
        assert_allclose(found[name], exact, rtol=0, atol=1e-10 * np.abs(exact).max())
    assert set(statistics) == set(graph.parameters) - set(graph.trainable)
    for name, exact in statistics.items():
        assert_allclose(kept[name], exact, rtol=1e-10, atol=1e-12)
