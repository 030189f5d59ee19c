"""Networks and settings as text: graphs in JSON, benchmarks in TOML, `--set`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from faults.network import tiny
from fuzz.mutations import HOSTILE, TEXTS, as_json, json_bytes, mutated_bytes, mutated_values
from fuzz.reader import Answer, Reader, refusing
from gsto_spec import Graph
from gsto_spec.locate import locate
from gsto_train import benchmarks
from gsto_train.schema import Values, assignment, describe
from gsto_train.settings import Settings, resolve

ROOT = Path(__file__).parent.parent


def graphs() -> list[Any]:
    """Small valid graphs, as JSON holds them."""
    unet = (ROOT / "examples" / "nearest_unet.json").read_text()
    return [json.loads(text) for text in (tiny(3).to_json(), unet)]


def readers() -> Iterator[Reader]:
    """Graph JSON as text and as a file, TOML, and `--set`."""
    text = mutated_values(graphs()).map(as_json)
    yield Reader("graph JSON", 12, text, lambda text: refusing(lambda: Graph.from_json(text)))
    yield Reader("graph file", 6, json_bytes(graphs()), _read_graph, names="graph.json")
    yield Reader("benchmark TOML", 12, _toml(), _read_benchmark, names="own.toml")
    yield Reader("--set", 12, st.lists(_assignments(), min_size=1, max_size=3), _set)


def _read_graph(content: bytes) -> Answer:
    Path("graph.json").write_bytes(content)
    return refusing(lambda: locate("graph.json"))


def _read_benchmark(content: bytes) -> Answer:
    Path("own.toml").write_bytes(content)
    return refusing(lambda: benchmarks.load("own.toml"))


def _set(texts: list[str]) -> Answer:
    return refusing(lambda: resolve(_base(), dict(map(assignment, texts))))


@cache
def _base() -> Values:
    return benchmarks.load("folder").values


@st.composite
def _toml(draw: DrawFn) -> bytes:
    if draw(st.booleans()):
        return draw(mutated_bytes([text.encode() for text in _examples()]))
    table = draw(mutated_values([tomllib.loads(text) for text in _examples()]))
    return "\n".join(_lines(table)).encode("utf-8", "surrogatepass")


@cache
def _examples() -> list[str]:
    return sorted(each.read_text() for each in files(benchmarks).iterdir() if each.name.endswith(".toml"))


def _lines(table: Any, prefix: str = "") -> Iterator[str]:
    """TOML of a mutated value; dotted keys stand for tables."""
    for key, value in table.items() if isinstance(table, Mapping) else [("settings", table)]:
        path = f"{prefix}{as_json(key)}"
        if isinstance(value, Mapping) and value:
            yield from _lines(value, f"{path}.")
        else:
            yield f"{path} = {as_json(value)}"


@st.composite
def _assignments(draw: DrawFn) -> str:
    if draw(st.booleans()):
        return draw(_DEFAULTS)
    return "".join(draw(st.tuples(_KEYS, st.sampled_from(("=", "=", "=", " = ", "", "==")), _VALUES)))


_ODD = st.one_of(st.sampled_from(TEXTS), st.text(max_size=9))
_DEFAULTS = st.sampled_from([
    f"{key}={setting.default}"
    for key, setting in describe(Settings).items()
    if key.startswith(("train.", "evaluation.", "data.")) and setting.default not in (None, "none")
])  # fmt: skip
_KNOWN = st.sampled_from(sorted(describe(Settings)))
_KEYS = st.one_of(_KNOWN, _KNOWN, _KNOWN, _ODD)
_USUAL = st.sampled_from(("1", "0.5", "true", "[16,16]", "[1.0]", "none", "adam", "list"))
_VALUES = st.one_of(_USUAL, HOSTILE.map(as_json), _ODD)
