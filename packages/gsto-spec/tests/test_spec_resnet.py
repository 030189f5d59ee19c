"""Dilated ResNets with PPM and ASPP: published counts, names, the modules by hand, and their gates."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from gsto_spec import Graph, GraphBuilder, ResNet, VariantError, build, cost, evaluate, initial_weights
from gsto_spec.blocks import Resampling
from gsto_spec.context import Context
from gsto_spec.locate import locate
from gsto_spec.ops import Conv2d, Resize

TINY = ResNet(blocks=(1, 1, 1, 1), context="ppm", width=2, head_width=3, classes=3)
TINY_ASPP = replace(TINY, context="aspp", rates=(2, 3))
GATED = {"context_gate": "supervised", "supervision": "feature"}

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# num_params of torchvision's model cards: resnet50 and resnet101, whose fully connected layer has
# 2049 * 1000, and deeplabv3_resnet50 and deeplabv3_resnet101, with an auxiliary head and 21 classes.
TORCHVISION_RESNET = {50: 25_557_032, 101: 44_549_160}
TORCHVISION_DEEPLAB = {50: 42_004_074, 101: 60_996_202}


def layer(inputs: int, outputs: int, kernel: int) -> int:
    """Parameters of a convolution without bias and its batch norm."""
    return inputs * outputs * kernel**2 + 2 * outputs


def classifier(inputs: int, width: int, classes: int) -> int:
    """3x3 convolution and norm, 1x1 convolution with bias."""
    return layer(inputs, width, 3) + (width + 1) * classes


def aspp(width: int = 256, rates: int = 3) -> int:
    """Chen et al. 2017, section 4.2: 1x1, atrous 3x3 and image pooling, each to 256, projected to 256."""
    paths = layer(2048, width, 1) + rates * layer(2048, width, 3) + layer(2048, width, 1)
    return paths + layer((2 + rates) * width, width, 1)


def ppm(bins: int = 4) -> int:
    """Zhao et al. 2017, section 3.2: each bin's 1x1 convolution to a quarter of the channels."""
    return bins * layer(2048, 2048 // bins, 1)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("classes", [19, 21])
def test_counts_are_those_of_the_published_definitions(depth: int, classes: int) -> None:
    backbone = TORCHVISION_RESNET[depth] - 2049 * 1000
    counted = cost(build(f"resnet{depth}-aspp", classes=classes))
    assert counted.parameters == backbone + aspp() + classifier(256, 256, classes)
    counted = cost(build(f"resnet{depth}-ppm", classes=classes))
    assert counted.parameters == backbone + ppm() + classifier(4096, 512, classes)


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_auxiliary_head_gives_torchvisions_deeplab(depth: int) -> None:
    chosen = ResNet(blocks=DEPTHS[depth], context="aspp", classes=21, supervision="auxiliary")
    assert cost(build(chosen)).parameters == TORCHVISION_DEEPLAB[depth]


def test_names_are_torchvisions_and_those_of_the_pspnet_authors() -> None:
    names = build("resnet50-aspp").parameters
    assert names["conv1.weight"] == (64, 3, 7, 7)
    assert names["layer4.0.downsample.0.weight"] == (2048, 1024, 1, 1)
    assert names["layer3.5.bn3.running_var"] == (1024,)
    assert names["classifier.0.convs.0.0.weight"] == (256, 2048, 1, 1)
    assert names["classifier.0.convs.3.0.weight"] == (256, 2048, 3, 3)
    assert names["classifier.0.convs.4.1.weight"] == (256, 2048, 1, 1)
    assert names["classifier.0.project.1.weight"] == (256,)
    assert names["classifier.1.weight"] == (256, 256, 3, 3)
    assert names["classifier.4.bias"] == (19,)
    names = build("resnet101-ppm").parameters
    assert names["layer3.22.conv1.weight"] == (256, 1024, 1, 1)
    assert names["ppm.features.3.1.weight"] == (512, 2048, 1, 1)
    assert names["ppm.features.0.2.running_mean"] == (512,)
    assert names["cls.0.weight"] == (512, 4096, 3, 3)
    assert names["cls.4.weight"] == (19, 512, 1, 1)


def test_auxiliary_heads_have_the_names_of_each_published_code() -> None:
    for context, path in (("ppm", "aux"), ("aspp", "aux_classifier")):
        graph = build(replace(TINY, width=4, context=context, supervision="auxiliary"))  # type: ignore[arg-type]
        assert graph.parameters[f"{path}.0.weight"] == (16, 64, 3, 3)
        assert graph.parameters[f"{path}.4.bias"] == (3,)
        assert graph.by_name[f"{path}.0"].operands[0] == "layer3.0/out"
        assert list(graph.outputs.items()) == [("stage4", graph.outputs["stage4"]), ("stage3", f"{path}.4")]


def conv(graph: Graph, name: str) -> Conv2d:
    op = graph.by_name[name].op
    assert isinstance(op, Conv2d)
    return op


def test_a_dilated_layer_begins_with_the_dilation_before_it() -> None:
    deep = replace(TINY, blocks=(1, 2, 3, 2))
    for stride, wanted in ((8, (1, 2, 2, 2, 4)), (16, (1, 1, 1, 1, 2))):
        graph = build(replace(deep, output_stride=stride))  # type: ignore[arg-type]
        names = [*(f"layer3.{k}.conv2" for k in range(3)), "layer4.0.conv2", "layer4.1.conv2"]
        assert tuple(conv(graph, name).dilation[0] for name in names) == wanted
        assert conv(graph, "layer3.0.conv2").stride[0] == conv(graph, "layer3.0.downsample.0").stride[0]
        shapes = graph.check((1, 3, 65, 129))
        assert shapes["layer4.1/out"][2:] == ((9, 17) if stride == 8 else (5, 9))


def test_rates_follow_the_stride_unless_they_are_given() -> None:
    def rates(chosen: ResNet) -> list[int]:
        graph = build(chosen)
        names = [name for name in graph.by_name if name.startswith("classifier.0.convs.")]
        found = [graph.by_name[name].op for name in names]
        return [op.dilation[0] for op in found if isinstance(op, Conv2d) and op.dilation[0] > 1]

    plain = replace(TINY, context="aspp")
    assert rates(plain) == [12, 24, 36]
    assert rates(replace(plain, output_stride=16)) == [6, 12, 18]
    assert rates(TINY_ASPP) == [2, 3]
    assert rates(replace(TINY_ASPP, output_stride=16)) == [2, 3]


def neutral(graph: Graph, **chosen: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Norms that change nothing, convolutions of zeros, and the tensors that a test chooses."""
    fills = {name: 1.0 if name.endswith(("running_var", "1.weight", "2.weight")) and len(shape) == 1 else 0.0
             for name, shape in graph.parameters.items()}  # fmt: skip
    return {name: np.full(graph.parameters[name], fill) for name, fill in fills.items()} | chosen


def halved(build: GraphBuilder, path: str, x: str) -> str:
    """A gate of one half wherever its convolution has zeros."""
    return build.sigmoid(build.conv2d(f"{path}.0", x, 1), name=f"{path}/gate")


@pytest.mark.parametrize("projects_first", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_pyramid_pooling_by_hand(projects_first: bool, gated: bool) -> None:
    build = GraphBuilder(eps=1e-300)
    context = Context(halved if gated else None, projects_first, Resampling())
    end = context.pyramid_pooling(build, "ppm", build.input("x", 2), (1, 2))
    graph = build.graph({"y": end})
    kernel = np.array([1.0, -1.0]).reshape(1, 2, 1, 1)
    weights = neutral(graph, **{"ppm.features.0.1.weight": kernel, "ppm.features.1.1.weight": kernel})
    x = np.array([[[[1.0, 5.0], [0.0, 2.0]], [[2.0, 1.0], [0.0, 4.0]]]])
    difference = x[0, 0] - x[0, 1]  # -1, 4, 0, -2
    scale = 0.5 if gated else 1.0
    # Bins of 2 are the picture's own places; relu comes before a mean only where a gated path projects first.
    first = np.maximum(difference, 0).mean() if gated and projects_first else max(difference.mean(), 0)
    wanted = [x[0, 0], x[0, 1], np.full((2, 2), scale * first), scale * np.maximum(difference, 0)]
    assert_allclose(evaluate(graph, weights, {"x": x})["y"][0], wanted, rtol=1e-14)


def test_atrous_pooling_by_hand() -> None:
    build = GraphBuilder(eps=1e-300)
    end = Context(halved, False, Resampling()).atrous_pooling(build, "a", build.input("x", 1), (2,), 1)
    graph = build.graph({"y": end, "united": "a/united"})
    atrous = np.zeros((1, 1, 3, 3))
    atrous[0, 0, 1] = 1.0, 10.0, 100.0
    one = np.ones((1, 1, 1, 1))
    weights = neutral(graph, **{
        "a.convs.0.0.weight": one, "a.convs.1.0.weight": atrous, "a.convs.2.1.weight": one,
        "a.project.0.weight": np.array([1.0, 1.0, -1.0]).reshape(1, 3, 1, 1),
    })  # fmt: skip
    found = evaluate(graph, weights, {"x": np.array([[[[2.0, 0.0, 4.0, 0.0, 6.0]]]])})
    # Ungated; gated by a half, two places to each side; gated mean.
    wanted = [[2.0, 0, 4, 0, 6], [210.0, 0, 321, 0, 32], [1.2] * 5]
    assert_allclose(found["united"][0, :, 0], wanted, rtol=1e-14)
    assert_allclose(found["y"][0, 0, 0], np.maximum(np.dot([1, 1, -1], wanted), 0), rtol=1e-14)


@pytest.mark.parametrize("form", ["release", "paper"])
def test_each_path_that_changes_scale_has_a_gate_of_its_own(form: Any) -> None:
    for chosen, path, indices in ((TINY, "ppm", range(4)), (TINY_ASPP, "classifier.0", range(1, 4))):
        for fields in ({"context_gate": "unsupervised"}, GATED):
            graph = build(replace(chosen, form=form, **fields))  # type: ignore[arg-type]
            gates = [node.name for node in graph.nodes if node.op.kind == "sigmoid"]
            assert gates == [f"{path}.att_layers.{k}/gate" for k in indices]
            assert {graph.shapes[name][1] for name in gates} == {1}
            assert {graph.by_name[f"{path}.att_layers.{k}/gated"].operands[1] for k in indices} == {
                "layer4.0/out"
            }


def test_supervised_gates_read_the_predictor_of_the_feature() -> None:
    release, paper = (build(replace(TINY, form=form, **GATED)) for form in ("release", "paper"))  # type: ignore[arg-type]
    assert release.parameters["last_layer_stage3.0.weight"] == (64, 64, 1, 1)
    assert release.outputs["stage3"] == "last_layer_stage3.3"
    assert release.parameters["ppm.att_layers.2.0.0.weight"] == (1, 3, 3, 3)
    assert paper.parameters["last_layer_stage3.0.weight"] == (3, 64, 1, 1)
    assert paper.outputs["stage3"] == "last_layer_stage3.0"
    assert paper.parameters["ppm.att_layers.2.0.0.weight"] == (1, 3, 1, 1)
    for graph in (release, paper):
        assert graph.by_name["ppm.att_layers.2.0.0"].operands[0] == graph.outputs["stage3"]
        assert list(graph.outputs) == ["stage4", "stage3"]


def test_supervision_alone_adds_a_predictor_and_no_gate() -> None:
    graph = build(replace(TINY, supervision="feature"))
    assert list(graph.outputs) == ["stage4", "stage3"]
    assert not any(node.op.kind == "sigmoid" for node in graph.nodes)


def test_a_gate_of_ones_own_takes_a_function() -> None:
    graph = build(replace(TINY, context_gate=halved))
    assert graph.parameters["ppm.att_layers.3.0.weight"] == (1, 64, 1, 1)


def test_align_corners_reaches_every_resize() -> None:
    for aligned in (False, True):
        graph = build(replace(TINY, align_corners=aligned))
        assert {node.op.align_corners for node in graph.nodes if isinstance(node.op, Resize)} == {aligned}


@pytest.mark.parametrize("form", ["release", "paper"])
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("chosen", [TINY, TINY_ASPP], ids=["ppm", "aspp"])
def test_odd_sizes_build_and_evaluate(chosen: ResNet, stride: Any, form: Any) -> None:
    for fields in (GATED, {"context_gate": "supervised", "supervision": "auxiliary"}):
        graph = build(replace(chosen, output_stride=stride, form=form, **fields))  # type: ignore[arg-type]
        image = np.random.default_rng(0).standard_normal((1, 3, 33, 50))
        outputs = evaluate(graph, initial_weights(graph), {"image": image})
        assert {array.shape for array in outputs.values()} == {(1, 3, -(-33 // stride), -(-50 // stride))}
        assert all(np.isfinite(array).all() for array in outputs.values())


def test_a_module_may_hold_a_resnet(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_resnets.py").write_text("import gsto_spec\nmine = gsto_spec.variant('resnet50-ppm')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("my_resnets:mine", classes=5) == build(build_variant(), classes=5)


def build_variant() -> ResNet:
    return ResNet(blocks=(3, 4, 6, 3), context="ppm")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": (1, 1, 1)}, "blocks: expected 4 numbers of at least 1, found (1, 1, 1)"),
        ({"bins": ()}, "bins: expected one or more numbers of at least 1, found ()"),
        ({"bins": (1, 0)}, "bins: expected one or more numbers of at least 1, found (1, 0)"),
        ({"rates": [6]}, "rates: expected one or more numbers of at least 1, found [6]"),
        ({"width": 0}, "width: expected at least 1, found 0"),
        ({"head_width": 0}, "head_width: expected at least 1, found 0"),
        ({"classes": 0}, "classes: expected at least 1, found 0"),
        ({"context": "asp"}, "context: expected one of ppm, aspp, found asp (nearest: aspp)"),
        ({"output_stride": 32}, "output_stride: expected one of 8, 16, found 32"),
        ({"form": "papr"}, "form: expected one of release, paper, found papr (nearest: paper)"),
        ({"align_corners": 1}, "align_corners: expected True or False, found 1"),
        ({"context_gate": "supervized"},
         "context_gate: expected one of unsupervised, supervised, found supervized (nearest: supervised)"),
        ({"supervision": "stage3"}, "supervision: expected one of feature, auxiliary, found stage3"),
        ({"context_gate": "supervised"},
         "context_gate: expected a supervision with supervised gates, found supervision None"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(VariantError) as caught:
        build(replace(TINY, **changes))
    assert str(caught.value) == message
