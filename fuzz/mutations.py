"""Valid examples changed on purpose: their values, their structure, their text and their bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

TEXTS = (
    "", " ", ".", "..", "../escaped", "../../../escaped", "/escaped", "a/../../escaped", "evil:network",
    "evil:", ":", "evil.py", "\0", "a\0b", "\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "\r\b\x7f", "a\nb",
    "\u202etxt", "\ud800", "\udcff", "é" * 300, "x" * 5000, "%s%n", "${HOME}", "~", "none", "nan", "1e999",
    "-1", "true", "{}", "[", '"', "'", "\\", "torch", "jax", "scenes", "<script>", "stage4", "bfloat16",
)  # fmt: skip
"""Names and words that a reader may stumble over."""

NUMBERS = (
    0, -1, 1, 2, 3, 255, 256, 10**6, 2**31 - 1, 2**31, 2**32, 2**53, 2**60, 2**63 - 1, 2**63, 10**18,
    -(2**63), 10**30, -0.0, 0.5, 1e-320, 1e30, 1.8e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip

_LONG = 20_000
RAW = (
    "[" * _LONG + "]" * _LONG, '{"a":' * _LONG + "1" + "}" * _LONG, "9" * 400, "9" * 5000, "-" + "9" * 5000,
    "1e99999",
    "{" + "".join(f'"{number}":1,' for number in range(_LONG)) + f'"{_LONG - 1}":2' + "}",
    "Infinity", "-Infinity", "NaN", '"\\ud800"', '"\\u0000"', "[,]", "{", "01", "'a'", "\x0b",
)  # fmt: skip
"""What no value of Python's becomes; written as it is."""

_MARK, _TWICE = "raw value ", "twice "


def _scalars() -> SearchStrategy[Any]:
    raw = st.integers(0, len(RAW) - 1).map(lambda number: f"{_MARK}{number}")
    return st.one_of(
        st.sampled_from((None, True, False)),
        st.sampled_from(NUMBERS),
        st.sampled_from(TEXTS),
        st.text(max_size=12),
        raw,
    )


HOSTILE = st.one_of(
    _scalars(),
    st.sampled_from(([], {}, [[]], {"": ""}, [{}], [None])).map(deepcopy),
    st.lists(_scalars(), max_size=4),
)
"""Values to put where others stand."""


@st.composite
def mutated_values(draw: DrawFn, seeds: Sequence[Any]) -> Any:
    """One of `seeds`, JSON-like, with up to four changes; `as_json` writes it."""
    value = deepcopy(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        value = _changed(draw, value)
    return value


def as_json(value: Any) -> str:
    """JSON of a mutated value, with what no JSON can hold where a mutation asked for it."""
    text = json.dumps(value)
    text = re.sub(rf'"{_MARK}(\d+)"', lambda match: RAW[int(match[1])], text)
    return text.replace(f'"{_TWICE}', '"')


def _changed(draw: DrawFn, value: Any) -> Any:
    places = list(_places(value))
    if not places or draw(st.integers(0, 20)) == 20:
        return draw(HOSTILE)
    container, key = places[draw(st.integers(0, len(places) - 1))]
    draw(st.sampled_from(_CHANGES))(draw, container, key)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _replace(draw: DrawFn, container: Any, key: Any) -> None:
    container[key] = draw(HOSTILE)


def _delete(draw: DrawFn, container: Any, key: Any) -> None:
    del container[key]


def _twice(draw: DrawFn, container: Any, key: Any) -> None:
    if isinstance(container, dict):
        container[f"{_TWICE}{key}"] = draw(st.one_of(st.just(container[key]), HOSTILE))
    else:
        container.extend(deepcopy(container[key]) for _ in range(draw(st.sampled_from((1, 2, 30)))))


def _rename(draw: DrawFn, container: Any, key: Any) -> None:
    if isinstance(container, dict):
        container[draw(st.sampled_from(TEXTS)) or f"{key}s"] = container.pop(key)


def _wrap(draw: DrawFn, container: Any, key: Any) -> None:
    container[key] = draw(st.sampled_from(([container[key]], {"a": container[key]}, str(container[key]))))


def _nudge(draw: DrawFn, container: Any, key: Any) -> None:
    value = container[key]
    if isinstance(value, str):
        place = draw(st.integers(0, len(value)))
        container[key] = value[:place] + draw(st.sampled_from(TEXTS)) + value[place:]
    elif isinstance(value, int | float):
        container[key] = draw(st.sampled_from((value + 1, value - 1, -value, value * 10**6, float(value))))
    else:
        _replace(draw, container, key)


def _swap(draw: DrawFn, container: Any, key: Any) -> None:
    keys = list(container) if isinstance(container, dict) else range(len(container))
    other = keys[draw(st.integers(0, len(keys) - 1))]
    container[key], container[other] = container[other], container[key]


_CHANGES: tuple[Callable[[DrawFn, Any, Any], None], ...] = (
    _replace, _replace, _delete, _twice, _rename, _wrap, _nudge, _nudge, _swap,
)  # fmt: skip


@st.composite
def mutated_bytes(draw: DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of `seeds` with up to six changes of its bytes."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(data)))
        end = min(len(data), place + draw(st.sampled_from((0, 1, 2, 4, 8, 64, 10**9))))
        data[place:end] = draw(_PIECES)(bytes(data[place:end]))
    return bytes(data)


def _flipped(piece: bytes) -> bytes:
    return bytes(byte ^ 0x41 for byte in piece)


_PIECES: SearchStrategy[Callable[[bytes], bytes]] = st.one_of(
    st.sampled_from((_flipped, lambda piece: b"", lambda piece: bytes(piece) * 3)),
    st.sampled_from((b"\0", b"\xff", b"\0" * 4, b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\n", b"/"))
    .map(lambda piece: lambda _: piece),
    st.binary(max_size=9).map(lambda piece: lambda _: piece),
)  # fmt: skip


@st.composite
def json_bytes(draw: DrawFn, seeds: Sequence[Any]) -> bytes:
    """JSON of mutated `seeds`; one of eight is changed in its bytes too."""
    text = as_json(draw(mutated_values(seeds))).encode("utf-8", "surrogatepass")
    return draw(mutated_bytes([text])) if draw(st.integers(0, 7)) == 0 else text
