"""Fields of ops as their declared types, whoever wrote them: Python, numpy or JSON."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from gsto_spec.ops import OPS, Op

_KINDS = {int: "whole number", float: "finite number", bool: "truth value", str: "text"}


class FieldError(Exception):
    """A field of another type: its name, what was expected, what was found."""

    def __init__(self, field: str, expected: str, found: object) -> None:
        super().__init__(field)
        self.field, self.expected, self.found = field, expected, reprlib.repr(found)


def checked(op: Op) -> Op:
    """`op` with every field of exactly its declared type; raises `FieldError`."""
    given = {item.name: getattr(op, item.name) for item in fields(op)}
    typed = convert(op.kind, given)
    same = all(typed[name] is value for name, value in given.items())
    return op if same else type(op)(**typed)


def convert(kind: str, given: Mapping[str, object]) -> dict[str, Any]:
    """The fields of an op as their declared types; lists become tuples, whole numbers floats."""
    return {name: _convert(name, value, _hints(kind)[name]) for name, value in given.items()}


@cache
def _hints(kind: str) -> dict[str, Any]:
    return get_type_hints(OPS[kind])


def _convert(name: str, value: object, kind: Any) -> Any:
    origin = get_origin(kind)
    if origin in (UnionType, Union):
        options = [option for option in get_args(kind) if option is not NoneType]
        return None if value is None else _convert(name, value, options[0])
    if origin is Literal:
        if value not in get_args(kind):
            raise FieldError(name, f"one of {', '.join(get_args(kind))}", value)
        return value
    if origin is tuple:
        return _convert_tuple(name, value, get_args(kind))
    return _convert_one(name, value, kind)


def _convert_one(name: str, value: object, kind: Any) -> Any:
    if type(value) is kind and (kind is not float or math.isfinite(value)):  # type: ignore[arg-type]
        return value
    if not isinstance(value, bool):
        if kind is int and isinstance(value, Integral):
            return int(value)
        if kind is float and isinstance(value, Real) and math.isfinite(value):
            return float(value)
    raise FieldError(name, f"a {_KINDS[kind]}", value)


def _convert_tuple(name: str, value: object, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise FieldError(name, "a list", value)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise FieldError(name, f"a list of {len(kinds)} numbers", value)
    items = tuple(_convert(name, item, kind) for item, kind in zip(value, kinds, strict=True))
    same = isinstance(value, tuple) and all(a is b for a, b in zip(items, value, strict=True))
    return value if isinstance(value, tuple) and same else items
