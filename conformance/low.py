"""Checks in precisions of two bytes: each op rounds once, and what is to be in float32 is.

`gsto_spec.precision` says what that is. `checks.nodes` and `checks.compare` hold there too, with the bounds
of `tolerance.op_bound` and the spread of the oracle whose ops round up and down at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance import checks, expected, noise, tolerance
from conformance.cases import IMAGE, SHOWS_GRADIENTS, Case, Subject, computed, every_node
from conformance.checks import MOMENTUM, RATE, compare, step
from conformance.compare import Comparison
from conformance.rounded import FORMATS
from conformance.strategies import objectives, seeds, ways
from gsto_spec import Graph, GraphBuilder
from gsto_spec.backend import Training
from gsto_spec.objective import CrossEntropy
from gsto_spec.ops import AvgPool
from gsto_spec.precision import Precision, computes_in

Array = NDArray[Any]
EXACT_OUTPUT = "stage4"
"""Of `selecting`: the output that no op has rounded."""


def short(case: Case, precision: str) -> Case:
    """The case with an image of the short type: exact operands; and within the narrow range of float16."""
    near = replace(case, offset=0.0) if precision == "float16" else case
    image = FORMATS[precision].rounded(near.image)
    return replace(near, given={**case.given, IMAGE: image}, drawn=case.drawn)


def nodes(subject: Subject, case: Case) -> None:
    """`checks.nodes`: each op by its own operands, every node from the start; and what rounds has rounded."""
    case = short(case, subject.precision)
    checks.nodes(subject, case)
    row, form = Comparison(subject, case, "stored", across=False), FORMATS[subject.precision]
    found = subject.predictor(every_node(case.graph), case.weights).predict(case.image)
    for node in computed(case.graph):
        # XLA may hand on the float32 in which it computes an op of the short type.
        if computes_in(node.op, cast(Precision, subject.precision)) == "float32":
            row.identical(node.name, found[node.name], np.asarray(form.rounded(found[node.name]), np.float64))


def training(subject: Subject, case: Case) -> None:
    """One step: losses, gradients and statistics by the rounded oracle's spread; the update in float32."""
    case = short(case, subject.precision)
    trainer = subject.trainer(case)
    losses = step(subject, case, trainer)
    state = trainer.state()
    checks.counts(subject, case, state)
    answers = expected.training(case)
    compare(subject, case, "losses", losses)
    compare(subject, case, "gradients", {name: state[f"{MOMENTUM}{name}"] for name in answers.gradients})
    compare(subject, case, "statistics", {name: state[name] for name in answers.statistics})
    _update(subject, case, state)


def _update(subject: Subject, case: Case, state: Mapping[str, Array]) -> None:
    """The new weights are the old ones less the rate times the gradient that was kept, all in float32."""
    row, u = Comparison(subject, case, "update", across=False), subject.unit_roundoff
    for name in case.training.learnt(case.graph):
        rate = RATE * case.training.rate_factors.get(name, 1.0)
        old, velocity = (np.asarray(x, np.float64) for x in (case.weights[name], state[MOMENTUM + name]))
        moved = rate * velocity
        bound = tolerance.summation(4, u) * (np.abs(old) + np.abs(moved)) + np.finfo(np.float32).tiny
        row.pointwise(name, state[name], old - moved, bound)


def exact_operands(subject: Subject, case: Case) -> None:
    """The loss of logits, and the statistics of values, that nothing has rounded: as in float32."""
    chosen = {"select.weight": np.eye(3, dtype=np.float32)[:, :, None, None]}
    case = short(replace(case, given=chosen), subject.precision)
    noise.require_fair(case, "float32")
    trainer = subject.trainer(case)
    loss = f"loss_{EXACT_OUTPUT}"
    told = {loss: step(subject, case, trainer)[loss]}
    state, answers = trainer.state(), expected.training(case)
    _in_float32(subject, case, "losses", told)
    _in_float32(subject, case, "statistics", {name: state[name] for name in answers.statistics})


def _in_float32(subject: Subject, case: Case, check: str, got: Mapping[str, Any]) -> None:
    """Some of one step's `losses` or `statistics`, by the bounds of float32."""
    row, wide = Comparison(subject, case, f"{check} in float32"), replace(subject, precision="float32")
    for name, found in got.items():
        quantity = getattr(expected.training(case), check)[name]
        runs = [run.of(check)[name] for run in noise.strays(case, "float32")]
        bound = tolerance.spread(quantity.want, runs) + checks.floor(quantity, wide, check)
        row.normwise(name, found, quantity.want, bound)


# Networks that have what matters in a dozen nodes: a compiler takes its time for each


def fan(channels: int, size: tuple[int, int]) -> Graph:
    """Every op that rounds, each of the image itself, whose values are exact."""
    build = GraphBuilder()
    image = build.input(channels=channels)
    window: dict[str, Any] = {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 1, 0, 1)}
    made = {
        "conv": build.conv2d("conv", image, 4, kernel=3),
        "biased": build.conv2d("biased", image, 4, kernel=3, stride=2, bias=True),
        "norm": build.batch_norm("norm", image),
        "sigmoid": build.sigmoid(image),
        "softmax": build.softmax(image),
        "sum": build.add([image, image, image]),
        "product": build.mul(image, image),
        "resize": build.resize(image, size=size),
        "corners": build.resize(image, size=size, align_corners=True),
        "mean": build.apply("mean/0", AvgPool(**window), image),
        "inner": build.apply("mean/1", AvgPool(**window, count_padding=False), image),
        "bins": build.adaptive_avg_pool(image, size=(2, 3)),
    }
    return build.graph(made)


def gated() -> Graph:
    """Two resolutions, a gate of each kind, a resize, a sum, and two outputs."""
    build = GraphBuilder()
    image = build.input()
    x = build.relu(build.batch_norm("stem.1", build.conv2d("stem.0", image, 6, kernel=3)))
    low = build.relu(build.batch_norm("low.1", build.conv2d("low.0", x, 8, kernel=3, stride=2)))
    low = build.mul(build.sigmoid(build.conv2d("low_gate", low, 1)), low)
    aside = build.conv2d("head.stage3", low, 3, bias=True)
    up = build.resize(build.batch_norm("up.1", build.conv2d("up.0", low, 6)), like=x)
    mean = build.adaptive_avg_pool(x, size=(1, 1))
    x = build.mul(x, build.sigmoid(build.conv2d("channel_gate", mean, 6, bias=True)))
    x = build.relu(build.add([x, up]))
    return build.graph({"stage4": build.conv2d("head.stage4", x, 3, bias=True), "stage3": aside})


def selecting(stride: int) -> Graph:
    """Logits that are the image's own values, some left out; and a batch norm of the image."""
    build = GraphBuilder()
    image = build.input()
    logits = build.conv2d("select", image, 3, stride=stride)
    norm = build.batch_norm("norm", image)
    return build.graph({EXACT_OUTPUT: logits, "stage3": build.conv2d("head", norm, 3, stride=stride)})


@st.composite
def fans(draw: st.DrawFn) -> Case:
    """`fan` on images of several sizes, resized up and down."""
    side = st.integers(5, 40)
    graph = fan(draw(st.integers(2, 5)), (draw(side), draw(side)))
    (channels,) = graph.inputs.values()
    return Case(graph, (draw(st.integers(1, 2)), channels, draw(side), draw(side)), draw(seeds))


@st.composite
def gated_cases(draw: st.DrawFn) -> Case:
    """`gated` on images large enough that no single relu decides a gradient."""
    size = st.integers(17, 33)
    return draw(_trained(Case(gated(), (draw(st.integers(2, 3)), 3, draw(size), draw(size)), draw(seeds))))


@st.composite
def selecting_cases(draw: st.DrawFn) -> Case:
    """`selecting` with any loss."""
    size = st.integers(8, 33)
    graph = selecting(draw(st.sampled_from([1, 2])))
    case = Case(graph, (draw(st.integers(1, 3)), 3, draw(size), draw(size)), draw(seeds))
    objective, momentum = draw(objectives(case.output_shapes)), draw(st.sampled_from([None, 0.3]))
    return replace(case, training=Training(objective, SHOWS_GRADIENTS, momentum))


@st.composite
def _trained(draw: st.DrawFn, case: Case) -> Case:
    objective = draw(objectives(case.output_shapes))
    return replace(case, training=draw(ways(case, Training(undecided(objective), SHOWS_GRADIENTS))))


def undecided(objective: Any) -> Any:
    """Without hard examples: of two bytes' precision many pixels lie near the limit of choice."""
    loss = objective.loss
    return replace(objective, loss=replace(loss, ohem=None)) if isinstance(loss, CrossEntropy) else objective


def without_hard_examples(case: Case) -> Case:
    """The case with its objective so."""
    return replace(case, training=replace(case.training, objective=undecided(case.training.objective)))
