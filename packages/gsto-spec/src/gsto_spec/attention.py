"""The attentions that table 3 compares gates with: per channel and per place.

The paper defines neither. Per channel is squeeze-and-excitation (Hu et al. 2018), per place the spatial half
of CBAM (Woo et al. 2018); the printed counts fit both (docs/tables.md).
"""

from __future__ import annotations

from gsto_spec.builder import GraphBuilder
from gsto_spec.ops import Conv2d, Parameter


def channel_gate(build: GraphBuilder, path: str, x: str, *, reduction: int = 16) -> str:
    """Squeeze-and-excitation: the sigmoid of two layers on the channels' means. N x C x 1 x 1.

    The hidden layer has C // `reduction` channels, at least 1; both layers have biases.
    """
    channels = build.channels(x)
    means = build.adaptive_avg_pool(x, size=(1, 1), name=f"{path}/squeeze")
    hidden = build.relu(build.conv2d(f"{path}.fc1", means, max(1, channels // reduction), bias=True))
    return build.sigmoid(build.conv2d(f"{path}.fc2", hidden, channels, bias=True), name=f"{path}/gate")


def spatial_gate(build: GraphBuilder, path: str, x: str) -> str:
    """CBAM's spatial attention: the sigmoid of a 7x7 convolution of the channels' mean and maximum.

    N x 1 x h x w; no bias and no norm, as CBAM's equation 3 has it.
    """
    pooled = [channel_mean(build, path, x), channel_max(build, path, x)]
    described = build.concat(pooled, name=f"{path}/pooled")
    return build.sigmoid(build.conv2d(f"{path}.conv", described, 1, kernel=7), name=f"{path}/gate")


def channel_mean(build: GraphBuilder, path: str, x: str) -> str:
    """The mean over the channels, N x 1 x h x w: a 1x1 convolution whose weights 1/C are never learnt."""
    channels = build.channels(x)
    return _fixed(build, f"{path}.mean", x, Parameter((1, channels, 1, 1), scale=1 / channels,
                                                      trainable=False), groups=1)  # fmt: skip


def channel_max(build: GraphBuilder, path: str, x: str) -> str:
    """The maximum over the channels, N x 1 x h x w, by halves: max(a, b) = relu(a - b) + b.

    The minus is a convolution per channel whose weights -1 are never learnt.
    """
    level = 0
    while (channels := build.channels(x)) > 1:
        half, place = channels // 2, f"{path}/max.{level}"
        a = build.slice(x, 0, half, name=f"{place}/a")
        b = build.slice(x, half, 2 * half, name=f"{place}/b")
        minus = Parameter((half, 1, 1, 1), scale=-1.0, trainable=False)
        difference = build.add([a, _fixed(build, f"{path}.minus.{level}", b, minus, groups=half)])
        larger = build.add([build.relu(difference), b], name=f"{place}/larger")
        odd = [build.slice(x, 2 * half, channels, name=f"{place}/odd")] if channels % 2 else []
        x = build.concat([larger, *odd], name=f"{place}/out")
        level += 1
    return x


def _fixed(build: GraphBuilder, name: str, x: str, weights: Parameter, *, groups: int) -> str:
    """A 1x1 convolution that training leaves as it is."""
    return build.apply(name, Conv2d(groups=groups), x, build.parameter(f"{name}.weight", weights))
