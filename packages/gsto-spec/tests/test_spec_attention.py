"""Table 3's attentions by hand, where they are placed, and that what is fixed in them is never learnt."""

import re
from dataclasses import replace
from functools import partial, wraps
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from gsto_spec import (
    GraphBuilder,
    GraphError,
    HRNet,
    VariantError,
    build,
    cost,
    evaluate,
    initial_weights,
    variant,
)
from gsto_spec.attention import channel_gate, channel_max, channel_mean, spatial_gate
from gsto_spec.blocks import attend

TINY = HRNet(
    widths=(2, 3, 4, 5), modules=(1, 1, 2), blocks=1, stem_width=3, layer1_width=2, layer1_blocks=1, classes=3
)
MODULE_GATE = re.compile(r"stage\d\.\d\.attention\.\d/gate")
LAYER_GATE = re.compile(r"((?:[\w.]+\.)?conv\d)_attention/gate")


def sigma(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def run(build: GraphBuilder, node: str, x: NDArray[Any], **chosen: NDArray[Any]) -> NDArray[np.float64]:
    graph = build.graph({"y": node})
    result: NDArray[np.float64] = evaluate(graph, {**initial_weights(graph), **chosen}, {"x": x})["y"]
    return result


def test_channel_attention_by_hand() -> None:
    build = GraphBuilder()
    g = channel_gate(build, "se", build.input("x", 2), reduction=2)
    chosen = {
        "se.fc1.weight": np.array([3.0, -1.0]).reshape(1, 2, 1, 1), "se.fc1.bias": np.array([0.5]),
        "se.fc2.weight": np.array([1.0, -2.0]).reshape(2, 1, 1, 1), "se.fc2.bias": np.array([0.0, 4.0]),
    }  # fmt: skip
    x = np.array([[[[1.0, 3.0]], [[2.0, 0.0]]], [[[0.0, 0.0]], [[9.0, 9.0]]]])
    # relu(3 mean_1 - mean_2 + 0.5) is 5.5 in the first picture and, of -8.5, 0 in the second.
    wanted = sigma(np.array([[5.5, 4 - 11.0], [0.0, 4.0]]))
    assert_allclose(run(build, g, x, **chosen), wanted[..., None, None], rtol=1e-14)


@pytest.mark.parametrize(
    ("channels", "reduction", "hidden"), [(18, 16, 1), (36, 16, 2), (3, 64, 1), (8, 1, 8)]
)
def test_the_hidden_layer_has_a_part_of_the_channels(channels: int, reduction: int, hidden: int) -> None:
    build = GraphBuilder()
    g = channel_gate(build, "se", build.input("x", channels), reduction=reduction)
    assert build.graph({"y": g}).parameters["se.fc1.weight"] == (hidden, channels, 1, 1)


@given(st.integers(1, 12), st.integers(0, 2**32))
def test_the_mean_and_the_maximum_of_channels_are_numpys(channels: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, channels, 3, 2))
    for pool, wanted in ((channel_mean, x.mean(1)), (channel_max, x.max(1))):
        build = GraphBuilder()
        found = run(build, pool(build, "cbam", build.input("x", channels)), x)
        # 1/C is stored in float32; a - b + b rounds once per halving.
        assert_allclose(found, wanted[:, None], rtol=1e-6, atol=1e-6 if pool is channel_mean else 1e-15)


def test_spatial_attention_sees_the_mean_and_then_the_maximum() -> None:
    build = GraphBuilder()
    g = spatial_gate(build, "cbam", build.input("x", 2))
    kernel = np.zeros((1, 2, 7, 7))
    kernel[0, :, 3, 3] = 2.0, 10.0
    kernel[0, 0, 3, 6] = 1.0
    x = np.zeros((1, 2, 1, 5))
    x[0, :, 0, 0], x[0, :, 0, 3] = (1.0, 3.0), (-4.0, 2.0)
    # Place 0 sees its own mean 2 and maximum 3, and the mean -1 of the place three to its right.
    wanted = [2 * 2 + 10 * 3 - 1, 0, 0, -2 + 10 * 2, 0]
    assert_allclose(
        run(build, g, x, **{"cbam.conv.weight": kernel}), [[[sigma(np.array(wanted))]]], rtol=1e-14
    )


def test_only_the_7x7_convolution_is_learnt() -> None:
    build = GraphBuilder()
    graph = build.graph({"y": spatial_gate(build, "cbam", build.input("x", 5))})
    assert dict(graph.trainable) == {"cbam.conv.weight": (1, 2, 7, 7)}
    assert graph.training_form_violation() is None
    assert cost(graph, (1, 5, 8, 8)).conv_parameters == 98


def test_attention_multiplies_what_it_reads() -> None:
    build = GraphBuilder()
    x = build.input("x", 1)
    gated = attend(build, "twice", x, lambda build, path, x: build.relu(x))
    assert run(build, gated, np.array([[[[3.0, -2.0]]]])).tolist() == [[[[9.0, 0.0]]]]


def gates(chosen: HRNet) -> list[str]:
    return [node.name for node in build(chosen).nodes if node.op.kind == "sigmoid"]


@pytest.mark.parametrize("attention", ["channel", "spatial"])
def test_after_each_module_every_branch_is_gated(attention: Any) -> None:
    chosen = replace(TINY, attention=attention)
    found = gates(chosen)
    assert all(map(MODULE_GATE.fullmatch, found))
    assert len(found) == 2 + 3 + 2 * 4
    graph = build(chosen)
    assert graph.by_name["stage2.0.attention.1/gated"].operands[1] == "stage2.0/fuse.1/out"
    assert graph.by_name["stage3.0.branches.1.0.conv1"].operands[0] == "stage2.0.attention.1/gated"


@pytest.mark.parametrize("attention", ["channel", "spatial"])
def test_after_each_layer_the_stem_and_the_residual_blocks_are_gated(attention: Any) -> None:
    chosen = replace(TINY, attention=attention, attention_location="layer")
    wanted = ["conv1", "conv2", *(f"layer1.0.conv{k}" for k in (1, 2, 3))]
    for stage, modules in ((2, 1), (3, 1), (4, 2)):
        wanted += [f"stage{stage}.{module}.branches.{branch}.0.conv{k}"
                   for module in range(modules) for branch in range(stage) for k in (1, 2)]  # fmt: skip
    matches = map(LAYER_GATE.fullmatch, gates(chosen))
    assert [match[1] for match in matches if match] == wanted
    graph = build(chosen)
    assert graph.by_name["conv1_attention/gated"].operands[1] == "bn1/relu"
    assert graph.by_name["layer1.0/sum"].operands[0] == "layer1.0.conv3_attention/gated"


def test_a_reduction_reaches_every_channel_gate() -> None:
    for fields in ({"attention": "channel"}, {"fusion_gate": "channel", "transition_gate": "channel"}):
        chosen = replace(TINY, widths=(8, 8, 8, 8), channel_reduction=4, **fields)  # type: ignore[arg-type]
        shapes = {s for name, s in build(chosen).parameters.items() if name.endswith("fc1.weight")}
        assert shapes == {(2, 8, 1, 1)}


@pytest.mark.parametrize("form", ["release", "paper"])
def test_channel_gates_stand_where_gfm_and_gtm_have_theirs(form: Any) -> None:
    channel = replace(TINY, form=form, fusion_gate="channel", transition_gate="channel")
    spatial = replace(TINY, form=form, fusion_gate="unsupervised", transition_gate="unsupervised")
    assert gates(channel) == gates(spatial)
    graph = build(channel)
    gate = graph.by_name["att2.2.0/gate"].name
    united = {"paper": 2 + 3, "release": 3}[form]
    assert graph.shapes[gate][1:] == (united, 1, 1)


def test_an_attention_of_ones_own_takes_a_function() -> None:
    chosen = replace(TINY, attention=lambda build, path, x: build.sigmoid(x, name=f"{path}/gate"))
    assert len(gates(chosen)) == 13


@pytest.mark.parametrize("location", ["module", "layer"])
@pytest.mark.parametrize("attention", ["channel", "spatial"])
def test_attended_networks_evaluate_at_odd_sizes(attention: Any, location: Any) -> None:
    graph = build(replace(TINY, attention=attention, attention_location=location))
    image = np.random.default_rng(0).standard_normal((1, 3, 37, 50))
    found = evaluate(graph, initial_weights(graph), {"image": image})["stage4"]
    assert found.shape == (1, 3, 10, 13)
    assert np.isfinite(found).all()


GATED = [
    ("gsto-hrnet-w16-mini", "fusion_gate", "stage2.0.att_layers.0.0", 16),
    ("gsto-hrnet-w16-mini", "transition_gate", "att2.2.0", 32),
    ("gsto-hrnet-w16-mini", "attention", "stage2.0.attention.0", 16),
    ("resnet50-ppm", "context_gate", "ppm.att_layers.0", 2048),
]


def my_gate(build: GraphBuilder, path: str, x: str, *, name: str, channels: int | None) -> str:
    return build.sigmoid(build.conv2d(name.format(path), x, channels or build.channels(x)))


@pytest.mark.parametrize(("base", "field", "path", "features"), GATED)
def test_a_gate_of_ones_own_that_does_not_fit_is_told_with_the_mend(
    base: str, field: str, path: str, features: int
) -> None:
    def built(name: str, channels: int | None) -> None:
        function = wraps(my_gate)(partial(my_gate, name=name, channels=channels))
        stages = {"supervised_stages": ()} if "gsto" in base else {}
        build(replace(variant(base), **{field: function}, **stages))  # type: ignore[arg-type]

    for fitting in (1, None):
        built("{}.0", fitting)
    with pytest.raises(VariantError) as wide:
        built("{}.0", 8)
    expected = f"expected 1 channel, or as many as the features, {features}"
    assert str(wide.value) == f"gate {path}: {expected}, found my_gate, which makes 8"
    with pytest.raises(GraphError) as again:
        built("g", 1)
    assert str(again.value) == (
        "g.weight: expected one node of each name, found a second one in my_gate; name nodes by the path "
        'that the function is given, f"{path}.g" [graph_c1]'
    )


def test_maps_of_other_channels_are_not_told_to_be_resized() -> None:
    build = GraphBuilder()
    wide, narrow = build.conv2d("wide", build.input("x", 3), 8), build.conv2d("narrow", "x", 4)
    with pytest.raises(GraphError, match="their channels differ; a gate has 1, or as many as the features"):
        build.mul(wide, narrow)
    with pytest.raises(GraphError, match="bring them to one number of channels with a 1x1 conv2d"):
        build.add([wide, narrow])
