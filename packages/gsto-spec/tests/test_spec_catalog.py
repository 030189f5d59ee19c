"""The named networks and what is published of them."""

import dataclasses
import re

import pytest

from gsto_spec import GstoError, architectures, build, cost, variant
from gsto_spec.catalog import entry

NAMES = (
    "hrnetv2-w18-small-v1", "hrnetv2-w18-small-v2", "hrnetv2-w18", "hrnetv2-w32", "hrnetv2-w48",
    "gsto-hrnet-w18-small-v2", "gsto-hrnet-w18", "gsto-hrnet-w32", "gsto-hrnet-w48",
    "pose-hrnet-w32", "pose-hrnet-w48", "pose-gsto-hrnet-w32", "pose-gsto-hrnet-w48",
)  # fmt: skip
OURS = "gsto-hrnet-w16-mini"


def test_the_catalogue_holds_the_networks_of_the_paper_by_name() -> None:
    assert architectures() == (*NAMES, OURS)


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
    assert chosen.batch_norm_momentum == (0.1 if pose else 0.01)
    assert chosen.batch_norm_eps == 1e-5
    assert chosen.classes == (17 if pose else 19)


def test_gsto_adds_gates_to_its_plain_network_and_nothing_else() -> None:
    for width in ("w18-small-v2", "w18", "w32", "w48"):
        plain, gated = variant(f"hrnetv2-{width}"), variant(f"gsto-hrnet-{width}")
        changed = dataclasses.replace(
            plain, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised"
        )
        assert gated == changed


def test_pose_upsamples_by_nearest_neighbour_and_its_gsto_bilinearly() -> None:
    assert (variant("pose-hrnet-w32").upsampling, variant("pose-hrnet-w32").head) == ("nearest", "hrnetv1")
    assert (variant("pose-gsto-hrnet-w48").upsampling, variant("pose-gsto-hrnet-w48").head) == (
        "bilinear", "hrnetv2",
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_printed_counts_are_what_is_counted(name: str) -> None:
    counted = cost(build(name), (1, 3, *entry(name).size))
    for item in entry(name).published:
        if "multiply-adds" in item.measure:
            # Table 4 prints 714.0 for W48's 713.92.
            assert float(item.value) == pytest.approx(counted.macs / 2**30, abs=0.09)
        elif "parameters" in item.measure:
            number = counted.conv_parameters if "convolution" in item.measure else counted.parameters
            digits = len(item.value.partition(".")[2]) - 1
            # Table 4 prints 65.78 for 65.774 million.
            assert float(item.value.rstrip("M")) == pytest.approx(number / 1e6, abs=0.51 * 10**-digits + 2e-3)


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
        "unknown architecture gsto-hrnet-w84 (nearest: gsto-hrnet-w48); known: " + ", ".join(architectures())
    )
    with pytest.raises(GstoError, match="unknown architecture resnet"):
        variant("resnet")
