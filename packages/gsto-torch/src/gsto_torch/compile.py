"""`compile`: a graph as a module of real `nn.Conv2d` and `nn.BatchNorm2d` under checkpoint names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gsto_spec import Graph, GraphError, initial_weights
from gsto_spec.graph import Node, require_graph, stored_names
from gsto_spec.heads import heads
from gsto_spec.ops import BatchNorm, Conv2d, Parameter
from gsto_spec.precision import LOW, Precision
from gsto_spec.reference import require_spread
from gsto_spec.weights import check_weights
from gsto_torch.batch_norm import BiasedBatchNorm2d, SyncedBatchNorm2d
from gsto_torch.ops import DTYPES, compute, compute_in, safe_operand, split_padding, symmetric
from gsto_torch.pointwise import project, quicken
from gsto_torch.schedule import Segment, Step, cut, rematerialized, schedule

Watch = Callable[[str, Tensor], None]
"""What is told every node's name and value as it is computed."""


def compile(
    graph: Graph, weights: Mapping[str, NDArray[Any]] | None = None, *, seed: int = 0,
    dtype: torch.dtype | None = None, precision: Precision | None = None,
) -> CompiledGraph:  # fmt: skip
    """A module that maps N x 3 x H x W to a dict, output name -> N x K x h x w at network stride.

    Without `weights` it starts from `gsto_spec.initial_weights(graph, seed)`. Parameters are float32 unless
    `dtype` says otherwise, and lie on torch's default device (under `torch.device("meta")` nothing is
    allocated or drawn). The module starts in training mode, as modules do. With `precision` bfloat16 or
    float16 each op computes and stores as `gsto_spec.precision` says, from parameters in float32.

    Raises `WeightsError` where weights do not fit, `GraphError` for a path that no module can have, and
    `TypeError` for what is no graph.
    """
    require_graph(graph)
    device = torch.get_default_device()
    # Made without storage first: torch's own draw would cost time and move its generator.
    with torch.device("meta"):
        model = CompiledGraph(graph, precision).to(dtype or torch.float32)
    if device.type != "meta":
        _fill(model.to_empty(device=device), initial_weights(graph, seed) if weights is None else weights)
    return model


def _fill(model: CompiledGraph, weights: Mapping[str, NDArray[Any]]) -> None:
    load_weights(model, weights)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked is not None:
            module.num_batches_tracked.zero_()


class CompiledGraph(nn.Module):
    """A graph as a module; `graph` is what it was compiled from. Call it with the inputs, in order.

    `card` is what `card.json` told of a model that came from a directory, else None.
    """

    def __init__(self, graph: Graph, precision: Precision | None = None) -> None:
        super().__init__()
        self.graph = graph
        self.card: Mapping[str, Any] | None = None
        self.precision = precision
        self.watch: Watch | None = None
        # Set first, so that no path can take their names.
        self._steps: tuple[Step, ...] = ()
        self._short: tuple[Step, ...] = ()
        self._segments: tuple[Segment, ...] = ()
        self._overwrites = False
        self._low = precision if precision in LOW else None
        self._inputs: tuple[str, ...] = tuple(graph.inputs)
        # Plain tuples, which torch.compile can look into: forward touches no attribute of the graph.
        self._outputs: tuple[tuple[str, str], ...] = tuple(graph.outputs.items())
        owned = {node.name: _module(node, graph, self._low) for node in graph.nodes}
        modules = {name: module for name, module in owned.items() if module is not None}
        # Shorter paths first: a layer may lie inside another, whatever the declared order.
        for name, module in sorted(modules.items(), key=lambda item: item[0].count(".")):
            _attach(self, name, module)
        stored = {name for path in modules for name in stored_names(graph.by_name[path])}
        for name, leaf in graph.leaves.items():
            if name not in stored:
                _attach_leaf(self, name, leaf)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(graph.leaves[name].trainable)
        self._steps = schedule(graph, set(modules))

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Output name -> N x K x h x w, in the order of `graph.outputs`."""
        values = {name: self._stored(x) for name, x in zip(self._inputs, inputs, strict=True)}
        if self.watch is not None:
            for name, value in values.items():
                self.watch(name, value)
        if self._segments and torch.is_grad_enabled():
            for segment in self._segments:
                rematerialized(self, self.advance, segment, values)
        else:
            self.advance(self._steps if self.watch is not None else self._short or self._steps, values)
        outputs = {name: self._value(node, values) for name, node in self._outputs}
        # Losses are computed in float32.
        return {name: output.float() for name, output in outputs.items()} if self._low else outputs

    def rematerialize(self, segments: Sequence[Sequence[str]]) -> None:
        """Keep, for the backward pass, only what crosses these groups of neighbouring nodes."""
        self._segments = cut(self._steps, segments, dict(self._outputs).values())

    def overwrite(self) -> None:
        """Let relus and sums take the place of what nobody else reads; hooks must not keep that."""
        self._overwrites = True

    def shorten(self) -> None:
        """Take the ways of `gsto_torch.pointwise`; where nodes are watched all of them are computed."""
        modules = {step.node.name for step in self._steps if step.is_module}
        self._short = schedule(self.graph, modules, heads(self.graph))
        quicken(self)

    def advance(self, steps: Sequence[Step], values: dict[str, Tensor]) -> None:
        """Add the values of some nodes, drop those that no later node needs."""
        for step in steps:
            value = self._run(step, [self._value(name, values) for name in step.operands])
            values[step.node.name] = value
            if self.watch is not None:
                self.watch(step.node.name, value)
            for name in step.finished:
                del values[name]

    def _stored(self, x: Tensor) -> Tensor:
        return x.to(DTYPES[self._low]) if self._low else x

    def _value(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        if name in values:
            return values[name]
        module, _, role = name.rpartition(".")
        leaf: Tensor = getattr(self.get_submodule(module), role)
        return leaf

    def _run(self, step: Step, operands: list[Tensor]) -> Tensor:
        op = step.node.op
        if not step.is_module:
            if isinstance(op, BatchNorm) and self.training:
                raise self.graph.training_form_violation() or AssertionError(step.node.name)
            overwrite = self._overwrites and step.overwrites
            if self._low:
                return compute_in(self._low, op, operands, overwrite=overwrite)
            return compute(op, operands, overwrite=overwrite)
        # Looked up at each call: converters such as convert_sync_batchnorm replace modules.
        module = self.get_submodule(step.node.name)
        if step.head is not None and isinstance(module, nn.Conv2d):
            return project(module, step.head, dict(zip(step.operands, operands, strict=True)))
        if isinstance(op, BatchNorm) and module.training and not isinstance(module, SyncedBatchNorm2d):
            require_spread(step.node.name, operands[0].shape)
        if isinstance(op, Conv2d):
            operands = [split_padding(safe_operand(op, operands[0], step.kernel), op.padding)[0]]
        result: Tensor = module(*operands)
        return result

    def extra_repr(self) -> str:
        """What `print` shows beside the modules."""
        return f"graph={self.graph.digest[:12]}, outputs={list(self.graph.outputs)}"


class LowConv2d(nn.Conv2d):
    """A convolution of parameters in float32 and a feature map of two bytes a value, whose type it takes."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        bias = bias if bias is None else bias.to(input.dtype)
        result: Tensor = super()._conv_forward(input, weight.to(input.dtype), bias)
        return result


def _module(node: Node, graph: Graph, low: Precision | None) -> nn.Module | None:
    """The module of a node whose stored operands are leaves of its own, under its own name."""
    if not isinstance(node.op, (Conv2d, BatchNorm)):
        return None
    leaves = node.operands[1:]
    if leaves != stored_names(node) or any(name not in graph.leaves for name in leaves):
        return None
    match node.op:
        case Conv2d() as op:
            return _conv2d(
                LowConv2d if low else nn.Conv2d, op, graph.leaves[leaves[0]], has_bias=len(leaves) == 2
            )
        case BatchNorm() as op:
            kind = nn.BatchNorm2d if op.unbiased else BiasedBatchNorm2d
            return kind(graph.leaves[leaves[0]].shape[0], eps=op.eps, momentum=op.momentum)


def _conv2d(kind: type[nn.Conv2d], op: Conv2d, weight: Parameter, *, has_bias: bool) -> nn.Conv2d:
    out, per_group, *kernel = weight.shape
    padding = (op.padding[0], op.padding[2]) if symmetric(op.padding) else (0, 0)
    return kind(
        per_group * op.groups, out, (kernel[0], kernel[1]), op.stride, padding, op.dilation, op.groups,
        bias=has_bias,
    )  # fmt: skip


def _attach(root: nn.Module, path: str, child: nn.Module) -> None:
    parent, name = _place(root, path)
    parent.add_module(name, child)


def _place(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that the last part of a path belongs to, made where there is none, and that part."""
    *containers, name = path.split(".")
    for part in containers:
        if part not in dict(root.named_children()):
            _require_free(root, part, path)
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    _require_free(root, name, path)
    return root, name


def _require_free(parent: nn.Module, part: str, path: str) -> None:
    if "/" in part or hasattr(parent, part):  # torch_c1
        found = f"{part}, which torch uses itself" if "/" not in part else f"the / in {part}"
        raise GraphError(path, "a path that a torch module can have", found, "torch_c1")


def _attach_leaf(root: nn.Module, path: str, leaf: Parameter) -> None:
    """A leaf that no single layer owns (a graph in inference form) is a parameter of its container."""
    parent, name = _place(root, path)
    value = torch.empty(leaf.shape)
    if leaf.trainable:
        parent.register_parameter(name, nn.Parameter(value))
    else:
        parent.register_buffer(name, value)


def load_weights(model: CompiledGraph, weights: Mapping[str, NDArray[Any]]) -> None:
    """Copy weights (exactly `graph.parameters`) into a model, in place. Raises `WeightsError`."""
    check_weights(model.graph, weights)
    state = model.state_dict()
    with torch.no_grad():
        for name, array in weights.items():
            native = np.array(array, array.dtype.newbyteorder("="))
            state[name].copy_(torch.from_numpy(native))


def weights_of(model: CompiledGraph) -> dict[str, NDArray[Any]]:
    """A model's weights as numpy, by canonical name, in the order of `graph.parameters`.

    bfloat16, which numpy has not, is widened to float32.
    """
    state = model.state_dict()
    return {name: _as_numpy(state[name]) for name in model.graph.parameters}


def _as_numpy(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return tensor.detach().cpu().numpy().copy()
