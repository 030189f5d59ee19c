"""What a variant's fields may hold: checks that raise `VariantError` with the field's name."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any, TypeGuard

from gsto_spec.builder import GraphBuilder, Initialization
from gsto_spec.errors import GraphError, GstoError, nearest
from gsto_spec.forms import FORMS, Form
from gsto_spec.sizes import is_feature

_MOST = 2**31 - 1
"""As many as a size of a tensor can be anywhere."""


class VariantError(GstoError):
    """A variant's field that means nothing, or two that contradict each other."""

    def __init__(self, name: str, expected: str, found: object) -> None:
        super().__init__(f"{name}: expected {expected}, found {found}")


def check_counts(variant: Any, *names: str) -> None:
    """Fields that are numbers of at least 1."""
    for name in names:
        value = getattr(variant, name)
        if not _is_whole(value):
            raise VariantError(name, "a whole number of at least 1", repr(value))
        if value > _MOST:
            raise VariantError(name, f"at most {_MOST:,}", "more")
        if value < 1:
            raise VariantError(name, "at least 1", value)


def check_tuples(variant: Any, length: int | None, *names: str) -> None:
    """Fields that are tuples of `length` (None: one or more) numbers of at least 1."""
    for name in names:
        values = getattr(variant, name)
        if not isinstance(values, tuple) or not all(map(is_count, values)) or not _fits(values, length):
            raise VariantError(name, f"{length or 'one or more'} numbers of at least 1", values)


def _fits(values: tuple[object, ...], length: int | None) -> bool:
    return bool(values) if length is None else len(values) == length


def is_count(value: object) -> bool:
    """Whether `value` is a whole number of at least 1 that a size can have."""
    return _is_whole(value) and 1 <= value <= _MOST


def _is_whole(value: object) -> TypeGuard[int]:
    return type(value) is not bool and isinstance(value, Integral)


def check_switch(variant: Any, name: str) -> None:
    """A field that is True or False."""
    if not isinstance(getattr(variant, name), bool):
        raise VariantError(name, "True or False", getattr(variant, name))


def check_one_of(variant: Any, name: str, valid: tuple[Any, ...]) -> None:
    """A field that is one of a few words or numbers."""
    value = getattr(variant, name)
    if value not in valid:
        words = tuple(map(str, valid))
        raise VariantError(name, f"one of {', '.join(words)}", f"{value}{nearest(str(value), words)}")


def check_gate(variant: Any, name: str, valid: tuple[str, ...]) -> None:
    """A field that is None, the name of a gate, or a function that builds one."""
    value = getattr(variant, name)
    if value is not None and not callable(value):
        check_one_of(variant, name, valid)


def own_gate(function: Callable[..., object], build: GraphBuilder, path: str, x: str) -> str:
    """The gate that a user's function builds.

    Raises `VariantError` where it returns no node's name, or a node of channels that no gate has;
    `GraphError` for what is wrong in what it builds.
    """
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        found = function(build, path, x)
    except GraphError as error:
        raise _with_mend(error, path, name) from None
    if not isinstance(found, str):
        returned = "nothing" if found is None else f"a {type(found).__name__}"
        expected = "the function to return its last node's name, as `return build.sigmoid(g)` does"
        raise VariantError(f"gate {path}", expected, f"{name}, which returns {returned}")
    made, channels = build.shape(found), build.channels(x)
    if is_feature(made) and made[1] not in (1, channels):
        expected = f"1 channel, or as many as the features, {channels}"
        raise VariantError(f"gate {path}", expected, f"{name}, which makes {made[1]}")
    return found


def _with_mend(error: GraphError, path: str, function: str) -> GraphError:
    """The error of a gate's function; where it gives a name again for another path, with what mends that."""
    if error.label != "graph_c1" or error.node.startswith(path):
        return error
    layer = error.node.rpartition(".")[0] or error.node
    mend = f'name nodes by the path that the function is given, f"{{path}}.{layer}"'
    return GraphError(error.node, error.expected, f"{error.found} in {function}; {mend}", error.label)


def check_form(variant: Any) -> None:
    """The field `form`."""
    if not isinstance(variant.form, Form):
        check_one_of(variant, "form", tuple(FORMS))


def check_initialization(variant: Any) -> None:
    """The field `initialization`."""
    if not isinstance(variant.initialization, Initialization):
        raise VariantError("initialization", "an Initialization", variant.initialization)
