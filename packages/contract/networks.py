"""Networks, weights and batches that several test modules take."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from contract.framework import Arrays
from gsto_spec import Graph, GraphBuilder, HRNet, Node, initial_weights
from gsto_spec.backend import Backend, Trainer, Training
from gsto_spec.objective import CrossEntropy, Heatmap, Objective, Ohem
from gsto_spec.ops import Add, BatchNorm, Conv2d, Mul, Parameter

NARROW = HRNet(
    widths=(2, 4, 6, 8), modules=(1, 1, 1), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1, classes=3
)
GSTO = replace(NARROW, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised")


def gated() -> Graph:
    """Two outputs, a gate, a norm, and a convolution that no output needs."""
    build = GraphBuilder(momentum=0.2)
    image = build.input("image", 2)
    x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", image, 2, kernel=3, stride=2)))
    x = build.mul(build.sigmoid(build.conv2d("att.0", x, 1)), x)
    build.conv2d("dead", x, 1)
    low = build.max_pool(x, 2, 2)
    united = build.concat([x, build.resize(low, like=x)])
    return build.graph(
        {"stage4": build.conv2d("head", united, 3, bias=True), "stage2": build.conv2d("aux", low, 3)}
    )


def gated_batch(seed: int) -> Arrays:
    """Two images for `gated`; a fifth of the pixels is to be ignored."""
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 3, (2, 7, 6))
    label[draw.random(label.shape) < 0.2] = 255
    return {"image": draw.standard_normal((2, 2, 7, 6)), "label": label}


NORMS = frozenset({"bn1.weight", "bn2.weight"})
"""The batch norms of `normed_twice`, to be frozen."""


def normed_twice() -> Graph:
    """Two outputs, a gate, and norms with biased and unbiased running variance."""
    build = GraphBuilder(momentum=0.2)
    image = build.input("image", 2)
    x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", image, 3, kernel=3, stride=2)))
    x = build.mul(build.sigmoid(build.conv2d("att.0", x, 1)), x)
    low = build.batch_norm("bn2", build.adaptive_avg_pool(x, size=(2, 3)))
    united = build.concat([x, build.resize(low, like=x)])
    graph = build.graph(
        {"stage4": build.conv2d("head", united, 3, bias=True), "stage2": build.conv2d("aux", low, 3)}
    )
    return with_norms(graph, ["bn2"], unbiased=False)


OBJECTIVES = {
    "class weights": Objective(CrossEntropy(class_weights=(0.5, 1.0, 2.0))),
    "hard pixels": Objective(CrossEntropy(class_weights=(0.5, 1.0, 2.0), ohem=Ohem(0.3, 12))),
    "heatmaps": Objective(Heatmap((1.0, 1.2, 1.5))),
}


def for_objective(objective: Objective) -> Graph:
    """`normed_twice`; of poses its larger output alone, since heatmaps are of that size."""
    graph = normed_twice()
    pose = isinstance(objective.loss, Heatmap)
    return Graph(graph.nodes, {"stage4": graph.outputs["stage4"]}) if pose else graph


def normed_twice_batch(seed: int) -> Arrays:
    """Four images for `normed_twice`, with targets of either kind."""
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 3, (4, 7, 6))
    label[draw.random(label.shape) < 0.2] = 255
    return {
        "image": draw.standard_normal((4, 2, 7, 6)), "label": label,
        "heatmaps": draw.random((4, 3, 4, 3)), "visibility": draw.integers(0, 2, (4, 3)),
    }  # fmt: skip


def with_norms(graph: Graph, names: Collection[str], **changes: Any) -> Graph:
    """The graph with other fields in the batch norms of those names."""

    def changed(node: Node) -> Node:
        norm = node.name in names and isinstance(node.op, BatchNorm)
        return replace(node, op=replace(node.op, **changes)) if norm else node

    return Graph(tuple(map(changed, graph.nodes)), graph.outputs)


def trainer_of(
    backend: Backend, training: Training, graph: Graph | None = None, *, seed: int = 0,
    precision: str = "float64",
) -> Trainer:  # fmt: skip
    """A trainer of `graph`, or of `gated`, from its initial weights."""
    graph = graph or gated()
    return backend.trainer(graph, initial_weights(graph, seed), training, device="cpu", precision=precision)


def normed() -> Graph:
    """One convolution, one norm, one head."""
    build = GraphBuilder()
    x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", build.input(), 4, kernel=3, stride=2)))
    return build.graph({"stage4": build.conv2d("head", x, 2, bias=True)})


def strided() -> Graph:
    """A convolution of stride two, and a head of few channels."""
    build = GraphBuilder()
    x = build.conv2d("first", build.input(), 8, kernel=3)
    x = build.relu(build.batch_norm("norm", build.conv2d("strided", x, 8, kernel=3, stride=2)))
    return build.graph({"stage4": build.conv2d("narrow", x, 2, kernel=3, bias=True)})


def headed(method: Literal["bilinear", "nearest"]) -> Graph:
    """A head over a branch of its own size, one enlarged, one shrunk, one twice, and one of a fixed size."""
    build = GraphBuilder()
    image = build.input()
    x = build.conv2d("stem", image, 3, kernel=3, stride=2)
    low = build.relu(build.conv2d("low", x, 5, kernel=3, stride=2))
    branches = [x, low, image, low, build.conv2d("one", x, 1)]
    resized = [build.resize(one, like=x, method=method) for one in branches[1:]]
    head = build.conv2d("head", build.concat([x, *resized]), 4, bias=True)
    return build.graph({"stage4": build.relu(build.batch_norm("norm", head))})


def arithmetic_on_leaves(offset: str = "offset") -> Graph:
    """conv1's weight is scaled before use, and read as it is by a second convolution; leaves of any name."""
    build = GraphBuilder()
    image = build.input()
    build.conv2d("conv1", image, 3, kernel=3, bias=True)
    build.parameter("conv1.scale", Parameter((3, 1, 1, 1)))
    build.parameter("pixels", Parameter((1, 3, 1, 1)))
    build.parameter(offset, Parameter((3,), trainable=False))
    scaled = build.apply("scaled", Mul(), "conv1.weight", "conv1.scale")
    bias = build.apply("shifted", Add(), "conv1.bias", offset)
    gated = build.mul("pixels", "conv1")
    second = build.apply("net/second", Conv2d(padding=(1, 1, 1, 1)), gated, scaled, bias)
    third = build.apply("third", Conv2d(padding=(0, 0, 1, 1)), second, "conv1.weight")
    return build.graph({"y": third, "x": "conv1", "scaled": "scaled", "shifted": "shifted"})


def chain(blocks: int) -> Graph:
    """One scale, no branches."""
    build = GraphBuilder()
    x = build.input("image", 2)
    for index in range(blocks):
        for part in (1, 2, 3):
            y = build.conv2d(f"layer{index}.0.conv{part}", x, 4, kernel=3)
            x = build.relu(build.batch_norm(f"layer{index}.0.bn{part}", y))
    return build.graph({"stage4": build.conv2d("head", x, 3)})


def lively_weights(graph: Graph, seed: int = 0) -> Arrays:
    """Initial weights with batch norms that do something."""
    generator = np.random.default_rng(seed)
    weights: Arrays = dict(initial_weights(graph, seed))
    for name, array in weights.items():
        if array.ndim == 1:
            low, high = (-0.5, 0.5) if name.endswith(("bias", "running_mean")) else (0.5, 1.5)
            weights[name] = generator.uniform(low, high, array.shape)
    return weights


def random_weights(graph: Graph) -> Arrays:
    """Weights of either sign, variances among them."""
    draw = np.random.default_rng(0)
    return {name: draw.standard_normal(shape) for name, shape in graph.parameters.items()}


def equal(first: Arrays, second: Arrays) -> bool:
    """Whether two states are the same, names in the same order and values to the bit."""
    return list(first) == list(second) and all(np.array_equal(first[name], second[name]) for name in first)
