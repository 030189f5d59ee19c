"""Weights: one numpy array per stored tensor, by canonical name; how they start and how they are kept.

A saved model is a directory of `graph.json`, `model.safetensors` and `card.json`; any backend opens it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec.errors import GraphError, GstoError, WeightsError, listed
from gsto_spec.graph import Graph
from gsto_spec.ops import Parameter
from gsto_spec.reference import array_problems, misfit

Weights = dict[str, NDArray[np.float32]]

GRAPH_FILE = "graph.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "card.json"


def initial_weights(graph: Graph, seed: int = 0) -> Weights:
    """New weights in float32: each tensor has a generator of its own, keyed by seed and name.

    So weights do not depend on the backend, nor on the other tensors of the graph. Raises `GstoError` for
    a negative seed.
    """
    if seed < 0:
        raise GstoError(f"seed: expected at least 0, found {seed}")
    return {name: _draw(name, leaf, seed) for name, leaf in graph.leaves.items()}


def _draw(name: str, leaf: Parameter, seed: int) -> NDArray[np.float32]:
    if leaf.initial == "constant":
        return np.full(leaf.shape, leaf.scale, np.float32)
    deviation = leaf.scale
    if leaf.initial == "fan_in_normal":
        deviation /= math.sqrt(math.prod(leaf.shape[1:]))
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return (generator.standard_normal(leaf.shape) * deviation).astype(np.float32)


def check_weights(graph: Graph, weights: Mapping[str, NDArray[Any]]) -> None:
    """Raise `WeightsError` unless `weights` holds exactly `graph.parameters`, all values finite."""
    check_tensors("weights", graph.parameters, weights)


def check_tensors(
    what: str, expected: Mapping[str, Sequence[int]], found: Mapping[str, NDArray[Any]]
) -> None:
    """Raise `WeightsError`, listing every missing, undeclared, misshapen and not finite tensor at once."""
    given: object = found
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise WeightsError(f"{what}: expected a mapping of names to arrays, found {kind}")
    odd = [f"{name} is no array of real numbers" for name, array in found.items() if not _is_real(array)]
    if odd:
        raise WeightsError(f"{what}: {listed(odd)}", odd)
    problems = array_problems(expected, found)
    problems += [f"{name} is not finite" for name, array in found.items() if not np.isfinite(array).all()]
    if problems:
        raise misfit(what, expected, found, problems)


def _is_real(array: object) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in "fiu" and array.dtype.itemsize <= 8


def save_directory(
    directory: str | Path,
    graph: Graph,
    weights: Mapping[str, NDArray[Any]],
    card: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's directory; `card` adds entries (data, protocol, score, licence, ...) to `card.json`.

    Raises `GraphError` for a graph that is not in training form, `WeightsError` for other weights, and
    `FileExistsError` where the directory holds a model, or a file of one of these names, already.
    """
    write_files(directory, saved_files(graph, weights, card))


def saved_files(
    graph: Graph, weights: Mapping[str, NDArray[Any]], card: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """The files of a saved model, name -> contents; see `save_directory` for `card` and errors."""
    from safetensors.numpy import save

    if (problem := graph.training_form_violation()) is not None:
        raise problem
    check_weights(graph, weights)
    data = save({name: np.ascontiguousarray(array) for name, array in weights.items()})
    facts = {"graph_digest": graph.digest, "weights_sha256": hashlib.sha256(data).hexdigest()}
    described = json_bytes({**facts, **(card or {}), **facts})
    # The graph last: a directory that has it is whole.
    return {WEIGHTS_FILE: data, CARD_FILE: described, GRAPH_FILE: graph.to_json(indent=1).encode()}


def write_files(directory: str | Path, files: Mapping[str, bytes]) -> None:
    """Write a model's files in their order, each whole or not at all. Raises `FileExistsError` before any."""
    folder = Path(directory)
    if (folder / GRAPH_FILE).exists():
        raise FileExistsError(f"{folder} holds a saved model already; choose another directory")
    for name in files:
        if os.path.lexists(folder / name):
            raise FileExistsError(f"{folder / name} exists already; choose another directory")
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        _write(folder / name, data)


def json_bytes(card: Mapping[str, Any]) -> bytes:
    """A card as JSON text. Raises `GstoError` for what JSON cannot hold."""
    try:
        return json.dumps(card, indent=2, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise GstoError(f"card: expected what JSON can hold, found {error}") from None


def _write(path: Path, data: bytes) -> None:
    """All of the file or nothing of it: written beside, synced, renamed."""
    beside = path.with_name(f"{path.name}.partial")
    beside.unlink(missing_ok=True)
    # Made new: what lies there may be a link to somewhere else.
    with beside.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def load_directory(directory: str | Path) -> tuple[Graph, Weights, dict[str, Any]]:
    """A saved model: its graph, weights and card. For a run's folder that is the model in it.

    Raises `WeightsError` or `GraphError` for files that are missing, broken, foreign, or not the ones that
    the card describes.
    """
    folder = saved_model(directory)
    require_saved(folder)
    graph = read_graph(folder / GRAPH_FILE)
    card = read_card(folder / CARD_FILE)
    _check_described(folder / GRAPH_FILE, card.get("graph_digest"), graph.digest)
    weights = read_safetensors(folder / WEIGHTS_FILE)
    check_tensors(str(folder / WEIGHTS_FILE), graph.parameters, weights)
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    _check_described(folder / WEIGHTS_FILE, card.get("weights_sha256"), digest)
    return graph, weights, card


def saved_model(directory: str | Path) -> Path:
    """A saved model's own directory: `directory`, or the `model` in it, as a training run leaves it there."""
    folder = Path(directory)
    return folder / "model" if not _is_saved(folder) and _is_saved(folder / "model") else folder


def _is_saved(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (GRAPH_FILE, WEIGHTS_FILE, CARD_FILE))


def require_saved(folder: Path) -> None:
    """Raise `WeightsError` unless a directory has the three files of a saved model."""
    for name in (GRAPH_FILE, WEIGHTS_FILE, CARD_FILE):
        if not (folder / name).is_file():
            raise WeightsError(
                f"{folder / name}: a saved model has {GRAPH_FILE}, {WEIGHTS_FILE} and {CARD_FILE}"
            )


def _check_described(path: Path, described: object, digest: str) -> None:
    if described != digest:
        found = f"one of digest {digest}, not {described}"
        raise WeightsError(f"{path}: expected the file that {CARD_FILE} describes, found {found}")


def read_graph(path: Path) -> Graph:
    """The graph in a JSON file. Raises `GraphError` or `GstoError`, naming the file."""
    try:
        return Graph.from_json(_text(path))
    except GraphError as error:
        raise GraphError(f"{path}: {error.node}", error.expected, error.found, error.label) from None


def read_safetensors(path: str | Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file by name, sorted; bfloat16, which numpy lacks, as float32: exact.

    Raises `WeightsError` for other files, and for tensors of a type that numpy lacks.
    """
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(Path(path).read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise WeightsError(f"{path}: expected a safetensors file, found {error}") from None
    strange = [f"{name} of {entry['dtype']}" for name, entry in entries if entry["dtype"] not in _SAFETENSORS]
    if strange:
        raise WeightsError(f"{path}: expected tensors of types that numpy has, found {', '.join(strange)}")
    return {name: _tensor(entry) for name, entry in sorted(entries, key=lambda named: str(named[0]))}


_SAFETENSORS = {
    "BOOL": "?", "BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
    **{f"{kind.upper()}{8 * size}": f"<{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)},
}  # fmt: skip


def _tensor(entry: Mapping[str, Any]) -> NDArray[Any]:
    values = np.frombuffer(entry["data"], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
    if entry["dtype"] == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise GstoError(f"{path}: expected UTF-8 text, found {error.reason}") from None


def read_card(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `WeightsError` or `GstoError`, naming the file."""
    try:
        card = json.loads(_text(path))
        json.dumps(card, ensure_ascii=False).encode()  # What no file can hold could not be told again.
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: expected JSON, found {error}") from None
    if not isinstance(card, dict):
        raise WeightsError(f"{path}: expected a JSON object, found {type(card).__name__}")
    return card
