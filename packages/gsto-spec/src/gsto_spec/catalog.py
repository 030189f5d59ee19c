"""The named networks: each a variant, what was published about it, and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from gsto_spec.errors import GstoError, nearest
from gsto_spec.forms import FormName
from gsto_spec.graph import Graph
from gsto_spec.variants import HRNet


class UnknownArchitecture(GstoError):
    """A name that the catalogue does not hold."""


@dataclass(frozen=True, slots=True)
class Published:
    """A number in print: what it measures, its value as printed, and where it stands."""

    measure: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A variant, the input size (H, W) of its published counts, and what was published of it."""

    variant: HRNet
    size: tuple[int, int]
    published: tuple[Published, ...] = ()


CITYSCAPES_SIZE = (1024, 2048)
POSE_SIZE = (384, 288)
CITYSCAPES = "Cityscapes val mIoU, one scale, no flip, no OHEM"
COCO = "COCO val2017 AP, 384x288"
PARAMETERS = "convolution parameters"
GIGA = "multiply-adds / 2^30 at 1024x2048"
POSE_PARAMETERS = "parameters"
POSE_GIGA = "multiply-adds / 2^30 at 384x288"

_SMALL_V1 = HRNet(widths=(16, 32, 64, 128), modules=(1, 1, 1), blocks=2, layer1_width=32, layer1_blocks=1)
_SMALL_V2 = HRNet(widths=(18, 36, 72, 144), modules=(1, 3, 2), blocks=2, layer1_blocks=2)

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


def _printed(source: str, **values: str) -> tuple[Published, ...]:
    measures = {"score": CITYSCAPES, "ap": COCO, "parameters": PARAMETERS, "giga": GIGA,
                "pose_parameters": POSE_PARAMETERS, "pose_giga": POSE_GIGA}  # fmt: skip
    return tuple(Published(measures[key], value, source) for key, value in values.items())


_CATALOG: Mapping[str, Entry] = {
    "hrnetv2-w18-small-v1": Entry(
        _SMALL_V1, CITYSCAPES_SIZE, _printed("HRNet's README", parameters="1.5M", giga="31.1")
    ),
    "hrnetv2-w18-small-v2": Entry(
        _SMALL_V2, CITYSCAPES_SIZE,
        (*_printed("table 4", parameters="3.92M", giga="71.6", score="76.2"),
         *_printed("table 4 (authors' own run)", score="75.9")),
    ),
    "hrnetv2-w18": Entry(_hrnet(18), CITYSCAPES_SIZE),
    "hrnetv2-w32": Entry(_hrnet(32), CITYSCAPES_SIZE),
    "hrnetv2-w48": Entry(
        _hrnet(48), CITYSCAPES_SIZE,
        (*_printed("table 4", parameters="65.78M", giga="696.2", score="80.9"),
         *_printed("table 4 (authors' own run)", score="80.2")),
    ),
    "gsto-hrnet-w18-small-v2": Entry(
        gsto(_SMALL_V2), CITYSCAPES_SIZE,
        (*_printed("table 4", parameters="3.95M", giga="74.4", score="77.3"),
         *_printed("table 2", score="77.3"), *_printed("table 1", score="77.2")),
    ),
    "gsto-hrnet-w18": Entry(gsto(_hrnet(18)), CITYSCAPES_SIZE),
    "gsto-hrnet-w32": Entry(gsto(_hrnet(32)), CITYSCAPES_SIZE),
    "gsto-hrnet-w48": Entry(
        gsto(_hrnet(48)), CITYSCAPES_SIZE,
        _printed("table 4", parameters="65.93M", giga="714.0", score="82.1"),
    ),
    "pose-hrnet-w32": Entry(
        pose(_hrnet(32)), POSE_SIZE,
        _printed("table 10", pose_parameters="28.5M", pose_giga="16.0", ap="75.8"),
    ),
    "pose-hrnet-w48": Entry(
        pose(_hrnet(48)), POSE_SIZE,
        _printed("table 10", pose_parameters="63.6M", pose_giga="32.9", ap="76.3"),
    ),
    "pose-gsto-hrnet-w32": Entry(
        pose_gsto(_hrnet(32)), POSE_SIZE,
        _printed("table 10", pose_parameters="29.6M", pose_giga="18.2", ap="76.5"),
    ),
    "pose-gsto-hrnet-w48": Entry(
        pose_gsto(_hrnet(48)), POSE_SIZE,
        _printed("table 10", pose_parameters="66.0M", pose_giga="37.6", ap="76.7"),
    ),
    "gsto-hrnet-w16-mini": Entry(gsto(_MINI), CITYSCAPES_SIZE),
}  # fmt: skip


def architectures() -> tuple[str, ...]:
    """The names of the catalogue."""
    return tuple(_CATALOG)


def entry(name: str) -> Entry:
    """A catalogue entry. Raises `UnknownArchitecture`, naming the nearest one."""
    if name not in _CATALOG:
        raise UnknownArchitecture(
            f"unknown architecture {name}{nearest(name, _CATALOG)}; known: {', '.join(_CATALOG)}"
        )
    return _CATALOG[name]


def variant(name: str) -> HRNet:
    """A named variant; `dataclasses.replace(variant(name), ...)` makes a new one."""
    return entry(name).variant


def build(name_or_variant: str | HRNet, *, classes: int | None = None, form: FormName | None = None) -> Graph:
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
