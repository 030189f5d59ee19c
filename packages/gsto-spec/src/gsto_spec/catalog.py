"""The named networks: each a variant, what was published about it, and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, overload

from gsto_spec.errors import GstoError, nearest
from gsto_spec.forms import FormName
from gsto_spec.graph import Graph
from gsto_spec.names import HRNetName, ResNetName
from gsto_spec.published import CITYSCAPES_SIZE, POSE_SIZE, Published, published_of
from gsto_spec.resnet import ContextModule, ResNet
from gsto_spec.variants import HRNet

Variant = HRNet | ResNet


class UnknownArchitecture(GstoError):
    """A name that the catalogue does not hold."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A variant, the family that lists it, the input size (H, W) of its counts, what was published of it."""

    variant: Variant
    family: str
    size: tuple[int, int]
    published: tuple[Published, ...] = ()


_SMALL_V1 = HRNet(widths=(16, 32, 64, 128), modules=(1, 1, 1), blocks=2, layer1_width=32, layer1_blocks=1)
_SMALL_V2 = HRNet(widths=(18, 36, 72, 144), modules=(1, 3, 2), blocks=2, layer1_blocks=2)
_GFM = dataclasses.replace(_SMALL_V2, fusion_gate="unsupervised")

# Not of the paper: a third of W18-Small-v2's multiply-adds, for short runs on a processor.
_MINI = HRNet(
    widths=(16, 32, 64, 128), modules=(1, 1, 1), blocks=2, stem_width=32, layer1_width=16, layer1_blocks=1
)


def _hrnet(width: int) -> HRNet:
    return HRNet(widths=(width, 2 * width, 4 * width, 8 * width), modules=(1, 4, 3))


def gsto(variant: HRNet) -> HRNet:
    """GSTO-HRNet of a plain one: GFM in every module, supervised GTM after stages 2 and 3 (section 4.4.2)."""
    return dataclasses.replace(
        variant, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised"
    )


def pose(variant: HRNet) -> HRNet:
    """HRNet for 17 keypoints: nearest up-sampling, one branch at the end (HRNet's pose code)."""
    return dataclasses.replace(
        variant, classes=17, head="hrnetv1", upsampling="nearest", batch_norm_momentum=0.1
    )


def pose_gsto(variant: HRNet) -> HRNet:
    """GSTO-HRNet for 17 keypoints: the printed counts fit an HRNetV2 head; bilinear as the released code."""
    return dataclasses.replace(gsto(variant), classes=17, batch_norm_momentum=0.1)


def _attended(**fields: Any) -> HRNet:
    """W18-Small-v2 with one of table 3's attentions; 64 is the reduction that fits its printed counts."""
    return dataclasses.replace(_SMALL_V2, channel_reduction=64, **fields)


def _resnets(depth: int, context: ContextModule) -> Iterator[tuple[str, ResNet]]:
    """Table 6's four networks on one backbone; ASPP at stride 16, too."""
    plain = ResNet(blocks=(3, 4, {50: 6, 101: 23}[depth], 3), context=context)
    supervised = dataclasses.replace(plain, supervision="feature")
    name = f"resnet{depth}-{context}"
    yield name, plain
    yield f"{name}-supervised", supervised
    yield f"{name}-gsto-unsupervised", dataclasses.replace(plain, context_gate="unsupervised")
    yield f"{name}-gsto-supervised", dataclasses.replace(supervised, context_gate="supervised")
    if context == "aspp":
        yield f"{name}-stride16", dataclasses.replace(plain, output_stride=16)


_HRNETS: Mapping[str, HRNet] = {
    "hrnetv2-w18-small-v1": _SMALL_V1,
    "hrnetv2-w18-small-v2": _SMALL_V2,
    **{f"hrnetv2-w{width}": _hrnet(width) for width in (18, 32, 48)},
    "gsto-hrnet-w18-small-v2": gsto(_SMALL_V2),
    **{f"gsto-hrnet-w{width}": gsto(_hrnet(width)) for width in (18, 32, 48)},
}

_POSE: Mapping[str, HRNet] = {
    "pose-hrnet-w32": pose(_hrnet(32)),
    "pose-hrnet-w48": pose(_hrnet(48)),
    "pose-gsto-hrnet-w32": pose_gsto(_hrnet(32)),
    "pose-gsto-hrnet-w48": pose_gsto(_hrnet(48)),
}

_ABLATIONS: Mapping[str, HRNet] = {
    f"hrnetv2-w18-small-v2-{suffix}": variant
    for suffix, variant in {
        "supervised": dataclasses.replace(_SMALL_V2, supervised_stages=(2, 3)),
        "gfm": _GFM,
        "gtm-unsupervised": dataclasses.replace(_SMALL_V2, transition_gate="unsupervised"),
        "gtm-supervised": dataclasses.replace(
            _SMALL_V2, supervised_stages=(2, 3), transition_gate="supervised"
        ),
        "gfm-gtm-unsupervised": dataclasses.replace(_GFM, transition_gate="unsupervised"),
        "gfm-gtm3": dataclasses.replace(_GFM, supervised_stages=(3,), transition_gate="supervised"),
        "gfm-gtm123": dataclasses.replace(_GFM, supervised_stages=(1, 2, 3), transition_gate="supervised"),
        "channel-module": _attended(attention="channel"),
        "spatial-module": dataclasses.replace(_SMALL_V2, attention="spatial"),
        "channel-layer": _attended(attention="channel", attention_location="layer"),
        "spatial-layer": dataclasses.replace(_SMALL_V2, attention="spatial", attention_location="layer"),
        "channel-transfer": _attended(fusion_gate="channel", transition_gate="channel"),
    }.items()
}

_RESNETS: Mapping[str, ResNet] = {
    name: variant
    for depth in (50, 101) for context in ("ppm", "aspp")
    for name, variant in _resnets(depth, context)
}  # fmt: skip

_FAMILIES: Mapping[str, tuple[Mapping[str, Variant], tuple[int, int]]] = {
    "HRNetV2 and GSTO-HRNet (table 4)": (_HRNETS, CITYSCAPES_SIZE),
    "pose estimation (table 10)": (_POSE, POSE_SIZE),
    "ablations on HRNetV2-W18-Small-v2 (tables 1, 2, 3)": (_ABLATIONS, CITYSCAPES_SIZE),
    "dilated ResNet with PPM or ASPP (table 6)": (_RESNETS, CITYSCAPES_SIZE),
    "not of the paper, for short runs": ({"gsto-hrnet-w16-mini": gsto(_MINI)}, CITYSCAPES_SIZE),
}

_ELSEWHERE: Mapping[str, tuple[Published, ...]] = {
    "hrnetv2-w18-small-v1": (
        Published("convolution parameters", "1.5M", "HRNet's README"),
        Published("multiply-adds / 2^30 at 1024x2048", "31.1", "HRNet's README"),
    ),
}

_CATALOG: Mapping[str, Entry] = {
    name: Entry(variant, family, size, (*published_of(name), *_ELSEWHERE.get(name, ())))
    for family, (variants, size) in _FAMILIES.items()
    for name, variant in variants.items()
}


def architectures() -> tuple[str, ...]:
    """The names of the catalogue."""
    return tuple(_CATALOG)


def entry(name: str) -> Entry:
    """A catalogue entry. Raises `UnknownArchitecture`, naming the nearest one."""
    if name not in _CATALOG:
        raise UnknownArchitecture(
            f"unknown architecture {name}{nearest(name, _CATALOG)}; `gsto-spec list` names all"
        )
    return _CATALOG[name]


@overload
def variant(name: HRNetName) -> HRNet: ...
@overload
def variant(name: ResNetName) -> ResNet: ...
@overload
def variant(name: str) -> Variant: ...
def variant(name: str) -> Variant:
    """A named variant; `dataclasses.replace(variant(name), ...)` makes a new one."""
    return entry(name).variant


def build(
    name_or_variant: str | Variant, *, classes: int | None = None, form: FormName | None = None
) -> Graph:
    """The graph of a named network or of a variant of your own.

    `classes` (or keypoints) and `form` (`release`, `paper`) replace the variant's where given.
    Raises `UnknownArchitecture`, `VariantError`.
    """
    named = isinstance(name_or_variant, str)
    chosen = variant(name_or_variant) if isinstance(name_or_variant, str) else name_or_variant
    if not hasattr(chosen, "graph"):
        raise UnknownArchitecture(
            f"architecture: expected a name or a variant, found {type(chosen).__name__}"
        )
    if classes is not None:
        chosen = dataclasses.replace(chosen, classes=classes)
    if form is not None:
        chosen = dataclasses.replace(chosen, form=form)
    return chosen.graph({"architecture": str(name_or_variant)} if named else {})
