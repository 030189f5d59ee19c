"""What the machine can do, measured beside the subjects, and what of it a subject reaches.

A rate is that of a pair of graphs which differ in known work alone: the difference of their work over the
difference of their times. So what it takes to begin, and to bring arrays in and out, drops out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Literal, cast

import numpy as np

from gsto_spec import Graph, GraphBuilder, cost, optimize
from gsto_spec.precision import Precision, stored_in
from gsto_train.bench.cases import Case
from gsto_train.bench.figures import Rounds
from gsto_train.bench.material import live_weights

Probe = Literal["no convolutions", "convolutions", "no products", "products", "crossing"]

CHANNELS, LAYERS, SIZE, GPU_BATCH = 256, 4, (64, 128), 16
"""Of the convolutions, 3x3: 39 GFLOP a picture; on a GPU so many pictures at once, of both kinds, fill it."""

MAP_CHANNELS, PRODUCTS, MAP_SIZE = 16, 8, (512, 768)
"""Of the element-wise products, of three maps of 24 MiB in float32 each: more than most caches hold.

Larger ones are given back to the system by some allocators, and its clearing of memory would be measured.
"""


def probes(case: Case, device: str) -> dict[Probe, Case]:
    """Return the graphs to run for the ceilings of a case, and what its arrays cost to and from a GPU."""
    many = 1 if device == "cpu" else GPU_BATCH
    found: dict[Probe, Case] = {
        "no convolutions": _probe("no convolutions", _convolutions(0), SIZE, many, case),
        "convolutions": _probe("convolutions", _convolutions(LAYERS), SIZE, many, case),
        "no products": _probe("no products", _products(multiply=False), MAP_SIZE, many, case),
        "products": _probe("products", _products(multiply=True), MAP_SIZE, many, case),
    }
    if device != "cpu" and case.job == "inference":
        graph = _crossing(Graph.from_json(case.graph), case.shape)
        found["crossing"] = _probe("crossing", graph, (case.height, case.width), case.batch, case)
    return found


def _probe(name: Probe, graph: Graph, size: tuple[int, int], batch: int, case: Case) -> Case:
    return Case("inference", name, graph.to_json(), *size, batch, case.precision)


def _convolutions(layers: int) -> Graph:
    build = GraphBuilder()
    maps = build.conv2d("begin", build.input(), CHANNELS)
    for layer in range(layers):
        maps = build.conv2d(f"layer{layer}", maps, CHANNELS, kernel=3)
    return build.graph({"mean": _mean(build, maps)})


def _products(*, multiply: bool) -> Graph:
    """Convolutions with a product before each: no compiler can join two products over a convolution."""
    build = GraphBuilder()
    image = build.input()
    maps, factor = (build.conv2d(name, image, MAP_CHANNELS) for name in ("begin", "factor"))
    for layer in range(PRODUCTS):
        maps = build.mul(maps, factor) if multiply else maps
        maps = build.conv2d(f"layer{layer}", maps, MAP_CHANNELS)
    return build.graph({"mean": _mean(build, build.add([maps, factor]))})


def _mean(build: GraphBuilder, maps: str) -> str:
    """A small output. The relu keeps the optimiser from taking the last convolution of the mean alone."""
    return build.adaptive_avg_pool(build.relu(maps), size=(1, 1))


def _crossing(graph: Graph, shape: tuple[int, int, int, int]) -> Graph:
    """A graph with the inputs and outputs of another, in shape, and next to no arithmetic."""
    build, shapes = GraphBuilder(), graph.check(shape)
    image = build.input()
    outputs = {}
    for name, node in graph.outputs.items():
        _, channels, height, width = shapes[node]
        small = build.adaptive_avg_pool(image, size=(1, 1))
        wide = build.conv2d(f"{name}.head", small, channels)
        outputs[name] = build.resize(wide, size=(height, width), method="nearest")
    return build.graph(outputs)


@dataclass(frozen=True)
class Ceilings:
    """Operations and bytes a second; `crossing`: seconds to bring in pictures and fetch outputs."""

    operations: float | None
    bytes: float | None
    crossing: float | None = None

    def as_json(self) -> dict[str, float | None]:
        """Return them as results have them."""
        return asdict(self)


def ceilings(measured: Mapping[Probe, tuple[Case, Rounds]]) -> Ceilings:
    """Return the ceilings; None for what was not measured, or was lost in the noise."""
    precision = next((case.precision for case, _ in measured.values()), "float32")
    products = measured.get("products")
    maps = products[0].pixels * MAP_CHANNELS * _bytes(precision) if products else 0
    operations = _operations(measured["convolutions"][0]) if "convolutions" in measured else 0.0
    crossing = measured.get("crossing")
    return Ceilings(
        operations=_rate(measured, "no convolutions", "convolutions", operations),
        bytes=_rate(measured, "no products", "products", 3 * PRODUCTS * maps),  # two are read, one written
        crossing=float(np.median([*map(np.median, crossing[1])])) if crossing else None,
    )


def _operations(case: Case) -> float:
    graph = Graph.from_json(case.graph)
    return 2.0 * cost(graph, case.shape).macs - 2.0 * cost(_convolutions(0), case.shape).macs


def _rate(
    measured: Mapping[Probe, tuple[Case, Rounds]], less: Probe, more: Probe, work: float
) -> float | None:
    if less not in measured or more not in measured:
        return None
    pairs = zip(_medians(measured[more][1]), _medians(measured[less][1]), strict=True)
    extra = float(np.median([above - below for above, below in pairs]))
    return work / extra if extra > 0 else None


def _medians(rounds: Rounds) -> Sequence[float]:
    return [float(np.median(each)) for each in rounds]


def _bytes(precision: str) -> int:
    return {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}[stored_in(cast(Precision, precision))]


@dataclass(frozen=True)
class Work:
    """What a case takes at least: operations (two per multiply-add) and bytes of memory traffic.

    Inference, counted on the optimised graph: every convolution's result is written once and read once, all
    else is taken to be done on the way. Training, on the graph as it is: three times the arithmetic, and
    results are read once more, their gradients written and read.
    """

    operations: float
    bytes: float

    def seconds(self, limits: Ceilings) -> float | None:
        """Return the shortest time that the ceilings allow, None where they are not known."""
        if limits.operations is None or limits.bytes is None:
            return None
        return max(self.operations / limits.operations, self.bytes / limits.bytes)

    def as_json(self) -> dict[str, float]:
        """Return it as results have it."""
        return asdict(self)


@cache
def work_of(case: Case) -> Work:
    """Count a case."""
    graph = Graph.from_json(case.graph)
    training = case.job == "step"
    if not training:
        graph, _ = optimize(graph, live_weights(graph))
    counted = cost(graph, case.shape, counting="every-op", bytes_per_value=_bytes(case.precision))
    convolutions = counted.by_op["conv2d"]
    passes = 5 if training else 2
    operations = 2.0 * convolutions.macs * (3 if training else 1)
    return Work(operations, float(passes * convolutions.activation_bytes))
