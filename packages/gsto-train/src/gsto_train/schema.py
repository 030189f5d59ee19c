"""Strict settings: frozen dataclasses filled from tables; every key is known, typed, in range and in use.

Tables nest as TOML does; here they are flat, `{"train.batch": 8}`, so that a benchmark file, `--set` and a
run folder are one kind of thing.
"""

import contextlib
import difflib
import json
import math
import shlex
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from gsto_train.errors import InputError, is_text, nearest

T = TypeVar("T")

_SHORT = {
    "lr": "learning_rate", "batch_size": "batch", "bs": "batch", "epoch": "epochs", "num_epochs": "epochs",
    "max_epochs": "epochs", "step": "steps", "iterations": "steps", "max_steps": "steps", "size": "crop",
    "crop_size": "crop", "image_size": "crop", "workers": "threads", "num_workers": "threads",
    "wd": "weight_decay",
}  # fmt: skip
"""What other programs call a setting."""

_LARGEST_WHOLE = 2**63 - 1
_SHOWN = 200
"""Characters of a wrong value that an error repeats."""

Values = Mapping[str, object]
"""Dotted key -> value, as TOML or JSON gives it."""


@dataclass(frozen=True)
class Rule:
    """What a setting's values must meet; bounds hold for each number in a list.

    `only` = (key, value, ...): the setting is in use only where `key`, a neighbour or a dotted key, has one
    of the values; `never` = (key, value, ...): only where it has none of them. `instead_of` names a
    neighbour that an override of this setting removes. `free` settings may change when a run resumes.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    only: tuple[object, ...] | None = None
    never: tuple[object, ...] | None = None
    instead_of: str | None = None
    free: bool = False


def setting(
    meaning: str,
    default: Any = MISSING,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    only: tuple[object, ...] | None = None,
    never: tuple[object, ...] | None = None,
    instead_of: str | None = None,
    free: bool = False,
) -> Any:
    """Declare a dataclass field that is a setting, with its meaning for people and its `Rule`."""
    rule = Rule(at_least, above, at_most, below, only, never, instead_of, free)
    return field(default=default, metadata={"rule": rule, "meaning": meaning})


@dataclass(frozen=True)
class _Declared:
    type: Any
    default: object
    rule: Rule
    meaning: str


@dataclass(frozen=True)
class Description:
    """A setting in words: what it is for, what it expects, and its default; none where it must be given."""

    meaning: str
    expected: str
    default: str | None


def read(kind: type[T], base: Values, overrides: Values | None = None) -> T:
    """Return a `kind` filled from `base`, with `overrides` on top.

    Raises `InputError` for an unknown key (with the nearest one), a wrong type, a value out of range, a
    missing key, and a key that has no effect beside the others.
    """
    overrides = overrides or {}
    declared = _declared(kind)
    for key in (*base, *overrides):
        _check_known(key, declared)
    values = {**_without_replaced(base, overrides, declared), **overrides}
    checked = {
        key: _convert(declared[key].type, declared[key].rule, value, key) for key, value in values.items()
    }
    for key in checked:
        _check_in_use(key, checked, overrides, declared)
    return _build(kind, checked, "")


def flatten(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested tables as one flat one with dotted keys."""
    flat: dict[str, object] = {}
    for key, value in table.items():
        flat.update(
            flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
        )
    return flat


def nest(flat: Values) -> dict[str, object]:
    """Return a flat table as nested ones: the inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, leaf = key.split(".")
        table = nested
        for section in sections:
            table = table.setdefault(section, {})
        table[leaf] = value
    return nested


def values_in_use(settings: object) -> dict[str, object]:
    """Return the flat values of a settings dataclass, without those that have no effect beside the others."""
    values = dict(_walk(settings, ""))
    declared = _declared(type(settings))
    return {key: value for key, value in values.items() if _in_use(key, values, declared)}


def read_beside(settings: object, other: str) -> frozenset[str]:
    """Return the keys that have, or may have, an effect where the setting `other` stays as it is."""
    values, declared = dict(_walk(settings, "")), _declared(type(settings))
    idle = set[str]()
    for key in values:
        obstacle = _obstacle(key, values, declared)
        if obstacle is not None and (obstacle[0] == other or obstacle[0] in idle):
            idle.add(key)
    return frozenset(values.keys() - idle)


def is_free(kind: type, key: str) -> bool:
    """Return whether a setting may change when a run resumes."""
    return _declared(kind)[key].rule.free


def describe(kind: type) -> dict[str, Description]:
    """Return each setting in words, by key."""
    return {
        key: Description(
            each.meaning,
            _describe(each.type, each.rule),
            None if each.default is MISSING else in_words(each.default),
        )
        for key, each in _declared(kind).items()
    }


def in_words(value: object) -> str:
    """Return a value as `--set` takes it, numbers to eight digits."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(in_words, value))}]"
    if isinstance(value, float):
        return f"{value:.8g}"
    return "none" if value is None else _show(value)


def choices(kind: type, key: str) -> tuple[str, ...]:
    """Return the words that a setting takes; none for an unknown key, and where they cannot be listed."""
    declared = _declared(kind)
    return _choices(declared[key].type) if key in declared else ()


def _choices(expected: Any) -> tuple[str, ...]:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (types.UnionType, typing.Union):
        return tuple(word for each in arguments for word in _choices(each))
    if origin is typing.Literal:
        return tuple(map(str, arguments))
    return {bool: ("true", "false"), types.NoneType: ("none",)}.get(expected, ())


def assignment(text: str) -> tuple[str, object]:
    """Return key and value of `key=value`; the value is TOML or a number where it parses, else text."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise InputError(f"--set {text!r}: expected key=value, as in train.batch=8")
    return key.strip(), _parsed(value.strip())


def _parsed(text: str) -> object:
    try:
        table = tomllib.loads(f"value = {text}")
    except RecursionError:
        raise InputError(
            f"--set {text[:_SHOWN]!r}...: expected a value, found brackets nested too deep"
        ) from None
    except ValueError:  # No TOML, or a whole number of more digits than Python reads.
        with contextlib.suppress(ValueError):  # TOML knows neither .5 nor 5.
            return float(text)
        return text
    return table["value"] if len(table) == 1 else text


def _declared(kind: type, prefix: str = "") -> dict[str, _Declared]:
    hints = typing.get_type_hints(kind)
    declared: dict[str, _Declared] = {}
    for each in fields(kind):
        if is_dataclass(hints[each.name]):
            declared.update(_declared(hints[each.name], f"{prefix}{each.name}."))
        else:
            rule, meaning = each.metadata.get("rule", Rule()), each.metadata.get("meaning", "")
            declared[prefix + each.name] = _Declared(hints[each.name], each.default, rule, meaning)
    return declared


def _check_known(key: str, declared: Mapping[str, _Declared]) -> None:
    if key in declared:
        return
    if any(name.startswith(f"{key}.") for name in declared):
        raise InputError(f"setting {key!r} is a section: give one of its keys, {key}.KEY")
    raise InputError(f"unknown setting {key!r}{_nearest_setting(key, declared)}")


def _nearest_setting(key: str, declared: Mapping[str, _Declared]) -> str:
    """Return the hint for an unknown key: one much like it beside it, its own name elsewhere, or any."""
    section, _, leaf = key.rpartition(".")
    leaf = _SHORT.get(leaf, leaf)
    beside = {name.rpartition(".")[2]: name for name in declared if name.rpartition(".")[0] == section}
    much_like = difflib.get_close_matches(leaf, beside, n=1, cutoff=0.8)
    elsewhere = [name for name in declared if name.rpartition(".")[2] == leaf]
    found = [*(beside[name] for name in much_like), *elsewhere]
    return nearest(found[0], found) if found else nearest(key, declared)


def named(kind: type, name: str) -> str | None:
    """Return the first setting of this name in any section, or of what a short name stands for."""
    leaf = _SHORT.get(name, name)
    return next((key for key in _declared(kind) if key.rpartition(".")[2] == leaf), None)


def _neighbour(key: str, name: str) -> str:
    return name if "." in name else f"{key.rpartition('.')[0]}.{name}".lstrip(".")


def _without_replaced(base: Values, overrides: Values, declared: Mapping[str, _Declared]) -> Values:
    replaced = {_neighbour(key, name) for key in overrides if (name := declared[key].rule.instead_of)}
    return {key: value for key, value in base.items() if key not in replaced}


def _in_use(key: str, values: Values, declared: Mapping[str, _Declared]) -> bool:
    return _obstacle(key, values, declared) is None


def _obstacle(key: str, values: Values, declared: Mapping[str, _Declared]) -> tuple[str, str] | None:
    """Return what takes a setting's use away: the other setting's key, and what it would have to be."""
    rule = declared[key].rule
    for condition, wanted in ((rule.only, True), (rule.never, False)):
        if condition is None:
            continue
        other, values_of_it = _neighbour(key, str(condition[0])), condition[1:]
        if (values.get(other, declared[other].default) in values_of_it) != wanted:
            told = " or ".join(map(_show, values_of_it))
            return other, f"{other} = {told}" if wanted else f"another {other} than {told}"
    return None


def _check_in_use(key: str, values: Values, overrides: Values, declared: Mapping[str, _Declared]) -> None:
    """Complain of a useless key, but not where the base gave it and an override took its use away."""
    obstacle = _obstacle(key, values, declared)
    if obstacle is None:
        return
    other, wanted = obstacle
    if key in overrides or other not in overrides:
        found = values.get(other, declared[other].default)
        raise InputError(
            f"setting {key!r} has no effect: it belongs to {wanted}, found {_show(found)}; "
            f"remove it or change {other}"
        )


def _build(kind: type[T], values: Values, prefix: str) -> T:
    hints = typing.get_type_hints(kind)
    arguments: dict[str, object] = {}
    for each in fields(kind):  # type: ignore[arg-type]
        key = prefix + each.name
        if is_dataclass(hints[each.name]):
            arguments[each.name] = _build(hints[each.name], values, f"{key}.")
        elif key in values:
            arguments[each.name] = values[key]
        elif each.default is MISSING:
            raise InputError(f"setting {key!r} is missing: expected {_describe(hints[each.name], Rule())}")
    return kind(**arguments)


def _walk(settings: object, prefix: str) -> Iterator[tuple[str, object]]:
    for each in fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, each.name)
        if is_dataclass(value):
            yield from _walk(value, f"{prefix}{each.name}.")
        else:
            yield prefix + each.name, value


def _convert(expected: Any, rule: Rule, value: object, key: str) -> object:
    """Return the value in the declared type, or raise `InputError` with key, expected and found."""
    for text in value if isinstance(value, list | tuple) else (value,):
        if isinstance(text, str) and not is_text(text):
            raise InputError(f"setting {key!r}: expected UTF-8 text without NUL, found {text!a}; rename it")
    try:
        return _converted(expected, rule, value)
    except _Mismatch:
        found = f"{_show(value)}{_nearest_choice(expected, value)}"
        told = _describe(expected, _with_largest(rule, value))
        example = _as_list(expected, rule, value)
        raise InputError(f"setting {key!r}: expected {told}, found {found}{example}") from None


def _as_list(expected: Any, rule: Rule, value: object) -> str:
    """Return the hint for a list that lacks its brackets, or the quotes of its texts."""
    for items in _meant_lists(value):
        with contextlib.suppress(_Mismatch):
            if isinstance(meant := _converted(expected, rule, items), tuple):
                written = json.dumps(meant, separators=(",", ":"), ensure_ascii=False)
                in_shell = f", in a shell {shlex.quote(written)}" if '"' in written else ""
                return f"; write {written}{in_shell}"
    return ""


def _meant_lists(value: object) -> Iterator[object]:
    """Yield what a value that is no list may mean as one: 128,128 or 128x128, road,car, and 256 for two."""
    if isinstance(value, str) and len(value) <= _SHOWN:
        with contextlib.suppress(InputError):
            yield _parsed(f"[{value.replace('x', ',')}]")
        names = [name.strip(" '\"") for name in value.strip("[]").split(",")]
        yield from [names] if all(names) else []
    elif not isinstance(value, list | tuple):
        yield from ([value], [value, value])


def _with_largest(rule: Rule, value: object) -> Rule:
    """Return the rule with the bound that all whole numbers have, where that is what `value` exceeds."""
    past = isinstance(value, int) and value > _LARGEST_WHOLE
    unbounded = rule.at_most is None and rule.below is None
    return replace(rule, at_most=_LARGEST_WHOLE) if past and unbounded else rule


class _Mismatch(Exception):
    pass


def _converted(expected: Any, rule: Rule, value: object) -> object:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (types.UnionType, typing.Union):
        inner = next(each for each in arguments if each is not types.NoneType)
        return None if value is None or value == "none" else _converted(inner, rule, value)
    if origin is tuple:
        return _converted_list(arguments, rule, value)
    if origin is typing.Literal:
        return _require(value in arguments, value)
    if expected in (int, float):
        return _converted_number(expected, rule, value)
    return _require(isinstance(value, expected), value)


def _require(holds: bool, value: object) -> object:
    if not holds:
        raise _Mismatch
    return value


def _converted_list(arguments: tuple[Any, ...], rule: Rule, value: object) -> tuple[object, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise _Mismatch
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        raise _Mismatch
    return tuple(_converted(kind, rule, item) for kind, item in zip(kinds, value, strict=True))


def _converted_number(expected: type[int] | type[float], rule: Rule, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | expected):
        raise _Mismatch
    if not (abs(value) <= _LARGEST_WHOLE if isinstance(value, int) else math.isfinite(value)):
        raise _Mismatch
    if (
        (rule.at_least is not None and value < rule.at_least)
        or (rule.above is not None and value <= rule.above)
        or (rule.at_most is not None and value > rule.at_most)
        or (rule.below is not None and value >= rule.below)
    ):
        raise _Mismatch
    return expected(value)


def _nearest_choice(expected: Any, value: object) -> str:
    choices = [c for each in (expected, *typing.get_args(expected)) for c in typing.get_args(each)]
    return nearest(str(value), [choice for choice in choices if isinstance(choice, str)])


def _describe(expected: Any, rule: Rule, many: bool = False) -> str:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (types.UnionType, typing.Union):
        inner = next(each for each in arguments if each is not types.NoneType)
        return f"{_describe(inner, rule, many)} or none"
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"{'lists' if many else 'a list'} of {count}{_describe(arguments[0], rule, True)}"
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    nouns = {int: "whole number", float: "number"}
    if expected in nouns:
        return f"{nouns[expected] + 's' if many else 'a ' + nouns[expected]}{_bounds(rule)}"
    return "true or false" if expected is bool else "texts" if many else "a text"


def _bounds(rule: Rule) -> str:
    bounds = (
        ("at least", rule.at_least),
        ("above", rule.above),
        ("at most", rule.at_most),
        ("below", rule.below),
    )
    told = " and ".join(f"{word} {_number(bound)}" for word, bound in bounds if bound is not None)
    return f", {told}" if told else ""


def _number(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _show(value: object) -> str:
    try:
        shown = json.dumps(value, default=str, ensure_ascii=False)
    except (ValueError, RecursionError):  # More digits than Python writes, or nested too deep.
        return f"a {type(value).__name__} too large to show"
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}... ({len(shown)} characters)"
