"""`compile`: a graph as a module of real `nn.Conv2d` and `nn.BatchNorm2d` under checkpoint names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from gsto_spec import Graph, GraphError, initial_weights
from gsto_spec.graph import Node, stored_names
from gsto_spec.ops import BatchNorm, Conv2d, Input, Parameter
from gsto_spec.reference import require_spread
from gsto_spec.weights import check_weights
from gsto_torch.ops import compute, split_padding, symmetric


def compile(
    graph: Graph, weights: Mapping[str, NDArray[Any]] | None = None, *, seed: int = 0,
    dtype: torch.dtype | None = None,
) -> CompiledGraph:  # fmt: skip
    """A module that maps N x 3 x H x W to a dict, output name -> N x K x h x w at network stride.

    Without `weights` it starts from `gsto_spec.initial_weights(graph, seed)`. Parameters are float32 unless
    `dtype` says otherwise, and lie on torch's default device (under `torch.device("meta")` nothing is
    allocated or drawn). The module starts in training mode, as modules do.

    Raises `WeightsError` where weights do not fit, `GraphError` for a path that no module can have.
    """
    device = torch.get_default_device()
    # Made without storage first: torch's own draw would cost time and move its generator.
    with torch.device("meta"):
        model = CompiledGraph(graph).to(dtype or torch.float32)
    if device.type != "meta":
        _fill(model.to_empty(device=device), initial_weights(graph, seed) if weights is None else weights)
    return model


def _fill(model: CompiledGraph, weights: Mapping[str, NDArray[Any]]) -> None:
    load_weights(model, weights)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked is not None:
            module.num_batches_tracked.zero_()


@dataclass(frozen=True)
class _Step:
    """One node to run: its operands that are not leaves of its module, and values nobody needs afterwards."""

    node: Node
    is_module: bool
    operands: tuple[str, ...]
    finished: tuple[str, ...]


class CompiledGraph(nn.Module):
    """A graph as a module; `graph` is what it was compiled from. Call it with the inputs, in order."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        # Set first, so that no path can take their names.
        self._steps: tuple[_Step, ...] = ()
        self._inputs: tuple[str, ...] = tuple(graph.inputs)
        # Plain tuples, which torch.compile can look into: forward touches no attribute of the graph.
        self._outputs: tuple[tuple[str, str], ...] = tuple(graph.outputs.items())
        owned = {node.name: _module(node, graph) for node in graph.nodes}
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
        self._steps = _schedule(graph, set(modules))

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Output name -> N x K x h x w, in the order of `graph.outputs`."""
        values = dict(zip(self._inputs, inputs, strict=True))
        for step in self._steps:
            values[step.node.name] = self._run(step, [self._value(name, values) for name in step.operands])
            for name in step.finished:
                del values[name]
        return {name: self._value(node, values) for name, node in self._outputs}

    def _value(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        if name in values:
            return values[name]
        module, _, role = name.rpartition(".")
        leaf: Tensor = getattr(self.get_submodule(module), role)
        return leaf

    def _run(self, step: _Step, operands: list[Tensor]) -> Tensor:
        op = step.node.op
        if not step.is_module:
            if isinstance(op, BatchNorm) and self.training:
                raise self.graph.training_form_violation() or AssertionError(step.node.name)
            return compute(op, operands)
        # Looked up at each call: converters such as convert_sync_batchnorm replace modules.
        module = self.get_submodule(step.node.name)
        if isinstance(op, BatchNorm) and module.training:
            require_spread(step.node.name, operands[0].shape)
        if isinstance(op, Conv2d):
            operands = [split_padding(operands[0], op.padding)[0]]
        result: Tensor = module(*operands)
        return result

    def extra_repr(self) -> str:
        """What `print` shows beside the modules."""
        return f"graph={self.graph.digest[:12]}, outputs={list(self.graph.outputs)}"


class BiasedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm whose running variance divides by n, where torch's divides by n - 1."""

    def forward(self, input: Tensor) -> Tensor:
        """N x C x h x w, as `nn.BatchNorm2d`."""
        if not self.training:
            return super().forward(input)
        with torch.no_grad():
            variance, mean = torch.var_mean(input, dim=(0, 2, 3), correction=0)
            assert self.running_mean is not None and self.running_var is not None
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)


def _module(node: Node, graph: Graph) -> nn.Module | None:
    """The module of a node whose stored operands are leaves of its own, under its own name."""
    if not isinstance(node.op, (Conv2d, BatchNorm)):
        return None
    leaves = node.operands[1:]
    if leaves != stored_names(node) or any(name not in graph.leaves for name in leaves):
        return None
    match node.op:
        case Conv2d() as op:
            return _conv2d(op, graph.leaves[leaves[0]], has_bias=len(leaves) == 2)
        case BatchNorm() as op:
            kind = nn.BatchNorm2d if op.unbiased else BiasedBatchNorm2d
            return kind(graph.leaves[leaves[0]].shape[0], eps=op.eps, momentum=op.momentum)


def _conv2d(op: Conv2d, weight: Parameter, *, has_bias: bool) -> nn.Conv2d:
    out, per_group, *kernel = weight.shape
    padding = (op.padding[0], op.padding[2]) if symmetric(op.padding) else (0, 0)
    return nn.Conv2d(
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


def _schedule(graph: Graph, modules: set[str]) -> tuple[_Step, ...]:
    steps = [node for node in graph.order if not isinstance(node.op, (Input, Parameter))]
    operands = {node.name: node.operands[:1] if node.name in modules else node.operands for node in steps}
    last_use = {name: node.name for node in steps for name in operands[node.name]}
    kept = {*graph.outputs.values(), *graph.leaves}
    finished: dict[str, list[str]] = {}
    for name, user in last_use.items():
        if name not in kept:
            finished.setdefault(user, []).append(name)
    return tuple(
        _Step(node, node.name in modules, operands[node.name], tuple(finished.get(node.name, ())))
        for node in steps
    )


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
