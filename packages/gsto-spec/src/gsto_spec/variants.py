"""Network families as frozen data: an `HRNet` says all that its graph depends on, and builds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, Literal, get_args

from gsto_spec.blocks import (
    Fusion,
    Gate,
    Resampling,
    Transition,
    basic_block,
    bottleneck,
    gate,
    predictor,
    stem,
    unite,
)  # fmt: skip
from gsto_spec.builder import FAN_IN_NORMAL, GraphBuilder, Initialization
from gsto_spec.errors import GstoError, nearest
from gsto_spec.forms import FORMS, Form, FormName
from gsto_spec.graph import Graph

Head = Literal["hrnetv2", "hrnetv1"]
Upsampling = Literal["bilinear", "nearest"]


class VariantError(GstoError):
    """A variant's field that means nothing, or two that contradict each other."""

    def __init__(self, name: str, expected: str, found: object) -> None:
        super().__init__(f"{name}: expected {expected}, found {found}")


@dataclass(frozen=True, kw_only=True)
class HRNet:
    """An HRNet, plain or with GSTO; `dataclasses.replace` makes a new one.

    Backbone (Wang et al. 2020, and HRNet's code):
    - `widths`: channels of the four branches, at strides 4, 8, 16, 32.
    - `modules`, `blocks`: modules in stages 2, 3, 4, and basic blocks per branch in each of them.
    - `stem_width`, `layer1_width`, `layer1_blocks`: channels of the stem, inner width and number of stage
      1's bottlenecks.
    - `upsampling`: how lower branches reach a higher resolution, everywhere; `align_corners`: the coordinates
      of every bilinear resize.
    - `head`: `hrnetv2` unites all branches and predicts with a hidden layer; `hrnetv1` predicts from the
      highest branch with one convolution, and the last module fuses to that branch alone.
    - `classes`: classes, or keypoints.

    GSTO (sections 3.1, 3.2):
    - `form`: the `release` or the `paper` reading of every gated part.
    - `fusion_gate`: None, `unsupervised` (GFM), or a function `(build, path, x) -> gate` of your own.
    - `supervised_stages`: those of stages 1, 2, 3 that have a predictor, hence an output and a loss.
    - `transition_gate`: None, `unsupervised`, `supervised` (gates read the predictors), or a function.
    - `gated_transitions`: the stages after which the transition is gated; None means the supervised stages
      for supervised gates, and stages 2 and 3 for others.

    Training only: `batch_norm_momentum` (the weight of the new batch), `initialization`.
    """

    widths: tuple[int, int, int, int]
    modules: tuple[int, int, int]
    blocks: int = 4
    stem_width: int = 64
    layer1_width: int = 64
    layer1_blocks: int = 4
    upsampling: Upsampling = "bilinear"
    align_corners: bool = False
    head: Head = "hrnetv2"
    classes: int = 19
    form: FormName | Form = "release"
    fusion_gate: Literal["unsupervised"] | Gate | None = None
    supervised_stages: tuple[int, ...] = ()
    transition_gate: Literal["unsupervised", "supervised"] | Gate | None = None
    gated_transitions: tuple[int, ...] | None = None
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.01
    initialization: Initialization = FAN_IN_NORMAL

    def graph(self, notes: dict[str, str] | None = None) -> Graph:
        """The network for N x 3 x H x W pictures: outputs `stage4`, then the supervised stages downwards.

        Each output is N x classes x h x w at stride 4 (logits or heatmaps). Raises `VariantError`.
        """
        _check(self)
        return _Assembly(self).graph(notes or {})


class _Assembly:
    """One graph in the making."""

    def __init__(self, variant: HRNet) -> None:
        self.variant = variant
        self.form = FORMS[variant.form] if isinstance(variant.form, str) else variant.form
        self.resampling = Resampling(variant.upsampling, variant.align_corners)
        self.build = GraphBuilder(
            eps=variant.batch_norm_eps,
            momentum=variant.batch_norm_momentum,
            initialization=variant.initialization,
        )
        self.logits: dict[int, str] = {}

    def graph(self, notes: dict[str, str]) -> Graph:
        variant = self.variant
        x = stem(self.build, self.build.input("image", 3), variant.stem_width)
        for k in range(variant.layer1_blocks):
            x = bottleneck(self.build, f"layer1.{k}", x, variant.layer1_width)
        branches = [x]
        for stage in (2, 3, 4):
            self._supervise(stage - 1, branches)
            branches = self._transition(stage - 1).build(self.build, branches, variant.widths)
            branches = self._stage(stage, branches)
        outputs = {"stage4": self._head(branches)}
        outputs |= {f"stage{stage}": self.logits[stage] for stage in sorted(self.logits, reverse=True)}
        return self.build.graph(outputs, notes)

    def _supervise(self, stage: int, branches: Sequence[str]) -> None:
        if stage in self.variant.supervised_stages:
            path = f"last_layer_stage{stage}"
            united = unite(self.build, path, branches, self.resampling)
            hidden = self.form.predictor_hidden
            self.logits[stage] = predictor(self.build, path, united, self.variant.classes, hidden=hidden)

    def _transition(self, stage: int) -> Transition:
        plain = Transition(stage, self.form, self.resampling)
        if stage not in gated_transitions(self.variant):
            return plain
        if self.variant.transition_gate == "supervised":
            return Transition(stage, self.form, self.resampling, logits=self.logits[stage])
        return Transition(stage, self.form, self.resampling, self._gate(self.variant.transition_gate))

    def _gate(self, kind: str | Gate | None) -> Gate | None:
        return partial(gate, form=self.form) if isinstance(kind, str) else kind

    def _stage(self, stage: int, branches: list[str]) -> list[str]:
        count = self.variant.modules[stage - 2]
        fusion = Fusion(self._gate(self.variant.fusion_gate), self.form, self.resampling)
        for module in range(count):
            path = f"stage{stage}.{module}"
            branches = [self._residual_branch(f"{path}.branches.{k}", x) for k, x in enumerate(branches)]
            last = (stage, module) == (4, count - 1)
            targets = 1 if last and self.variant.head == "hrnetv1" else stage
            branches = fusion.build(self.build, path, branches, targets)
        return branches

    def _residual_branch(self, path: str, x: str) -> str:
        for k in range(self.variant.blocks):
            x = basic_block(self.build, f"{path}.{k}", x, self.build.channels(x))
        return x

    def _head(self, branches: Sequence[str]) -> str:
        if self.variant.head == "hrnetv1":
            return self.build.conv2d("final_layer", branches[0], self.variant.classes, bias=True)
        united = unite(self.build, "last_layer", branches, self.resampling)
        return predictor(self.build, "last_layer", united, self.variant.classes)


def gated_transitions(variant: HRNet) -> tuple[int, ...]:
    """The stages after which `variant`'s transitions are gated."""
    if variant.transition_gate is None:
        return ()
    if variant.gated_transitions is not None:
        return variant.gated_transitions
    return variant.supervised_stages if variant.transition_gate == "supervised" else (2, 3)


def _check(variant: HRNet) -> None:
    _check_numbers(variant)
    _one_of("upsampling", variant.upsampling, get_args(Upsampling))
    _one_of("head", variant.head, get_args(Head))
    if not isinstance(variant.form, Form):
        _one_of("form", variant.form, tuple(FORMS))
    for name, valid in (
        ("fusion_gate", ("unsupervised",)),
        ("transition_gate", ("unsupervised", "supervised")),
    ):
        value = getattr(variant, name)
        if value is not None and not callable(value):
            _one_of(name, value, valid)
    _check_stages(variant)


def _check_numbers(variant: HRNet) -> None:
    for name, length in (("widths", 4), ("modules", 3)):
        values = getattr(variant, name)
        if not isinstance(values, tuple) or len(values) != length or not all(map(_is_count, values)):
            raise VariantError(name, f"{length} numbers of at least 1", values)
    for name in ("blocks", "stem_width", "layer1_width", "layer1_blocks", "classes"):
        if not _is_count(getattr(variant, name)):
            raise VariantError(name, "at least 1", getattr(variant, name))
    if not isinstance(variant.align_corners, bool):
        raise VariantError("align_corners", "True or False", variant.align_corners)
    if not isinstance(variant.initialization, Initialization):
        raise VariantError("initialization", "an Initialization", variant.initialization)


def _is_count(value: object) -> bool:
    return type(value) is not bool and isinstance(value, Integral) and 1 <= int(value) < 2**31


def _one_of(name: str, value: Any, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise VariantError(name, f"one of {', '.join(valid)}", f"{value}{nearest(str(value), valid)}")


def _check_stages(variant: HRNet) -> None:
    for name in ("supervised_stages", "gated_transitions"):
        stages = getattr(variant, name) or ()
        if not isinstance(stages, tuple) or not all(type(stage) is int for stage in stages):
            raise VariantError(name, "a tuple of stages among 1, 2, 3", stages)
        if sorted(set(stages)) != sorted(stages) or not set(stages) <= {1, 2, 3}:
            raise VariantError(name, "stages among 1, 2, 3, each once", stages)
    if variant.transition_gate is None and variant.gated_transitions:
        raise VariantError("gated_transitions", "a transition_gate with them", variant.gated_transitions)
    missing = set(gated_transitions(variant)) - set(variant.supervised_stages)
    if variant.transition_gate == "supervised" and missing:
        raise VariantError("gated_transitions", f"supervised stages {variant.supervised_stages}",
                           f"{sorted(missing)} without a predictor")  # fmt: skip
