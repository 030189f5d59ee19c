"""What a drawing shows: a graph's nodes gathered into units, each in a lane of one resolution."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gsto_spec.graph import Graph, Node
from gsto_spec.ops import (
    AdaptiveAvgPool,
    AvgPool,
    Concat,
    Conv2d,
    Input,
    Mul,
    Resize,
    Sigmoid,
    Softmax,
)  # fmt: skip
from gsto_spec.sizes import Size, is_feature

_PARTS = (
    (re.compile(r"(stage\d+\.\d+)(?:\.att_layers|\.fuse_layers|/fuse)\.(\d+)"), "{}/fuse.{}"),
    (re.compile(r"(.+?)[./](?:att_layers|features|convs)\.(\d+)(?=[./])"), "{}/scale.{}"),
)
"""Names that belong to one unit: the terms of a fused branch, and a pooled or dilated branch and its gate."""

_TRANSITION = re.compile(r"(?:att|transition)(\d+)(?:\.(\d+))?[./]")
_REPEATED = re.compile(r"(\w+)\.(\d+)[./]")

Lane = tuple[int, str]
"""Its order from top to bottom, and its title."""

Flow = dict[str, tuple[str, ...]]
"""Feature map -> those whose values it reads, without what gives its size alone."""


@dataclass(slots=True)
class Unit:
    """A box: the nodes in it; the layers in a row that it stands for; the last node's lane and channels.

    `outputs` are those of the graph that it makes; `gates` counts the products with a gate inside it that
    belong to no arrow.
    """

    name: str
    nodes: list[str]
    lane: Lane = (0, "")
    channels: int = 0
    count: int = 1
    outputs: tuple[str, ...] = ()
    gates: int = 0


@dataclass(frozen=True, slots=True)
class Arrow:
    """From unit to unit. `gated`: it is multiplied by a gate on its way; `steers`: only gates read it."""

    source: str
    target: str
    gated: bool = False
    steers: bool = False


@dataclass(frozen=True, slots=True)
class Sketch:
    """Units in order of computation, arrows, and how many equal modules a drawn one stands for."""

    units: Mapping[str, Unit]
    arrows: Sequence[Arrow]
    repeats: Mapping[str, int] = field(default_factory=dict)


def sketch(graph: Graph, *, ops: bool = False) -> Sketch:
    """A graph's units: its modules by their names and structure, or with `ops` one per op."""
    aliases, repeats = _folded(graph)
    flow = _flow(graph, aliases)
    owners = {name: name for name in flow} if ops else _owners(graph, flow)
    if not ops:
        _join_rows(graph, flow, owners)
    units = _units(graph, flow, owners, aliases)
    return Sketch(units, _arrows(graph, flow, owners, units, marked=not ops), repeats)


def _folded(graph: Graph) -> tuple[dict[str, str], dict[str, int]]:
    """Nodes of modules that repeat the first one -> that one's nodes; and module -> how often it comes."""
    contents: dict[tuple[str, int], dict[str, Node]] = {}
    for node in graph.nodes:
        if (match := _REPEATED.match(node.name)) is not None:
            module = contents.setdefault((match[1], int(match[2])), {})
            module[node.name[match.end() - 1 :]] = node
    aliases: dict[str, str] = {}
    repeats: dict[str, int] = {}
    for (scope, number), module in contents.items():
        first = contents.get((scope, 0), {})
        if number and scope.startswith("stage") and _equal(graph, first, module):
            aliases |= {node.name: first[path].name for path, node in module.items()}
            repeats[f"{scope}.0"] = repeats.get(f"{scope}.0", 1) + 1
    return aliases, repeats


def _equal(graph: Graph, first: Mapping[str, Node], other: Mapping[str, Node]) -> bool:
    def shape(module: Mapping[str, Node]) -> dict[str, object]:
        inside = {node.name: path for path, node in module.items()}
        return {path: (node.op, tuple(inside.get(name) or graph.shapes[name] for name in node.operands))
                for path, node in module.items()}  # fmt: skip

    return shape(first) == shape(other)


def _flow(graph: Graph, aliases: Mapping[str, str]) -> Flow:
    """The computation that outputs need, repeated modules left out, in order of computation."""
    flow: Flow = {}
    for node in graph.order:
        if node.name in aliases or not is_feature(graph.shapes[node.name]):
            continue
        sized = isinstance(node.op, (Resize, AdaptiveAvgPool))
        values = node.operands[:1] if sized else node.operands
        flow[node.name] = tuple(aliases.get(name, name) for name in values if is_feature(graph.shapes[name]))
    needed = {aliases.get(name, name) for name in graph.outputs.values()}
    for name in reversed(flow):
        if name in needed:
            needed.update(flow[name])
    return {name: operands for name, operands in flow.items() if name in needed or name in graph.inputs}


def _owners(graph: Graph, flow: Flow) -> dict[str, str]:
    """Node -> unit, by name; a unit that would wait for itself is split, so that arrows run one way."""
    owners: dict[str, str] = {}
    feeding: dict[str, set[str]] = {}
    blocks = _blocks(graph)
    for name, operands in flow.items():
        before = {owners[operand] for operand in operands}
        wanted = _unit_name(graph, name, owners, blocks)
        unit, number = wanted, 1
        while any(unit != other and _reaches(feeding, unit, other) for other in before):
            number += 1
            unit = f"{wanted} ({number})"
        owners[name] = unit
        feeding.setdefault(unit, set()).update(before - {unit})
    return owners


def _reaches(feeding: Mapping[str, set[str]], start: str, end: str) -> bool:
    seen, waiting = set(), [end]
    while waiting:
        if (unit := waiting.pop()) == start:
            return True
        if unit not in seen:
            seen.add(unit)
            waiting += feeding.get(unit, ())
    return False


def _unit_name(graph: Graph, name: str, owners: Mapping[str, str], blocks: Sequence[str]) -> str:
    for pattern, unit in _PARTS:
        if (match := pattern.match(name)) is not None:
            return unit.format(*match.groups())
    if (match := _TRANSITION.match(name)) is not None:
        return f"transition{match[1]}.{match[2] or match[1]}"
    within = [block for block in blocks if name.startswith((f"{block}.", f"{block}/"))]
    if within:
        return next((block for block in within if block[-1].isdigit()), within[-1])
    base, slash, _ = name.partition("/")
    if slash and base in graph.by_name:
        moved = graph.shapes[name][2:] != graph.shapes[base][2:]
        return name if moved or base in graph.inputs else owners.get(base, base)
    return base if slash else base.rpartition(".")[0] or base


def _blocks(graph: Graph) -> list[str]:
    """Scopes that hold layers by name, such as `layer1.0` with its `conv1`; the outer before the inner."""
    layers = {name.rpartition(".")[0] for name in graph.leaves}
    scopes = {layer.rpartition(".")[0] for layer in layers if not layer.rpartition(".")[2].isdigit()}
    return sorted(scopes - {""}, key=len)


def _join_rows(graph: Graph, flow: Flow, owners: dict[str, str]) -> None:
    """Make one unit of those that follow each other alone, in one lane and one scope: blocks in a row."""
    for name, operands in flow.items():
        unit = owners[name]
        before = {owners[operand] for operand in operands} - {unit}
        if len(before) == 1:
            (previous,) = before
            if _in_a_row(graph, flow, owners, previous, unit):
                owners.update({each: previous for each, owner in owners.items() if owner == unit})


def _in_a_row(graph: Graph, flow: Flow, owners: Mapping[str, str], previous: str, unit: str) -> bool:
    scopes = [_scope(each, owners) for each in (previous, unit)]
    if scopes[0] is None or scopes[0] != scopes[1] or previous in graph.inputs:
        return False
    sources = {owners[x] for name, xs in flow.items() if owners[name] == unit for x in xs} - {unit}
    targets = {owners[name] for name, xs in flow.items() for x in xs if owners[x] == previous} - {previous}
    made = any(owners.get(name) == previous for name in graph.outputs.values())
    lasts = [[name for name in flow if owners[name] == each][-1] for each in (previous, unit)]
    same_lane = _lane(graph, lasts[0]) == _lane(graph, lasts[1])
    return sources == {previous} and targets == {unit} and not made and same_lane


def _scope(unit: str, owners: Mapping[str, str]) -> str | None:
    """What numbered blocks share, `layer1` of `layer1.0`; nothing for bare layers; None for other modules."""
    head, _, tail = unit.rpartition(".")
    if head and tail.isdigit():
        return head
    bare = all("." not in name.partition("/")[0] for name, owner in owners.items() if owner == unit)
    return "" if bare else None


def _units(
    graph: Graph, flow: Flow, owners: Mapping[str, str], aliases: Mapping[str, str]
) -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    for name in flow:
        units.setdefault(owners[name], Unit(owners[name], [])).nodes.append(name)
    for output, node in graph.outputs.items():
        if (owner := owners.get(aliases.get(node, node))) is not None:
            units[owner].outputs = (*units[owner].outputs, output)
    for unit in units.values():
        last = unit.nodes[-1]
        channels = graph.shapes[last][1]
        assert isinstance(channels, int)
        unit.lane, unit.channels = _lane(graph, last), channels
        unit.count = len({path for name in unit.nodes if (path := _child(unit.name, name)) is not None}) or 1
    return units


def _child(unit: str, name: str) -> str | None:
    """The number below a unit's scope that a node belongs to."""
    scope, _, number = unit.rpartition(".")
    match = re.match(rf"{re.escape(scope)}\.(\d+)[./]", name) if number.isdigit() else None
    return match[1] if match else None


def _lane(graph: Graph, name: str) -> Lane:
    height, width = graph.shapes[name][2:]
    if isinstance(height, Size) and isinstance(width, Size):
        return height.stride, f"stride {height.stride}"
    return 1 << 30, f"{height} x {width}"


def _arrows(
    graph: Graph, flow: Flow, owners: Mapping[str, str], units: Mapping[str, Unit], *, marked: bool
) -> list[Arrow]:
    pairs = dict.fromkeys((owners[x], owners[name]) for name, operands in flow.items()
                          for x in operands if owners[x] != owners[name])  # fmt: skip
    if not marked:
        return [Arrow(*pair) for pair in pairs]
    gated: set[tuple[str, str]] = set()
    steering: set[tuple[str, str]] = set()
    for unit in units.values():
        gates = {name: gate for name in unit.nodes if (gate := _gate(graph, flow, name)) is not None}
        gated |= {(owners[x], unit.name) for x in _mark_gates(graph, flow, unit, gates)}
        ungated = {name: tuple(x for x in flow[name] if x != gates.get(name)) for name in unit.nodes}
        reached, plain = ({owners[x] for x in _sources(each, unit)} for each in (flow, ungated))
        steering |= {(source, unit.name) for source in reached - plain}
    return [Arrow(*pair, pair in gated, pair in steering) for pair in pairs]


def _mark_gates(graph: Graph, flow: Flow, unit: Unit, gates: Mapping[str, str]) -> set[str]:
    """The nodes outside that a gate multiplies as they come in; counts the unit's other gates."""
    arriving: set[str] = set()
    for product, gate in gates.items():
        found = [_unmixed(graph, flow, unit, x) for x in flow[product] if x != gate]
        sources = [names for names in found if names is not None]
        if len(sources) == len(found):
            arriving.update(*sources)
        else:
            unit.gates += 1
    return arriving


def _gate(graph: Graph, flow: Flow, name: str) -> str | None:
    """The operand of a product that is a gate: a sigmoid or softmax, perhaps resized."""
    if not isinstance(graph.by_name[name].op, Mul):
        return None
    for operand in flow[name]:
        origin = operand
        while isinstance(graph.by_name[origin].op, Resize):
            origin = flow[origin][0]
        if isinstance(graph.by_name[origin].op, (Sigmoid, Softmax)):
            return operand
    return None


def _unmixed(graph: Graph, flow: Flow, unit: Unit, start: str) -> set[str] | None:
    """The nodes outside that reach `start` by resampling and concatenation alone, or None."""
    found, waiting = set[str](), [start]
    while waiting:
        name = waiting.pop()
        if name not in unit.nodes:
            found.add(name)
        elif isinstance(graph.by_name[name].op, (Resize, Concat, AvgPool, AdaptiveAvgPool)):
            waiting += flow[name]
        else:
            return None
    return found


def _sources(flow: Mapping[str, tuple[str, ...]], unit: Unit) -> set[str]:
    """The nodes outside a unit that its last node comes from."""
    found, waiting = set[str](), [unit.nodes[-1]]
    while waiting:
        for name in flow[waiting.pop()]:
            if name not in found:
                found.add(name)
                waiting += [name] if name in unit.nodes else []
    return found.difference(unit.nodes)


def kernels(graph: Graph, unit: Unit) -> str:
    """`conv 3×3 /2` where a unit has one convolution, gates not counted; `pool 2×2` where it pools to a size.

    Otherwise an empty text.
    """
    found = []
    for name in unit.nodes:
        node = graph.by_name[name]
        if isinstance(node.op, AdaptiveAvgPool) and node.op.size is not None:
            return f"pool {node.op.size[0]}×{node.op.size[1]}"
        if isinstance(node.op, Conv2d) and (graph.shapes[name][1] != 1 or len(unit.nodes) == 1):
            rows, columns = graph.shapes[node.operands[1]][2:]
            stride = f" /{node.op.stride[0]}" if node.op.stride[0] > 1 else ""
            rate = f", rate {node.op.dilation[0]}" if node.op.dilation[0] > 1 else ""
            found.append(f"conv {rows}×{columns}{stride}{rate}")
    return found[0] if len(found) == 1 else ""


def is_input(graph: Graph, unit: Unit) -> bool:
    """Whether a unit is one of the graph's inputs."""
    return isinstance(graph.by_name[unit.nodes[0]].op, Input)
