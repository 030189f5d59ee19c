"""The named networks and what is published of them."""

import dataclasses
import re
from typing import Any, get_args

import pytest

from gsto_spec import GstoError, HRNet, ResNet, architectures, build, variant
from gsto_spec.catalog import entry
from gsto_spec.names import HRNetName, ResNetName

HRNETS = (
    "hrnetv2-w18-small-v1", "hrnetv2-w18-small-v2", "hrnetv2-w18", "hrnetv2-w32", "hrnetv2-w48",
    "gsto-hrnet-w18-small-v2", "gsto-hrnet-w18", "gsto-hrnet-w32", "gsto-hrnet-w48",
    "pose-hrnet-w32", "pose-hrnet-w48", "pose-gsto-hrnet-w32", "pose-gsto-hrnet-w48",
)  # fmt: skip
ABLATIONS = tuple(
    f"hrnetv2-w18-small-v2-{suffix}"
    for suffix in (
        "supervised", "gfm", "gtm-unsupervised", "gtm-supervised", "gfm-gtm-unsupervised", "gfm-gtm3",
        "gfm-gtm123", "channel-module", "spatial-module", "channel-layer", "spatial-layer",
        "channel-transfer",
    )
)  # fmt: skip
RESNETS = tuple(
    f"resnet{depth}-{context}{suffix}"
    for depth in (50, 101) for context in ("ppm", "aspp")
    for suffix in ("", "-supervised", "-gsto-unsupervised", "-gsto-supervised", "-stride16")
    if (context, suffix) != ("ppm", "-stride16")
)  # fmt: skip
NAMES = (*HRNETS, *ABLATIONS, *RESNETS)
OURS = "gsto-hrnet-w16-mini"


def test_the_catalogue_holds_the_networks_of_the_paper_by_name() -> None:
    assert architectures() == (*NAMES, OURS)


def test_type_checkers_know_each_name_and_its_family() -> None:
    assert {*get_args(HRNetName), *get_args(ResNetName)} == set(architectures())
    assert all(isinstance(variant(name), HRNet) for name in get_args(HRNetName))
    assert all(isinstance(variant(name), ResNet) for name in get_args(ResNetName))


def test_the_networks_that_are_ours_claim_nothing_published() -> None:
    assert entry(OURS).published == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_named_network_is_its_variant(name: str) -> None:
    chosen = variant(name)
    assert build(name).digest == build(chosen).digest
    assert (chosen.form, chosen.align_corners) == ("release", False)
    assert dict(build(name).notes) == {"architecture": name}
    assert dict(build(chosen).notes) == {}


@pytest.mark.parametrize("name", NAMES)
def test_momentum_classes_and_eps_are_those_of_the_released_code(name: str) -> None:
    chosen = variant(name)
    pose = name.startswith("pose")
    assert chosen.batch_norm_momentum == (0.1 if pose or isinstance(chosen, ResNet) else 0.01)
    assert chosen.batch_norm_eps == 1e-5
    assert chosen.classes == (17 if pose else 19)


def test_gsto_adds_gates_to_its_plain_network_and_nothing_else() -> None:
    for width in ("w18-small-v2", "w18", "w32", "w48"):
        plain, gated = variant(f"hrnetv2-{width}"), variant(f"gsto-hrnet-{width}")
        assert isinstance(plain, HRNet)
        changed = dataclasses.replace(
            plain, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised"
        )
        assert gated == changed


def test_pose_upsamples_by_nearest_neighbour_and_its_gsto_bilinearly() -> None:
    assert (variant("pose-hrnet-w32").upsampling, variant("pose-hrnet-w32").head) == ("nearest", "hrnetv1")
    assert (variant("pose-gsto-hrnet-w48").upsampling, variant("pose-gsto-hrnet-w48").head) == (
        "bilinear", "hrnetv2",
    )  # fmt: skip


@pytest.mark.parametrize("name", [*ABLATIONS, *RESNETS])
@pytest.mark.parametrize("form", ["release", "paper"])
def test_every_network_trains_in_both_forms(name: str, form: Any) -> None:
    graph = build(name, form=form, classes=7)
    assert graph.training_form_violation() is None
    assert next(iter(graph.outputs)) == "stage4"
    assert set(graph.outputs) <= {"stage4", "stage3", "stage2", "stage1"}
    assert {graph.shapes[node][1] for node in graph.outputs.values()} == {7}


def gated(name: str) -> bool:
    return re.search("gsto|gfm|gtm|transfer|supervised", name) is not None


@pytest.mark.parametrize("name", NAMES)
def test_the_two_forms_differ_where_something_is_gated_or_supervised(name: str) -> None:
    assert (build(name).digest != build(name, form="paper").digest) == gated(name)


def test_every_number_in_print_has_its_source() -> None:
    for name in NAMES:
        for item in entry(name).published:
            assert re.fullmatch(r"table \d+( \(.*\))?|HRNet's README", item.source), item
    scores = {(item.value, item.source) for item in entry("gsto-hrnet-w18-small-v2").published}
    assert {("77.2", "table 1"), ("77.3", "table 2"), ("77.3", "table 4")} <= scores


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(GstoError) as caught:
        build("gsto-hrnet-w84")
    assert str(caught.value) == (
        "unknown architecture gsto-hrnet-w84 (nearest: gsto-hrnet-w48); `gsto-spec list` names all"
    )
    with pytest.raises(GstoError, match="unknown architecture resnet"):
        variant("resnet")
