"""What a saved model's card says of its pictures and classes, held to what this package computes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsto_spec.graph import Graph
from gsto_spec.sizes import is_feature, show
from gsto_train.data.augment import IMAGENET_MEAN, IMAGENET_STD
from gsto_train.data.classes import as_palette, class_names
from gsto_train.data.samples import Palette
from gsto_train.errors import InputError, nearest
from gsto_train.wording import counted

Card = Mapping[str, Any]

PREPROCESSING = {"channels": "RGB / 255", "mean": list(IMAGENET_MEAN), "deviation": list(IMAGENET_STD)}
"""What `gsto_train.data.augment.normalize` does to every picture."""

_LONGEST = 80
"""Characters of a value that is told."""


def check_preprocessing(path: Path, card: Card) -> None:
    """Raise `InputError` where the card at `path` asks for pictures other than the network would get."""
    told = card.get("preprocessing", {})
    if not isinstance(told, dict):
        known = ", ".join(PREPROCESSING)
        raise InputError(f"{path}: preprocessing: expected an object of {known}, found {short_json(told)}")
    for key, value in told.items():
        if key not in PREPROCESSING:
            hint = nearest(key, PREPROCESSING) or f"; expected {', '.join(PREPROCESSING)}"
            raise InputError(f"{path}: preprocessing: unknown key {key!a}{hint}; rename it, or remove it")
        if value != PREPROCESSING[key]:
            raise InputError(
                f"{path}: preprocessing.{key}: expected {short_json(PREPROCESSING[key])}, the only one that "
                f"is computed here, found {short_json(value)}; prepare such pictures in code of your own"
            )


def check_output(source: Path, graph: Graph) -> None:
    """Raise `InputError` where a network's first output says nothing of a picture's places."""
    output, node = next(iter(graph.outputs.items()))
    if not is_feature(graph.shapes[node]):
        found = show(graph.shapes[node])
        raise InputError(f"{source}: output {output}: expected a feature map, found {found}; give another")


def label_problems(graph: Graph, card: Card) -> list[str]:
    """Return what the card says of classes that are not those of the network's first output."""
    output, node = next(iter(graph.outputs.items()))
    channels, problems = graph.shapes[node][1], []
    for key, fitting, wanted in (
        ("classes", names_of(card), "a list of names, each once"),
        ("palette", palette_of(card), "a list of colours [R, G, B], each 0..255"),
    ):
        found = card.get(key)
        if isinstance(found, list) and len(found) != channels:
            each = f"one for each of the {counted(channels, 'channel')} of output {output}"
            problems.append(f"{key}: expected {each}, found {len(found)}")
        elif fitting is None and key in card and (key, found) != ("palette", None):
            problems.append(f"{key}: expected {wanted}, found {short_json(found)}")
    return problems


def names_of(card: Card) -> tuple[str, ...] | None:
    """Return the card's names of classes or joints; None where there are none, or none that can be."""
    names = card.get("classes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    try:
        return class_names(names)
    except InputError:
        return None


def palette_of(card: Card) -> Palette | None:
    """Return the card's colours of classes; None where there are none, or none that can be."""
    return as_palette(card.get("palette"))


def short_json(value: object) -> str:
    """Return a value as JSON, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
