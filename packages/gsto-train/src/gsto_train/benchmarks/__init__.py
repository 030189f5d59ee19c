"""Benchmarks: settings with the record of what they gave, a TOML file each; `scenes` is the default."""

import os
import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from gsto_train.errors import InputError, nearest, nearest_path
from gsto_train.schema import Values, flatten, is_free, read, setting, values_in_use
from gsto_train.settings import DATA_VARIABLE, FROM_FILES, Settings, resolve
from gsto_train.wording import noun_of

DEFAULT = "scenes"

PLACES = ("data.folder", "data.decoded", "architecture.initialize_from")
"""Settings that name places on the machine of whoever trains."""

_MATTERING = ("train.keep", "train.not_finite")
"""Settings that may change when a run resumes, but not without changing its result."""


@dataclass(frozen=True)
class Record:
    """What a benchmark reproduces; scores are fractions, and none where nothing was published or measured."""

    source: str = setting("where the recipe and the scores come from")
    command: str = setting("what gives them, as typed")
    mean_iou: float | None = setting("mean IoU", None, at_least=0, at_most=1)
    pixel_accuracy: float | None = setting("pixel accuracy", None, at_least=0, at_most=1)
    mean_accuracy: float | None = setting("mean accuracy", None, at_least=0, at_most=1)
    average_precision: float | None = setting("AP", None, at_least=0, at_most=1)
    correct_keypoints: float | None = setting("PCK", None, at_least=0, at_most=1)
    data_set: str | None = setting("public name of the data; none where that is their kind, or none", None)
    conditions: str | None = setting(
        "what the scores hold for: pictures, test procedure, initialisation, seed", None
    )
    hardware: str | None = setting("what training ran on", None)
    hours: float | None = setting("what training took; none where it is not known", None, above=0)

    @property
    def scores(self) -> str:
        """The scores in words."""
        told = {
            "mean IoU": self.mean_iou, "pixel accuracy": self.pixel_accuracy,
            "mean accuracy": self.mean_accuracy, "AP": self.average_precision,
            "PCK": self.correct_keypoints,
        }  # fmt: skip
        scores = ", ".join(f"{name} {value:.4g}" for name, value in told.items() if value is not None)
        return scores or "no score recorded"

    @property
    def holds_for(self) -> str:
        """What the scores hold for, and what training took; may be empty."""
        took = ", ".join(filter(None, (self.hardware, _took(self.hours))))
        return "; ".join(filter(None, (self.conditions, took)))

    def __str__(self) -> str:
        """The scores in words, with what they hold for."""
        return self.scores + (f" ({self.holds_for})" if self.holds_for else "")


def _took(hours: float | None) -> str | None:
    if hours is None:
        return None
    return f"{60 * hours:.2g} minutes" if hours < 1 else f"{hours:g} {noun_of(int(hours), 'hour')}"


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

    A file that says `extends = "NAME"` has all settings of that benchmark but those it gives anew; its record
    is its own. One without a folder of data has that of its `data_variables`. Raises `InputError` for an
    unknown name, with the nearest one, and for a file that is not a benchmark.
    """
    values, record = _values(name)
    values |= _folder_of(name, values)
    try:
        resolve(values)
        return Benchmark(Path(name).stem, values, read(Record, record))
    except InputError as error:
        raise InputError(f"benchmark {name}: {error}") from None


def changed(benchmark: Benchmark, settings: Settings) -> dict[str, object]:
    """Return the settings in use, but paths, that a result depends on and that are not the benchmark's."""
    own = values_in_use(resolve(benchmark.values))
    return {
        key: value
        for key, value in values_in_use(settings).items()
        if own.get(key) != value and key not in PLACES and (key in _MATTERING or not is_free(Settings, key))
    }


def data_variables(name: str) -> tuple[str, ...]:
    """Return the environment variables that may name a benchmark's folder of data; the first one set counts.

    They are made of the name and of its leading parts: GSTO_DATA_LIP_HRNETV2, GSTO_DATA_LIP.
    """
    parts = re.findall(r"[A-Z0-9]+", Path(name).stem.upper())
    return tuple(f"{DATA_VARIABLE}{'_'.join(parts[:count])}" for count in range(len(parts), 0, -1))


def _folder_of(name: str, values: Values) -> dict[str, object]:
    """Return the folder that the environment names, for a benchmark that needs one and says none."""
    if "data.folder" in values or values.get("data.kind") not in FROM_FILES:
        return {}
    folders = filter(None, map(os.environ.get, data_variables(name)))
    folder = next(folders, None)
    return {} if folder is None else {"data.folder": folder}


def _values(name: str, extending: tuple[str, ...] = ()) -> tuple[dict[str, object], dict[str, object]]:
    """Return the settings, those that the benchmark extends included, and its record."""
    values = _table(name)
    base = values.pop("extends", None)
    record = {
        key.removeprefix("record."): values.pop(key) for key in list(values) if key.startswith("record.")
    }
    if base is None:
        return values, record
    if isinstance(base, str) and base.endswith(".toml"):
        base = str(Path(name).parent / base)
    if not isinstance(base, str) or base in (*extending, name):
        expected = "'extends': expected the name of another benchmark"
        raise InputError(f"benchmark {name}: {expected}, found {base!r}; name one, or leave it out")
    try:
        inherited, _ = _values(base, (*extending, name))
    except InputError as error:
        raise InputError(f"benchmark {name}: 'extends': {error}") from None
    return {**inherited, **values}, record


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
            hint = nearest_path(Path(name), "file")
            raise InputError(f"{name}: cannot read this benchmark: {error.strerror}{hint}") from None
    if name not in names():
        raise InputError(f"unknown benchmark {name!r}{nearest(name, names())}; known: {', '.join(names())}")
    return (files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
