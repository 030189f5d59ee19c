"""What is drawn: structure alone. Graphs, sizes, objectives and a seed; every array follows from the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from conformance.cases import SHOWS_GRADIENTS, Case, image_as_parameter, smallest_spread
from conformance.sketch import LEAST_SPREAD, small_graphs
from gsto_spec import Graph, GraphBuilder, HRNet, ResNet
from gsto_spec.backend import Training
from gsto_spec.forms import FORMS, Form
from gsto_spec.objective import SGD, STAGE_WEIGHTS, Adam, CrossEntropy, Heatmap, Objective, Ohem, Poly, Steps

seeds = st.integers(0, 2**16)
offsets = st.sampled_from([0.0, 0.0, 0.0, 30.0])
"""A mean of thirty deviations: E[x^2] - E[x]^2 loses three digits there, two passes lose none."""

WIDE = 120
"""Columns more: past any size at which a framework may change its algorithm for small images."""

Shapes = Mapping[str, tuple[int, ...]]


@st.composite
def small_cases(draw: st.DrawFn) -> Case:
    """A small graph with an objective; its optimiser shows the gradients."""
    graph, shape = draw(small_graphs())
    case = Case(graph, shape, draw(seeds), offset=draw(offsets))
    return replace(case, training=draw(trainings(case)))


@st.composite
def pixel_cases(draw: st.DrawFn) -> Case:
    """A small case whose image is a parameter, so that the gradient for the image shows."""
    return image_as_parameter(draw(small_cases()))


@st.composite
def resized_cases(draw: st.DrawFn) -> tuple[Case, tuple[int, int, int, int]]:
    """A small case, and the shape of another batch for the same network."""
    case = draw(small_cases())
    _, channels, height, width = case.shape
    more = st.integers(0, 5)
    wide = draw(st.sampled_from([0, 0, 0, WIDE]))
    return case, (draw(st.integers(1, 3)), channels, height + draw(more), width + draw(more) + wide)


@st.composite
def trainings(draw: st.DrawFn, case: Case) -> Training:
    """Any objective, at times a momentum for every batch norm, and every way to take a step."""
    objective, momentum = draw(objectives(case.output_shapes)), draw(st.sampled_from([None, None, 0.3]))
    return draw(ways(case, Training(objective, SHOWS_GRADIENTS, momentum)))


@st.composite
def ways(draw: st.DrawFn, case: Case, training: Training) -> Training:
    """With tensors frozen or at rates of their own, in parts, with little memory, in a certain order."""
    names = sorted(case.graph.trainable)
    frozen = frozenset(draw(some_of(names[1:], st.just(True))))
    training = replace(training, frozen=frozen, rate_factors=draw(some_of(names, rate_factors)))
    parts = [count for count in range(1, case.shape[0] + 1) if _has_parts(case, frozen, count)]
    return replace(
        training,
        micro_batches=draw(st.sampled_from(parts or [1])),
        rematerialize=draw(st.sampled_from([False, False, True])),
        deterministic=draw(st.sampled_from([False, False, False, True])),
    )


rate_factors = st.sampled_from([0.1, 0.5, 10.0, 0.0])


@st.composite
def some_of(draw: st.DrawFn, names: list[str], values: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Names, each with a value: none, mostly; else each with one chance in two, or all."""
    share = draw(st.sampled_from([0, 0, 0, 1, 1, 2]))
    return {name: draw(values) for name in names if share == 2 or (share and draw(st.booleans()))}


def _has_parts(case: Case, frozen: frozenset[str], count: int) -> bool:
    """Whether the batch can be cut into so many parts with statistics of their own."""
    batch, *size = case.shape
    part = (batch // count, size[0], size[1], size[2])
    least = smallest_spread(case.graph, case.shape, frozen)
    return batch % count == 0 and (
        count == 1 or smallest_spread(case.graph, part, frozen) >= min(LEAST_SPREAD, least)
    )


# Objectives


@st.composite
def objectives(draw: st.DrawFn, outputs: Shapes) -> Objective:
    """A loss that the outputs (name -> shape) can have, and a weight for each of them."""
    loss: CrossEntropy | Heatmap
    if len(set(outputs.values())) == 1 and draw(st.sampled_from([True, False, False])):
        loss = draw(heatmaps(outputs))
    else:
        loss = draw(cross_entropies(outputs))
    return Objective(loss, draw(stage_weights(tuple(outputs))), draw(st.booleans()))


def _numbers(count: int, *values: float) -> st.SearchStrategy[tuple[float, ...]]:
    return st.lists(st.sampled_from(values), min_size=count, max_size=count).map(tuple)


@st.composite
def heatmaps(draw: st.DrawFn, outputs: Shapes) -> Heatmap:
    """With and without joint weights, 0 among them."""
    joints = next(iter(outputs.values()))[1]
    return Heatmap(draw(st.none() | _numbers(joints, 1.0, 1.2, 1.5, 0.0)))


@st.composite
def cross_entropies(draw: st.DrawFn, outputs: Shapes) -> CrossEntropy:
    """With and without class weights and hard examples; any label may be the ignored one."""
    classes = {shape[1] for shape in outputs.values()}
    weights = None
    if len(classes) == 1:
        weights = draw(st.none() | _numbers(min(classes), 0.5, 0.8373, 1.1529, 2.0))
    return CrossEntropy(draw(st.sampled_from([255, 255, 0, -1])), weights, draw(st.none() | ohems))


ohems = st.builds(
    Ohem,
    threshold=st.sampled_from([0.9, 0.5, 0.3]),
    kept_per_image=st.sampled_from([0.0, 1.0, 7.5, 40.0, 131072 / 3]),
)


@st.composite
def stage_weights(draw: st.DrawFn, outputs: tuple[str, ...]) -> Mapping[str, float]:
    """The paper's where they are enough, or others; always different ones."""
    if set(outputs) <= set(STAGE_WEIGHTS) and draw(st.booleans()):
        return STAGE_WEIGHTS
    values = draw(st.permutations([1.0, 0.7, 0.4, 0.25, 0.1]))
    return dict(zip(sorted(outputs), values, strict=False))


# A small network with heads, for what does not depend on the graph


def heads(classes: int, names: tuple[str, ...], stride: int) -> Graph:
    """A convolution, batch norm and relu, and a head for each output, all of one shape."""
    build = GraphBuilder()
    x = build.conv2d("trunk.0", build.input(), 4, kernel=3, stride=stride)
    x = build.relu(build.batch_norm("trunk.1", x))
    outputs = {name: build.conv2d(f"head.{name}", x, classes, bias=True) for name in names}
    return build.graph(outputs)


def deep() -> Graph:
    """Two convolutions with a relu between, whose products can overflow one after another."""
    build = GraphBuilder()
    x = build.relu(build.conv2d("first", build.input(), 4))
    return build.graph({"stage4": build.conv2d("second", x, 3)})


def normed() -> Graph:
    """A batch norm of the picture itself, and a convolution."""
    build = GraphBuilder()
    return build.graph({"stage4": build.conv2d("head", build.batch_norm("norm", build.input()), 3)})


@st.composite
def objective_cases(draw: st.DrawFn) -> Case:
    """Every loss with its edges: no valid label or one, all pixels equal, a batch of one."""
    names = draw(st.sampled_from([("stage4",), ("stage4", "stage3", "stage1"), ("b", "a")]))
    tied = draw(st.sampled_from([False, False, True]))
    graph = heads(draw(st.integers(2, 5)), names, 1 if tied else 2)
    shape = (draw(st.integers(1, 3)), 3, draw(st.integers(3, 13)), draw(st.integers(3, 13)))
    valid: Any = draw(st.sampled_from(["most", "most", "one", "none"]))
    case = Case(graph, shape, draw(seeds), valid=valid, tied=tied)
    return replace(case, training=draw(trainings(case)))


@st.composite
def optimizer_cases(draw: st.DrawFn) -> tuple[Case, Poly | Steps, int]:
    """Every optimiser under every schedule for ten steps."""
    case = Case(heads(3, ("stage4", "stage3"), 2), (2, 3, 9, 11), draw(seeds))
    training = Training(Objective(), draw(optimizers), draw(st.sampled_from([None, 0.3])))
    return replace(case, training=draw(ways(case, training))), draw(schedules), 10


@st.composite
def state_cases(draw: st.DrawFn) -> Case:
    """A small case with any optimiser."""
    case = draw(small_cases())
    return replace(case, training=replace(case.training, optimizer=draw(optimizers)))


@st.composite
def tied_cases(draw: st.DrawFn) -> Case:
    """Relus of exact zeros and maxima of equal pixels, with the gradient for the image."""
    build = GraphBuilder()
    image = build.input()
    pooled = build.max_pool(image, draw(st.integers(2, 3)), draw(st.integers(1, 2)))
    maps = {"stage4": pooled, "stage3": build.relu(image)}
    graph = build.graph({name: build.conv2d(f"head.{name}", x, 3, bias=True) for name, x in maps.items()})
    case = Case(graph, (draw(st.integers(1, 2)), 3, 6, 7), draw(seeds), whole=True)
    return image_as_parameter(replace(case, training=draw(trainings(case))))


@st.composite
def saturated_cases(draw: st.DrawFn) -> Case:
    """Sigmoids, softmaxes and logits beyond where exp overflows in float32."""
    build = GraphBuilder()
    x = build.conv2d("trunk", build.input(), 4, bias=True)
    x = build.concat([build.sigmoid(x, name="trunk/sigmoid"), build.softmax(x, name="trunk/softmax"), x])
    graph = build.graph({"stage4": build.conv2d("head", x, draw(st.integers(2, 4)), bias=True)})
    case = Case(graph, (2, 3, 4, 5), draw(seeds), offset=draw(st.sampled_from([100.0, -150.0])))
    return replace(case, training=draw(trainings(case)))


@st.composite
def statistics_cases(draw: st.DrawFn) -> Case:
    """A batch norm straight on an image of 2 to 12 values per channel, some of them far from 0."""
    build = GraphBuilder(eps=draw(st.sampled_from([1e-5, 1e-3])), momentum=draw(st.sampled_from([0.1, 0.01])))
    x = build.batch_norm("norm", build.input())
    graph = build.graph({"stage4": build.conv2d("head", x, 3, bias=True)})
    shape = draw(st.sampled_from([(2, 3, 1, 1), (1, 3, 1, 2), (3, 3, 1, 1), (1, 3, 2, 2), (2, 3, 2, 3)]))
    training = Training(Objective(), SHOWS_GRADIENTS, draw(st.sampled_from([None, 0.3, 1.0])))
    return Case(graph, shape, draw(seeds), training, offset=draw(st.sampled_from([0.0, 100.0])))


# Optimisers and schedules

optimizers: st.SearchStrategy[SGD | Adam] = st.builds(
    SGD, momentum=st.sampled_from([0.9, 0.5, 0.0]), weight_decay=st.sampled_from([5e-4, 0.05, 0.0])
) | st.builds(
    Adam,
    beta1=st.sampled_from([0.9, 0.5]),
    beta2=st.sampled_from([0.999, 0.9]),
    epsilon=st.sampled_from([1e-8, 1e-3]),
    weight_decay=st.sampled_from([0.0, 1e-4, 0.05]),
)
schedules: st.SearchStrategy[Poly | Steps] = st.builds(
    Poly, base=st.sampled_from([0.01, 0.1]), power=st.sampled_from([0.9, 2.0])
) | st.builds(Steps, base=st.sampled_from([0.01, 0.1]), milestones=st.just((0.3, 0.7)), factor=st.just(0.1))


# Architectures

_STAGES = ((), (3,), (2, 3), (1, 2, 3))


@st.composite
def forms(draw: st.DrawFn) -> Form:
    """The paper's, the release's, or one of either with a field of its own."""
    form = FORMS[draw(st.sampled_from(["release", "paper"]))]
    if draw(st.booleans()):
        return form
    changes: list[dict[str, Any]] = [
        {"gate_norm_relu": not form.gate_norm_relu},
        {"gates_identity": not form.gates_identity},
        {"predictor_hidden": not form.predictor_hidden},
        # A supervised gate of one layer lies on the grid of the united feature alone.
        {"gated_feature": "lowest", "supervised_gate": "halving_chain"},
    ]
    return replace(form, **draw(st.sampled_from(changes)))


@st.composite
def hrnets(draw: st.DrawFn) -> HRNet:
    """Narrow HRNets with and without every gate, in both forms, with both heads."""
    supervised = draw(st.sampled_from(_STAGES))
    gates = [None, "unsupervised", *(["supervised"] * 2 if supervised else [])]
    fields: dict[str, Any] = {
        "widths": draw(st.tuples(*[st.integers(2, 6)] * 4)),
        "modules": draw(st.sampled_from([(1, 1, 1), (1, 1, 1), (1, 2, 1)])),
        "blocks": draw(st.sampled_from([1, 1, 2])),
        "stem_width": draw(st.integers(4, 8)),
        "layer1_width": draw(st.integers(2, 4)),
        "layer1_blocks": 1,
        "upsampling": draw(st.sampled_from(["bilinear", "bilinear", "nearest"])),
        "align_corners": draw(st.booleans()),
        "head": draw(st.sampled_from(["hrnetv2", "hrnetv2", "hrnetv1"])),
        "classes": draw(st.integers(2, 5)),
        "form": draw(forms()),
        "fusion_gate": draw(st.sampled_from([None, "unsupervised", "channel"])),
        "supervised_stages": supervised,
        "transition_gate": draw(st.sampled_from(gates)),
        "batch_norm_momentum": draw(st.sampled_from([0.01, 0.1])),
        "batch_norm_eps": draw(st.sampled_from([1e-5, 1e-3])),
        "attention": draw(st.sampled_from([None, None, None, "channel", "spatial"])),
        "attention_location": draw(st.sampled_from(["module", "module", "layer"])),
        "channel_reduction": draw(st.integers(1, 4)),
    }
    return HRNet(**fields)


@st.composite
def resnets(draw: st.DrawFn) -> ResNet:
    """Narrow dilated ResNets with PPM and ASPP, with and without gates, in both forms."""
    supervision = draw(st.sampled_from([None, "feature", "auxiliary"]))
    gates = [None, "unsupervised", *(["supervised"] if supervision else [])]
    fields: dict[str, Any] = {
        "blocks": draw(st.sampled_from([(1, 1, 1, 1), (1, 1, 2, 1)])),
        "context": draw(st.sampled_from(["ppm", "aspp"])),
        "width": draw(st.integers(2, 3)),
        "output_stride": draw(st.sampled_from([8, 16])),
        "bins": draw(st.sampled_from([(1, 2, 3), (2, 3), (1, 5)])),
        "rates": draw(st.sampled_from([None, (1, 2), (2, 3, 4)])),
        "head_width": draw(st.integers(4, 8)),
        "align_corners": draw(st.booleans()),
        "classes": draw(st.integers(2, 5)),
        "form": draw(forms()),
        "context_gate": draw(st.sampled_from(gates)),
        "supervision": supervision,
        "batch_norm_eps": draw(st.sampled_from([1e-5, 1e-3])),
    }
    return ResNet(**fields)


def _notes(variant: HRNet | ResNet) -> dict[str, str]:
    """What `conformance.coverage` counts of an architecture."""
    form = variant.form.name if isinstance(variant.form, Form) else variant.form
    mixed = variant.form not in FORMS.values()
    shared = {
        "form": f"{form}, one field changed" if mixed else form,
        "network": "align_corners" if variant.align_corners else "half-pixel centres",
    }
    if isinstance(variant, ResNet):
        return {
            **shared,
            "context": variant.context,
            "context gate": str(variant.context_gate),
            "output stride": str(variant.output_stride),
            "supervision": str(variant.supervision),
        }
    return {
        **shared,
        "attention": f"{variant.attention}, {variant.attention_location}" if variant.attention else "none",
        "fusion gate": str(variant.fusion_gate),
        "transition gate": str(variant.transition_gate),
        "supervised stages": str(len(variant.supervised_stages)),
        "head": variant.head,
        "upsampling": variant.upsampling,
    }


@st.composite
def architectures(draw: st.DrawFn) -> Case:
    """A narrow HRNet or dilated ResNet on one to three odd and non-square pictures."""
    variant: HRNet | ResNet = draw(hrnets() | hrnets() | resnets())
    graph = variant.graph(_notes(variant))
    size = st.integers(17, 65)
    shape = (draw(st.integers(1, 3)), 3, draw(size), draw(size))
    case = Case(graph, shape, draw(seeds))
    return replace(case, training=draw(trainings(case)))


@st.composite
def trained_architectures(draw: st.DrawFn) -> Case:
    """As `architectures`, large enough for statistics at the lowest resolution."""
    case = draw(architectures())
    batch, channels, height, width = case.shape
    if smallest_spread(case.graph, case.shape) < LEAST_SPREAD:
        case = replace(case, shape=(max(batch, 2), channels, max(height, 33), width))
    if smallest_spread(case.graph, case.shape) < LEAST_SPREAD:  # what is pooled to 1 x 1 has the batch alone
        case = replace(case, shape=(LEAST_SPREAD, *case.shape[1:]))
    return case
