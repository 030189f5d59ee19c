"""What differs between two architectures: variant fields, nodes by module, parameters, multiply-adds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gsto_spec.catalog import architectures, variant
from gsto_spec.cost import cost
from gsto_spec.graph import Graph, Node
from gsto_spec.ops import Parameter
from gsto_spec.users_code import attribute, made

_KINDS = ("only_a", "only_b", "changed")
_MARKS = {"only_a": "-", "only_b": "+", "changed": "~"}


@dataclass(frozen=True, slots=True)
class Change:
    """What was, and what is instead, as text."""

    a: str
    b: str


@dataclass(slots=True)
class Names:
    """Names that only A has, that only B has, and that mean different things in them."""

    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ModuleDifference:
    """A module's differences: nodes that compute, and stored tensors."""

    nodes: Names = field(default_factory=Names)
    parameters: Names = field(default_factory=Names)


@dataclass(frozen=True, slots=True)
class Difference:
    """From graph A to graph B; a pair is A's and B's.

    `fields`: the fields of their variants that differ, where both are variants of one class. `modules`: names
    by module, numbers in whose path are shown as `*`. `changes`: for each changed name, what changed.
    `parameters` counts learnt values, `macs` multiply-adds of convolutions for an input of `input_shape`.
    """

    outputs: tuple[tuple[str, ...], tuple[str, ...]]
    digests: tuple[str, str]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    input_shape: tuple[int, int, int, int]
    fields: Mapping[str, Change]
    modules: Mapping[str, ModuleDifference]
    changes: Mapping[str, Change]
    same: bool

    @property
    def same_digest(self) -> bool:
        """Whether both compute the same with the same weights."""
        return self.digests[0] == self.digests[1]


def diff(
    a: Graph, b: Graph, *, variants: tuple[object, object] = (None, None),
    input_shape: tuple[int, int, int, int] = (1, 3, 1024, 2048),
) -> Difference:  # fmt: skip
    """Compare two graphs, and the variants they were built from where those are known.

    They are the same where every node, the outputs and the fields are; declared order and notes do not count.
    Raises `GraphError` where a graph cannot take the input.
    """
    changes = {node.name: _change(node, b.by_name[node.name]) for node in a.nodes
               if node.name in b.by_name and node != b.by_name[node.name]}  # fmt: skip
    counted = [cost(graph, input_shape) for graph in (a, b)]
    fields = _field_changes(*variants)
    modules = _modules(a, b, changes)
    return Difference(
        (tuple(a.outputs), tuple(b.outputs)), (a.digest, b.digest),
        (counted[0].parameters, counted[1].parameters), (counted[0].macs, counted[1].macs), input_shape,
        fields, modules, changes,
        not fields and not modules and list(a.outputs.items()) == list(b.outputs.items()),
    )  # fmt: skip


def declared(text: str, *, classes: int | None = None, form: str | None = None) -> object:
    """The variant that a catalogue name or `module:attribute` stands for, or None where it is a graph.

    `classes` and `form` replace the variant's. Raises as `locate` does.
    """
    if text in architectures():
        found: object = variant(text)
    elif ":" in text and not text.endswith(".json"):
        found = attribute(text)
    else:
        return None
    if callable(found):
        found = made(text, found, classes)
    if not dataclasses.is_dataclass(found) or isinstance(found, (Graph, type)):
        return None
    given = {"classes": classes, "form": form}
    known = {item.name for item in dataclasses.fields(found)}
    changed = {name: value for name, value in given.items() if value is not None and name in known}
    return dataclasses.replace(found, **changed)


def _field_changes(a: object, b: object) -> dict[str, Change]:
    if a is None or type(a) is not type(b):
        return {}
    left, right = _flat(a), _flat(b)
    return {name: Change(left.get(name, "-"), right.get(name, "-"))
            for name in (*left, *(name for name in right if name not in left))
            if left.get(name) != right.get(name)}  # fmt: skip


def _flat(value: object, path: str = "") -> dict[str, str]:
    """Field path -> text; the sources that a form carries mean nothing to its graph."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        flat: dict[str, str] = {}
        for item in dataclasses.fields(value):
            inner = getattr(value, item.name)
            if not isinstance(inner, Mapping):
                flat |= _flat(inner, f"{path}.{item.name}" if path else item.name)
        return flat
    return {path: _text(value)}


def _text(value: object) -> str:
    name = getattr(value, "__qualname__", None)
    return f"{getattr(value, '__module__', '')}.{name}" if name else str(value)


def _change(a: Node, b: Node) -> Change:
    """What two nodes of one name do not share: the op, else its fields and the operands that differ."""
    if type(a.op) is not type(b.op):
        return Change(a.op.kind, b.op.kind)
    pairs = {item.name: (getattr(a.op, item.name), getattr(b.op, item.name))
             for item in dataclasses.fields(a.op)}  # fmt: skip
    pairs["operands"] = (", ".join(a.operands), ", ".join(b.operands))
    differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    left, right = (", ".join(f"{name}={pair[side]}" for name, pair in differing.items()) for side in (0, 1))
    return Change(left, right)


def _modules(a: Graph, b: Graph, changes: Mapping[str, Change]) -> dict[str, ModuleDifference]:
    modules: dict[str, ModuleDifference] = {}

    def file(names: Iterable[str], graph: Graph, kind: str) -> None:
        for name in names:
            module = modules.setdefault(module_of(name, graph), ModuleDifference())
            leaf = isinstance(graph.by_name[name].op, Parameter)
            getattr(module.parameters if leaf else module.nodes, kind).append(name)

    file((node.name for node in a.nodes if node.name not in b.by_name), a, "only_a")
    file((node.name for node in b.nodes if node.name not in a.by_name), b, "only_b")
    file(changes, a, "changed")
    return {name: modules[name] for name in sorted(modules)}


def module_of(name: str, graph: Graph) -> str:
    """Where a node belongs, coarse enough to read: `stage3.*.att_layers`, `transition2`, `last_layer`.

    A path is cut after its second word, and the layer's own name left out.
    """
    base = name.partition("/")[0]
    owned = base if base in graph.by_name else name.rstrip(".0123456789")
    owner = owned.rpartition(".")[0] if owned in graph.leaves else owned
    parts = re.split(r"[./]", owner)
    scope = parts[:-1] or parts
    words = [index for index, part in enumerate(scope) if not part.isdigit()]
    end = words[min(1, len(words) - 1)] + 1 if words else len(scope)
    return ".".join("*" if part.isdigit() else part for part in scope[:end])


def describe(found: Difference, names: tuple[str, str], *, nodes: bool = False) -> str:
    """The difference as text: a summary by module, or with `nodes` every name."""
    head = [f"{side}  {name}, digest {digest}"
            for side, name, digest in zip("AB", names, found.digests, strict=True)]  # fmt: skip
    blocks = [[*head, _verdict(found)], _field_lines(found), _count_lines(found)]
    if found.modules:
        blocks.append(_node_lines(found) if nodes else _module_lines(found))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _verdict(found: Difference) -> str:
    if found.same:
        return "the same architecture"
    if found.same_digest:
        return "different in what inference does not compute; digests are equal"
    return "different"


def _field_lines(found: Difference) -> list[str]:
    return [f"{name}: {change.a} -> {change.b}" for name, change in found.fields.items()]


def _count_lines(found: Difference) -> list[str]:
    size = " x ".join(map(str, found.input_shape))
    rows = {"parameters": found.parameters, f"multiply-adds, input {size}": found.macs}
    wide = max(map(len, rows))
    lines = [f"{'':<{wide}}{'A':>20}{'B':>20}{'B - A':>20}"]
    lines += [f"{name:<{wide}}{a:>20,}{b:>20,}{b - a:>+20,}" for name, (a, b) in rows.items()]
    if found.outputs[0] != found.outputs[1]:
        lines.append(f"outputs: {', '.join(found.outputs[0])} -> {', '.join(found.outputs[1])}")
    return lines


def _module_lines(found: Difference) -> list[str]:
    wide = max(len("module"), *map(len, found.modules)) + 2
    titles = ("only in A", "only in B", "changed")
    lines = [f"{'nodes, tensors':<{wide}}" + "".join(f"{title:>16}" for title in titles)]
    for name, module in found.modules.items():
        pairs = [(len(getattr(module.nodes, kind)), len(getattr(module.parameters, kind))) for kind in _KINDS]
        cells = [f"{a:,}, {b:,}" if a or b else "-" for a, b in pairs]
        lines.append(f"{name:<{wide}}" + "".join(f"{cell:>16}" for cell in cells))
    return lines


def _node_lines(found: Difference) -> list[str]:
    lines = []
    for module in found.modules.values():
        for names in (module.nodes, module.parameters):
            for kind in _KINDS:
                for name in getattr(names, kind):
                    change = found.changes.get(name)
                    lines.append(f"{_MARKS[kind]} {name}" + (f": {change.a} -> {change.b}" if change else ""))
    return lines
