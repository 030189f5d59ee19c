"""The paper's tables of networks as data: rows in their order, numbers as printed, and our names.

Rows of other methods are numbers to show. Tables 5, 7, 8, 9 and 11 hold results of networks that the tables
here name already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

CITYSCAPES_SIZE = (1024, 2048)
POSE_SIZE = (384, 288)
CITYSCAPES = "Cityscapes val mIoU, one scale, no flip, no OHEM"
COCO = "COCO val2017 AP, 384x288"
COCO_TEST = "COCO test-dev2017 AP, 384x288"

Counted = Literal["convolution parameters", "parameters"]


@dataclass(frozen=True, slots=True)
class Published:
    """A number in print: what it measures, its value as printed, and where it stands."""

    measure: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: its words, our name for its network or None, and its numbers as printed ("" is none).

    `giga` are multiply-adds / 2^30, `own_run` the score of the authors' own run of other people's network,
    `test` the score on the test set.
    """

    label: str
    architecture: str | None = None
    parameters: str = ""
    giga: str = ""
    score: str = ""
    own_run: str = ""
    test: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the paper, what its numbers count, and what we read into it where it is silent."""

    number: int
    title: str
    rows: tuple[Row, ...]
    readings: tuple[str, ...] = ()
    score: str = CITYSCAPES
    test: str = ""
    size: tuple[int, int] = CITYSCAPES_SIZE
    counted: Counted = "convolution parameters"

    @property
    def giga(self) -> str:
        """What the column of multiply-adds measures."""
        return f"multiply-adds / 2^30 at {self.size[0]}x{self.size[1]}"

    def published(self, row: Row) -> Iterator[Published]:
        """The numbers of one row."""
        source = f"table {self.number}"
        if row.parameters:
            yield Published(self.counted, row.parameters, source)
        if row.giga:
            yield Published(self.giga, row.giga, source)
        if row.score:
            yield Published(self.score, row.score, source)
        if row.own_run:
            yield Published(self.score, row.own_run, f"{source} (authors' own run)")
        if row.test:
            yield Published(self.test, row.test, source)


_BASE = "hrnetv2-w18-small-v2"
_GSTO = "gsto-hrnet-w18-small-v2"

_TABLE_1 = Table(1, "Comparison experiments of GFM and GTM", (
    Row("baseline", _BASE, own_run="75.9"),
    Row("baseline (w/ sup)", f"{_BASE}-supervised", score="76.3"),
    Row("baseline + GFM", f"{_BASE}-gfm", score="76.6"),
    Row("baseline + GTM (w/o sup)", f"{_BASE}-gtm-unsupervised", score="76.4"),
    Row("baseline + GTM (w/ sup)", f"{_BASE}-gtm-supervised", score="77.0"),
    Row("baseline + GTM (w/o sup) + GFM", f"{_BASE}-gfm-gtm-unsupervised", score="76.8"),
    Row("baseline + GTM (w/ sup) + GFM", _GSTO, score="77.2"),
), readings=(
    "The baseline is HRNetV2-W18-Small-v2 (section 4.4).",
    "\"GTM\" is after stages 2 and 3, as in GSTO-HRNet; \"w/ sup\" has predictors after the same two stages, "
    "so that supervision is the same with and without gates.",
    "The last row's network has 77.2 here and 77.3 in tables 2 and 4.",
))  # fmt: skip

_TABLE_2 = Table(2, "Ablation study for the number of GTM", (
    Row("no GTM", f"{_BASE}-gfm", "3.93M", "71.7", "76.6"),
    Row("stage 3", f"{_BASE}-gfm-gtm3", "3.95M", "73.9", "76.7"),
    Row("stages 2, 3", _GSTO, "3.95M", "74.4", "77.3"),
    Row("stages 1, 2, 3", f"{_BASE}-gfm-gtm123", "4.02M", "83.0", "77.2"),
), readings=("The base has GFM in every module; each GTM is supervised.",))  # fmt: skip

_TABLE_3 = Table(3, "Comparison of different gating or attention mechanisms", (
    Row("channel-wise, after each block", f"{_BASE}-channel-module", "3.93M", "71.6", "75.9"),
    Row("spatial-wise, after each block", f"{_BASE}-spatial-module", "3.92M", "71.7", "76.2"),
    Row("channel-wise, after each layer", f"{_BASE}-channel-layer", "3.94M", "71.6", "76.1"),
    Row("spatial-wise, after each layer", f"{_BASE}-spatial-layer", "3.93M", "72.1", "76.4"),
    Row("channel-wise, combined with ST", f"{_BASE}-channel-transfer", "3.94", "71.6", "76.2"),
    Row("spatial-wise, combined with ST", f"{_BASE}-gfm-gtm-unsupervised", "3.93M", "71.7", "76.8"),
), readings=(
    "The paper defines neither attention. Channel-wise is squeeze-and-excitation with biases; its reduction "
    "is 64 (rounded down), the one of those tried that gives all three printed counts; without biases none "
    "does.",
    "Spatial-wise, after blocks and layers, is CBAM's: a 7x7 convolution, without bias or norm, of the "
    "channels' mean and maximum. Mean and maximum are built of fixed convolutions, which training leaves as "
    "they are; like other reductions they are left out of the multiply-adds.",
    "A \"block\" is an HRNet module: each branch is gated after the module's fusion. A \"layer\" is a "
    "convolution with its norm and relu, in the stem and in the residual blocks, shortcuts left out; the "
    "last layer of a block is gated before the sum.",
    "\"Combined with ST\" is GFM and unsupervised GTM, with gates of that kind; the last row is the sixth of "
    "table 1.",
))  # fmt: skip

_TABLE_4 = Table(4, "From HRNetV2 to GSTO-HRNet on Cityscapes val", (
    Row("HRNetV2, HRNetV2-W18", _BASE, "3.92M", "71.6", "76.2", "75.9"),
    Row("Ours, GSTO-HRNet-W18", _GSTO, "3.95M", "74.4", "77.3"),
    Row("HRNetV2, HRNetV2-W48", "hrnetv2-w48", "65.78M", "696.2", "80.9", "80.2"),
    Row("Ours, GSTO-HRNet-W48", "gsto-hrnet-w48", "65.93M", "714.0", "82.1"),
), readings=("The rows called W18 are W18-Small-v2.",))  # fmt: skip

_TABLE_6 = Table(6, "Improvement on multi-scale aggregation modules", tuple(
    Row(f"{module.upper()}, {words}", f"resnet50-{module}{suffix}", score=score)
    for module, scores in {
        "ppm": ("76.5", "76.9", "77.3", "77.8"), "aspp": ("74.9", "75.1", "76.3", "76.9")
    }.items()
    for (words, suffix), score in zip((
        ("Baseline", ""), ("Baseline (w/ sup)", "-supervised"),
        ("Baseline + GSTO (w/o sup)", "-gsto-unsupervised"), ("Baseline + GSTO (w/ sup)", "-gsto-supervised"),
    ), scores, strict=True)
), readings=(
    "The table prints no counts, figure 4 is known by its caption alone, and no code of it was released: all "
    "but the scores is our reading.",
    "ResNet-50 (section 4.5.2) is torchvision's, dilated to stride 8. PPM is Zhao et al.'s (bins 1, 2, 3, "
    "6), ASPP Chen et al.'s of 2017 as torchvision builds it (1x1, rates 12, 24, 36, image pooling; rates 6, "
    "12, 18 at stride 16), both without dropout, resized with half-pixel centres.",
    "GSTO gates the paths that change scale, each by its own gate: PPM's bins; ASPP's atrous convolutions "
    "and image pooling (section 3.3). PPM's input itself and ASPP's 1x1 convolution read the feature as it "
    "is.",
    "The `paper` form projects the gated feature with Conv+BN+ReLU (figure 4's caption) and pools then; an "
    "atrous convolution projects and transfers at once. The `release` form keeps the published order.",
    "Supervision is a predictor on the feature that the module reads, layer 4's output (equation 5), in the "
    "form's own make; its output is called `stage3`, so its loss weighs 0.5. "
    "`replace(variant, supervision=\"auxiliary\")` takes the published auxiliary head on layer 3 instead.",
))  # fmt: skip

_TABLE_10 = Table(10, "Comparisons on the COCO validation and test sets for pose estimation", (
    Row("OpenPose", test="61.8"),
    Row("Associate Embedding", test="65.5"),
    Row("PersonLab", test="68.7"),
    Row("MultiPoseNet", test="69.6"),
    Row("Mask-RCNN, ResNet-50-FPN", test="63.1"),
    Row("G-RMI, ResNet-101, 353x257", test="64.9"),
    Row("Integral Pose Regression, ResNet-101, 256x256", None, "45.0M", "11.0", test="67.8"),
    Row("8-stage Hourglass, 256x192", None, "25.1M", "14.3", "66.9"),
    Row("CPN, ResNet-50, 256x192", None, "27.0M", "6.20", "68.6"),
    Row("RMPE, PyraNet, 320x256", None, "28.1M", "26.7", test="72.3"),
    Row("CFN, ResNet-Inception, 384x288", test="72.6"),
    Row("CPN (ensemble), ResNet-Inception, 384x288", test="73.0"),
    Row("SimpleBaseline, ResNet-152, 256x192", None, "68.6M", "15.7", "72.0"),
    Row("SimpleBaseline, ResNet-152, 384x288", None, "68.6M", "35.6", "74.3", test="73.7"),
    Row("HRNet-W32, 384x288", "pose-hrnet-w32", "28.5M", "16.0", "75.8", test="74.9"),
    Row("HRNet-W48, 384x288", "pose-hrnet-w48", "63.6M", "32.9", "76.3", test="75.5"),
    Row("Ours, GSTO-HRNet-W32, 384x288", "pose-gsto-hrnet-w32", "29.6M", "18.2", "76.5", test="75.5"),
    Row("Ours, GSTO-HRNet-W48, 384x288", "pose-gsto-hrnet-w48", "66.0M", "37.6", "76.7", test="75.8"),
), readings=(
    "GSTO for pose was not released: the printed counts fit an HRNetV2 head.",
), score=COCO, test=COCO_TEST, size=POSE_SIZE, counted="parameters")  # fmt: skip

TABLES: Mapping[int, Table] = {
    table.number: table for table in (_TABLE_1, _TABLE_2, _TABLE_3, _TABLE_4, _TABLE_6, _TABLE_10)
}


def published_of(architecture: str) -> tuple[Published, ...]:
    """Everything that the tables print of a network, with its source."""
    return tuple(
        item for table in TABLES.values() for row in table.rows if row.architecture == architecture
        for item in table.published(row)
    )  # fmt: skip
