"""`Program`: a graph as a pure function of its stored tensors, and how tensors cross to it and back.

Inside, feature maps are N x h x w x C and kernels kh x kw x I x O; outside, names and layouts are canonical.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from numpy.typing import NDArray

from gsto_jax.ops import compute, train_batch_norm
from gsto_spec import Graph, GraphError, GstoError
from gsto_spec.graph import Node, stored_names
from gsto_spec.ops import Add, BatchNorm, Input, Mul, Parameter
from gsto_spec.reference import require_spread
from gsto_spec.sizes import is_feature, show

T = TypeVar("T")
A = TypeVar("A", NDArray[Any], Array)

Tensors = dict[str, Array]
"""Canonical name -> array: a pytree. Four-dimensional ones are kh x kw x I x O."""


class Program:
    """A graph as a pure function; `batch_norm_momentum` replaces every batch norm's own where given."""

    def __init__(self, graph: Graph, batch_norm_momentum: float | None = None) -> None:
        self.graph = graph
        self.batch_norm_momentum = batch_norm_momentum
        self._steps = [node for node in graph.order if not isinstance(node.op, (Input, Parameter))]
        self.compiled = jax.jit(self, static_argnames="training")
        self._features = {name for name, shape in graph.shapes.items() if is_feature(shape)}

    def __call__(
        self, parameters: Tensors, statistics: Tensors, inputs: Sequence[Array], *, training: bool
    ) -> tuple[OrderedDict[str, Array], Tensors]:
        """Outputs (N x h x w x K, in the order of `graph.outputs`) and the statistics after this batch.

        `parameters` are `graph.trainable`, `statistics` the other stored tensors, `inputs` N x H x W x C in
        the order of `graph.inputs`. Without `training` batch norm takes the statistics as they are.

        Raises `GraphError` for inputs that the graph cannot take, and in training for one value per channel
        or a graph in inference form.
        """
        _check_inputs(self.graph, inputs, "N x H x W x C")
        values = {**parameters, **statistics, **dict(zip(self.graph.inputs, inputs, strict=True))}
        updated = dict(statistics)
        for node in self._steps:
            operands = self._operands(node, values)
            if training and isinstance(node.op, BatchNorm):
                values[node.name] = self._train_batch_norm(node, node.op, operands, updated)
            else:
                values[node.name] = compute(node.op, operands)
        # An OrderedDict keeps its order through jit, where a dict comes back sorted.
        return OrderedDict((name, values[node]) for name, node in self.graph.outputs.items()), updated

    def __reduce__(self) -> tuple[type[Program], tuple[Graph, float | None]]:
        # What JAX has compiled cannot be pickled, and is made again where it is needed.
        return Program, (self.graph, self.batch_norm_momentum)

    def channels_first(self, outputs: Mapping[str, Array]) -> OrderedDict[str, Array]:
        """Outputs in canonical layout: N x K x h x w."""
        return OrderedDict(
            (name, _transposed(outputs[name], _TO_NCHW if node in self._features else _TO_OIHW))
            for name, node in self.graph.outputs.items()
        )

    def _operands(self, node: Node, values: Mapping[str, Array]) -> list[Array]:
        operands = [values[name] for name in node.operands]
        if isinstance(node.op, (Add, Mul)) and node.name in self._features:
            # A stored operand that multiplies a feature map, which only an optimised graph has.
            operands = [
                value if name in self._features else jnp.transpose(value, (3, 0, 1, 2))
                for name, value in zip(node.operands, operands, strict=True)
            ]
        return operands

    def _train_batch_norm(self, node: Node, op: BatchNorm, operands: list[Array], updated: Tensors) -> Array:
        x, weight, bias, *old = operands
        names = node.operands[3:]
        if node.operands[1:] != stored_names(node) or not set(names) <= set(updated):
            raise self.graph.training_form_violation() or AssertionError(node.name)
        require_spread(node.name, (x.shape[0], x.shape[3], x.shape[1], x.shape[2]))
        result, mean, variance = train_batch_norm(x, weight, bias, op.eps)
        count = x.size // x.shape[3]
        correction = count / (count - 1) if op.unbiased else 1.0
        momentum = op.momentum if self.batch_norm_momentum is None else self.batch_norm_momentum
        for name, kept, new in zip(names, old, (mean, variance * correction), strict=True):
            updated[name] = (1 - momentum) * kept + momentum * new
        return result


# Where each axis comes from.
_TO_HWIO, _TO_OIHW = (2, 3, 1, 0), (3, 2, 0, 1)
_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def channels_last(graph: Graph, images: Array) -> Array:
    """The single input of a graph, N x C x H x W, as N x H x W x C. Raises `GraphError` where it is none."""
    _check_inputs(graph, [images], "N x C x H x W")
    return images.transpose(_TO_NHWC)


def _check_inputs(graph: Graph, inputs: Sequence[Array], layout: str) -> None:
    if len(inputs) != len(graph.inputs):  # graph_c5
        raise GraphError("inputs", ", ".join(graph.inputs), f"{len(inputs)} arrays", "graph_c5")
    batch, channel, height, width = (layout.split(" x ").index(axis) for axis in "NCHW")
    for (name, channels), x in zip(graph.inputs.items(), inputs, strict=True):
        if x.ndim != 4:  # graph_c5
            raise GraphError(name, f"an array of {layout}", show(x.shape), "graph_c5")
        wanted = tuple(channels if axis == channel else inputs[0].shape[axis] for axis in range(4))
        if x.shape != wanted:  # graph_c5
            raise GraphError(name, f"an array of {show(wanted)}", show(x.shape), "graph_c5")
    for x in inputs[:1]:
        graph.check((x.shape[batch], x.shape[channel], x.shape[height], x.shape[width]))


@contextmanager
def errors_of_one_line() -> Iterator[None]:
    """Errors for people as they were raised: JAX appends a paragraph on its own frames to them."""
    try:
        yield
    except GstoError as error:
        error.__notes__ = []
        raise


def split(graph: Graph, tensors: Mapping[str, T]) -> tuple[dict[str, T], dict[str, T]]:
    """Stored tensors as the pair that `Program` takes: the learnt ones, and the statistics."""
    parameters = {name: tensors[name] for name in graph.trainable}
    return parameters, {name: tensors[name] for name in graph.parameters if name not in parameters}


def to_native(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """A canonical array (kernels O x I x kh x kw) as a copy in this backend's layout."""
    return np.array(_transposed(array, _TO_HWIO), dtype, order="C")


def to_canonical(array: Array) -> NDArray[Any]:
    """A stored tensor of this backend as a canonical numpy copy; types that numpy lacks become float32."""
    values = _transposed(np.asarray(array), _TO_OIHW)
    return np.array(values, np.float32 if values.dtype.kind == "V" else None, order="C")


def _transposed(array: A, axes: tuple[int, ...]) -> A:
    """Arrays of other than four dimensions stay as they are."""
    return array.transpose(axes) if array.ndim == 4 else array
