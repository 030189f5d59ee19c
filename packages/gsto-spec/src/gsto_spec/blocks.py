"""The parts of HRNet and of GSTO as functions that add nodes to a graph; none of them is an op.

`path` is the prefix that released checkpoints give a part; answers are names of nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gsto_spec.builder import GraphBuilder
from gsto_spec.forms import Form, Transfer

Gate = Callable[[GraphBuilder, str, str], str]
"""`gate(build, path, x)` adds a gate's nodes and answers with what multiplies x: one value per place
(N x 1 x h x w), or one per channel (N x C x 1 x 1)."""

ResizeMethod = Literal["bilinear", "nearest"]


@dataclass(frozen=True, slots=True)
class Resampling:
    """How feature maps are brought to another resolution; `align_corners` is every bilinear resize's."""

    method: ResizeMethod = "bilinear"
    align_corners: bool = False

    def up(self, build: GraphBuilder, x: str, like: str, name: str) -> str:
        """`x` at the size of `like`."""
        return self.resize(build, x, like, name, self.method)

    def resize(self, build: GraphBuilder, x: str, like: str, name: str, method: ResizeMethod) -> str:
        """`x` at the size of `like`, higher or lower, by a method of its own."""
        aligned = self.align_corners and method == "bilinear"
        return build.resize(x, like=like, method=method, align_corners=aligned, name=name)


def conv_norm(
    build: GraphBuilder, conv: str, norm: str, x: str, channels: int, *, kernel: int, stride: int = 1,
    dilation: int = 1, relu: bool = True, bias: bool = False, attention: Gate | None = None,
) -> str:  # fmt: skip
    """Convolution, batch norm and, unless told otherwise, relu; `attention` gates the result."""
    x = build.conv2d(conv, x, channels, kernel=kernel, stride=stride, dilation=dilation, bias=bias)
    x = build.batch_norm(norm, x)
    x = build.relu(x) if relu else x
    return x if attention is None else attend(build, f"{conv}_attention", x, attention)


def attend(build: GraphBuilder, path: str, x: str, attention: Gate) -> str:
    """`x` times its own gate, at its own resolution: an attention module."""
    return build.mul(attention(build, path, x), x, name=f"{path}/gated")


def stem(build: GraphBuilder, x: str, channels: int, *, attention: Gate | None = None) -> str:
    """HRNet's stem: two 3x3 convolutions of stride 2, to stride 4."""
    x = conv_norm(build, "conv1", "bn1", x, channels, kernel=3, stride=2, attention=attention)
    return conv_norm(build, "conv2", "bn2", x, channels, kernel=3, stride=2, attention=attention)


def resnet_stem(build: GraphBuilder, x: str, channels: int) -> str:
    """ResNet's stem: a 7x7 convolution and a 3x3 max pooling, both of stride 2 (He et al. 2016)."""
    x = conv_norm(build, "conv1", "bn1", x, channels, kernel=7, stride=2)
    return build.max_pool(x, 3, 2, padding=1, name="bn1/pool")


def basic_block(
    build: GraphBuilder, path: str, x: str, channels: int, *, attention: Gate | None = None
) -> str:
    """Two 3x3 convolutions and a shortcut (He et al. 2016); relu after the sum.

    `attention` follows each convolution's layer, the last one's before the sum.
    """
    y = conv_norm(build, f"{path}.conv1", f"{path}.bn1", x, channels, kernel=3, attention=attention)
    y = conv_norm(build, f"{path}.conv2", f"{path}.bn2", y, channels, kernel=3, relu=False,
                  attention=attention)  # fmt: skip
    return _join(build, path, x, y, 1)


def bottleneck(
    build: GraphBuilder, path: str, x: str, width: int, *, stride: int = 1, dilation: int = 1,
    attention: Gate | None = None,
) -> str:  # fmt: skip
    """1x1, 3x3 and 1x1 convolutions to 4 `width` channels and a shortcut (He et al. 2016).

    Stride and dilation are the 3x3 convolution's (torchvision); `attention` is as in `basic_block`.
    """
    y = conv_norm(build, f"{path}.conv1", f"{path}.bn1", x, width, kernel=1, attention=attention)
    y = conv_norm(build, f"{path}.conv2", f"{path}.bn2", y, width, kernel=3, stride=stride,
                  dilation=dilation, attention=attention)  # fmt: skip
    y = conv_norm(build, f"{path}.conv3", f"{path}.bn3", y, 4 * width, kernel=1, relu=False,
                  attention=attention)  # fmt: skip
    return _join(build, path, x, y, stride)


def _join(build: GraphBuilder, path: str, x: str, y: str, stride: int) -> str:
    if build.channels(x) != build.channels(y) or stride > 1:
        x = conv_norm(build, f"{path}.downsample.0", f"{path}.downsample.1", x, build.channels(y),
                      kernel=1, stride=stride, relu=False)  # fmt: skip
    return build.relu(build.add([y, x], name=f"{path}/sum"), name=f"{path}/out")


def gate(build: GraphBuilder, path: str, x: str, form: Form) -> str:
    """The unsupervised gate: equation 4, or the released sigmoid(relu(bn(conv1x1(x)))). N x 1 x h x w."""
    g = build.conv2d(f"{path}.0", x, 1)
    if form.gate_norm_relu:
        g = build.relu(build.batch_norm(f"{path}.1", g))
    return build.sigmoid(g, name=f"{path}/gate")


def predictor(build: GraphBuilder, path: str, x: str, classes: int, *, hidden: bool = True) -> str:
    """HRNetV2's head (1x1 convolution, norm, relu, 1x1 convolution), or equation 5's single convolution."""
    if not hidden:
        return build.conv2d(f"{path}.0", x, classes)
    x = conv_norm(build, f"{path}.0", f"{path}.1", x, build.channels(x), kernel=1, bias=True)
    return build.conv2d(f"{path}.3", x, classes, bias=True)


def supervised_gate(build: GraphBuilder, path: str, logits: str, halvings: int, form: Form) -> str:
    """A gate made of a predictor's logits: equation 6, or the released chain, halved to the lowest branch."""
    if form.supervised_gate == "one_layer":
        return build.sigmoid(build.conv2d(f"{path}.0.0", logits, 1), name=f"{path}/gate")
    g = conv_norm(build, f"{path}.0.0", f"{path}.0.1", logits, 1, kernel=3)
    for k in range(1, halvings + 1):
        g = conv_norm(build, f"{path}.{k}.0", f"{path}.{k}.1", g, 1, kernel=3, stride=2)
    return build.sigmoid(g, name=f"{path}/gate")


def unite(
    build: GraphBuilder, path: str, branches: Sequence[str], resampling: Resampling, like: int = 0
) -> str:
    """All branches at the size of branch `like`, concatenated (section 3.2.2; HRNetV2's representation)."""
    target = branches[like]
    resized = [
        x if x == target else resampling.up(build, x, target, f"{path}/resize.{k}")
        for k, x in enumerate(branches)
    ]
    return build.concat(resized, name=f"{path}/united")


@dataclass(frozen=True, slots=True)
class Fusion:
    """The exchange between branches at the end of a module: HRNet's, or the gated one (GFM, section 3.2.1).

    Target i is relu(sum over j of path_ij(g_ij x_j)). Ungated, a path is HRNet's: 1x1 convolution, norm and
    up-sampling from a lower branch; 3x3 convolutions of stride 2 with norm, relu between, from a higher one;
    the identity from itself. `gate_function` None leaves all of them ungated.
    """

    gate_function: Gate | None
    form: Form
    resampling: Resampling

    def build(self, build: GraphBuilder, path: str, branches: Sequence[str], targets: int) -> list[str]:
        """The first `targets` fused branches."""
        return [self._target(build, path, branches, i) for i in range(targets)]

    def _target(self, build: GraphBuilder, path: str, branches: Sequence[str], i: int) -> str:
        terms = [self._term(build, path, branches, i, j) for j in range(len(branches))]
        return build.relu(build.add(terms, name=f"{path}/fuse.{i}/sum"), name=f"{path}/fuse.{i}/out")

    def _term(self, build: GraphBuilder, path: str, branches: Sequence[str], i: int, j: int) -> str:
        x, place = branches[j], f"{path}/fuse.{i}.{j}"
        gated = self.gate_function is not None and (i != j or self.form.gates_identity)
        if gated and self.gate_function is not None:
            g = self.gate_function(build, f"{path}.att_layers.{i}.{j}", x)
            x = build.mul(g, x, name=f"{place}/gated")
        if i == j:
            return x
        layers = f"{path}.fuse_layers.{i}.{j}"
        if gated and self.form.transfer is not None:
            transfer = self.form.transfer
            x = project(build, layers, x, build.channels(branches[i]), transfer, relu=transfer.fusion_relu)
            method = transfer.down if i > j else transfer.up
            return scale_transfer(build, x, branches[i], f"{place}/resize", method, self.resampling)
        return self._hrnet_path(build, layers, x, branches, i, j)

    def _hrnet_path(
        self, build: GraphBuilder, layers: str, x: str, branches: Sequence[str], i: int, j: int
    ) -> str:
        channels = build.channels(branches[i])
        if i < j:
            x = conv_norm(build, f"{layers}.0", f"{layers}.1", x, channels, kernel=1, relu=False)
            return self.resampling.up(build, x, branches[i], f"{layers}/resize")
        for k in range(i - j):
            last = k == i - j - 1
            width = channels if last else build.channels(x)
            x = conv_norm(build, f"{layers}.{k}.0", f"{layers}.{k}.1", x, width,
                          kernel=3, stride=2, relu=not last)  # fmt: skip
        return x


def project(build: GraphBuilder, path: str, x: str, channels: int, transfer: Transfer, *, relu: bool) -> str:
    """Equation 1: a 1x1 convolution to the target's channels, with the form's norm and relu."""
    x = build.conv2d(f"{path}.0", x, channels, bias=transfer.projection_bias)
    if transfer.projection_norm:
        x = build.batch_norm(f"{path}.1", x)
    return build.relu(x) if relu else x


def scale_transfer(
    build: GraphBuilder, x: str, like: str, name: str, method: Literal["average"] | ResizeMethod,
    resampling: Resampling,
) -> str:  # fmt: skip
    """Equation 2: `x` on the grid of `like`, higher or lower."""
    if method == "average":
        return build.adaptive_avg_pool(x, like=like, name=name)
    return resampling.resize(build, x, like, name, method)


@dataclass(frozen=True, slots=True)
class Transition:
    """The step from stage s to s + 1, which adds a branch: HRNet's, or the gated one (GTM, section 3.2.2).

    Ungated, a 3x3 convolution of stride 2 with norm and relu makes the new branch of the lowest one, and
    branches whose width changes pass through a 3x3 convolution. Otherwise
    `gate_function` makes the gate of a feature, or `logits` do.
    """

    stage: int
    form: Form
    resampling: Resampling
    gate_function: Gate | None = None
    logits: str | None = None

    def build(self, build: GraphBuilder, branches: Sequence[str], widths: Sequence[int]) -> list[str]:
        """The branches of the next stage."""
        kept = [self._keep(build, k, x, widths[k]) for k, x in enumerate(branches)]
        return [*kept, self._new_branch(build, branches, widths[len(branches)])]

    def _keep(self, build: GraphBuilder, k: int, x: str, width: int) -> str:
        if build.channels(x) == width:
            return x
        path = f"transition{self.stage}.{k}"
        return conv_norm(build, f"{path}.0", f"{path}.1", x, width, kernel=3)

    def _new_branch(self, build: GraphBuilder, branches: Sequence[str], width: int) -> str:
        path = f"transition{self.stage}.{len(branches)}.0"
        gated = self.gate_function is not None or self.logits is not None
        transfer = self.form.transfer
        if gated and transfer is not None:
            return self._transferred(build, path, branches, width, transfer)
        x = self._gated(build, branches, branches[-1]) if gated else branches[-1]
        return conv_norm(build, f"{path}.0", f"{path}.1", x, width, kernel=3, stride=2)

    def _transferred(
        self, build: GraphBuilder, path: str, branches: Sequence[str], width: int, transfer: Transfer
    ) -> str:
        united = self.form.gated_feature == "united"
        place = f"transition{self.stage}"
        x = unite(build, place, branches, self.resampling, transfer.united_branch) if united else branches[-1]
        x = self._gated(build, branches, x)
        x = project(build, path, x, width, transfer, relu=transfer.transition_relu)
        grid = build.avg_pool(branches[-1], 1, transfer.new_branch_stride, name=f"{place}/grid")
        return scale_transfer(build, x, grid, f"{place}/down", transfer.down, self.resampling)

    def _gated(self, build: GraphBuilder, branches: Sequence[str], x: str) -> str:
        path = f"att{self.stage}.{len(branches)}"
        if self.logits is not None:
            g = supervised_gate(build, path, self.logits, len(branches) - 1, self.form)
        else:
            assert self.gate_function is not None
            g = self.gate_function(build, f"{path}.0", x)
        return build.mul(g, x, name=f"transition{self.stage}/gated")
