"""A case: a graph, sizes and a seed, from which every array follows; and the backend that it is put to."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gsto_spec import Graph
from gsto_spec.backend import Backend, Predictor, Speed, Trainer, Training, backend
from gsto_spec.graph import Node
from gsto_spec.objective import SGD, Heatmap, Objective
from gsto_spec.ops import BatchNorm, Conv2d, Input, Parameter
from gsto_spec.precision import LOW

Array = NDArray[Any]
Arrays = dict[str, Array]

IMAGE = "image"
SHOWS_GRADIENTS = SGD(momentum=0.9, weight_decay=0.0)
"""After its first step the slot `optimizer/momentum/NAME` is the gradient."""


@dataclass(frozen=True, eq=False)
class Case:
    """One graph with everything that decides its arrays.

    `shape` is the image's, N x C x H x W; `offset` is added to every pixel; `valid` says how many labels
    count; `tied` sets every convolution's weights to 0, so that all pixels have one value, the bias; `whole`
    rounds the image to whole numbers of at most 0, many of them alike and many 0.
    A case made out of another one (`drawn`) may have its weights and image `given`.
    """

    graph: Graph = field(repr=False)
    shape: tuple[int, int, int, int]
    seed: int = 0
    training: Training = Training(optimizer=SHOWS_GRADIENTS)
    offset: float = 0.0
    valid: Literal["most", "one", "none"] = "most"
    tied: bool = False
    whole: bool = False
    given: Mapping[str, Array] = field(default_factory=dict, repr=False)
    drawn: Case | None = field(default=None, repr=False)

    @cached_property
    def key(self) -> str:
        """A short digest of all of it."""
        # The order of a set's names is another one in every process.
        ordered = replace(self, training=replace(self.training, frozen=frozenset()))
        words = f"{self.graph.to_json()}{ordered!r}{sorted(self.training.frozen)}"
        digest = hashlib.sha256(words.encode())
        for name, array in self.given.items():
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:12]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis prints: the graph would fill pages."""
        del cycle
        printer.text(repr(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Case) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @cached_property
    def weights(self) -> Arrays:
        """float32 arrays that leave no factor at 1 and no term at 0."""
        return {name: self._weight(name, leaf.shape) for name, leaf in self.graph.leaves.items()}

    def _weight(self, name: str, shape: tuple[int, ...]) -> Array:
        if name in self.given:
            return self.given[name]
        return _draw(self.seed, name, shape) * np.float32(not (self.tied and len(shape) == 4))

    @cached_property
    def image(self) -> Array:
        """float32, standard normal plus `offset`."""
        if IMAGE in self.given:
            return self.given[IMAGE]
        image = _generator(self.seed, IMAGE).standard_normal(self.shape) + self.offset
        return (-np.abs(np.round(image)) if self.whole else image).astype(np.float32)

    @cached_property
    def batch(self) -> Arrays:
        """What `Trainer.step` takes."""
        if isinstance(self.training.objective.loss, Heatmap):
            return {"image": self.image, **self._heatmaps()}
        return {"image": self.image, "label": self._label()}

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Output name -> shape."""
        shapes = self.graph.check(self.shape)
        return {name: shapes[node] for name, node in self.graph.outputs.items()}

    def _label(self) -> Array:
        loss = self.training.objective.loss
        assert not isinstance(loss, Heatmap)
        generator = _generator(self.seed, "label")
        classes = min(shape[1] for shape in self.output_shapes.values())
        label = generator.integers(0, classes, (self.shape[0], *self.shape[2:]))
        if self.valid == "most":
            label[generator.random(label.shape) < 0.2] = loss.ignore_label
        else:
            keep = self.valid == "one"
            kept = label.reshape(-1)[-1] if keep else loss.ignore_label
            label[:] = loss.ignore_label
            label.reshape(-1)[-1] = kept
        return label

    def _heatmaps(self) -> Arrays:
        shape = next(iter(self.output_shapes.values()))
        generator = _generator(self.seed, "heatmaps")
        visible = generator.random(shape[:2]) < (0.7 if self.valid == "most" else 0.0)
        if self.valid == "one":
            visible[-1, -1] = True
        heatmaps = generator.random(shape).astype(np.float32)
        return {"heatmaps": heatmaps, "visibility": visible.astype(np.float32)}


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _draw(seed: int, name: str, shape: tuple[int, ...]) -> Array:
    generator = _generator(seed, name)
    role = name.rpartition(".")[2]
    if role == "running_var":
        array = generator.uniform(0.3, 2.0, shape)
    elif role == "weight" and len(shape) == 1:
        array = generator.uniform(0.5, 1.5, shape) * np.where(generator.random(shape) < 0.2, -1, 1)
    else:
        array = generator.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
    return array.astype(np.float32)


def every_node(graph: Graph) -> Graph:
    """The same nodes, every one that is no leaf being an output under its own name."""
    return replace(graph, outputs={node.name: node.name for node in computed(graph)})


def computed(graph: Graph) -> list[Node]:
    """The nodes that are no leaves, operands first."""
    return [node for node in graph.order if not isinstance(node.op, (Input, Parameter))]


PIXELS = "pixels"
"""The convolution whose weight `image_as_parameter` makes the image."""


def image_as_parameter(case: Case) -> Case:
    """The case with its image as the weight of a convolution, so that the image has a gradient.

    Its input has a channel per image, and image n is 1 at the first pixel of channel n and 0 elsewhere; the
    kernel is as large as the image, and padded above and on the left alone. So the convolution's value at
    (n, c, i, j) is the weight at (c, n, h - 1 - i, w - 1 - j), and exact.
    """
    batch, channels, height, width = case.shape
    (name,) = case.graph.inputs
    weight = f"{PIXELS}.weight"
    added = (
        Node(name, Input(batch)),
        Node(weight, Parameter((channels, batch, height, width))),
        Node(PIXELS, Conv2d(padding=(height - 1, 0, width - 1, 0)), (name, weight)),
    )
    moved = tuple(
        replace(node, operands=tuple(PIXELS if operand == name else operand for operand in node.operands))
        for node in case.graph.nodes if node.name != name
    )  # fmt: skip
    outputs = {out: PIXELS if node == name else node for out, node in case.graph.outputs.items()}
    flipped = np.ascontiguousarray(case.image[:, :, ::-1, ::-1].swapaxes(0, 1))
    given = {weight: flipped, IMAGE: _first_pixels(batch, height, width)}
    graph = replace(case.graph, nodes=(*added, *moved), outputs=outputs)
    return replace(case, graph=graph, shape=(batch, batch, height, width), given=given, drawn=case)


def _first_pixels(batch: int, height: int, width: int) -> Array:
    image = np.zeros((batch, batch, height, width), np.float32)
    image[range(batch), range(batch), 0, 0] = 1
    return image


def another_image(case: Case) -> Case:
    """The case with another image and other labels for the same weights."""
    return replace(case, seed=case.seed + 1, given=dict(case.weights), drawn=case)


def smallest_spread(
    graph: Graph, shape: tuple[int, int, int, int], frozen: frozenset[str] = frozenset()
) -> int:
    """The fewest values per channel that a batch norm of the graph would take its statistics from."""
    shapes = graph.check(shape)
    norms = [
        shapes[node.name]
        for node in graph.nodes if isinstance(node.op, BatchNorm) and node.operands[1] not in frozen
    ]  # fmt: skip
    return min((n * h * w for n, _, h, w in norms), default=1_000_000)


@dataclass(frozen=True)
class Subject:
    """A backend on one device in one precision at one speed, as tests take it."""

    backend: Backend
    name: str
    device: str = "cpu"
    precision: str = "float64"
    speed: Speed = "fast"

    def __str__(self) -> str:
        place = "" if self.device == "cpu" else f"-{self.device}"
        return f"{self.name}{place}{'' if self.speed == 'fast' else f', {self.speed}'}"

    @property
    def stored(self) -> str:
        """The type of what crosses, and of weights, slots and losses."""
        return "float32" if self.precision in LOW else self.precision

    @property
    def unit_roundoff(self) -> float:
        """Half the distance from 1 to the next number of that type."""
        return float(np.finfo(self.stored).eps) / 2

    def predictor(self, graph: Graph, weights: Mapping[str, Array]) -> Predictor:
        """See `gsto_spec.backend.Backend.predictor`."""
        return self.backend.predictor(
            graph, weights, device=self.device, precision=self.precision, speed=self.speed
        )

    def trainer(self, case: Case, weights: Mapping[str, Array] | None = None) -> Trainer:
        """See `gsto_spec.backend.Backend.trainer`; the case's weights, unless others are given."""
        start = case.weights if weights is None else weights
        return self.backend.trainer(
            case.graph, start, case.training, device=self.device, precision=self.precision, speed=self.speed
        )


def subject(name: str, precision: str = "float64", device: str = "cpu", speed: Speed = "fast") -> Subject:
    """A subject by the name that `--backend` takes."""
    return Subject(backend(name), name, device, precision, speed)


def trained_whole(case: Case) -> Case:
    """The case with nothing frozen and its batch in one part: what every way to compute a gradient knows."""
    return replace(case, training=replace(case.training, frozen=frozenset(), micro_batches=1))


def with_objective(case: Case, objective: Objective) -> Case:
    """The case with another objective."""
    return replace(case, training=replace(case.training, objective=objective))
