"""Graphs as JSON, strictly: every field is known, present or defaulted, and of its declared type.

{"format": "gsto-graph", "version": 1,
"nodes": [{"name": "conv1", "op": "conv2d", "operands": ["image", "conv1.weight"], "stride": [2, 2], ...}],
"outputs": {"stage4": "last_layer.3"}, "notes": {"architecture": "..."}}
"""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from gsto_spec.errors import GraphError, nearest
from gsto_spec.graph import Graph, Node
from gsto_spec.op_fields import FieldError, convert
from gsto_spec.ops import OPS, Op

FORMAT = "gsto-graph"
VERSION = 1
_KINDS = {int: "whole number", float: "finite number", bool: "truth value"}
LONGEST_NUMBER = 18
"""Digits of a whole number; longer ones mean no size, and Python refuses to print the longest."""


def to_json(graph: Graph, *, indent: int | None = None) -> str:
    """See `Graph.to_json`."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "notes": dict(graph.notes),
        "nodes": [_encode(node) for node in graph.nodes],
        "outputs": dict(graph.outputs),
    }
    return json.dumps(document, indent=indent)


def _encode(node: Node) -> dict[str, object]:
    settings = {item.name: getattr(node.op, item.name) for item in fields(node.op)}
    return {"name": node.name, "op": node.op.kind, "operands": list(node.operands), **settings}


def from_json(text: str) -> Graph:
    """See `Graph.from_json`."""
    document = _document(text)
    _known("graph", document, ("format", "version", "notes", "nodes", "outputs"))
    nodes = _typed("nodes", document.get("nodes"), list, "a list of nodes")
    outputs = _texts("outputs", document.get("outputs"))
    notes = _texts("notes", document.get("notes", {}))
    return Graph(tuple(_decode(index, entry) for index, entry in enumerate(nodes)), outputs, notes)


def _document(text: str) -> dict[str, Any]:
    _typed("graph", text, str, "JSON text")
    try:
        document = json.loads(text, parse_int=_whole, object_pairs_hook=_object)
    except (json.JSONDecodeError, RecursionError) as error:
        raise GraphError("graph", "JSON text", f"what is none: {error}", "json_c1") from None  # json_c1
    if not isinstance(document, dict) or document.get("format") != FORMAT:  # json_c1
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise GraphError("graph", f'a JSON object with "format": "{FORMAT}"', str(found), "json_c1")
    version = document.get("version")
    if type(version) is not int or version != VERSION:  # json_c2
        hint = " (a newer gsto-spec wrote it)" if isinstance(version, int) and version > VERSION else ""
        raise GraphError("graph.version", str(VERSION), f"{version}{hint}", "json_c2")
    return document


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:  # json_c5
        wanted = f"numbers of at most {LONGEST_NUMBER} digits"
        raise GraphError("graph", wanted, reprlib.repr(digits), "json_c5")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):  # json_c4
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise GraphError("graph", "one field of each name", f"{twice} twice", "json_c4")
    return entries


def _decode(index: int, entry: object) -> Node:
    place = f"nodes[{index}]"
    fields_given: dict[str, object] = _typed(place, entry, dict, "a JSON object")
    name = _typed(f"{place}.name", fields_given.get("name"), str, "a text")
    kind = _typed(f"{name}.op", fields_given.get("op"), str, "a text")
    if kind not in OPS:  # json_c3
        raise GraphError(name, f"one of the ops {', '.join(OPS)}", f"{kind}{nearest(kind, OPS)}", "json_c3")
    operands = _typed(f"{name}.operands", fields_given.get("operands", []), list, "a list of node names")
    operands = tuple(_typed(f"{name}.operands", operand, str, "a node name") for operand in operands)
    return Node(name, _decode_op(name, OPS[kind], fields_given), operands)


def _decode_op(name: str, kind: type[Op], entry: Mapping[str, object]) -> Op:
    declared = {item.name: item for item in fields(kind)}
    _known(name, entry, ("name", "op", "operands", *declared))
    for key, item in declared.items():
        if key not in entry and _required(item):  # json_c4
            raise GraphError(name, f"the field {key} of {kind.kind}", "none", "json_c4")
    try:
        return kind(**convert(kind.kind, {key: entry[key] for key in declared if key in entry}))
    except FieldError as error:  # json_c5
        raise GraphError(f"{name}.{error.field}", error.expected, error.found, "json_c5") from None


def _required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _known(place: str, entry: Mapping[str, object], valid: tuple[str, ...]) -> None:
    for key in entry:
        if key not in valid:  # json_c4
            raise GraphError(place, f"fields {', '.join(valid)}", f"{key}{nearest(key, valid)}", "json_c4")


def _typed(place: str, value: object, kind: type, expected: str) -> Any:
    if not isinstance(value, kind):  # json_c5
        raise GraphError(place, expected, reprlib.repr(value), "json_c5")
    return value


def _texts(place: str, value: object) -> dict[str, str]:
    entries = _typed(place, value, dict, "a JSON object of texts")
    return {key: _typed(f"{place}.{key}", item, str, "a text") for key, item in entries.items()}
