"""Weights that training starts from: drawn from the seed, or read from a file as far as they fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import gsto_spec
from gsto_spec.graph import Graph
from gsto_spec.weights import WEIGHTS_FILE, saved_model
from gsto_train.convert import Reading, read_model
from gsto_train.errors import InputError
from gsto_train.settings import Settings


@dataclass(frozen=True)
class Initialization:
    """The weights; of a file also its name, how much of it arrived, and all that did not, a line each."""

    weights: Mapping[str, NDArray[Any]]
    source: str | None = None
    report: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return what a run folder keeps of it."""
        return {"source": self.source, "report": list(self.report)}


def initial_weights(settings: Settings, graph: Graph) -> Initialization:
    """Return the weights that a run of these settings starts from.

    What the network has beyond `architecture.initialize_from`, such as the classifier of ImageNet weights, is
    drawn from the seed. Raises `InputError` or gsto_spec's error where the file is missing, does not decode
    or has nothing for this network.
    """
    source, seed = settings.architecture.initialize_from, settings.train.seed
    if source is None:
        return Initialization(gsto_spec.initial_weights(graph, seed))
    path = saved_model(source) / WEIGHTS_FILE if Path(source).is_dir() else Path(source)
    try:
        model = read_model(path, graph, Reading(initialize=True, seed=seed))
    except InputError as error:
        raise InputError(f"setting 'architecture.initialize_from': {error}") from None
    return Initialization(model.weights, source, model.notes)
