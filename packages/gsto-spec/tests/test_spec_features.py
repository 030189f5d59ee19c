"""Networks cut at their branches."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from gsto_spec import (
    Graph,
    GraphBuilder,
    GstoError,
    HRNet,
    build,
    evaluate,
    feature_levels,
    features,
    initial_weights,
)  # fmt: skip

NARROW = HRNet(
    widths=(2, 4, 6, 8), modules=(1, 2, 2), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1,
    classes=3, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised",
)  # fmt: skip


def pyramid(graph: Graph) -> list[tuple[str, int, int]]:
    return [(level.name, level.channels, level.stride) for level in feature_levels(graph)]


def encoder() -> Graph:
    """A ResNet in names and strides: the last three layers at stride 8, as a dilated one has them."""
    build = GraphBuilder()
    x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", build.input(), 4, kernel=3, stride=2)))
    for number, (channels, stride) in enumerate([(8, 2), (12, 2), (16, 1), (20, 1)], 1):
        x = build.relu(build.conv2d(f"layer{number}.0.conv1", x, channels, stride=stride))
    return build.graph({"stage4": build.conv2d("head.0", x, 3)})


@pytest.mark.parametrize("form", ["release", "paper"])
def test_the_levels_are_the_branches_of_the_last_stage_finest_first(form: str) -> None:
    cut = features(build(dataclasses.replace(NARROW, form=form)))  # type: ignore[arg-type]
    assert pyramid(cut) == [("stride4", 2, 4), ("stride8", 4, 8), ("stride16", 6, 16), ("stride32", 8, 32)]


def test_a_stage_may_be_chosen() -> None:
    graph = build(NARROW)
    assert pyramid(features(graph, stage=1)) == [("stride4", 8, 4)]
    assert pyramid(features(graph, stage=3)) == [("stride4", 2, 4), ("stride8", 4, 8), ("stride16", 6, 16)]
    assert "stage4" not in {name.partition(".")[0] for name in features(graph, stage=3).parameters}


def test_the_whole_networks_weights_serve_and_make_the_same_maps() -> None:
    graph = build(NARROW)
    weights = initial_weights(graph)
    cut = features(graph)
    assert {name: graph.parameters[name] for name in cut.parameters} == cut.parameters
    assert not any(name.startswith("last_layer.") for name in cut.parameters)
    assert cut.training_form_violation() is None
    image = {"image": np.random.default_rng(0).standard_normal((1, 3, 41, 35))}
    found = evaluate(cut, {name: weights[name] for name in cut.parameters}, image)
    whole = Graph(graph.nodes, {level.name: level.node for level in feature_levels(cut)})
    wanted = evaluate(whole, weights, image)
    for name in cut.outputs:
        assert_array_equal(found[name], wanted[name])
    assert found["stride8"].shape == (1, 4, 6, 5)


def test_branches_that_the_last_module_fuses_to_nothing_are_taken_before_it() -> None:
    cut = features(build(dataclasses.replace(NARROW, head="hrnetv1")))
    assert [level.channels for level in feature_levels(cut)] == [2, 4, 6, 8]
    assert cut.outputs["stride4"] == "stage4.1/fuse.0/out"
    assert cut.outputs["stride32"] == "stage4.1.branches.3.0/out"


def test_levels_of_a_cut_are_those_of_the_cut_again() -> None:
    cut = features(build(NARROW))
    assert features(cut) == cut
    assert feature_levels(Graph.from_json(cut.to_json())) == feature_levels(cut)


def test_layers_give_the_last_map_at_each_stride() -> None:
    graph = encoder()
    cut = features(graph)
    assert pyramid(cut) == [("stride4", 8, 4), ("stride8", 20, 8)]
    assert cut.outputs["stride8"] == "layer4.0.conv1/relu"
    assert pyramid(features(graph, stage=3)) == [("stride8", 16, 8)]


def test_maps_of_any_graph_may_be_named_in_any_order() -> None:
    graph = encoder()
    cut = features(graph, nodes={"deep": "layer2.0.conv1", "stem": "bn1/relu"})
    assert pyramid(cut) == [("deep", 12, 8), ("stem", 4, 2)]
    assert "layer3.0.conv1.weight" not in cut.parameters


def test_what_is_not_there_is_refused() -> None:
    graph = encoder()
    for given, message in [
        ({"stage": 5}, r"features: stage: expected one of the graph's \(1, 2, 3, 4\), found 5"),
        (
            {"nodes": {"stem": "bn1/rel"}},
            r"stem: expected the name of a node, found bn1/rel \(nearest: bn1/r",
        ),
        (
            {"nodes": {"stem": "bn1.bias"}},
            r"stem: expected a feature map of one stride, found 4 \(bn1.bias\)",
        ),
        ({"nodes": {}, "stage": 1}, "expected a stage or nodes, found both"),
    ]:
        with pytest.raises(GstoError, match=message):
            features(graph, **given)  # type: ignore[arg-type]
    build = GraphBuilder()
    plain = build.graph({"y": build.conv2d("c", build.input(), 1)})
    with pytest.raises(
        GstoError, match="called stageN or layerN that hand maps on, found none; name the maps"
    ):
        features(plain)


def test_a_map_of_fixed_size_has_no_stride() -> None:
    build = GraphBuilder()
    graph = build.graph({"y": build.adaptive_avg_pool(build.input(), size=(2, 3), name="y/pool")})
    with pytest.raises(GstoError, match="y: expected a feature map of one stride, found N x 3 x 2 x 3"):
        feature_levels(graph)


def test_the_finest_level_comes_first_whatever_is_computed_first() -> None:
    build = GraphBuilder()
    image = build.input()
    low = build.conv2d("layer1.0", image, 4, stride=4)
    high = build.conv2d("layer2.0", build.resize(low, like=image), 2)
    cut = features(build.graph({"y": build.conv2d("head", build.add([high, high]), 3), "z": low}))
    assert pyramid(cut) == [("stride1", 2, 1), ("stride4", 4, 4)]
