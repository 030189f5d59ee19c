"""What was really drawn, counted as it is put to a backend; `test_coverage.py` asserts that all was."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.cases import Case
from conformance.report import LEDGER
from gsto_spec.objective import CrossEntropy, Heatmap, Poly, Steps
from gsto_spec.ops import OPS, AvgPool, BatchNorm, Conv2d, MaxPool, Op, Resize

ALWAYS: dict[str, tuple[str, ...]] = {
    "op": tuple(OPS),
    "stride": ("1", "2", "3", "5"),
    "dilation": ("1", "2", "3"),
    "groups": ("1", "several"),
    "kernel": ("learnt", "fixed"),
    "padding": ("both sides alike", "sides apart"),
    "resize": ("bilinear", "align_corners", "nearest", "to a number", "to a reference"),
    "eps": ("1e-05", "0.001", "0.1"),
    "running variance": ("over n - 1", "over n"),
    "avg_pool": ("padding counted", "padding left out"),
    "max_pool": ("padded", "plain"),
    "batch": ("one image", "several images"),
    "size": ("odd", "even in some direction", "square", "not square"),
    "outputs": ("one", "several"),
    "optimizer": ("SGD", "Adam"),
    "schedule": ("Poly", "Steps"),
    "valid labels": ("most", "one", "none"),
    "loss": ("cross-entropy", "cross-entropy with OHEM", "heatmap"),
    "loss at": ("align_corners", "half-pixel centres"),
    "class weights": ("some", "none"),
    "joint weights": ("some", "none"),
    "ignore_label": ("255", "0", "-1"),
    "all pixels": ("equal", "different"),
    "choices": ("tied", "clear"),
    "frozen": ("nothing", "some tensors", "a batch norm's weight"),
    "rate factors": ("none", "some"),
    "parts of a batch": ("one", "several"),
    "in little memory": ("True", "False"),
    "deterministic": ("True", "False"),
}
"""What every run draws, whatever its profile."""
OFTEN: dict[str, tuple[str, ...]] = {
    "form": ("release", "paper", "release, one field changed", "paper, one field changed"),
    "transition gate": ("None", "unsupervised", "supervised"),
    "supervised stages": ("0", "1", "2", "3"),
    "upsampling": ("bilinear", "nearest"),
    "head": ("hrnetv2", "hrnetv1"),
    "network": ("align_corners", "half-pixel centres"),
    "context": ("ppm", "aspp"),
    "fusion gate": ("None", "unsupervised", "channel"),
    "attention": ("none", "channel, module", "spatial, module"),
    "context gate": ("None", "unsupervised", "supervised"),
    "output stride": ("8", "16"),
    "supervision": ("None", "feature", "auxiliary"),
}
"""What five architectures cannot hold and twenty-five must."""

_counted: set[str] = set()


def missing(profile: str) -> list[str]:
    """What a run of this profile should have drawn and has not."""
    wanted = ALWAYS if profile == "quick" else {**ALWAYS, **OFTEN}
    names = [f"{kind}: {what}" for kind, choices in wanted.items() for what in choices]
    return [name for name in names if not LEDGER.drawn[name]]


def note(case: Case, *arguments: object) -> None:
    """Count the features of a case, and of what a check takes beside it; once per case."""
    if case.key not in _counted:
        _counted.add(case.key)
        LEDGER.drawn.update({f"{kind}: {what}" for kind, what in _features(case)})
        schedules = [type(argument).__name__ for argument in arguments if isinstance(argument, Poly | Steps)]
        LEDGER.drawn.update(f"schedule: {name}" for name in schedules)


def _features(case: Case) -> Iterator[tuple[str, str]]:
    for node in case.graph.nodes:
        yield "op", node.op.kind
        yield from _settings(node.op)
        if isinstance(node.op, Conv2d):
            yield "kernel", "learnt" if case.graph.leaves[node.operands[1]].trainable else "fixed"
    yield from case.graph.notes.items()
    yield from _objective_features(case)
    yield from _ways(case)
    batch, _, height, width = case.shape
    yield "batch", "one image" if batch == 1 else "several images"
    yield "choices", "tied" if case.whole else "clear"
    yield "size", "odd" if height % 2 and width % 2 else "even in some direction"
    yield "size", "square" if height == width else "not square"
    yield "outputs", "one" if len(case.graph.outputs) == 1 else "several"


def _settings(op: Op) -> Iterator[tuple[str, str]]:
    match op:
        case Conv2d():
            yield "stride", str(max(op.stride))
            yield "dilation", str(max(op.dilation))
            yield "groups", "1" if op.groups == 1 else "several"
            sides = "both sides alike" if op.padding[::2] == op.padding[1::2] else "sides apart"
            yield "padding", sides
        case Resize():
            yield "resize", "align_corners" if op.align_corners else op.method
            yield "resize", "to a number" if op.size else "to a reference"
        case BatchNorm():
            yield "eps", str(op.eps)
            yield "running variance", "over n - 1" if op.unbiased else "over n"
        case AvgPool():
            yield "avg_pool", "padding counted" if op.count_padding else "padding left out"
        case MaxPool():
            yield "max_pool", "padded" if any(op.padding) else "plain"
        case _:
            pass


def _ways(case: Case) -> Iterator[tuple[str, str]]:
    training = case.training
    yield "frozen", "some tensors" if training.frozen else "nothing"
    norms = {node.operands[1] for node in case.graph.nodes if isinstance(node.op, BatchNorm)}
    if norms & training.frozen:
        yield "frozen", "a batch norm's weight"
    yield "rate factors", "some" if training.rate_factors else "none"
    yield "parts of a batch", "one" if training.micro_batches == 1 else "several"
    yield "in little memory", str(training.rematerialize)
    yield "deterministic", str(training.deterministic)


def _objective_features(case: Case) -> Iterator[tuple[str, str]]:
    objective = case.training.objective
    yield "optimizer", type(case.training.optimizer).__name__
    yield "valid labels", case.valid
    yield "all pixels", "equal" if case.tied else "different"
    yield "loss at", "align_corners" if objective.align_corners else "half-pixel centres"
    match objective.loss:
        case CrossEntropy() as loss:
            yield "loss", "cross-entropy with OHEM" if loss.ohem else "cross-entropy"
            yield "class weights", "some" if loss.class_weights else "none"
            yield "ignore_label", str(loss.ignore_label)
        case Heatmap() as loss:
            yield "loss", "heatmap"
            yield "joint weights", "some" if loss.joint_weights else "none"
