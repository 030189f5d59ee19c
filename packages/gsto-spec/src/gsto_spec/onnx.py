"""A graph as an ONNX model, for engines that read one; needs the package onnx (`gsto-spec[onnx]`).

Every op has an equivalent in opset 18, in float32. Sizes are read off the values at run time, so a model
takes pictures of any number and size, unless it is made for one size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from gsto_spec.errors import GstoError
from gsto_spec.graph import Graph, Node
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
    Padding,
    Parameter,
    Relu,
    Resize,
    Sigmoid,
    Slice,
    Softmax,
)  # fmt: skip
from gsto_spec.weights import check_weights

OPSET = 18
"""The first whose Resize takes the sizes of rows and columns alone."""
IR_VERSION = 8
"""The file format that came with it: what is newer, older engines refuse."""


def to_onnx(graph: Graph, weights: Mapping[str, NDArray[Any]], *, size: tuple[int, int] | None = None) -> Any:
    """An `onnx.ModelProto` that computes a graph in inference mode; `.SerializeToString()` gives its bytes.

    Inputs are called as the graph's, N x C x H x W float32, outputs likewise, N x K x h x w at network
    stride. With `size` (H, W) only pictures of that size are taken, in return for a simpler model. `weights`
    holds exactly `graph.parameters`; graph and weights may come from `optimize`.

    Raises `WeightsError`; `GraphError` for a size that is too small; `GstoError` where onnx is missing, or
    an output has an input's name.
    """
    onnx = _onnx()
    check_weights(graph, weights)
    for name in graph.outputs.keys() & graph.inputs.keys():
        raise GstoError(f"{name}: expected outputs called otherwise than inputs, found one of each")
    shapes = {} if size is None else graph.check((1, next(iter(graph.inputs.values()), 1), *size))
    model = _Model(onnx, graph, weights, shapes)
    for node in graph.order:
        model.add(node)
    return model.proto(size)


def write_onnx(
    path: str | Path, graph: Graph, weights: Mapping[str, NDArray[Any]], *,
    size: tuple[int, int] | None = None,
) -> None:  # fmt: skip
    """`to_onnx` as a file. Raises what it raises, and `GstoError` for a file that cannot be written."""
    data: bytes = to_onnx(graph, weights, size=size).SerializeToString()
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise GstoError(f"{path}: cannot be written: {error.strerror}") from None


def _onnx() -> Any:
    try:
        return import_module("onnx")
    except ImportError:
        raise GstoError("exporting to ONNX needs the package onnx: pip install 'gsto-spec[onnx]'") from None


class _Model:
    """A model in the making. A helper value has a `:` in its name, which no node of a graph can have."""

    def __init__(
        self, onnx: Any, graph: Graph, weights: Mapping[str, NDArray[Any]],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:  # fmt: skip
        self.onnx, self.graph, self.weights, self.shapes = onnx, graph, weights, shapes
        self.nodes: list[Any] = []
        self.stored: dict[str, Any] = {}
        # An output's name may be some other node's.
        self.values = {name: f"{name}:0" if name in graph.outputs else name for name in graph.by_name}
        self.values |= {name: name for name in graph.inputs}

    def proto(self, size: tuple[int, int] | None) -> Any:
        """The model, its outputs under their own names."""
        helper = self.onnx.helper
        for output, node in self.graph.outputs.items():
            self.emit("Identity", [self.values[node]], output)
        inputs = [self._info(name, name, size) for name in self.graph.inputs]
        outputs = [self._info(output, node, size) for output, node in self.graph.outputs.items()]
        body = helper.make_graph(self.nodes, self._title(), inputs, outputs, list(self.stored.values()))
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(body, opset_imports=opset, producer_name="gsto-spec", ir_version=IR_VERSION)
        helper.set_model_props(model, {**self.graph.notes, "graph_digest": self.graph.digest})
        self.onnx.checker.check_model(model)
        return model

    def _title(self) -> str:
        return self.graph.notes.get("architecture", "gsto")

    def _info(self, name: str, node: str, size: tuple[int, int] | None) -> Any:
        symbolic = [dim if isinstance(dim, int) else str(dim) for dim in self.graph.shapes[node]]
        shape = symbolic if size is None else ["N", *self.shapes[node][1:]]
        return self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, shape)

    def emit(self, kind: str, operands: Sequence[str], result: str, **attributes: Any) -> str:
        """One node of the model; its result's name."""
        self.nodes.append(self.onnx.helper.make_node(kind, operands, [result], name=result, **attributes))
        return result

    def store(self, name: str, value: NDArray[Any]) -> str:
        """A stored tensor."""
        self.stored.setdefault(name, self.onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def integers(self, *values: int) -> str:
        """Stored integers, which sizes and places are."""
        return self.store(f"integers:{'_'.join(map(str, values))}", np.array(values, np.int64))

    def add(self, node: Node) -> None:
        """A node of the graph."""
        x, *others = (*(self.values[name] for name in node.operands), "")
        others, y, emit = others[:-1], self.values[node.name], self.emit
        match node.op:
            case Input():
                pass
            case Parameter():
                self.store(y, self.weights[node.name].astype(np.float32))
            case Conv2d() as op:
                emit("Conv", [x, *others], y, pads=_pads(op.padding), strides=op.stride,
                     dilations=op.dilation, group=op.groups)  # fmt: skip
            case BatchNorm() as op:
                emit("BatchNormalization", [x, *others], y, epsilon=op.eps)
            case Relu():
                emit("Relu", [x], y)
            case Sigmoid():
                emit("Sigmoid", [x], y)
            case Softmax():
                emit("Softmax", [x], y, axis=1)
            case Add():
                for number, other in enumerate(others[:-1]):
                    x = emit("Add", [x, other], f"{y}:sum{number}")
                emit("Add", [x, others[-1]], y)
            case Mul():
                emit("Mul", [x, *others], y)
            case Concat():
                emit("Concat", [x, *others], y, axis=1)
            case Slice() as op:
                emit("Slice", [x, *(self.integers(k) for k in (op.start, op.stop, 1))], y)
            case Resize() as op:
                self._resize(op, node, x, y)
            case AvgPool() as op:
                emit("AveragePool", [x], y, kernel_shape=op.kernel, strides=op.stride,
                     pads=_pads(op.padding), count_include_pad=int(op.count_padding))  # fmt: skip
            case MaxPool() as op:
                emit("MaxPool", [x], y, kernel_shape=op.kernel, strides=op.stride, pads=_pads(op.padding))
            case AdaptiveAvgPool() as op:
                self._average(op, node, x, y)
            case _:
                assert_never(node.op)

    def _size(self, name: str) -> str:
        """Rows and columns of a node of the graph."""
        if name in self.shapes:
            return self.integers(*self.shapes[name][2:])
        size = f"{self.values[name]}:size"
        if not any(size in node.output for node in self.nodes):
            self.emit("Shape", [self.values[name]], size, start=2)
        return size

    def _resize(self, op: Resize, node: Node, x: str, y: str) -> None:
        if op.method == "bilinear":
            target = self.integers(*op.size) if op.size else self._size(node.operands[1])
            coordinates = "align_corners" if op.align_corners else "half_pixel"
            self.emit("Resize", [x, "", "", target], y, mode="linear", axes=[2, 3],
                      coordinate_transformation_mode=coordinates)  # fmt: skip
            return
        # Resize finds the source in floating point and misses floor(i in / out) at some sizes.
        for axis, name in ((2, f"{y}:rows"), (3, y)):
            source, size = self._sides(op, node, axis)
            index = self._scaled(self._range(size, f"{name}:range"), source, size, f"{name}:source")
            x = self.emit("Gather", [x, index], name, axis=axis)

    def _sides(self, op: Resize | AdaptiveAvgPool, node: Node, axis: int) -> tuple[str, str]:
        """Rows, or columns, of a node's operand and of its result, as single numbers."""
        source = self._side(node.operands[0], axis)
        return source, self._number(op.size[axis - 2]) if op.size else self._side(node.operands[1], axis)

    def _side(self, name: str, axis: int) -> str:
        if name in self.shapes:
            return self._number(self.shapes[name][axis])
        side = f"{self.values[name]}:side{axis}"
        if not any(side in node.output for node in self.nodes):
            self.emit("Gather", [self._size(name), self._number(axis - 2)], side)
        return side

    def _number(self, value: int) -> str:
        return self.store(f"number:{value}", np.array(value, np.int64))

    def _range(self, count: str, name: str) -> str:
        return self.emit("Range", [self._number(0), count, self._number(1)], name)

    def _scaled(self, index: str, factor: str, divisor: str, name: str) -> str:
        """index factor // divisor, in integers."""
        return self.emit("Div", [self.emit("Mul", [index, factor], f"{name}:product"), divisor], name)

    def _average(self, op: AdaptiveAvgPool, node: Node, x: str, y: str) -> None:
        if op.size == (1, 1):
            self.emit("GlobalAveragePool", [x], y)
        elif (kernel := self._whole_cells(node)) is not None:
            self.emit("AveragePool", [x], y, kernel_shape=kernel, strides=kernel)
        else:
            rows, columns = (self._shares(op, node, axis, f"{y}:shares{axis}") for axis in (2, 3))
            across = self.emit("Transpose", [columns], f"{y}:across", perm=[1, 0])
            self.emit("MatMul", [rows, self.emit("MatMul", [x, across], f"{y}:columns")], y)

    def _whole_cells(self, node: Node) -> tuple[int, ...] | None:
        """Cells of the source for each of the target, where sizes are known and they are as many for all."""
        if not self.shapes:
            return None
        pairs = list(zip(self.shapes[node.operands[0]][2:], self.shapes[node.name][2:], strict=True))
        if any(source % target for source, target in pairs):
            return None
        return tuple(source // target for source, target in pairs)

    def _shares(self, op: AdaptiveAvgPool, node: Node, axis: int, name: str) -> str:
        """Target x source: the share of a source row in a target row, which lies in one run of them."""
        one = self._number(1)
        source, size = self._sides(op, node, axis)
        cells = self._range(size, f"{name}:cells")
        start = self._scaled(cells, source, size, f"{name}:start")
        after = self.emit("Add", [cells, one], f"{name}:after")
        # ceil(a / b) = -(-a // b), and ONNX divides towards zero: (a + b - 1) // b.
        product = self.emit("Mul", [after, source], f"{name}:reach")
        padded = self.emit("Sub", [self.emit("Add", [product, size], f"{name}:more"), one], f"{name}:padded")
        stop = self.emit("Div", [padded, size], f"{name}:stop")
        return self._runs(start, stop, self._range(source, f"{name}:sources"), name)

    def _runs(self, start: str, stop: str, places: str, name: str) -> str:
        """A row for each start and stop: 1 / (stop - start) at the places in between, 0 elsewhere."""
        column = self.integers(1)
        starts, stops = (self.emit("Unsqueeze", [v, column], f"{v}:column") for v in (start, stop))
        inside = self.emit(
            "And",
            [
                self.emit("GreaterOrEqual", [places, starts], f"{name}:from"),
                self.emit("Less", [places, stops], f"{name}:below"),
            ],
            f"{name}:inside",
        )
        count = self.emit("Sub", [stops, starts], f"{name}:count")
        ones, counts = (self.emit("Cast", [v], f"{v}:float", to=self.onnx.TensorProto.FLOAT)
                        for v in (inside, count))  # fmt: skip
        return self.emit("Div", [ones, counts], name)


def _pads(padding: Padding) -> list[int]:
    top, bottom, left, right = padding
    return [top, left, bottom, right]
