"""Small graphs over the whole op set, drawn op by op: sizes, windows and wiring, never numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from gsto_spec import Graph, GraphBuilder
from gsto_spec.ops import AvgPool, BatchNorm, Conv2d, MaxPool, Parameter
from gsto_spec.sizes import BATCH, HEIGHT, WIDTH, concrete

LARGEST_SIDE = 17
MOST_CHANNELS = 6
LEAST_SPREAD = 4
"""Values per channel below which a drawn batch norm is left out: of two values the gradient is eps / variance
of what was summed, and errors grow without bound. `test_statistics.py` has such cases of its own."""


def sides(largest: int = LARGEST_SIDE) -> st.SearchStrategy[int]:
    """A height or width, odd ones twice as often."""
    return st.integers(1, largest) | st.integers(0, (largest - 1) // 2).map(lambda half: 2 * half + 1)


@dataclass
class Sketch:
    """A graph in the making: what can be drawn next depends on what is there."""

    draw: st.DrawFn
    shape: tuple[int, int, int, int]
    build: GraphBuilder = field(default_factory=GraphBuilder)
    maps: list[str] = field(default_factory=list)
    layers: int = 0

    def __post_init__(self) -> None:
        self.maps.append(self.build.input("image", self.shape[1]))

    def size(self, x: str) -> tuple[int, ...]:
        """The concrete shape of a node."""
        values = {BATCH: self.shape[0], HEIGHT: self.shape[2], WIDTH: self.shape[3]}
        return concrete(self.build.shape(x), values)

    def some(self, among: Sequence[str] | None = None) -> str:
        """A feature map, of late ones rather than early ones."""
        known = list(reversed(among if among is not None else self.maps))
        return self.draw(st.sampled_from(known))

    def layer(self) -> str:
        """A fresh name for a node that stores tensors."""
        self.layers += 1
        return f"layer{self.layers}.{self.draw(st.sampled_from(['conv', 'a.b', '0']))}"

    def alike(self, x: str, dimensions: slice) -> list[str]:
        """Maps whose symbolic shapes agree with x's in some dimensions."""
        shape = self.build.shape(x)[dimensions]
        return [other for other in self.maps if self.build.shape(other)[dimensions] == shape]


def _window(sketch: Sketch, x: str, largest: int, *, dilated: bool) -> dict[str, Any]:
    """Kernel, stride, padding and dilation that leave at least one place."""
    axes = []
    for size in sketch.size(x)[2:]:
        kernel = sketch.draw(st.integers(1, largest))
        stride = sketch.draw(st.sampled_from([1, 1, 1, 2, 2, 3, 5]))
        dilation = sketch.draw(st.sampled_from([1, 1, 2, 3])) if dilated else 1
        most = dilation * (kernel - 1) if dilated else kernel - 1
        before = sketch.draw(st.integers(0, most))
        after = sketch.draw(st.just(before) | st.integers(0, most))
        short = dilation * (kernel - 1) + 1 - (size + before + after)
        if short > 0:
            kernel, dilation, before, after = 1, 1, 0, 0
        axes.append((kernel, stride, dilation, before, after))
    (kh, sh, dh, top, bottom), (kw, sw, dw, left, right) = axes
    return {
        "kernel": (kh, kw),
        "stride": (sh, sw),
        "dilation": (dh, dw),
        "padding": (top, bottom, left, right),
    }


def conv2d(sketch: Sketch) -> str:
    """A convolution with any kernel, stride, padding, dilation and grouping; at times it is not learnt."""
    x = sketch.some()
    channels = sketch.size(x)[1]
    groups = sketch.draw(st.sampled_from([1, 1, *(g for g in range(2, channels + 1) if channels % g == 0)]))
    out = groups * sketch.draw(st.integers(1, max(1, MOST_CHANNELS // groups)))
    window = _window(sketch, x, 5, dilated=True)
    name, kernel = sketch.layer(), window.pop("kernel")
    fixed = sketch.draw(st.sampled_from([False] * 7 + [True]))
    weight = Parameter((out, channels // groups, *kernel), trainable=not fixed)
    operands = [x, sketch.build.parameter(f"{name}.weight", weight)]
    if sketch.draw(st.booleans()):
        operands.append(sketch.build.parameter(f"{name}.bias", Parameter((out,))))
    return sketch.build.apply(name, Conv2d(**window, groups=groups), *operands)


def batch_norm(sketch: Sketch) -> str | None:
    """A batch norm with any eps, momentum and denominator."""
    x = sketch.some()
    batch, channels, height, width = sketch.size(x)
    if batch * height * width < LEAST_SPREAD:
        return None
    name = sketch.layer()
    leaves = [
        sketch.build.parameter(f"{name}.{role}", Parameter((channels,), trainable=index < 2))
        for index, role in enumerate(("weight", "bias", "running_mean", "running_var"))
    ]
    eps = sketch.draw(st.sampled_from([1e-5, 1e-3, 0.1]))
    momentum = sketch.draw(st.sampled_from([0.1, 0.01, 0.5, 1.0]))
    unbiased = sketch.draw(st.sampled_from([True, True, False]))
    return sketch.build.apply(name, BatchNorm(eps, momentum, unbiased), x, *leaves)


def relu(sketch: Sketch) -> str:
    """max(x, 0)."""
    return sketch.build.relu(sketch.some())


def sigmoid(sketch: Sketch) -> str:
    """1 / (1 + exp(-x))."""
    return sketch.build.sigmoid(sketch.some())


def softmax(sketch: Sketch) -> str:
    """Softmax over the channels."""
    return sketch.build.softmax(sketch.some())


def add(sketch: Sketch) -> str:
    """Two or three maps of one shape; one of them may come twice."""
    x = sketch.some()
    others = sketch.draw(st.lists(st.sampled_from(sketch.alike(x, slice(None))), min_size=1, max_size=2))
    return sketch.build.add([x, *others])


def mul(sketch: Sketch) -> str:
    """A product with an equal shape, or with a gate of one channel or one pixel."""
    x = sketch.some()
    shape = sketch.build.shape(x)
    fitting = [
        other for other in sketch.maps
        if all(b in (a, 1) for a, b in zip(shape, sketch.build.shape(other), strict=True))
    ]  # fmt: skip
    other = sketch.some(fitting)
    return sketch.build.mul(*sketch.draw(st.permutations([x, other])))


def gate(sketch: Sketch) -> str:
    """The gate of GSTO: a product with the sigmoid of one channel, before or after the product's operand."""
    x = sketch.some()
    name = sketch.layer()
    weight = sketch.build.parameter(f"{name}.weight", Parameter((1, sketch.size(x)[1], 1, 1)))
    g = sketch.build.sigmoid(sketch.build.apply(name, Conv2d(), x, weight))
    return sketch.build.mul(*sketch.draw(st.permutations([x, g])))


def concat(sketch: Sketch) -> str:
    """Two or three maps of one size."""
    x = sketch.some()
    others = sketch.draw(st.lists(st.sampled_from(sketch.alike(x, slice(2, 4))), min_size=1, max_size=2))
    return sketch.build.concat([*others, x])


def cut(sketch: Sketch) -> str:
    """Some of the channels."""
    x = sketch.some()
    channels = sketch.size(x)[1]
    start = sketch.draw(st.integers(0, channels - 1))
    return sketch.build.slice(x, start, sketch.draw(st.integers(start + 1, channels)))


def _target(sketch: Sketch) -> dict[str, Any]:
    if sketch.draw(st.booleans()):
        return {"like": sketch.some()}
    return {"size": (sketch.draw(sides()), sketch.draw(sides()))}


def resize(sketch: Sketch) -> str:
    """Any method, any coordinates, up or down, to a map's size or to a number."""
    kind = sketch.draw(st.sampled_from(["bilinear", "corners", "nearest"]))
    method = {"method": "nearest"} if kind == "nearest" else {"align_corners": kind == "corners"}
    return sketch.build.resize(sketch.some(), **_target(sketch), **method)


def avg_pool(sketch: Sketch) -> str:
    """The mean of windows, padding counted or not."""
    x = sketch.some()
    window = _window(sketch, x, 4, dilated=False)
    op = AvgPool(window["kernel"], window["stride"], window["padding"], sketch.draw(st.booleans()))
    return _pooled(sketch, op, x)


def max_pool(sketch: Sketch) -> str:
    """The largest of windows."""
    x = sketch.some()
    window = _window(sketch, x, 4, dilated=False)
    return _pooled(sketch, MaxPool(window["kernel"], window["stride"], window["padding"]), x)


def _pooled(sketch: Sketch, op: AvgPool | MaxPool, x: str) -> str:
    number = sum(name.startswith(f"{x}/{op.kind}") for name in sketch.maps)
    return sketch.build.apply(f"{x}/{op.kind}_{number}", op, x)


def adaptive_avg_pool(sketch: Sketch) -> str:
    """Averages on a map's grid, or on a number of cells."""
    return sketch.build.adaptive_avg_pool(sketch.some(), **_target(sketch))


RECIPES: tuple[Callable[[Sketch], str | None], ...] = (
    conv2d, conv2d, conv2d, batch_norm, batch_norm, relu, sigmoid, softmax, add, mul, gate, concat, cut,
    resize, resize, avg_pool, max_pool, adaptive_avg_pool,
)  # fmt: skip


@st.composite
def small_graphs(draw: st.DrawFn) -> tuple[Graph, tuple[int, int, int, int]]:
    """A graph of 3 to 12 ops over the whole set, in training form, and the shape of its image."""
    shape = (
        draw(st.sampled_from([1, 1, 1, 2, 2, 3, 3, 7])),
        draw(st.integers(1, 4)),
        draw(sides()),
        draw(sides()),
    )
    sketch = Sketch(draw, shape)
    for recipe in draw(st.lists(st.sampled_from(RECIPES), min_size=3, max_size=12)):
        made = recipe(sketch)
        if made is not None and sketch.size(made)[1] <= 3 * MOST_CHANNELS:
            sketch.maps.append(made)
    return sketch.build.graph(_outputs(sketch)), shape


def _learns(build: GraphBuilder, x: str) -> bool:
    """Whether a map depends on something that can be trained."""
    graph = build.graph({"x": x})
    needed, waiting = {x}, [x]
    while waiting:
        fresh = set(graph.by_name[waiting.pop()].operands) - needed
        needed |= fresh
        waiting += fresh
    return bool(needed & set(graph.trainable))


def _outputs(sketch: Sketch) -> Mapping[str, str]:
    """The last map, mostly through a head of two classes or more, and at times earlier ones."""
    last = sketch.maps[-1]
    if not _learns(sketch.build, last) or sketch.draw(st.sampled_from([True, True, False])):
        last = sketch.build.conv2d("head", last, sketch.draw(st.integers(2, 4)), bias=True)
    more = sketch.draw(st.lists(st.sampled_from(sketch.maps), max_size=2, unique=True))
    nodes = [last, *more]
    names = sketch.draw(st.permutations(["stage4", "stage3", "stage2", "b", "a"]))
    return dict(zip(names, nodes, strict=False))
