"""`compile`: a graph as a `flax.nnx.Module` whose variables lie under checkpoint names.

The module is a thin shell: what runs is `gsto_jax.program.Program`, a pure function.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from numpy.typing import NDArray

from gsto_jax.program import Program, check_numbers, errors_of_one_line, split, to_canonical, to_native
from gsto_spec import Graph, GraphError, initial_weights
from gsto_spec.backend import BackendError
from gsto_spec.graph import require_graph
from gsto_spec.weights import check_weights


def compile(
    graph: Graph, weights: Mapping[str, NDArray[Any]] | None = None, *, seed: int = 0,
    dtype: DTypeLike | None = None,
) -> CompiledGraph:  # fmt: skip
    """A module that maps N x H x W x 3 to a dict, output name -> N x h x w x K at network stride.

    Without `weights` it starts from `gsto_spec.initial_weights(graph, seed)`. Parameters are float32 unless
    `dtype` says otherwise; kernels are kh x kw x I x O. The module starts in training mode, as modules do. On
    an accelerator `jax.default_matmul_precision` decides whether its float32 products use TF32.

    Raises `WeightsError` where weights do not fit, `GraphError` for a path that no module can have,
    `BackendError` for float64 without JAX's x64, `TypeError` for what is no graph.
    """
    require_graph(graph)
    chosen_type = jnp.dtype(dtype or jnp.float32)
    if jax.dtypes.canonicalize_dtype(chosen_type) != chosen_type:
        mend = "set jax.config.update('jax_enable_x64', True) first"
        raise BackendError(f"dtype: expected float32 or less, found {chosen_type.name}; {mend}")
    chosen = initial_weights(graph, seed) if weights is None else weights
    check_weights(graph, chosen)
    return CompiledGraph(graph, {name: to_native(chosen[name], chosen_type) for name in graph.parameters})


class CompiledGraph(nnx.Module):
    """A graph as a module; `graph` is what it was compiled from. Call it with the graph's inputs, in order.

    Learnt tensors are `nnx.Param`, running statistics `nnx.BatchStat`, each under its canonical path:
    `model.layer1["0"].conv1.weight`. `train()` and `eval()` choose the statistics that batch norm takes.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, NDArray[Any]]) -> None:
        """`tensors` holds `graph.parameters` in this backend's layout."""
        self.use_running_average = False
        # Text: what a module holds beside its variables must be hashable.
        self._card: str | None = None
        self._program = Program(graph)
        for name in graph.parameters:
            kind = nnx.Param if name in graph.trainable else nnx.BatchStat
            _attach(self, name, kind(jnp.asarray(tensors[name])))

    @property
    def graph(self) -> Graph:
        """What the module was compiled from."""
        return self._program.graph

    @property
    def card(self) -> dict[str, Any] | None:
        """What `card.json` told of a model that came from a directory, else None; set it whole."""
        found: dict[str, Any] | None = None if self._card is None else json.loads(self._card)
        return found

    @card.setter
    def card(self, card: Mapping[str, Any] | None) -> None:
        self._card = None if card is None else json.dumps(card)

    def __call__(self, *inputs: Array) -> OrderedDict[str, Array]:
        """Output name -> N x h x w x K, in the order of `graph.outputs`; compiled once per shape.

        In training mode it updates the running statistics. Raises as `Program` does, and `TypeError` for what
        is no array of numbers.
        """
        for name, x in zip(self.graph.inputs, inputs, strict=False):
            check_numbers(name, x)
        variables = {name: self.variable(name) for name in self.graph.parameters}
        tensors = {name: variable.get_value() for name, variable in variables.items()}
        training = not self.use_running_average
        outputs: OrderedDict[str, Array]
        with errors_of_one_line():
            outputs, updated = self._program.compiled(*split(self.graph, tensors), inputs, training=training)
        if training:
            for name, value in updated.items():
                variables[name].set_value(value)
        return outputs

    def variable(self, name: str) -> nnx.Variable[Array]:
        """The variable of a canonical name."""
        found: Any = self
        for part in name.split("."):
            found = getattr(found, part)
        assert isinstance(found, nnx.Variable)
        return found


def _attach(root: nnx.Module, path: str, variable: nnx.Variable[Array]) -> None:
    *parents, name = path.split(".")
    parent = root
    for part in parents:
        if not isinstance(getattr(parent, part, None), nnx.Dict):
            _set(parent, part, nnx.Dict(), path)
        parent = getattr(parent, part)
    _set(parent, name, variable, path)


def _set(parent: nnx.Module, name: str, child: nnx.Module | nnx.Variable[Array], path: str) -> None:
    if hasattr(parent, name):  # jax_c1
        found = f"{name}, which flax uses itself"
        raise GraphError(path, "a path that a flax module can have", found, "jax_c1")
    setattr(parent, name, child)


def weights_of(model: CompiledGraph) -> dict[str, NDArray[Any]]:
    """A model's weights as numpy, by canonical name and layout, in the order of `graph.parameters`.

    bfloat16, which numpy lacks, is widened to float32: exact, and a file that any backend reads.
    """
    return {name: to_canonical(model.variable(name).get_value()) for name in model.graph.parameters}
