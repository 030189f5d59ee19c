"""Rewriting a graph together with its weights: what a rule is, and the driver that applies rules.

A rewrite replaces nodes by others of the same names and the same values, and adds what those compute from.
So a name that stays means what it meant, users and outputs stay as they are, and rewrites of one sweep never
disturb each other. What a rule does to stored tensors is done at once, in float64, and stored as a new leaf.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gsto_spec.graph import Graph, Node
from gsto_spec.ops import Conv2d, Input, Parameter
from gsto_spec.sizes import is_feature

Arrays = dict[str, NDArray[np.float64]]
Match = TypeVar("Match")

LEAF_SCOPE = "optimized"
"""The first part of every new leaf's name: new values never go by a canonical name."""


@dataclass(frozen=True, slots=True)
class Fired:
    """A rewrite that was made: the rule, and the node where it was (of several, the first)."""

    rule: str
    node: str


@dataclass(frozen=True, slots=True)
class NotFired:
    """A place that has a rule's pattern and was left as it is, and why."""

    rule: str
    node: str
    reason: str


@dataclass(slots=True)
class RewriteLog:
    """What a driver did: rewrites made, places left alone (in the result), nodes that no output needed."""

    fired: list[Fired] = field(default_factory=list)
    not_fired: list[NotFired] = field(default_factory=list)
    unneeded: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{item.rule} fired at {item.node}" for item in self.fired]
        lines += [f"{item.rule} left {item.node}: {item.reason}" for item in self.not_fired]
        lines += [f"no output needs {name}" for name in self.unneeded]
        return "\n".join(lines)


@dataclass(frozen=True)
class Program:
    """A graph, its weights in float64, and the names that new leaves and nodes must not take."""

    graph: Graph
    weights: Arrays
    taken: set[str]

    def node(self, name: str) -> Node:
        """The node of a name."""
        return self.graph.by_name[name]

    def channels(self, name: str) -> int:
        """The channels of a feature map, or the values of a bias of 1 x C x 1 x 1."""
        channels = self.graph.shapes[name][1]
        assert isinstance(channels, int)
        return channels

    def is_map(self, name: str) -> bool:
        """Whether a node's value is a feature map."""
        return is_feature(self.graph.shapes[name])

    @cached_property
    def users(self) -> Mapping[str, tuple[str, ...]]:
        """Node -> the nodes that read it."""
        users: dict[str, tuple[str, ...]] = dict.fromkeys(self.graph.by_name, ())
        for node in self.graph.order:
            for name in dict.fromkeys(node.operands):
                users[name] = (*users[name], node.name)
        return users

    def other_need(self, name: str, user: str) -> str | None:
        """Why `name` must stay even if `user` did without it, or None."""
        others = [other for other in self.users[name] if other != user]
        if others:
            return f"{name} is read by {', '.join(others)} too"
        outputs = [output for output, node in self.graph.outputs.items() if node == name]
        return f"{name} is the output {outputs[0]}" if outputs else None

    def computed(self, names: Sequence[str]) -> str | None:
        """Why not all of `names` are stored tensors, or None."""
        others = [name for name in names if name not in self.graph.leaves]
        return f"{others[0]} is computed, not stored" if others else None

    def free_name(self, wanted: str) -> str:
        """`wanted`, or its nearest variation, as the name of a new node."""
        name, number = wanted, 2
        while name in self.taken:
            name, number = f"{wanted}_{number}", number + 1
        self.taken.add(name)
        return name

    def free_leaf(self, node: str, role: str) -> str:
        """A name for a new leaf; like all leaves' it has no `/`, so that backends can store it by path."""
        return self.free_name(f"{LEAF_SCOPE}.{node.replace('/', '.')}.{role}")


@dataclass(frozen=True, slots=True)
class Replacement:
    """New leaves, and nodes: those under names of the graph's replace their bearers, others are new."""

    nodes: tuple[Node, ...]
    leaves: Arrays


class Rule(ABC, Generic[Match]):
    """A rewrite that changes no value: a pattern at a node, a check, and what replaces the nodes.

    A pattern of several nodes that are all replaced is found at one of them alone. What a rule builds must
    not fit its own pattern, nor that of an earlier rule that undoes it, or the driver would not end.
    """

    name: ClassVar[str]

    @abstractmethod
    def pattern(self, program: Program, node: Node) -> Match | None:
        """What of the pattern was found at `node`, or None."""

    @abstractmethod
    def check(self, program: Program, match: Match) -> str | None:
        """Why the rewrite would change a value or cost more, or None where it is right."""

    @abstractmethod
    def build(self, program: Program, match: Match) -> Replacement:
        """What replaces the node, and whatever else of the pattern is replaced."""


def sees_more_than_one_place(program: Program, node: Node) -> str | None:
    """Why a conv2d is not a linear map of the channels at each place of its operand, or None."""
    assert isinstance(node.op, Conv2d)
    weight = program.graph.shapes[node.operands[1]]
    if weight[2:] != (1, 1):
        return f"its kernel is {weight[2]}x{weight[3]}, and only a 1x1 kernel sees one place at a time"
    if node.op.stride != (1, 1) or any(node.op.padding):
        return f"its stride is {node.op.stride} and its padding {node.op.padding}, so places do not stay"
    return None


def rewrite(
    graph: Graph, weights: Mapping[str, NDArray[Any]], rules: Sequence[Rule[Any]], log: RewriteLog
) -> tuple[Graph, Arrays]:
    """Apply rules until none fires; nodes that no output needs are dropped, inputs kept.

    A rule is applied where the rules before it have nothing left to do, so their order is one of phases.
    `weights` holds exactly `graph.parameters`. The answer has new leaves in float64, and so the others.
    """
    doubles = {name: np.array(weights[name], np.float64) for name in graph.parameters}
    kept = _needed(graph.order, graph)
    log.unneeded += [name for name in graph.by_name if name not in {node.name for node in kept}]
    program: Program | None = _program(kept, graph, doubles, set(graph.by_name))
    while program is not None:
        last, log.not_fired = program, []
        sweeps = (_sweep(rule, last, log) for rule in rules)
        program = next((swept for swept in sweeps if swept is not None), None)
    return last.graph, last.weights


def _sweep(rule: Rule[Any], program: Program, log: RewriteLog) -> Program | None:
    """The program with a rule applied wherever it is right, or None where that is nowhere."""
    nodes: dict[str, Node] = {}
    leaves: Arrays = {}
    for node in program.graph.order:
        if (match := rule.pattern(program, node)) is None:
            continue
        if (reason := rule.check(program, match)) is not None:
            log.not_fired.append(NotFired(rule.name, node.name, reason))
            continue
        replacement = rule.build(program, match)
        nodes |= {item.name: item for item in replacement.nodes}
        leaves |= replacement.leaves
        log.fired.append(Fired(rule.name, node.name))
    return _replaced(program, nodes, leaves) if nodes else None


def _replaced(program: Program, replaced: Mapping[str, Node], leaves: Arrays) -> Program:
    stored = {name: Node(name, Parameter(array.shape)) for name, array in leaves.items()}
    added = {**stored, **replaced}
    nodes = (*(added.pop(node.name, node) for node in program.graph.order), *added.values())
    order = replace(program.graph, nodes=nodes).order
    return _program(_needed(order, program.graph), program.graph, program.weights | leaves, program.taken)


def _program(nodes: Sequence[Node], origin: Graph, weights: Arrays, taken: set[str]) -> Program:
    graph = replace(origin, nodes=tuple(nodes))
    return Program(graph, {name: weights[name] for name in graph.leaves}, taken)


def _needed(nodes: Sequence[Node], graph: Graph) -> list[Node]:
    """Of nodes in order of computation those that an output needs, and the inputs."""
    needed = set(graph.outputs.values())
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.operands)
    return [node for node in nodes if node.name in needed or isinstance(node.op, Input)]
