"""Saved models: a directory of `graph.json`, `model.safetensors` and `card.json` that any backend opens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

from gsto_jax.compile import CompiledGraph, compile, weights_of
from gsto_spec.weights import load_directory, save_directory


def save(model: CompiledGraph, directory: str | Path, card: Mapping[str, Any] | None = None) -> None:
    """Write a model's directory; see `gsto_spec.weights.save_directory` for `card` and errors."""
    save_directory(directory, model.graph, weights_of(model), card)


def load(directory: str | Path, *, dtype: DTypeLike | None = None) -> CompiledGraph:
    """Open a saved model, whichever backend wrote it; see `gsto_spec.weights.load_directory` for errors."""
    graph, weights, _ = load_directory(directory)
    return compile(graph, weights, dtype=dtype)
