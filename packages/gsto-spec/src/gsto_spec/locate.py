"""From what a user types to a graph: a catalogue name, a JSON file, a directory, or `module:attribute`."""

from __future__ import annotations

import os
from pathlib import Path

from gsto_spec.catalog import architectures, build
from gsto_spec.errors import GstoError, nearest
from gsto_spec.forms import FormName
from gsto_spec.graph import Graph
from gsto_spec.resnet import ResNet
from gsto_spec.sizes import is_feature
from gsto_spec.users_code import LocateError, attribute, guarded, made, module_of, wrong_kind
from gsto_spec.variants import HRNet
from gsto_spec.weights import GRAPH_FILE, saved_model

__all__ = ["LocateError", "locate"]


def locate(text: str, *, classes: int | None = None, form: FormName | None = None) -> Graph:
    """The graph that `text` names.

    `module:attribute` may be a `Graph`, a variant, or a function of the number of classes that gives one of
    both; modules are looked for in the working folder too. A directory is a saved model's or a run's.
    `classes` and `form` replace a variant's; a graph has its own, so giving a form for one is an error.

    Raises `LocateError`, or the error of the file, variant or graph itself.
    """
    if text.endswith(".json"):
        return _fixed(text, _read(Path(text)), classes, form)
    if is_directory(text):
        return _fixed(text, _read(saved_model(text) / GRAPH_FILE), classes, form)
    if ":" not in text:
        return build(_name(text), classes=classes, form=form)
    found = attribute(text)
    if callable(found):
        found = made(text, found, classes)
    if isinstance(found, HRNet | ResNet):
        with guarded(text, passed=GstoError):  # Its gates may be functions.
            return build(found, classes=classes, form=form)
    if isinstance(found, Graph):
        return _fixed(text, found, classes, form)
    raise wrong_kind(text, found)


def is_directory(text: str) -> bool:
    """Whether `locate` takes `text` for a directory: one that is here, and called like no architecture."""
    return text not in architectures() and ":" not in text and os.path.isdir(text)


def _name(text: str) -> str:
    path = Path(text)
    if path.suffix == ".py":
        module = module_of(path) or path.stem
        raise LocateError(
            f"{text}: expected module:attribute, found a file; give {module}:NAME for NAME in it"
        )
    file = Path(f"{text.replace('.', os.sep)}.py")
    if text not in architectures() and module_of(file) == text and file.is_file():
        raise LocateError(f"{text}: expected module:attribute; give {text}:NAME for NAME in {file}")
    return text


def _fixed(text: str, graph: Graph, classes: int | None, form: FormName | None) -> Graph:
    if form is not None:
        raise LocateError(f"{text}: a graph's form is fixed; leave the form {form} out")
    for output, node in graph.outputs.items():
        shape = graph.shapes[node]
        if classes is not None and is_feature(shape) and shape[1] != classes:
            raise LocateError(f"{text}: output {output} has {shape[1]} channels, expected one for each of "
                              f"{classes} classes (a graph's are fixed)")  # fmt: skip
    return graph


def _read(path: Path) -> Graph:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # It may have no end.
            raise LocateError(f"{path}: expected a graph's file, found a pipe or device")
        return Graph.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        beside = [item.name for item in path.parent.glob("*.json")] if path.parent.is_dir() else []
        raise LocateError(f"{path}: cannot be read: {error.strerror}{nearest(path.name, beside)}") from None
    except UnicodeDecodeError as error:
        raise LocateError(f"{path}: expected UTF-8 text, found {error.reason}") from None
    except LocateError:
        raise
    except GstoError as error:
        raise LocateError(f"{path}: {error}") from None
    except ValueError as error:
        raise LocateError(f"{str(path)!r}: expected the path of a file, found {error}") from None
