"""Variants as data: a few lines make a new one, and what contradicts itself is refused by message."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest

from gsto_spec import GraphBuilder, HRNet, VariantError, build, cost, evaluate, initial_weights, variant
from gsto_spec.forms import PAPER
from gsto_spec.ops import Resize

TINY = HRNet(
    widths=(2, 4, 6, 8), modules=(1, 1, 1), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1, classes=3
)
GSTO = replace(TINY, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised")


def test_a_variant_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        TINY.classes = 4  # type: ignore[misc]


def test_a_few_lines_make_a_new_network() -> None:
    wide = replace(variant("gsto-hrnet-w18-small-v2"), widths=(20, 40, 80, 160), classes=7)
    graph = build(wide)
    assert graph.parameters["stage4.1.branches.3.1.conv2.weight"] == (160, 160, 3, 3)
    assert {graph.shapes[node][1] for node in graph.outputs.values()} == {7}


def test_classes_and_form_are_replaced_where_they_are_given() -> None:
    assert build(GSTO, classes=9, form="paper") == replace(GSTO, classes=9, form="paper").graph()
    assert build(replace(GSTO, form="paper")) == build(GSTO, form="paper")
    assert build(GSTO) == GSTO.graph()


def test_fields_of_the_backbone_reach_the_graph() -> None:
    changed = replace(
        TINY, widths=(3, 5, 7, 9), modules=(2, 1, 3), blocks=2, stem_width=6, layer1_width=4, layer1_blocks=3
    )
    names = build(changed).parameters
    assert names["conv2.weight"] == (6, 6, 3, 3)
    assert names["layer1.2.conv3.weight"] == (16, 4, 1, 1)
    assert "layer1.3.conv1.weight" not in names
    assert names["stage4.2.branches.3.1.conv1.weight"] == (9, 9, 3, 3)
    assert {name.split(".")[1] for name in names if name.startswith("stage2.")} == {"0", "1"}
    assert {name.split(".")[4] for name in names if ".branches." in name} == {"0", "1"}
    assert names["last_layer.0.weight"] == (24, 24, 1, 1)


def test_batch_norm_and_initialisation_reach_every_layer() -> None:
    graph = build(replace(GSTO, batch_norm_eps=1e-3, batch_norm_momentum=0.3))
    norms = [node.op for node in graph.nodes if node.op.kind == "batch_norm"]
    assert {(op.eps, op.momentum) for op in norms} == {(1e-3, 0.3)}  # type: ignore[union-attr]


def test_one_head_unites_the_branches_and_the_other_reads_the_highest() -> None:
    second = build(replace(GSTO, head="hrnetv1", supervised_stages=(), transition_gate=None))
    assert second.parameters["final_layer.weight"] == (3, 2, 1, 1)
    assert not any(name.startswith("last_layer") for name in second.parameters)
    last = [name for name in second.parameters if name.startswith("stage4.0.fuse_layers")]
    assert last
    assert all(name.startswith("stage4.0.fuse_layers.0.") for name in last)


def resizes(chosen: HRNet) -> list[Resize]:
    return [node.op for node in build(chosen).nodes if isinstance(node.op, Resize)]


@pytest.mark.parametrize("form", ["release", "paper"])
@pytest.mark.parametrize("head", ["hrnetv2", "hrnetv1"])
def test_align_corners_reaches_every_bilinear_resize(form: Any, head: Any) -> None:
    aligned = resizes(replace(GSTO, form=form, head=head, align_corners=True))
    plain = resizes(replace(GSTO, form=form, head=head))
    assert aligned == [replace(op, align_corners=True) for op in plain]
    assert aligned
    assert {op.method for op in plain} == {"bilinear"}
    assert not any(op.align_corners for op in plain)


def test_align_corners_reaches_the_bilinear_transfers_of_a_form_among_nearest_ones() -> None:
    assert PAPER.transfer is not None
    form = replace(PAPER, transfer=replace(PAPER.transfer, down="bilinear"))
    mixed = replace(GSTO, form=form, upsampling="nearest", align_corners=True)
    found = resizes(mixed)
    assert {(op.method, op.align_corners) for op in found} == {("bilinear", True), ("nearest", False)}


def test_nearest_upsampling_is_used_everywhere() -> None:
    assert {op.method for op in resizes(replace(GSTO, upsampling="nearest"))} == {"nearest"}


def average_gate(build: GraphBuilder, path: str, x: str) -> str:
    """A gate of one's own: a 3x3 convolution before the sigmoid."""
    return build.sigmoid(build.conv2d(f"{path}.0", x, 1, kernel=3), name=f"{path}/gate")


def test_a_gate_of_ones_own_takes_a_function() -> None:
    chosen = replace(GSTO, fusion_gate=average_gate, transition_gate=average_gate, gated_transitions=(2,))
    graph = build(chosen)
    assert graph.parameters["stage2.0.att_layers.0.1.0.weight"] == (1, 4, 3, 3)
    assert graph.parameters["att2.2.0.0.weight"] == (1, 4, 3, 3)
    assert not any(name.startswith("att3") for name in graph.parameters)
    assert graph.training_form_violation() is None
    image = np.zeros((1, 3, 32, 32))
    assert evaluate(graph, initial_weights(graph), {"image": image})["stage4"].shape == (1, 3, 8, 8)


def test_gated_transitions_follow_the_gate_unless_they_are_given() -> None:
    def gated(chosen: HRNet) -> set[str]:
        return {name.split(".")[0] for name in build(chosen).parameters if name.startswith("att")}

    assert gated(GSTO) == {"att2", "att3"}
    assert gated(replace(GSTO, supervised_stages=(3,))) == {"att3"}
    assert gated(replace(GSTO, gated_transitions=(2,))) == {"att2"}
    assert gated(replace(GSTO, transition_gate="unsupervised", supervised_stages=())) == {"att2", "att3"}
    assert gated(replace(GSTO, transition_gate=None)) == set()


@pytest.mark.parametrize("form", ["release", "paper"])
def test_predictors_without_gates_are_supervision_alone(form: Any) -> None:
    graph = build(replace(GSTO, form=form, transition_gate=None, supervised_stages=(1, 3)))
    assert list(graph.outputs) == ["stage4", "stage3", "stage1"]
    assert "att3.3.0.0.weight" not in graph.parameters


def test_gates_cost_what_table_2_says() -> None:
    plain = variant("hrnetv2-w18-small-v2")
    gfm = replace(plain, fusion_gate="unsupervised")
    assert cost(build(gfm)).conv_parameters - cost(build(plain)).conv_parameters == 3402


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (1, 2, 3)}, "widths: expected 4 numbers of at least 1, found (1, 2, 3)"),
        ({"widths": [1, 2, 3, 4]}, "widths: expected 4 numbers of at least 1, found [1, 2, 3, 4]"),
        ({"widths": (1, 2, 0, 4)}, "widths: expected 4 numbers of at least 1, found (1, 2, 0, 4)"),
        ({"modules": (1, 1)}, "modules: expected 3 numbers of at least 1, found (1, 1)"),
        ({"blocks": 0}, "blocks: expected at least 1, found 0"),
        ({"stem_width": 0}, "stem_width: expected at least 1, found 0"),
        ({"layer1_width": -1}, "layer1_width: expected at least 1, found -1"),
        ({"layer1_blocks": 0}, "layer1_blocks: expected at least 1, found 0"),
        ({"classes": 0}, "classes: expected at least 1, found 0"),
        ({"classes": 10**5000}, "classes: expected at most 2,147,483,647, found more"),
        ({"classes": "3"}, "classes: expected a whole number of at least 1, found '3'"),
        ({"upsampling": "biliner"},
         "upsampling: expected one of bilinear, nearest, found biliner (nearest: bilinear)"),
        ({"head": "ocr"}, "head: expected one of hrnetv2, hrnetv1, found ocr"),
        ({"form": "papr"}, "form: expected one of release, paper, found papr (nearest: paper)"),
        ({"fusion_gate": "supervised"},
         "fusion_gate: expected one of unsupervised, channel, found supervised (nearest: unsupervised)"),
        ({"transition_gate": "superviced"},
         "transition_gate: expected one of unsupervised, channel, supervised, found superviced "
         "(nearest: supervised)"),
        ({"attention": "spacial"},
         "attention: expected one of channel, spatial, found spacial (nearest: spatial)"),
        ({"attention_location": "block"}, "attention_location: expected one of module, layer, found block"),
        ({"channel_reduction": 0}, "channel_reduction: expected at least 1, found 0"),
        ({"supervised_stages": (2, 4)},
         "supervised_stages: expected stages among 1, 2, 3, each once, found (2, 4)"),
        ({"supervised_stages": (2, 2)},
         "supervised_stages: expected stages among 1, 2, 3, each once, found (2, 2)"),
        ({"gated_transitions": (0,)},
         "gated_transitions: expected stages among 1, 2, 3, each once, found (0,)"),
        ({"gated_transitions": (1, 2)},
         "gated_transitions: expected supervised stages (2, 3), found [1] without a predictor"),
        ({"transition_gate": None, "gated_transitions": (2,)},
         "gated_transitions: expected a transition_gate with them, found (2,)"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(VariantError) as caught:
        build(replace(GSTO, **changes))
    assert str(caught.value) == message
    assert isinstance(caught.value, ValueError)
