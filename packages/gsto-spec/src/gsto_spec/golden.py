"""The golden answer: what a network says of one fixed picture, by which a copy of it is known to be the same.

It is recorded by the definition, in float64, at some places of every output, with a digest of every tensor.
A backend's answer may lie so far from it as rounding explains; docs/numerics.md derives how far that is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec.errors import GraphError, WeightsError
from gsto_spec.graph import Graph
from gsto_spec.reference import evaluate
from gsto_spec.sizes import is_feature

Array = NDArray[Any]
Predict = Callable[[Array], Mapping[str, Array]]
"""A backend's answer: output name -> N x K x h x w, for pictures N x C x H x W."""

SEED, SIZE = 0, (64, 96)
"""Of the picture: standard normal numbers, one for each of its values."""
PLACES_PER_CHANNEL, PLACES = 4, 64
"""Values recorded of every output: so many of each channel, and at least so many of all."""
LARGEST = 2**27
"""Values of a node past which a network is not asked: a graph in a file may be made to fill memory."""
_DIGITS = 16
"""Of a tensor's SHA-256."""

RUNS = 5
SPREADS = 4.0
"""How many times the largest error of the definition's own runs in float32 an answer may be off."""
ULP = float(np.finfo(np.float32).eps)
ROUNDING = {"float32": 2.0**-24, "float64": 1e-13}
"""By precision: relative rounding that is explained; of float64 900 units: nothing else is that small."""


def picture(graph: Graph) -> Array:
    """The picture that a graph is asked about, 1 x C x 64 x 96 in float32."""
    (channels,) = graph.inputs.values()
    drawn = np.random.default_rng(SEED).standard_normal((1, channels, *SIZE))
    return drawn.astype(np.float32)


def record(graph: Graph, weights: Mapping[str, Array]) -> dict[str, Any]:
    """What a saved model's `golden.json` holds.

    `outputs` is None for a network that takes no picture of this size, or several, or whose answer is not
    finite.
    """
    found: dict[str, Any] = {"graph_digest": graph.digest, "picture": None, "outputs": None}
    if _takes_picture(graph):
        asked = picture(graph)
        found["picture"] = {"seed": SEED, "shape": list(asked.shape), "sha256": digest(asked)}
        with np.errstate(all="ignore"):
            answer = _sampled(evaluate(graph, weights, {_input(graph): asked}))
        if all(np.isfinite(values).all() for values in answer.values()):
            found["outputs"] = {name: values.tolist() for name, values in answer.items()}
    return {**found, "tensors": {name: digest(weights[name]) for name in graph.parameters}}


def digest(array: Array) -> str:
    """The first digits of the SHA-256 of an array's type, shape and values."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    content = f"{little.dtype.str} {array.shape} ".encode() + little.tobytes()
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def changed_tensors(recorded: Mapping[str, Any], weights: Mapping[str, Array]) -> list[str]:
    """Names of the tensors that are not the recorded ones. Raises `WeightsError` for a foreign record."""
    told = recorded.get("tensors")
    if not isinstance(told, dict):
        raise WeightsError(f"expected tensors: name -> digest, found {type(told).__name__}")
    names = [*weights, *sorted(told.keys() - weights.keys())]
    return [name for name in names if name not in weights or told.get(name) != digest(weights[name])]


@dataclass(frozen=True)
class Compared:
    """An output beside its record, as Euclidean norms over the recorded values.

    distance: of the backend's answer from the record; bound: how much of that rounding explains; definition:
    of the answer that the definition gives here.
    """

    output: str
    distance: float
    bound: float
    definition: float

    @property
    def agrees(self) -> bool:
        """Whether rounding explains the distance; where float32 overflows nothing does."""
        return self.distance <= self.bound < math.inf


def compare(
    graph: Graph, weights: Mapping[str, Array], recorded: Mapping[str, Any], predict: Predict, precision: str
) -> list[Compared]:
    """Ask again, and compare every output with its record.

    Raises `WeightsError` where the record has no answer, or one of another network or picture.
    """
    if precision not in ROUNDING:
        raise WeightsError(f"precision: expected one of {', '.join(ROUNDING)}, found {precision}")
    told = _told(graph, recorded)
    asked = picture(graph)
    if recorded["picture"].get("sha256") != digest(asked):
        raise WeightsError("this numpy draws another picture from the seed than the one recorded")
    exact = _sampled(evaluate(graph, weights, {_input(graph): asked}))
    bounds = _bounds(graph, weights, asked, exact, precision)
    found = _sampled(predict(asked))
    return [
        Compared(name, _norm(found[name] - values), bounds[name], _norm(exact[name] - values))
        for name, values in told.items()
    ]


def _takes_picture(graph: Graph) -> bool:
    if len(graph.inputs) != 1:
        return False
    try:
        shapes = graph.check((1, next(iter(graph.inputs.values())), *SIZE))
    except GraphError:
        return False
    if any(math.prod(shape) > LARGEST for shape in shapes.values()):
        return False
    return all(is_feature(graph.shapes[node]) for node in graph.outputs.values())


def _input(graph: Graph) -> str:
    return next(iter(graph.inputs))


def _sampled(answer: Mapping[str, Array]) -> dict[str, Array]:
    return {name: _values(np.asarray(output, np.float64)) for name, output in answer.items()}


def _values(output: Array) -> Array:
    """K x n: of every channel some values, at places by Knuth's multiplicative hash, the same everywhere."""
    channels, places = output.shape[1], math.prod(output.shape[2:])
    count = _count(channels)
    hashed = np.arange(channels * count, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(2**32)
    index = (hashed * np.uint64(places) >> np.uint64(32)).astype(np.intp).reshape(channels, count)
    return np.take_along_axis(output[0].reshape(channels, places), index, axis=1)


def _count(channels: int) -> int:
    return max(PLACES_PER_CHANNEL, -(-PLACES // channels))


def _told(graph: Graph, recorded: Mapping[str, Any]) -> dict[str, Array]:
    """The recorded values, which come from a file that anybody may have written."""
    outputs = recorded.get("outputs")
    if not isinstance(outputs, dict) or not isinstance(recorded.get("picture"), dict):
        raise WeightsError("no answer is recorded: save the network again with save_pretrained")
    if not _takes_picture(graph):
        raise WeightsError("an answer is recorded that this graph cannot give")
    if list(outputs) != list(graph.outputs):
        raise WeightsError(f"expected answers of {', '.join(graph.outputs)}, found {', '.join(outputs)}")
    return {
        name: _numbers(name, outputs[name], graph.shapes[node][1]) for name, node in graph.outputs.items()
    }


def _numbers(name: str, values: object, channels: object) -> Array:
    assert isinstance(channels, int)
    shape = (channels, _count(channels))
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise WeightsError(f"{name}: expected numbers, found something else") from None
    if array.shape != shape or not np.isfinite(array).all():
        raise WeightsError(f"{name}: expected {shape} finite numbers, found {array.shape}")
    return array


def _bounds(
    graph: Graph, weights: Mapping[str, Array], asked: Array, exact: Mapping[str, Array], precision: str
) -> dict[str, float]:
    """The definition's own runs in float32, weights and pixels off by about an ulp, scaled to a precision."""
    largest = dict.fromkeys(exact, 0.0)
    for run in range(RUNS):
        draw = np.random.default_rng([SEED, run])
        moved = {name: _off(draw, array) for name, array in weights.items()}
        with np.errstate(all="ignore"):
            found = _sampled(evaluate(graph, moved, {_input(graph): _off(draw, asked)}, np.float32))
        off = {name: _norm(found[name] - exact[name]) for name in largest}
        largest = {name: float(np.maximum(most, off[name])) for name, most in largest.items()}
    scale = SPREADS * ROUNDING[precision] / ROUNDING["float32"]
    flushed = float(np.finfo(np.float32).tiny)
    return {name: scale * most + flushed * math.sqrt(exact[name].size) for name, most in largest.items()}


def _off(draw: np.random.Generator, array: Array) -> Array:
    return np.asarray(array * (1 + ULP * draw.standard_normal(array.shape)), np.float32)


def _norm(x: Array) -> float:
    return float(np.linalg.norm(x))
