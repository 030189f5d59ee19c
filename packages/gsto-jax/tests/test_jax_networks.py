"""Whole networks: the released ones, and those of both forms at odd sizes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

import gsto_jax
from gsto_jax.backend import JaxBackend
from gsto_spec import Graph, HRNet, build, evaluate, initial_weights

Arrays = dict[str, NDArray[Any]]

FILES = [
    ("gsto_release_w18_small_v2_c19", "gsto-hrnet-w18-small-v2"),
    ("hrnetv2_w18_small_v2_c19", "hrnetv2-w18-small-v2"),
    ("pose_hrnet_w32_k17", "pose-hrnet-w32"),
]


def predictions(graph: Graph, weights: Arrays, image: NDArray[Any], precision: str) -> Arrays:
    found = JaxBackend().predictor(graph, weights, device="cpu", precision=precision).predict(image)
    assert list(found) == list(graph.outputs)
    assert {array.dtype for array in found.values()} == {np.dtype(precision)}
    return found


@pytest.mark.parametrize(("precision", "bound"), [("float64", 1e-9), ("float32", 2e-5)])
@pytest.mark.parametrize(("stem", "name"), FILES)
def test_outputs_are_the_released_ones(
    golden: Callable[[str], Any], stem: str, name: str, precision: str, bound: float
) -> None:
    released, graph = golden(stem), build(name)
    weights = {key: tensor for key, tensor in released.weights.items() if key in graph.parameters}
    found = predictions(graph, weights, released.image, precision)
    for array, wanted in zip(found.values(), released.outputs, strict=True):
        assert_allclose(array, wanted, rtol=0, atol=bound * np.abs(wanted).max())


NARROW = HRNet(
    widths=(2, 4, 6, 8), modules=(1, 1, 1), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1, classes=3
)
GSTO = replace(NARROW, fusion_gate="unsupervised", supervised_stages=(1, 2, 3), transition_gate="supervised")


@pytest.mark.parametrize("size", [(33, 47), (5, 9)])
@pytest.mark.parametrize(
    "chosen",
    [
        NARROW,
        GSTO,
        replace(GSTO, form="paper"),
        replace(GSTO, align_corners=True),
        replace(GSTO, form="paper", align_corners=True, transition_gate="unsupervised"),
        replace(NARROW, upsampling="nearest", head="hrnetv1"),
    ],
    ids=["plain", "release", "paper", "release aligned", "paper aligned unsupervised", "pose"],
)
def test_both_forms_equal_the_definition_at_any_size(chosen: HRNet, size: tuple[int, int]) -> None:
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
    for name, array in predictions(graph, weights, image, "float64").items():
        assert_allclose(array, wanted[name], rtol=0, atol=1e-10 * np.abs(wanted[name]).max())


@pytest.mark.parametrize(("form", "size"), [("paper", (64, 96)), ("release", (41, 57))])
def test_training_mode_equals_the_definition(form: Any, size: tuple[int, int]) -> None:
    graph = build(replace(GSTO, form=form))
    weights = initial_weights(graph, seed=3)
    image = np.random.default_rng(2).standard_normal((2, 3, *size))
    wanted, statistics = evaluate(graph, weights, {"image": image}, train_mode=True)
    with jax.enable_x64(True):
        model = gsto_jax.compile(graph, weights, dtype=np.float64)
        found = model(image.transpose(0, 2, 3, 1))  # type: ignore[arg-type]
        kept = gsto_jax.weights_of(model)
    assert list(found) == list(wanted)
    for name, exact in wanted.items():
        array = np.asarray(found[name]).transpose(0, 3, 1, 2)
        assert_allclose(array, exact, rtol=0, atol=1e-10 * np.abs(exact).max())
    assert set(statistics) == set(graph.parameters) - set(graph.trainable)
    for name, exact in statistics.items():
        assert_allclose(kept[name], exact, rtol=1e-10, atol=1e-12)
