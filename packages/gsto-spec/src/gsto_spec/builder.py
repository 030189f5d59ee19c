"""`GraphBuilder`: graphs written by hand; wrong shapes are reported at the line that makes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gsto_spec.errors import GraphError, nearest
from gsto_spec.graph import Graph, Node, infer_shape
from gsto_spec.ops import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv2d,
    Input,
    MaxPool,
    Mul,
    Op,
    Padding,
    Parameter,
    Relu,
    Resize,
    Sigmoid,
    Slice,
    Softmax,
)  # fmt: skip
from gsto_spec.sizes import Shape


@dataclass(frozen=True, slots=True)
class Initialization:
    """How convolution weights are drawn; biases start at 0, batch norm at 1 and 0."""

    kind: Literal["fan_in_normal", "normal"] = "fan_in_normal"
    scale: float = math.sqrt(2.0)


FAN_IN_NORMAL = Initialization()
"""Standard deviation sqrt(2 / fan-in): variance is kept through relu, for training from scratch."""
HRNET_NORMAL = Initialization("normal", 0.001)
"""HRNet's training code: N(0, 0.001^2), meant for networks whose backbone then loads ImageNet weights."""


class GraphBuilder:
    """Collects nodes and answers with their names, which later calls take as operands.

    Layers that store tensors (`conv2d`, `batch_norm`) are named by the caller, since that name is what a
    checkpoint calls them; other nodes are named after their first operand unless `name` is given.

        build = GraphBuilder()
        x = build.input("image", channels=3)
        x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", x, 64, kernel=3, stride=2)))
        graph = build.graph({"stage4": build.conv2d("head", x, 19, bias=True)})

    Errors: `GraphError`, as `Graph` raises it.
    """

    def __init__(
        self, *, eps: float = 1e-5, momentum: float = 0.1, initialization: Initialization = FAN_IN_NORMAL
    ) -> None:
        self.eps, self.momentum, self.initialization = eps, momentum, initialization
        self._nodes: list[Node] = []
        self._shapes: dict[str, Shape] = {}

    def graph(self, outputs: Mapping[str, str], notes: Mapping[str, str] | None = None) -> Graph:
        """The graph of all nodes so far, with `outputs` (name -> node) in the order given."""
        return Graph(tuple(self._nodes), outputs, notes or {})

    def shape(self, x: str) -> Shape:
        """The symbolic shape of a node."""
        if x not in self._shapes:
            raise GraphError(
                x, "the name of a node made before", f"none{nearest(x, self._shapes)}", "graph_c2"
            )
        return self._shapes[x]

    def channels(self, x: str) -> int:
        """The channels of a feature map."""
        channels = self.shape(x)[1]
        assert isinstance(channels, int)
        return channels

    def apply(self, name: str, op: Op, *operands: str) -> str:
        """Any op on any operands; the named methods below are shorter."""
        if name in self._shapes:
            raise GraphError(name, "one node of each name", "a second one", "graph_c1")
        node = Node(name, op, operands)
        self._shapes[name] = infer_shape(node, [self.shape(operand) for operand in operands])
        self._nodes.append(node)
        return name

    def input(self, name: str = "image", channels: int = 3) -> str:
        """An input, N x channels x H x W."""
        return self.apply(name, Input(channels))

    def parameter(self, name: str, op: Parameter) -> str:
        """A stored tensor on its own; graphs that train reach theirs through `conv2d` and `batch_norm`."""
        return self.apply(name, op)

    def conv2d(
        self, name: str, x: str, channels: int, *, kernel: int = 1, stride: int = 1, dilation: int = 1,
        padding: int | Padding | None = None, groups: int = 1, bias: bool = False,
    ) -> str:  # fmt: skip
        """A convolution and its weights `NAME.weight`, `NAME.bias`.

        Without `padding` both sides get dilation (kernel - 1) / 2, which keeps the size at stride 1.
        """
        shape = (channels, self.channels(x) // max(groups, 1), kernel, kernel)
        start = self.initialization
        operands = [x, self.apply(f"{name}.weight", Parameter(shape, start.kind, start.scale))]
        if bias:
            operands.append(self.apply(f"{name}.bias", Parameter((channels,))))
        sides = _sides(padding, dilation * (kernel - 1) // 2)
        op = Conv2d((stride, stride), sides, (dilation, dilation), groups)
        return self.apply(name, op, *operands)

    def batch_norm(self, name: str, x: str) -> str:
        """A batch norm and its tensors `NAME.weight`, `.bias`, `.running_mean`, `.running_var`."""
        shape = (self.channels(x),)
        leaves = (
            self.apply(f"{name}.weight", Parameter(shape, scale=1.0)),
            self.apply(f"{name}.bias", Parameter(shape)),
            self.apply(f"{name}.running_mean", Parameter(shape, trainable=False)),
            self.apply(f"{name}.running_var", Parameter(shape, scale=1.0, trainable=False)),
        )
        return self.apply(name, BatchNorm(self.eps, self.momentum), x, *leaves)

    def relu(self, x: str, *, name: str | None = None) -> str:
        """max(x, 0)."""
        return self._apply(Relu(), name, x)

    def sigmoid(self, x: str, *, name: str | None = None) -> str:
        """1 / (1 + exp(-x))."""
        return self._apply(Sigmoid(), name, x)

    def softmax(self, x: str, *, name: str | None = None) -> str:
        """Softmax over the channels."""
        return self._apply(Softmax(), name, x)

    def add(self, operands: Sequence[str], *, name: str | None = None) -> str:
        """The sum of operands of one shape; of a single one, itself."""
        return operands[0] if len(operands) == 1 else self._apply(Add(), name, *operands)

    def mul(self, x: str, y: str, *, name: str | None = None) -> str:
        """The product; a one-channel operand (a gate) is repeated over the channels."""
        return self._apply(Mul(), name, x, y)

    def concat(self, operands: Sequence[str], *, name: str | None = None) -> str:
        """Operands one after another along the channels; of a single one, itself."""
        return operands[0] if len(operands) == 1 else self._apply(Concat(), name, *operands)

    def slice(self, x: str, start: int, stop: int, *, name: str | None = None) -> str:
        """Channels `start` up to, without, `stop`."""
        return self._apply(Slice(start, stop), name, x)

    def resize(
        self, x: str, *, like: str | None = None, size: tuple[int, int] | None = None,
        method: Literal["bilinear", "nearest"] = "bilinear", align_corners: bool = False,
        name: str | None = None,
    ) -> str:  # fmt: skip
        """Resampling to the size of the node `like`, or to a fixed `size`."""
        return self._apply(Resize(method, align_corners, size), name, *_with_reference(x, like))

    def avg_pool(self, x: str, kernel: int, stride: int, *, padding: int = 0, name: str | None = None) -> str:
        """The mean of square windows, padded zeros counted."""
        op = AvgPool((kernel, kernel), (stride, stride), _sides(padding, 0))
        return self._apply(op, name, x)

    def max_pool(self, x: str, kernel: int, stride: int, *, padding: int = 0, name: str | None = None) -> str:
        """The largest value of square windows."""
        op = MaxPool((kernel, kernel), (stride, stride), _sides(padding, 0))
        return self._apply(op, name, x)

    def adaptive_avg_pool(
        self, x: str, *, like: str | None = None, size: tuple[int, int] | None = None, name: str | None = None
    ) -> str:
        """Averages on the grid of the node `like`, or on a fixed `size`."""
        return self._apply(AdaptiveAvgPool(size), name, *_with_reference(x, like))

    def _apply(self, op: Op, name: str | None, *operands: str) -> str:
        return self.apply(name or self._free_name(f"{operands[0]}/{op.kind}"), op, *operands)

    def _free_name(self, wanted: str) -> str:
        if wanted not in self._shapes:
            return wanted
        number = next(i for i in range(2, len(self._shapes) + 2) if f"{wanted}_{i}" not in self._shapes)
        return f"{wanted}_{number}"


def _sides(padding: int | Padding | None, default: int) -> Padding:
    if isinstance(padding, tuple):
        return padding
    side = default if padding is None else padding
    return (side, side, side, side)


def _with_reference(x: str, like: str | None) -> tuple[str, ...]:
    return (x,) if like is None else (x, like)
