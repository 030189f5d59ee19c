"""Benchmarks: settings with the record of what they gave, a TOML file each; `scenes` is the default."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from gsto_train.errors import InputError, nearest, nearest_path
from gsto_train.schema import Values, flatten, read, setting
from gsto_train.settings import resolve

DEFAULT = "scenes"


@dataclass(frozen=True)
class Record:
    """What a benchmark reproduces.

    source: where the recipe comes from; command: what gave the score, as typed; mean_iou: the score, a
    fraction; conditions: hardware, time and seed it was measured with; none where nothing was measured.
    """

    source: str
    command: str
    mean_iou: float | None = setting(None, at_least=0, at_most=1)
    conditions: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """A named set of settings: flat values, not yet resolved, and its record."""

    name: str
    values: Values
    record: Record


def names() -> tuple[str, ...]:
    """Return the names of the benchmarks that come with this package, the default first."""
    found = {Path(each.name).stem for each in files(__name__).iterdir() if each.name.endswith(".toml")}
    return (DEFAULT, *sorted(found - {DEFAULT}))


def load(name: str) -> Benchmark:
    """Return a benchmark by name, or from a file of one's own where `name` ends in .toml.

    Raises `InputError` for an unknown name, with the nearest one, and for a file that is not a benchmark.
    """
    values = _table(name)
    record = {
        key.removeprefix("record."): values.pop(key) for key in list(values) if key.startswith("record.")
    }
    try:
        resolve(values)
        return Benchmark(Path(name).stem, values, read(Record, record))
    except InputError as error:
        raise InputError(f"benchmark {name}: {error}") from None


def _table(name: str) -> dict[str, object]:
    try:
        return flatten(tomllib.loads(_text(name)))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: expected TOML, found an error: {error}") from None


def _text(name: str) -> str:
    if name.endswith(".toml"):
        try:
            return Path(name).read_text(encoding="utf-8")
        except OSError as error:
            hint = nearest_path(Path(name))
            raise InputError(f"{name}: cannot read this benchmark: {error.strerror}{hint}") from None
    if name not in names():
        raise InputError(f"unknown benchmark {name!r}{nearest(name, names())}; known: {', '.join(names())}")
    return (files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
