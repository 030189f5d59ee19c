"""Saved models: a directory of `graph.json`, `model.safetensors` and `card.json` that any backend opens.

To share one there are a page, a configuration and a golden answer beside them: `save_pretrained`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gsto_spec import Graph, pretrained
from gsto_spec.weights import Weights, load_directory, save_directory
from gsto_torch.compile import CompiledGraph, compile, weights_of


def save(model: CompiledGraph, directory: str | Path, card: Mapping[str, Any] | None = None) -> None:
    """Write a model's directory; see `gsto_spec.weights.save_directory` for `card` and errors."""
    save_directory(directory, model.graph, weights_of(model), card)


def load(directory: str | Path, *, dtype: torch.dtype | None = None) -> CompiledGraph:
    """Open a saved model, whichever backend wrote it, or the one in a run's folder; `card` tells of it.

    See `gsto_spec.weights.load_directory` for errors.
    """
    return _compiled(*load_directory(directory), dtype)


def _compiled(
    graph: Graph, weights: Weights, card: Mapping[str, Any], dtype: torch.dtype | None
) -> CompiledGraph:
    model = compile(graph, weights, dtype=dtype)
    model.card = card
    return model


def save_pretrained(
    model: CompiledGraph, directory: str | Path, card: Mapping[str, Any] | None = None
) -> None:
    """Write a directory to share, as the hub has it; see `gsto_spec.pretrained.save_pretrained`.

    What `card` does not tell is taken from `model.card`, which a model from a directory has.
    """
    pretrained.save_pretrained(directory, model.graph, weights_of(model), card, former=model.card)


def from_pretrained(
    name: str | Path, *, revision: str | None = None, dtype: torch.dtype | None = None
) -> CompiledGraph:
    """Open a saved model in inference mode: a directory here, whoever wrote it, or the hub's `owner/name`.

    A directory, a run's too, needs neither network nor library; `card` tells of the model. The hub needs
    huggingface_hub; `revision` is a branch, tag or commit there. Raises `HubError` where there is no such
    model, and else as `load` does.
    """
    return _compiled(*pretrained.load_pretrained(name, revision=revision), dtype).eval()
