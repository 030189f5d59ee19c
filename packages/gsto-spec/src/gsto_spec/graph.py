"""Graphs: named nodes of the closed op set, checked when they are made.

A `Graph` that exists is sound: names are unique, nothing dangles, there is no cycle and every shape meets for
every input size. What depends on the input's size is checked by `Graph.check`.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import get_args

from gsto_spec.errors import ConstraintError, GraphError, nearest
from gsto_spec.op_fields import FieldError, checked
from gsto_spec.ops import BatchNorm, Conv2d, Input, Op, Parameter
from gsto_spec.sizes import BATCH, HEIGHT, WIDTH, Shape, concrete, show

_PATH = re.compile(r"\w+([./]\w+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Node:
    """One op applied to named operands; `name` is a path such as `stage2.0.fuse_layers.0.1.0`.

    The op's fields become their declared types (a list a tuple, a numpy integer an int), so that equal
    graphs have equal JSON and digests. Raises `GraphError` (graph_c6) for what is no op, field or operand.
    """

    name: str
    op: Op
    operands: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.op, get_args(Op)):  # graph_c6
            raise GraphError(str(self.name), "an op", reprlib.repr(self.op), "graph_c6")
        try:
            object.__setattr__(self, "op", checked(self.op))
        except FieldError as error:  # graph_c6
            place = f"{self.name}.{error.field}"
            raise GraphError(place, error.expected, error.found, "graph_c6") from None
        names: object = self.operands
        if not isinstance(names, (list, tuple)) or not all(
            isinstance(name, str) for name in names
        ):  # graph_c6
            raise GraphError(str(self.name), "a list of names of nodes", reprlib.repr(names), "graph_c6")
        object.__setattr__(self, "operands", tuple(names))


@dataclass(frozen=True)
class Graph:
    """An architecture: nodes, and which of them are outputs, in order.

    Errors: `GraphError`, naming the node, for a duplicate or malformed name (graph_c1), a dangling operand
    (graph_c2), a cycle (graph_c3), an output that is no node (graph_c4), or an op's own constraint.
    """

    nodes: tuple[Node, ...]
    outputs: Mapping[str, str]
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "outputs", MappingProxyType(dict(self.outputs)))
        object.__setattr__(self, "notes", MappingProxyType(dict(self.notes)))
        _check_names(self.nodes)
        _check_references(self)
        _ = self.shapes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __reduce__(self) -> tuple[type[Graph], tuple[object, ...]]:
        return Graph, (self.nodes, dict(self.outputs), dict(self.notes))

    @cached_property
    def _key(self) -> tuple[object, ...]:
        return self.nodes, tuple(self.outputs.items()), tuple(sorted(self.notes.items()))

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Name -> node."""
        return MappingProxyType({node.name: node for node in self.nodes})

    @cached_property
    def order(self) -> tuple[Node, ...]:
        """The nodes so that operands come first; declared order wherever that already holds."""
        return _topological(self.nodes, self.by_name)

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """Name -> symbolic shape: N x C x h x w of a feature map, the plain shape of a parameter."""
        shapes: dict[str, Shape] = {}
        for node in self.order:
            shapes[node.name] = infer_shape(node, [shapes[name] for name in node.operands])
        return MappingProxyType(shapes)

    @cached_property
    def inputs(self) -> Mapping[str, int]:
        """Name -> channels of every input leaf."""
        leaves = {node.name: node.op.channels for node in self.nodes if isinstance(node.op, Input)}
        return MappingProxyType(leaves)

    @cached_property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Canonical name -> shape (convolutions O x I x kh x kw) of every stored tensor."""
        return MappingProxyType({name: leaf.shape for name, leaf in self.leaves.items()})

    @cached_property
    def trainable(self) -> Mapping[str, tuple[int, ...]]:
        """Canonical name -> shape of the learnt tensors: `parameters` without running statistics."""
        return MappingProxyType({name: leaf.shape for name, leaf in self.leaves.items() if leaf.trainable})

    @cached_property
    def leaves(self) -> Mapping[str, Parameter]:
        """Canonical name -> parameter leaf."""
        return MappingProxyType({n.name: n.op for n in self.nodes if isinstance(n.op, Parameter)})

    def check(self, input_shape: tuple[int, int, int, int]) -> dict[str, tuple[int, ...]]:
        """Every node's shape for an input of N x C x H x W; further inputs share its N, H and W.

        Raises `GraphError` (graph_c5) at the first node whose size would fall below 1, or at the input where
        it has another number of channels.
        """
        if len(input_shape) != 4 or any(size < 1 for size in input_shape):  # type: ignore[redundant-expr]
            raise GraphError("input", "N x C x H x W of at least 1", str(tuple(input_shape)), "graph_c5")
        values = {BATCH: input_shape[0], HEIGHT: input_shape[2], WIDTH: input_shape[3]}
        shapes = {}
        for node in self.order:
            shapes[node.name] = shape = concrete(self.shapes[node.name], values)
            if any(size < 1 for size in shape):  # graph_c5
                found = f"{show(shape)} for an input of {show(input_shape)}"
                raise GraphError(node.name, "a size of at least 1 x 1", found, "graph_c5")
        for name, channels in list(self.inputs.items())[:1]:
            if channels != input_shape[1]:  # graph_c5
                raise GraphError(name, f"{channels} channels", str(input_shape[1]), "graph_c5")
        return shapes

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what inference computes and what weights are called.

        Free of declared order (that of several inputs excepted), of the names of nodes that store nothing,
        of nodes that no output needs (what is stored excepted), of notes, initialisers and whatever else
        only training reads.
        """
        numbers: dict[str, int] = {}
        lines = []
        for node in _canonical_order(self):
            numbers[node.name] = len(numbers)
            lines.append(_digest_line(node, [numbers[name] for name in node.operands]))
        outputs = [(name, numbers[node]) for name, node in self.outputs.items()]
        inputs = [list(self.inputs)] if len(self.inputs) > 1 else []
        text = json.dumps([lines, outputs, *inputs], separators=(",", ":"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def training_form_violation(self) -> GraphError | None:
        """Why this graph cannot be trained or saved, or None where it can (training_c1 to training_c4).

        In training form each parameter is one operand of exactly one conv2d or batch_norm, and is called by
        that node's name and its role in it (`NAME.weight`, `.bias`, `.running_mean`, `.running_var`);
        running statistics are not learnt; nodes that store nothing have a `/` in their names.
        """
        users = _users(self)
        for name, leaf in self.leaves.items():
            if (problem := _leaf_violation(name, leaf, users.get(name, []))) is not None:
                return problem
        for node in self.nodes:
            stores = isinstance(node.op, (Parameter, Conv2d, BatchNorm, Input))
            if not stores and "/" not in node.name:  # training_c3
                return GraphError(node.name, "a name with '/' for a node that stores nothing", node.name,
                                  "training_c3")  # fmt: skip
            if isinstance(node.op, (Conv2d, BatchNorm)) and "/" in node.name:  # training_c3
                return GraphError(node.name, "a name without '/' for a node that stores tensors", node.name,
                                  "training_c3")  # fmt: skip
        return None

    def to_json(self, *, indent: int | None = None) -> str:
        """The graph as JSON text; `Graph.from_json` gives an equal graph back."""
        from gsto_spec.graph_json import to_json

        return to_json(self, indent=indent)

    @staticmethod
    def from_json(text: str) -> Graph:
        """A graph from JSON text. Raises `GraphError` for anything that is not exactly a graph."""
        from gsto_spec.graph_json import from_json

        return from_json(text)

    def __str__(self) -> str:
        stored = sum(1 for node in self.nodes if isinstance(node.op, Parameter))
        title = f"graph {self.digest[:12]}: {len(self.nodes) - stored} nodes, {stored} parameters"
        lines = [_line(self, node) for node in self.order if not isinstance(node.op, Parameter)]
        ends = [f"output {name} = {node}" for name, node in self.outputs.items()]
        return "\n".join([title, *lines, *ends])


def infer_shape(node: Node, operands: list[Shape]) -> Shape:
    """The op's shape rule, its error carrying the node's path."""
    try:
        return node.op.infer(operands)
    except ConstraintError as error:
        named = f"{error.found} (operands {', '.join(node.operands)})" if node.operands else error.found
        raise GraphError(node.name, error.expected, named, error.label) from None


def _check_names(nodes: Iterable[Node]) -> None:
    seen: set[str] = set()
    for node in nodes:
        if not _PATH.fullmatch(node.name):  # graph_c1
            raise GraphError(node.name or "(unnamed)", "a path of letters, digits and _ joined by . or /",
                             repr(node.name), "graph_c1")  # fmt: skip
        if node.name in seen:  # graph_c1
            raise GraphError(node.name, "one node of each name", "a second one", "graph_c1")
        seen.add(node.name)


def _check_references(graph: Graph) -> None:
    known = graph.by_name
    for node in graph.nodes:
        for name in node.operands:
            if name not in known:  # graph_c2
                raise GraphError(node.name, "operands that are nodes", f"{name}{nearest(name, known)}",
                                 "graph_c2")  # fmt: skip
    if not graph.outputs:  # graph_c4
        raise GraphError("outputs", "at least one output", "none", "graph_c4")
    for output, name in graph.outputs.items():
        if name not in known:  # graph_c4
            raise GraphError(f"outputs.{output}", "the name of a node", f"{name}{nearest(name, known)}",
                             "graph_c4")  # fmt: skip


def _topological(nodes: Iterable[Node], by_name: Mapping[str, Node]) -> tuple[Node, ...]:
    placed: dict[str, Node] = {}
    for start in nodes:
        trail = [(start, iter(start.operands))]
        on_trail = {start.name}
        while trail:
            node, operands = trail[-1]
            if node.name in placed:
                pending = None
            else:
                pending = next((name for name in operands if name not in placed), None)
            if pending is None:
                placed.setdefault(node.name, node)
                on_trail.discard(node.name)
                trail.pop()
            elif pending in on_trail:  # graph_c3
                raise GraphError(pending, "a graph without cycles", _cycle(trail, pending), "graph_c3")
            else:
                on_trail.add(pending)
                trail.append((by_name[pending], iter(by_name[pending].operands)))
    return tuple(placed.values())


def _cycle(trail: Sequence[tuple[Node, Iterable[str]]], start: str) -> str:
    names = [node.name for node, _ in trail]
    return "the cycle " + " <- ".join([*names[names.index(start) :], start])


def _canonical_order(graph: Graph) -> tuple[Node, ...]:
    """Operands first, starting from the outputs, then unused leaves by name: free of declared order."""
    stored = sorted({**graph.leaves, **graph.inputs})
    starts = [*graph.outputs.values(), *stored]
    return _topological([graph.by_name[name] for name in starts], graph.by_name)


def _digest_line(node: Node, operands: list[int]) -> list[object]:
    meaning = {
        item.name: getattr(node.op, item.name)
        for item in fields(node.op)
        if not item.metadata.get("training_only")
    }
    name = node.name if isinstance(node.op, (Input, Parameter)) else ""
    return [node.op.kind, name, meaning, operands]


def _users(graph: Graph) -> dict[str, list[Node]]:
    users: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.operands:
            users.setdefault(name, []).append(node)
    return users


def _leaf_violation(name: str, leaf: Parameter, users: list[Node]) -> GraphError | None:
    if len(users) != 1 or not isinstance(users[0].op, (Conv2d, BatchNorm)):  # training_c1
        found = ", ".join(f"{user.name} ({user.op.kind})" for user in users) or "no user"
        return GraphError(name, "to be one operand of exactly one conv2d or batch_norm", found, "training_c1")
    wanted = stored_names(users[0])[users[0].operands.index(name) - 1]
    if name != wanted:  # training_c2
        return GraphError(name, f"the name {wanted}, by its user and its role there", name, "training_c2")
    if leaf.trainable and "running" in name.rpartition(".")[2]:  # training_c4
        return GraphError(name, "running statistics with trainable false", "trainable true", "training_c4")
    return None


def require_graph(graph: object) -> None:
    """Raise `TypeError` for what is no graph, such as an architecture's name that was not built."""
    if isinstance(graph, str):
        raise TypeError(
            f"graph: expected a Graph, found the name {graph!r}: build it by gsto_spec.build({graph!r})"
        )
    if not isinstance(graph, Graph):
        raise TypeError(f"graph: expected a Graph, found {type(graph).__name__}; gsto_spec.build makes one")


def stored_names(node: Node) -> tuple[str, ...]:
    """What the parameters of a conv2d or batch_norm are called in training form, in the order of operands."""
    roles = ("weight", "bias", "running_mean", "running_var")
    return tuple(f"{node.name}.{role}" for role in roles[: len(node.operands) - 1])


def _line(graph: Graph, node: Node) -> str:
    settings = ", ".join(f"{item.name}={getattr(node.op, item.name)}" for item in fields(node.op))
    operands = ", ".join(name for name in node.operands if name not in graph.leaves)
    call = ", ".join(part for part in (operands, settings) if part)
    return f"{node.name}: {show(graph.shapes[node.name])} = {node.op.kind}({call})"
