"""`Program`: a graph as a pure function of its stored tensors, and how tensors cross to it and back.

Inside, feature maps are N x h x w x C and kernels kh x kw x I x O; outside, names and layouts are canonical.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from numpy.typing import NDArray

from gsto_jax import convolution
from gsto_jax.ops import Convolve, compute, conv2d, train_batch_norm
from gsto_jax.rematerialize import Function, rematerialized
from gsto_spec import Graph, GraphError, GstoError
from gsto_spec.graph import Node, stored_names
from gsto_spec.memory import segments
from gsto_spec.ops import Add, BatchNorm, Mul
from gsto_spec.precision import LOW, Precision, computes_in, stored_in
from gsto_spec.reference import require_spread
from gsto_spec.sizes import is_feature, show

T = TypeVar("T")
A = TypeVar("A", NDArray[Any], Array)

Tensors = dict[str, Array]
"""Canonical name -> array: a pytree. Four-dimensional ones are kh x kw x I x O."""


@dataclass(frozen=True)
class Segment:
    """Neighbouring nodes: what they read of nodes before them, and which of them are read after them."""

    nodes: tuple[Node, ...]
    reads: tuple[str, ...]
    kept: tuple[str, ...]


class Program:
    """A graph as a pure function.

    `batch_norm_momentum` replaces every batch norm's own where given; batch norms whose weight is among
    `frozen` normalise by their running statistics in training too. With a `precision` of two bytes every op
    computes in its type of `gsto_spec.precision`; with any other, all compute in the type of the tensors.
    `quick_on_cpu` takes the convolutions of `gsto_jax.convolution`.
    """

    def __init__(
        self, graph: Graph, batch_norm_momentum: float | None = None, frozen: Collection[str] = (),
        precision: Precision = "float32", quick_on_cpu: bool = False,
    ) -> None:  # fmt: skip
        self.graph, self.precision = graph, precision
        self.batch_norm_momentum = batch_norm_momentum
        self.frozen = frozenset(frozen)
        self.compiled = jax.jit(self, static_argnames="training")
        self.quick_on_cpu = quick_on_cpu
        self._convolve: Convolve = convolution.conv2d if quick_on_cpu else conv2d
        self._low = precision in LOW
        self._features = {name for name, shape in graph.shapes.items() if is_feature(shape)}

    def __call__(
        self, parameters: Tensors, statistics: Tensors, inputs: Sequence[Array], *, training: bool,
        rematerialize: bool = False,
    ) -> tuple[OrderedDict[str, Array], Tensors]:  # fmt: skip
        """Outputs (N x h x w x K, in the order of `graph.outputs`) and the statistics after this batch.

        `parameters` and `statistics` together are `graph.parameters`, the running statistics among the
        second; `inputs` are N x H x W x C in the order of `graph.inputs`. Without `training` batch norm takes
        the statistics as they are. With `rematerialize` a backward pass keeps only what crosses segments.

        Raises `GraphError` for inputs that the graph cannot take, and in training for one value per channel
        or a graph in inference form.
        """
        values = self._leaves(parameters, statistics, inputs)
        updated = dict(statistics)
        for segment in self._segments if rematerialize else (self._whole,):
            run: Function = partial(self._run, segment, training=training)
            if rematerialize and segment.kept:
                run = rematerialized(run, [name for name in segment.reads if name in self._features])
            made, moved = run({name: values[name] for name in segment.reads})
            values |= made
            updated |= moved
        return self._outputs(values), updated

    def everything(
        self, parameters: Tensors, statistics: Tensors, inputs: Sequence[Array]
    ) -> tuple[OrderedDict[str, Array], Tensors, Tensors]:
        """As a call in training, and besides the value of every node by name."""
        values = self._leaves(parameters, statistics, inputs)
        everything = Segment(self._whole.nodes, tuple(values), tuple(node.name for node in self._whole.nodes))
        made, moved = self._run(everything, values, training=True)
        values |= made
        return self._outputs(values), {**statistics, **moved}, values

    def __reduce__(self) -> tuple[type[Program], tuple[Any, ...]]:
        # What JAX has compiled cannot be pickled, and is made again where it is needed.
        return Program, (
            self.graph, self.batch_norm_momentum, self.frozen, self.precision, self.quick_on_cpu,
        )  # fmt: skip

    def channels_first(self, outputs: Mapping[str, Array]) -> OrderedDict[str, Array]:
        """Outputs in canonical layout: N x K x h x w."""
        return OrderedDict(
            (name, _transposed(outputs[name], _TO_NCHW if node in self._features else _TO_OIHW))
            for name, node in self.graph.outputs.items()
        )

    @cached_property
    def _whole(self) -> Segment:
        nodes = tuple(node for node in self.graph.order if node.operands)
        return _segment(nodes, set(self.graph.outputs.values()))

    @cached_property
    def _segments(self) -> tuple[Segment, ...]:
        groups = [tuple(self.graph.by_name[name] for name in names) for names in segments(self.graph)]
        after = set(self.graph.outputs.values())
        found: list[Segment] = []
        for group in reversed(groups):
            found.insert(0, _segment(group, after))
            after |= set(found[0].reads)
        return tuple(found)

    def _leaves(self, parameters: Tensors, statistics: Tensors, inputs: Sequence[Array]) -> Tensors:
        _check_inputs(self.graph, inputs, "N x H x W x C")
        images = dict(zip(self.graph.inputs, inputs, strict=True))
        if self._low:
            images = {name: x.astype(stored_in(self.precision)) for name, x in images.items()}
        return {**parameters, **statistics, **images}

    def _outputs(self, values: Tensors) -> OrderedDict[str, Array]:
        # An OrderedDict keeps its order through jit, where a dict comes back sorted.
        outputs = OrderedDict((name, values[node]) for name, node in self.graph.outputs.items())
        if self._low:
            outputs = OrderedDict((name, x.astype(jnp.float32)) for name, x in outputs.items())
        return outputs

    def _run(self, segment: Segment, operands: Tensors, *, training: bool) -> tuple[Tensors, Tensors]:
        """The values of `segment.kept`, and the statistics that its batch norms took in."""
        values, updated = dict(operands), Tensors()
        for node in segment.nodes:
            values[node.name] = self._computed(node, self._operands(node, values), training, updated)
        return {name: values[name] for name in segment.kept}, updated

    def _computed(self, node: Node, operands: list[Array], training: bool, updated: Tensors) -> Array:
        if training and isinstance(node.op, BatchNorm) and node.operands[1] not in self.frozen:
            return self._train_batch_norm(node, node.op, operands, updated)
        if not self._low or node.name not in self._features:
            return compute(node.op, operands, self._convolve)
        wide = computes_in(node.op, self.precision)
        widened = [x.astype(wide) for x in operands]
        return compute(node.op, widened, self._convolve).astype(stored_in(self.precision))

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
        if node.operands[1:] != stored_names(node) or set(names) & set(self.graph.trainable):
            raise self.graph.training_form_violation() or AssertionError(node.name)
        require_spread(node.name, (x.shape[0], x.shape[3], x.shape[1], x.shape[2]))
        result, mean, variance = train_batch_norm(x, weight, bias, op.eps)
        count = x.size // x.shape[3]
        correction = count / (count - 1) if op.unbiased else 1.0
        momentum = op.momentum if self.batch_norm_momentum is None else self.batch_norm_momentum
        for name, kept, new in zip(names, old, (mean, variance * correction), strict=True):
            updated[name] = (1 - momentum) * kept + momentum * new
        return result


def _segment(nodes: tuple[Node, ...], after: set[str]) -> Segment:
    """`after`: the names that later segments read, and the outputs."""
    names = {node.name for node in nodes}
    reads = dict.fromkeys(name for node in nodes for name in node.operands if name not in names)
    return Segment(nodes, tuple(reads), tuple(node.name for node in nodes if node.name in after))


# Where each axis comes from.
_TO_HWIO, _TO_OIHW = (2, 3, 1, 0), (3, 2, 0, 1)
_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def channels(graph: Graph, node: str) -> int:
    """How many channels the values of a node have."""
    count = graph.shapes[node][1]
    assert isinstance(count, int)
    return count


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


def check_numbers(name: str, values: Any) -> None:
    """Raise `TypeError` for what is no array of numbers: JAX says so in many lines."""
    dtype = getattr(values, "dtype", None)
    if dtype is None or not (jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_):
        raise TypeError(f"{name}: expected an array of numbers, found {type(values).__name__}")


@contextmanager
def errors_of_one_line() -> Iterator[None]:
    """Errors for people as they were raised: JAX appends a paragraph on its own frames to them."""
    try:
        yield
    except GstoError as error:
        error.__notes__ = []
        raise


def split(
    graph: Graph, tensors: Mapping[str, T], learnt: Collection[str] | None = None
) -> tuple[dict[str, T], dict[str, T]]:
    """Stored tensors as the pair that `Program` takes: the learnt ones, and the others."""
    parameters = {name: tensors[name] for name in (graph.trainable if learnt is None else learnt)}
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
