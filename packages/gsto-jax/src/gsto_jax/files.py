"""Saved models, a directory of `graph.json`, `model.safetensors` and `card.json`, and neutral checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

from gsto_jax.compile import CompiledGraph, compile, weights_of
from gsto_spec import Graph, checkpoint, pretrained
from gsto_spec.checkpoint import LoadedWeights
from gsto_spec.weights import Weights, load_directory, save_directory


def save(model: CompiledGraph, directory: str | Path, card: Mapping[str, Any] | None = None) -> None:
    """Write a model's directory; see `gsto_spec.weights.save_directory` for `card` and errors."""
    save_directory(directory, model.graph, weights_of(model), card)


def load(directory: str | Path, *, dtype: DTypeLike | None = None) -> CompiledGraph:
    """Open a saved model, whichever backend wrote it, or the one in a run's folder; `card` tells of it.

    See `gsto_spec.weights.load_directory` for errors.
    """
    return _compiled(*load_directory(directory), dtype)


def _compiled(
    graph: Graph, weights: Weights, card: Mapping[str, Any], dtype: DTypeLike | None
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
    name: str | Path, *, revision: str | None = None, dtype: DTypeLike | None = None
) -> CompiledGraph:
    """Open a saved model in inference mode: a directory here, whoever wrote it, or the hub's `owner/name`.

    A directory, a run's too, needs neither network nor library; `card` tells of the model. The hub needs
    huggingface_hub; `revision` is a branch, tag or commit there. Raises `HubError` where there is no such
    model, and else as `load` does.
    """
    model = _compiled(*pretrained.load_pretrained(name, revision=revision), dtype)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def read_checkpoint(
    path: str | Path,
    graph: Graph,
    *,
    inplace_abn: bool | None = None,
    initialize: bool = False,
    seed: int = 0,
) -> LoadedWeights:
    """The weights of `graph` in a `.safetensors` file or a saved directory, with `.report`; without torch.

    `gsto-convert` makes such a file of a published `.pth`; see `gsto_spec.checkpoint.read_checkpoint` for
    what must match, `inplace_abn`, `initialize` and errors.
    """
    return checkpoint.read_checkpoint(path, graph, inplace_abn=inplace_abn, initialize=initialize, seed=seed)
