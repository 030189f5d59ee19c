"""The catalogue's names as types, so that checkers and editors know which family `variant(NAME)` is of."""

from typing import Literal

HRNetName = Literal[
    "hrnetv2-w18-small-v1", "hrnetv2-w18-small-v2", "hrnetv2-w18", "hrnetv2-w32", "hrnetv2-w48",
    "gsto-hrnet-w18-small-v2", "gsto-hrnet-w18", "gsto-hrnet-w32", "gsto-hrnet-w48", "pose-hrnet-w32",
    "pose-hrnet-w48", "pose-gsto-hrnet-w32", "pose-gsto-hrnet-w48", "hrnetv2-w18-small-v2-supervised",
    "hrnetv2-w18-small-v2-gfm", "hrnetv2-w18-small-v2-gtm-unsupervised",
    "hrnetv2-w18-small-v2-gtm-supervised", "hrnetv2-w18-small-v2-gfm-gtm-unsupervised",
    "hrnetv2-w18-small-v2-gfm-gtm3", "hrnetv2-w18-small-v2-gfm-gtm123",
    "hrnetv2-w18-small-v2-channel-module", "hrnetv2-w18-small-v2-spatial-module",
    "hrnetv2-w18-small-v2-channel-layer", "hrnetv2-w18-small-v2-spatial-layer",
    "hrnetv2-w18-small-v2-channel-transfer", "gsto-hrnet-w16-mini",
]  # fmt: skip

ResNetName = Literal[
    "resnet50-ppm", "resnet50-ppm-supervised", "resnet50-ppm-gsto-unsupervised",
    "resnet50-ppm-gsto-supervised", "resnet50-aspp", "resnet50-aspp-supervised",
    "resnet50-aspp-gsto-unsupervised", "resnet50-aspp-gsto-supervised", "resnet50-aspp-stride16",
    "resnet101-ppm", "resnet101-ppm-supervised", "resnet101-ppm-gsto-unsupervised",
    "resnet101-ppm-gsto-supervised", "resnet101-aspp", "resnet101-aspp-supervised",
    "resnet101-aspp-gsto-unsupervised", "resnet101-aspp-gsto-supervised", "resnet101-aspp-stride16",
]  # fmt: skip
