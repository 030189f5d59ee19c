"""Models to share: a saved model's three files, with a page, a configuration and a golden answer beside them.

The directory is one that `weights.load_directory` opens, and opens any that `weights.save_directory` wrote.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gsto_spec import golden
from gsto_spec.errors import GstoError, WeightsError
from gsto_spec.graph import Graph
from gsto_spec.hub import find
from gsto_spec.model_card import config, model_card
from gsto_spec.weights import (
    CARD_FILE,
    GRAPH_FILE,
    WEIGHTS_FILE,
    Weights,
    check_tensors,
    json_bytes,
    load_directory,
    read_card,
    read_graph,
    read_safetensors,
    require_saved,
    saved_files,
    saved_model,
    write_files,
)

README_FILE, CONFIG_FILE, GOLDEN_FILE = "README.md", "config.json", "golden.json"
FILES = (README_FILE, CONFIG_FILE, GOLDEN_FILE, WEIGHTS_FILE, CARD_FILE, GRAPH_FILE)
"""All that a directory to share holds, and all that is ever taken from the hub."""


def save_pretrained(
    directory: str | Path,
    graph: Graph,
    weights: Mapping[str, NDArray[Any]],
    card: Mapping[str, Any] | None = None,
    *,
    former: Mapping[str, Any] | None = None,
) -> None:
    """Write a directory to share; see `weights.save_directory` for `card`.

    `former` is the card that the network came with: what `card` does not tell is taken from it, but for
    `metrics` where the graph or a bit of the weights is another now.

    Of the card's entries the page knows: architecture, benchmark, data, protocol, metrics, classes, palette,
    preprocessing, settings, licence. The golden answer takes one run of the definition, seconds for the
    largest networks.

    Raises `GraphError`, `WeightsError` and `GstoError` as `save_directory` does, `GstoError` for names of
    other than as many classes as the first output has, and `FileExistsError` where
    the directory holds anything at all.
    """
    folder = Path(directory)
    if folder.is_dir() and (held := next(folder.iterdir(), None)) is not None:
        raise FileExistsError(f"{folder} holds {held.name} already; choose another directory")
    write_files(folder, _files(graph, weights, card or {}, former or {}))


def _files(
    graph: Graph, weights: Mapping[str, NDArray[Any]], card: Mapping[str, Any], former: Mapping[str, Any]
) -> dict[str, bytes]:
    saved = saved_files(graph, weights)
    digests = json.loads(saved[CARD_FILE])
    same = digests.items() <= former.items()
    kept = {key: value for key, value in former.items() if same or key != "metrics"}
    told = {**digests, **kept, **card, **digests}
    _check_classes(graph, told)
    saved[CARD_FILE] = json_bytes(told)
    return {
        README_FILE: model_card(graph, told).encode(errors="replace"),
        CONFIG_FILE: json_bytes(config(graph, told)),
        GOLDEN_FILE: json_bytes(golden.record(graph, weights)),
        **saved,
    }


def _check_classes(graph: Graph, card: Mapping[str, Any]) -> None:
    names = card.get("classes")
    if not isinstance(names, list | tuple) or not names:
        return
    output, node = next(iter(graph.outputs.items()))
    channels = graph.shapes[node][1]
    if len(names) != channels:
        raise GstoError(
            f"card: classes: expected a name for each of the {channels} channels of output {output}, found "
            f"{len(names)}; name all, or leave classes out"
        )


def load_pretrained(
    name: str | Path, *, revision: str | None = None
) -> tuple[Graph, Weights, dict[str, Any]]:
    """Graph, weights and card of a saved model: a directory here, or the hub's `owner/name`.

    Raises `HubError` where it is not to be had, else as `weights.load_directory` does.
    """
    return load_directory(find(name, FILES, revision=revision))


@dataclass(frozen=True)
class Inspected:
    """A saved model as it lies there; `problems`: files and tensors that are not those recorded, in words."""

    graph: Graph
    weights: Weights
    card: Mapping[str, Any]
    recorded: Mapping[str, Any]
    problems: tuple[str, ...]


def inspect_directory(directory: str | Path) -> Inspected:
    """Read a saved model with its records, and say what differs from them instead of refusing it.

    Raises `WeightsError` or `GraphError` where a file is missing or broken, or where the tensors are not
    those of the graph.
    """
    folder = saved_model(directory)
    if not (folder / GOLDEN_FILE).is_file():
        raise WeightsError(
            f"{folder / GOLDEN_FILE}: no such file; save the network again with save_pretrained"
        )
    require_saved(folder)
    graph = read_graph(folder / GRAPH_FILE)
    card, recorded = read_card(folder / CARD_FILE), read_card(folder / GOLDEN_FILE)
    weights = read_safetensors(folder / WEIGHTS_FILE)
    check_tensors(str(folder / WEIGHTS_FILE), graph.parameters, weights)
    problems = [
        f"{GRAPH_FILE} is of digest {graph.digest[:12]}, {name} tells of another"
        for name, told in ((CARD_FILE, card), (GOLDEN_FILE, recorded))
        if told.get("graph_digest") != graph.digest
    ]
    if card.get("weights_sha256") != hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest():
        problems.append(f"{WEIGHTS_FILE} is not the file that {CARD_FILE} describes")
    return Inspected(graph, weights, card, recorded, (*problems, *_changed(folder, recorded, weights)))


def _changed(folder: Path, recorded: Mapping[str, Any], weights: Weights) -> list[str]:
    try:
        names = golden.changed_tensors(recorded, weights)
    except GstoError as error:
        raise WeightsError(f"{folder / GOLDEN_FILE}: {error}") from None
    return [f"tensor {name} is not the one recorded" for name in names]
