"""The parts of HRNet and of the released GSTO by hand, and how both forms put them together."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import exp
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from gsto_spec import Graph, GraphBuilder, HRNet, build, evaluate, initial_weights
from gsto_spec.blocks import (
    Fusion,
    Resampling,
    Transition,
    basic_block,
    bottleneck,
    gate,
    predictor,
    stem,
    supervised_gate,
    unite,
)
from gsto_spec.forms import PAPER, RELEASE
from gsto_spec.ops import AdaptiveAvgPool, Conv2d, Mul, Resize, Sigmoid

Array = NDArray[np.float64]

TINY = HRNet(
    widths=(2, 4, 6, 8), modules=(1, 1, 2), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1, classes=3
)
GSTO = replace(
    TINY, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised"
)  # fmt: skip


def sigma(x: float) -> float:
    return 1 / (1 + exp(-x))


def neutral(graph: Graph, **chosen: Array) -> dict[str, Array]:
    """Norms that change nothing but for eps, convolutions of zeros, and the tensors that a test chooses."""
    weights = {}
    for name, shape in graph.parameters.items():
        fill = 1.0 if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")) else 0.0
        weights[name] = np.full(shape, fill)
    assert set(chosen) <= set(weights)
    return weights | chosen


def centre(value: float, channels: int = 1) -> Array:
    """A 3x3 kernel that multiplies each channel by `value`."""
    kernel = np.zeros((channels, channels, 3, 3))
    kernel[range(channels), range(channels), 1, 1] = value
    return kernel


def run(build: GraphBuilder, node: str, chosen: Mapping[str, Array], **inputs: Any) -> Array:
    graph = build.graph({"y": node})
    batch = {name: np.asarray(array, np.float64)[None] for name, array in inputs.items()}
    result: Array = evaluate(graph, neutral(graph, **chosen), batch)["y"][0]
    return result


def test_a_basic_block_by_hand() -> None:
    build = GraphBuilder(eps=1e-300)
    end = basic_block(build, "b", build.input("x", 1), 1)
    chosen = {"b.conv1.weight": centre(2.0), "b.conv2.weight": centre(-3.0)}
    # relu(x - 3 relu(2 x))
    assert run(build, end, chosen, x=[[[1, -1], [0, -4]]]).tolist() == [[[0, 0], [0, 0]]]
    chosen["b.conv2.weight"] = centre(0.5)
    assert run(build, end, chosen, x=[[[1, -1], [0, -4]]]).tolist() == [[[2, 0], [0, 0]]]
    assert not any("downsample" in name for name in build.graph({"y": end}).parameters)


def test_a_bottleneck_widens_its_shortcut_by_hand() -> None:
    build = GraphBuilder(eps=1e-300)
    end = bottleneck(build, "layer1.0", build.input("x", 1), 1)
    chosen = {
        "layer1.0.conv1.weight": np.full((1, 1, 1, 1), 2.0),
        "layer1.0.conv2.weight": centre(3.0),
        "layer1.0.conv3.weight": np.array([1.0, -1, 0, 2]).reshape(4, 1, 1, 1),
        "layer1.0.downsample.0.weight": np.array([0.0, 10, 1, -20]).reshape(4, 1, 1, 1),
    }
    # 6 relu(x) (1, -1, 0, 2) + x (0, 10, 1, -20), relu.
    assert run(build, end, chosen, x=[[[1]]]).ravel().tolist() == [6, 4, 1, 0]
    assert run(build, end, chosen, x=[[[-1]]]).ravel().tolist() == [0, 0, 0, 20]


def test_a_bottleneck_of_its_own_width_adds_its_input() -> None:
    build = GraphBuilder()
    bottleneck(build, "b", build.input("x", 8), 2)
    names = build.graph({"y": "b/out"}).parameters
    assert not any("downsample" in name for name in names)


def test_the_stem_goes_to_stride_four_with_relu_after_both() -> None:
    build = GraphBuilder(eps=1e-300)
    end = stem(build, build.input("image", 1), 1)
    chosen = {"conv1.weight": centre(-1.0), "conv2.weight": centre(2.0)}
    picture = -np.arange(25.0).reshape(1, 5, 5)
    # Centres of rows and columns 0, 2, 4, then 0, 4.
    assert run(build, end, chosen, image=picture).tolist() == [[[0, 8], [40, 48]]]
    assert run(build, end, chosen, image=-picture).max() == 0


def test_the_released_gate_lies_from_one_half_up() -> None:
    build = GraphBuilder(eps=1e-300)
    g = gate(build, "att", build.input("x", 2), RELEASE)
    chosen = {"att.0.weight": np.array([1.0, -2.0]).reshape(1, 2, 1, 1), "att.1.bias": np.array([1.0])}
    found = run(build, g, chosen, x=[[[1, 3]], [[0, 4]]])
    # relu(x_1 - 2 x_2 + 1) is 2 and, of -4, 0.
    assert_allclose(found, [[[sigma(2), 0.5]]], rtol=1e-15)


def test_the_released_supervised_gate_is_a_chain_down_to_the_lowest_branch() -> None:
    build = GraphBuilder(eps=1e-300)
    g = supervised_gate(build, "att3.3", build.input("logits", 1), 2, RELEASE)
    chosen = {f"att3.3.{k}.0.weight": centre(2.0) for k in range(3)}
    logits = np.arange(-12.0, 13.0).reshape(1, 5, 5) / 8
    # Rows and columns 0, 2, 4, then 0, 4; relu after each of three doublings.
    kept = 8 * np.maximum(logits[0, ::4, ::4], 0)
    assert_allclose(run(build, g, chosen, logits=logits), [1 / (1 + np.exp(-kept))], rtol=1e-15)
    assert [name for name in build.graph({"y": g}).parameters if name.endswith("0.weight")] == list(chosen)


def test_a_predictor_with_a_hidden_layer_by_hand() -> None:
    build = GraphBuilder(eps=1e-300)
    p = predictor(build, "last_layer", build.input("x", 1), 2)
    chosen = {
        "last_layer.0.weight": np.full((1, 1, 1, 1), 2.0), "last_layer.0.bias": np.array([-1.0]),
        "last_layer.3.weight": np.array([1.0, -1.0]).reshape(2, 1, 1, 1),
        "last_layer.3.bias": np.array([0.0, 10.0]),
    }  # fmt: skip
    assert run(build, p, chosen, x=[[[3, -3]]]).tolist() == [[[5, 0]], [[5, 10]]]


def test_unite_resizes_all_branches_to_one_and_keeps_their_order() -> None:
    build = GraphBuilder()
    high = build.input("high", 1)
    low = build.avg_pool(build.input("low", 2), 2, 2)
    united = unite(build, "head", [high, low], Resampling())
    found = run(build, united, {}, high=[[[1, 2], [3, 4]]], low=[[[5, 5], [5, 5]], [[6, 6], [6, 6]]])
    assert found.tolist() == [[[1, 2], [3, 4]], [[5, 5], [5, 5]], [[6, 6], [6, 6]]]


def two_branches(build: GraphBuilder) -> list[str]:
    return [build.input("high", 1), build.avg_pool(build.input("low", 1), 1, 2)]


def test_hrnets_fusion_by_hand() -> None:
    build = GraphBuilder(eps=1e-300)
    fused = Fusion(None, RELEASE, Resampling()).build(build, "s.0", two_branches(build), 2)
    chosen = {
        "s.0.fuse_layers.0.1.0.weight": np.full((1, 1, 1, 1), 10.0),
        "s.0.fuse_layers.1.0.0.0.weight": centre(-1.0),
    }
    given = {"high": [[[1, -2], [3, 4]]], "low": [[[2, 2], [2, 2]]]}
    assert run(build, fused[0], chosen, **given).tolist() == [[[21, 18], [23, 24]]]
    # A 3x3 convolution of stride 2 sees the corner at its centre: 2 - 1; no relu before the sum.
    assert run(build, fused[1], chosen, **given).tolist() == [[[1]]]


def test_the_released_gfm_gates_every_path_the_identity_too() -> None:
    build = GraphBuilder(eps=1e-300)
    fusion = Fusion(partial(gate, form=RELEASE), RELEASE, Resampling())
    fused = fusion.build(build, "s.0", two_branches(build), 1)
    chosen = {
        "s.0.att_layers.0.0.0.weight": np.full((1, 1, 1, 1), 1.0),
        "s.0.att_layers.0.1.0.weight": np.full((1, 1, 1, 1), -1.0),
        "s.0.fuse_layers.0.1.0.weight": np.full((1, 1, 1, 1), 10.0),
    }
    found = run(build, fused[0], chosen, high=[[[1, -2], [3, 4]]], low=[[[2, 2], [2, 2]]])
    gated = [[1 * sigma(1), -2 * 0.5], [3 * sigma(3), 4 * sigma(4)]]
    assert_allclose(found, [np.add(gated, 10 * 2 * 0.5)], rtol=1e-15)


def test_a_far_path_downwards_has_relu_between_its_convolutions_and_none_last() -> None:
    build = GraphBuilder(eps=1e-300)
    image = build.input("high", 1)
    branches = [image, build.avg_pool(image, 1, 2), build.avg_pool(image, 1, 4)]
    fused = Fusion(None, RELEASE, Resampling()).build(build, "s.0", branches, 3)
    path = "s.0.fuse_layers.2.0"
    picture = np.zeros((1, 5, 5))
    picture[0, ::4, ::4] = [[-1, 2], [3, 4]]

    def end(first: float, second: float) -> Any:
        chosen = {f"{path}.0.0.weight": centre(first), f"{path}.1.0.weight": centre(second)}
        return run(build, fused[2], chosen, high=picture)[0]

    # relu(x + second relu(first x)) at the corners.
    assert end(1, 10).tolist() == [[0, 22], [33, 44]]
    assert end(-1, -10).tolist() == [[0, 2], [3, 4]]
    assert end(1, -0.5).tolist() == [[0, 1], [1.5, 2]]


def test_hrnets_transition_by_hand() -> None:
    build = GraphBuilder(eps=1e-300)
    branches = Transition(1, RELEASE, Resampling()).build(build, [build.input("x", 1)], (1, 2))
    assert branches[0] == "x"
    kernel = np.concatenate([centre(2.0), centre(-2.0)])
    found = run(build, branches[1], {"transition1.1.0.0.weight": kernel}, x=[[[1, 0, 2]]])
    assert found.tolist() == [[[2, 4]], [[0, 0]]]


def test_the_released_gtm_gates_the_lowest_branch_alone() -> None:
    build = GraphBuilder(eps=1e-300)
    branches = two_branches(build)
    logits = build.input("logits", 1)
    made = Transition(2, RELEASE, Resampling(), logits=logits).build(build, branches, (1, 1, 1))
    assert made[:2] == branches
    chosen = {"att2.2.0.0.weight": centre(1.0), "att2.2.1.0.weight": centre(1.0),
              "transition2.2.0.0.weight": centre(5.0)}  # fmt: skip
    given = {
        "high": np.full((1, 2, 2), 99.0),
        "low": np.full((1, 2, 2), 3.0),
        "logits": np.full((1, 2, 2), 2.0),
    }
    assert_allclose(run(build, made[2], chosen, **given), [[[5 * 3 * sigma(2)]]], rtol=1e-14)


FUSION_GATES = re.compile(r"stage(\d)\.(\d+)\.att_layers\.(\d)\.(\d)\.0\.weight")


def fusion_gates(variant: HRNet) -> set[tuple[str, ...]]:
    return {match.groups() for name in variant.graph().parameters if (match := FUSION_GATES.fullmatch(name))}


@pytest.mark.parametrize("form", ["release", "paper"])
def test_gfm_is_in_every_module_on_the_paths_that_its_form_gates(form: Any) -> None:
    found = fusion_gates(replace(GSTO, form=form))
    wanted = {
        (str(stage), str(module), str(i), str(j))
        for stage, modules in zip((2, 3, 4), GSTO.modules, strict=True)
        for module in range(modules) for i in range(stage) for j in range(stage)
        if form == "release" or i != j
    }  # fmt: skip
    assert found == wanted


def gated_by_the_identity(graph: Graph) -> list[str]:
    return [
        node.name for node in graph.nodes
        if isinstance(node.op, Mul) and re.search(r"fuse\.(\d)\.\1/gated", node.name)
    ]  # fmt: skip


def test_the_papers_identity_path_reaches_its_sum_ungated() -> None:
    graph = replace(GSTO, form="paper").graph()
    assert gated_by_the_identity(graph) == []
    operands = graph.by_name["stage3.0/fuse.1/sum"].operands
    assert operands[1] == "stage3.0.branches.1.0/out"
    assert len(gated_by_the_identity(GSTO.graph())) == 2 + 3 + 2 * 4


def test_the_papers_gated_transition_reads_the_united_feature() -> None:
    graph = replace(GSTO, form="paper").graph()
    multiplied = graph.by_name["transition3/gated"]
    assert multiplied.operands == ("att3.3/gate", "transition3/united")
    assert graph.shapes["transition3/united"][1] == 2 + 4 + 6
    assert isinstance(graph.by_name["transition3/down"].op, AdaptiveAvgPool)
    assert graph.parameters["transition3.3.0.0.weight"] == (8, 12, 1, 1)


def test_the_released_gated_transition_reads_the_lowest_branch() -> None:
    graph = GSTO.graph()
    multiplied = graph.by_name["transition3/gated"]
    assert multiplied.operands == ("att3.3/gate", "stage3.0/fuse.2/out")
    assert graph.parameters["transition3.3.0.0.weight"] == (8, 6, 3, 3)
    assert graph.by_name["transition3.3.0.0"].op == Conv2d((2, 2), (1, 1, 1, 1))


@pytest.mark.parametrize("form", ["release", "paper"])
@pytest.mark.parametrize("gate_kind", ["supervised", "unsupervised"])
def test_a_gate_after_stage_1_gates_the_new_branch_only(form: Any, gate_kind: Any) -> None:
    chosen = replace(
        GSTO, form=form, supervised_stages=(1,), transition_gate=gate_kind, gated_transitions=(1,)
    )
    graph = chosen.graph()
    assert graph.by_name["transition1/gated"].operands[1] == "layer1.0/out"
    assert graph.by_name["transition1.0.0"].operands[0] == "layer1.0/out"
    assert list(graph.outputs) == ["stage4", "stage1"]


@pytest.mark.parametrize("form", ["release", "paper"])
def test_every_gate_has_one_channel(form: Any) -> None:
    graph = replace(GSTO, form=form).graph()
    gates = [node.name for node in graph.nodes if isinstance(node.op, Sigmoid)]
    assert len(gates) == len(fusion_gates(replace(GSTO, form=form))) + 2
    assert {graph.shapes[name][1] for name in gates} == {1}


@pytest.mark.parametrize("form", ["release", "paper"])
@pytest.mark.parametrize("size", [(33, 45), (37, 64), (64, 41)])
def test_odd_sizes_build_and_evaluate(form: Any, size: tuple[int, int]) -> None:
    graph = replace(GSTO, form=form).graph()
    image = np.random.default_rng(0).standard_normal((1, 3, *size))
    outputs = evaluate(graph, initial_weights(graph), {"image": image})
    assert {array.shape for array in outputs.values()} == {(1, 3, -(-size[0] // 4), -(-size[1] // 4))}
    assert all(np.isfinite(array).all() for array in outputs.values())


def test_the_paper_form_transfers_by_the_methods_of_its_data() -> None:
    graph = replace(GSTO, form="paper").graph()
    for node in graph.nodes:
        if match := re.fullmatch(r"stage\d\.\d/fuse\.(\d)\.(\d)/resize", node.name):
            down = match[1] > match[2]
            assert isinstance(node.op, AdaptiveAvgPool if down else Resize), node.name


def test_a_form_of_ones_own_is_built_from_its_fields() -> None:
    assert PAPER.transfer is not None
    nearest = replace(PAPER.transfer, up="nearest", down="nearest", projection_norm=False)
    form = replace(PAPER, transfer=nearest, gates_identity=True, gated_feature="lowest", gate_norm_relu=True)
    chosen = replace(GSTO, form=form, transition_gate="unsupervised")
    graph = chosen.graph()
    assert not any(isinstance(node.op, AdaptiveAvgPool) for node in graph.nodes)
    assert len(fusion_gates(chosen)) == 4 + 9 + 2 * 16
    assert graph.parameters["stage2.0.att_layers.0.0.1.weight"] == (1,)
    assert graph.parameters["transition3.3.0.0.weight"] == (8, 6, 1, 1)
    assert "transition3.3.0.1.weight" not in graph.parameters
    assert build(chosen).digest != build(replace(chosen, form="paper")).digest
