"""Rules that compute at once what reads one node: sibling convolutions, and relus and sigmoids of slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gsto_spec.graph import Node
from gsto_spec.ops import Conv2d, Relu, Sigmoid, Slice
from gsto_spec.rewrite import Arrays, Program, Replacement, Rule


@dataclass(frozen=True, slots=True)
class Siblings:
    """Convolutions alike of one map."""

    nodes: tuple[Node, ...]


class MergeConvolutions(Rule[Siblings]):
    """Convolutions alike of one map are slices of a single one, whose kernel has all of theirs.

    An output channel has a kernel of its own, so kernels may be stacked:

        conv(x, stack(V, W)) = concat(conv(x, V), conv(x, W)).

    All gates and projections of a branch become one convolution. The map is read once instead of each time,
    which pays where a convolution reads more channels than it writes; others, whose results would have to be
    cut out of a larger one, stay.
    """

    name = "merge-convolutions"

    def pattern(self, program: Program, node: Node) -> Siblings | None:
        """All that are alike, found at the first; where some are narrow, those."""
        if not isinstance(node.op, Conv2d):
            return None
        users = (program.node(name) for name in program.users[node.operands[0]])
        alike = [user for user in users if _key(program, user) == _key(program, node)]
        narrow = [user for user in alike if _narrows(program, user)]
        found = narrow if len(narrow) > 1 else alike
        return Siblings(tuple(found)) if len(found) > 1 and found[0].name == node.name else None

    def check(self, program: Program, match: Siblings) -> str | None:
        """They are projections to fewer channels with stored kernels."""
        first, *_ = match.nodes
        assert isinstance(first.op, Conv2d)
        kernel = program.graph.shapes[first.operands[1]][2:]
        if kernel != (1, 1):
            return f"{kernel[0]}x{kernel[1]} kernels cost much to compute, and reading twice adds little"
        if first.op.groups > 1:
            return f"it has {first.op.groups} groups"
        wide = next((node for node in match.nodes if not _narrows(program, node)), None)
        if wide is not None:
            return (f"{wide.name} writes {program.channels(wide.name)} channels and reads "
                    f"{program.channels(wide.operands[0])}")  # fmt: skip
        stored = (program.computed(node.operands[1:]) for node in match.nodes)
        return next(filter(None, stored), None)

    def build(self, program: Program, match: Siblings) -> Replacement:
        """One convolution, those read alike next to each other, and slices under the old names."""
        ordered = sorted(match.nodes, key=lambda node: _readers(program, node))
        first = ordered[0]
        name = program.free_name(f"{first.operands[0]}/projected")
        leaves = _stacked(program, ordered, name)
        merged = Node(name, first.op, (first.operands[0], *leaves))
        slices, start = [], 0
        for node in ordered:
            stop = start + program.channels(node.name)
            slices.append(Node(node.name, Slice(start, stop), (name,)))
            start = stop
        return Replacement((merged, *slices), leaves)


def _key(program: Program, node: Node) -> object:
    """What two convolutions must have in common to be one."""
    if not isinstance(node.op, Conv2d):
        return None
    return node.operands[0], node.op, program.graph.shapes[node.operands[1]][2:]


def _narrows(program: Program, node: Node) -> bool:
    return program.channels(node.name) < program.channels(node.operands[0])


def _readers(program: Program, node: Node) -> tuple[str, ...]:
    """What reads a node: gates, which a relu or sigmoid reads, are put together."""
    return tuple(sorted({program.node(name).op.kind for name in program.users[node.name]}))


def _stacked(program: Program, nodes: list[Node], name: str) -> Arrays:
    weights = program.weights
    kernels = [weights[node.operands[1]] for node in nodes]
    leaves = {program.free_leaf(name, "weight"): np.concatenate(kernels)}
    if any(len(node.operands) == 3 for node in nodes):
        parts = [
            weights[node.operands[2]] if len(node.operands) == 3 else np.zeros(program.channels(node.name))
            for node in nodes
        ]
        leaves[program.free_leaf(name, "bias")] = np.concatenate(parts)
    return leaves


@dataclass(frozen=True, slots=True)
class Cut:
    """A relu or sigmoid, and the slice that it reads."""

    node: Node
    piece: Slice


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Relus, or sigmoids, of slices of one map that lie next to each other."""

    base: str
    cuts: tuple[Cut, ...]


class MergePointwise(Rule[Neighbours]):
    """Relus or sigmoids of neighbouring slices are slices of one: each channel is by itself."""

    name = "merge-pointwise"

    def pattern(self, program: Program, node: Node) -> Neighbours | None:
        """A run of neighbouring slices, found at the first."""
        if not isinstance(node.op, (Relu, Sigmoid)) or _piece(program, node) is None:
            return None
        base = program.node(node.operands[0]).operands[0]
        for run in _runs(program, base, node.op):
            if len(run) > 1 and run[0].node.name == node.name:
                return Neighbours(base, tuple(run))
        return None

    def check(self, program: Program, match: Neighbours) -> str | None:
        """Always right."""
        return None

    def build(self, program: Program, match: Neighbours) -> Replacement:
        """One op on a slice of all, and slices of its result."""
        base, nodes = match.base, list[Node]()
        start, stop = match.cuts[0].piece.start, match.cuts[-1].piece.stop
        if stop - start < program.channels(base):
            nodes.append(Node(program.free_name(f"{base}/slice"), Slice(start, stop), (base,)))
            base = nodes[-1].name
        op = match.cuts[0].node.op
        whole = Node(program.free_name(f"{base}/{op.kind}"), op, (base,))
        for cut in match.cuts:
            piece = Slice(cut.piece.start - start, cut.piece.stop - start)
            nodes.append(Node(cut.node.name, piece, (whole.name,)))
        return Replacement((whole, *nodes), {})


def _piece(program: Program, node: Node) -> Slice | None:
    op = program.node(node.operands[0]).op
    return op if isinstance(op, Slice) else None


def _runs(program: Program, base: str, op: Relu | Sigmoid) -> list[list[Cut]]:
    """The readers `op` of slices of `base`, those together whose slices follow on one another."""
    readers = (program.node(name) for cut in program.users[base] for name in program.users[cut])
    cuts = [Cut(reader, piece) for reader in readers
            if reader.op == op and (piece := _piece(program, reader)) is not None]  # fmt: skip
    runs: list[list[Cut]] = []
    for cut in sorted(cuts, key=lambda cut: (cut.piece.start, cut.piece.stop)):
        if runs and runs[-1][-1].piece.stop == cut.piece.start:
            runs[-1].append(cut)
        else:
            runs.append([cut])
    return runs
