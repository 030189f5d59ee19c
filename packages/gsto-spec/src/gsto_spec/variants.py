"""Network families as frozen data: an `HRNet` says all that its graph depends on, and builds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from gsto_spec.attention import channel_gate, spatial_gate
from gsto_spec.blocks import (
    Fusion,
    Gate,
    Resampling,
    Transition,
    attend,
    basic_block,
    bottleneck,
    gate,
    predictor,
    stem,
    unite,
)  # fmt: skip
from gsto_spec.builder import FAN_IN_NORMAL, GraphBuilder, Initialization
from gsto_spec.forms import Form, FormName, form_of
from gsto_spec.graph import Graph
from gsto_spec.variant_checks import (
    VariantError,
    check_counts,
    check_form,
    check_gate,
    check_initialization,
    check_one_of,
    check_switch,
    check_tuples,
    own_gate,
)  # fmt: skip

Head = Literal["hrnetv2", "hrnetv1"]
Upsampling = Literal["bilinear", "nearest"]
AttentionLocation = Literal["module", "layer"]


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
    - `fusion_gate`: None, `unsupervised` (GFM), `channel` (squeeze-and-excitation where GFM has a gate), or
      a function `(build, path, x) -> gate` of your own.
    - `supervised_stages`: those of stages 1, 2, 3 that have a predictor, hence an output and a loss.
    - `transition_gate`: None, `unsupervised`, `channel`, `supervised` (gates read the predictors), or a
      function.
    - `gated_transitions`: the stages after which the transition is gated; None means the supervised stages
      for supervised gates, and stages 2 and 3 for others.

    Other attentions (table 3), apart from what changes scale:
    - `attention`: None, `channel` (squeeze-and-excitation), `spatial` (CBAM's spatial half), or a function.
    - `attention_location`: `module`, on each branch after each module's fusion (the paper's "block"), or
      `layer`, after each convolution layer of the stem and of the residual blocks, shortcuts left out.
    - `channel_reduction`: how many channels share one of the hidden layer, in every `channel` gate.

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
    fusion_gate: Literal["unsupervised", "channel"] | Gate | None = None
    supervised_stages: tuple[int, ...] = ()
    transition_gate: Literal["unsupervised", "channel", "supervised"] | Gate | None = None
    gated_transitions: tuple[int, ...] | None = None
    attention: Literal["channel", "spatial"] | Gate | None = None
    attention_location: AttentionLocation = "module"
    channel_reduction: int = 16
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
        self.form = form_of(variant.form)
        self.resampling = Resampling(variant.upsampling, variant.align_corners)
        self.build = GraphBuilder(
            eps=variant.batch_norm_eps,
            momentum=variant.batch_norm_momentum,
            initialization=variant.initialization,
        )
        self.logits: dict[int, str] = {}
        attention = self._gate(variant.attention)
        self.module_attention = attention if variant.attention_location == "module" else None
        self.layer_attention = attention if variant.attention_location == "layer" else None

    def graph(self, notes: dict[str, str]) -> Graph:
        variant = self.variant
        attention = self.layer_attention
        x = stem(self.build, self.build.input("image", 3), variant.stem_width, attention=attention)
        for k in range(variant.layer1_blocks):
            x = bottleneck(self.build, f"layer1.{k}", x, variant.layer1_width, attention=attention)
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
        match kind:
            case "unsupervised":
                return partial(gate, form=self.form)
            case "channel":
                return partial(channel_gate, reduction=self.variant.channel_reduction)
            case "spatial":
                return spatial_gate
            case str():
                raise AssertionError(kind)
            case None:
                return None
            case _:
                return partial(own_gate, kind)

    def _stage(self, stage: int, branches: list[str]) -> list[str]:
        count = self.variant.modules[stage - 2]
        fusion = Fusion(self._gate(self.variant.fusion_gate), self.form, self.resampling)
        for module in range(count):
            path = f"stage{stage}.{module}"
            branches = [self._residual_branch(f"{path}.branches.{k}", x) for k, x in enumerate(branches)]
            last = (stage, module) == (4, count - 1)
            targets = 1 if last and self.variant.head == "hrnetv1" else stage
            branches = self._attended(path, fusion.build(self.build, path, branches, targets))
        return branches

    def _attended(self, path: str, branches: list[str]) -> list[str]:
        attention = self.module_attention
        if attention is None:
            return branches
        return [attend(self.build, f"{path}.attention.{k}", x, attention) for k, x in enumerate(branches)]

    def _residual_branch(self, path: str, x: str) -> str:
        for k in range(self.variant.blocks):
            x = basic_block(self.build, f"{path}.{k}", x, self.build.channels(x),
                            attention=self.layer_attention)  # fmt: skip
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
    check_tuples(variant, 4, "widths")
    check_tuples(variant, 3, "modules")
    check_counts(variant, "blocks", "stem_width", "layer1_width", "layer1_blocks", "classes",
                 "channel_reduction")  # fmt: skip
    check_switch(variant, "align_corners")
    check_initialization(variant)
    check_one_of(variant, "upsampling", get_args(Upsampling))
    check_one_of(variant, "head", get_args(Head))
    check_one_of(variant, "attention_location", get_args(AttentionLocation))
    check_form(variant)
    check_gate(variant, "fusion_gate", ("unsupervised", "channel"))
    check_gate(variant, "transition_gate", ("unsupervised", "channel", "supervised"))
    check_gate(variant, "attention", ("channel", "spatial"))
    _check_stages(variant)


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
