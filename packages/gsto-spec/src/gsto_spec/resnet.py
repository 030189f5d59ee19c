"""Dilated ResNets with PPM or ASPP, plain or with GSTO (table 6), as frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from gsto_spec.blocks import (
    Gate,
    Resampling,
    bottleneck,
    conv_norm,
    gate,
    predictor,
    resnet_stem,
    supervised_gate,
)  # fmt: skip
from gsto_spec.builder import FAN_IN_NORMAL, GraphBuilder, Initialization
from gsto_spec.context import Context
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

ContextModule = Literal["ppm", "aspp"]
Supervision = Literal["feature", "auxiliary"]
OutputStride = Literal[8, 16]

RATES: dict[int, tuple[int, ...]] = {8: (12, 24, 36), 16: (6, 12, 18)}
"""Atrous rates by output stride (Chen et al. 2017, section 4.1)."""


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """A dilated ResNet of bottlenecks and a multi-scale module; `dataclasses.replace` makes a new one.

    Backbone, under torchvision's names (`conv1`, `bn1`, `layerS.K...`), strides on the 3x3 convolutions:
    - `blocks`: bottlenecks of the four layers; `width`: channels of the stem and inner width of the first
      layer, doubled at each later one.
    - `output_stride`: 8 dilates layers 3 and 4, 16 layer 4; as in torchvision, a dilated layer's first
      block keeps the dilation before it.

    Multi-scale module:
    - `context`: `ppm`, under the names of the PSPNet authors' code (`ppm`, `cls`), or `aspp`, under
      torchvision's (`classifier`).
    - `bins` of PPM; `rates` of ASPP, None for 12, 24, 36 at stride 8 and 6, 12, 18 at stride 16.
    - `head_width`: hidden channels of the head and of ASPP, None for 512 (PPM) and 256 (ASPP).
    - `align_corners`: the coordinates of every resize. Dropout, which inference lacks, is left out.

    GSTO (sections 3.1, 3.3; nothing of it was released for these networks, so all of it is our reading):
    - `context_gate`: None, `unsupervised`, `supervised` (gates read the predictor), or a function. Every
      path of the module that changes scale has its own gate; see `gsto_spec.context`.
    - `supervision`: None; `feature`, a predictor on the feature that the module reads (equation 5);
      `auxiliary`, the published auxiliary head on layer 3's output. Its output is `stage3`, after `stage4`.
    - `form`: gates and predictors as in HRNet; `paper` projects channels before it pools.

    Training only: `batch_norm_momentum` (the weight of the new batch), `initialization`. A path that
    pools to 1 x 1 and normalises then cannot be trained on one picture at a time.
    """

    blocks: tuple[int, int, int, int]
    context: ContextModule
    width: int = 64
    output_stride: OutputStride = 8
    bins: tuple[int, ...] = (1, 2, 3, 6)
    rates: tuple[int, ...] | None = None
    head_width: int | None = None
    align_corners: bool = False
    classes: int = 19
    form: FormName | Form = "release"
    context_gate: Literal["unsupervised", "supervised"] | Gate | None = None
    supervision: Supervision | None = None
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    initialization: Initialization = FAN_IN_NORMAL

    def graph(self, notes: dict[str, str] | None = None) -> Graph:
        """The network for N x 3 x H x W pictures: `stage4`, then `stage3` where it is supervised.

        Each output is N x classes x h x w at the output stride. Raises `VariantError`.
        """
        _check(self)
        return _Assembly(self).graph(notes or {})


class _Assembly:
    """One graph in the making."""

    def __init__(self, variant: ResNet) -> None:
        self.variant = variant
        self.form = form_of(variant.form)
        self.build = GraphBuilder(
            eps=variant.batch_norm_eps,
            momentum=variant.batch_norm_momentum,
            initialization=variant.initialization,
        )

    def graph(self, notes: dict[str, str]) -> Graph:
        third, fourth = self._backbone()
        outputs = self._supervised(third, fourth)
        gate_function = self._gate(outputs.get("stage3"))
        resampling = Resampling(align_corners=self.variant.align_corners)
        context = Context(gate_function, self.form.transfer is not None, resampling)
        head = self._ppm(context, fourth) if self.variant.context == "ppm" else self._aspp(context, fourth)
        return self.build.graph({"stage4": head, **outputs}, notes)

    def _backbone(self) -> tuple[str, str]:
        """The outputs of layers 3 and 4."""
        variant = self.variant
        x = resnet_stem(self.build, self.build.input("image", 3), variant.width)
        strides, dilations = {8: ((1, 2, 1, 1), (1, 1, 2, 4)), 16: ((1, 2, 2, 1), (1, 1, 1, 2))}[
            variant.output_stride
        ]
        ends = []
        for layer in range(4):
            first = dilations[max(0, layer - 1)]
            x = self._layer(layer, x, strides[layer], first, dilations[layer])
            ends.append(x)
        return ends[2], ends[3]

    def _layer(self, layer: int, x: str, stride: int, first_dilation: int, dilation: int) -> str:
        for k in range(self.variant.blocks[layer]):
            x = bottleneck(
                self.build, f"layer{layer + 1}.{k}", x, self.variant.width * 2**layer,
                stride=stride if k == 0 else 1, dilation=first_dilation if k == 0 else dilation,
            )  # fmt: skip
        return x

    def _supervised(self, third: str, fourth: str) -> dict[str, str]:
        match self.variant.supervision:
            case None:
                return {}
            case "feature":
                hidden = self.form.predictor_hidden
                logits = predictor(
                    self.build, "last_layer_stage3", fourth, self.variant.classes, hidden=hidden
                )
            case "auxiliary":
                path = "aux" if self.variant.context == "ppm" else "aux_classifier"
                logits = self._classified(path, 0, third, max(1, self.build.channels(third) // 4))
        return {"stage3": logits}

    def _gate(self, logits: str | None) -> Gate | None:
        chosen = self.variant.context_gate
        if chosen == "supervised":
            return partial(_gate_of_logits, logits=logits or "", form=self.form)
        if chosen is None:
            return None
        return partial(gate, form=self.form) if isinstance(chosen, str) else partial(own_gate, chosen)

    def _ppm(self, context: Context, x: str) -> str:
        united = context.pyramid_pooling(self.build, "ppm", x, self.variant.bins)
        return self._classified("cls", 0, united, self.variant.head_width or 512)

    def _aspp(self, context: Context, x: str) -> str:
        width, rates = self.variant.head_width or 256, self.variant.rates or RATES[self.variant.output_stride]
        x = context.atrous_pooling(self.build, "classifier.0", x, rates, width)
        return self._classified("classifier", 1, x, width)

    def _classified(self, path: str, first: int, x: str, width: int) -> str:
        """3x3 convolution, norm, relu, 1x1 convolution: the head that PSPNet and torchvision share."""
        x = conv_norm(self.build, f"{path}.{first}", f"{path}.{first + 1}", x, width, kernel=3)
        return self.build.conv2d(f"{path}.4", x, self.variant.classes, bias=True)


def _gate_of_logits(build: GraphBuilder, path: str, x: str, *, logits: str, form: Form) -> str:
    """A gate of the predictor's logits, which have the resolution of the feature `x`."""
    del x
    return supervised_gate(build, path, logits, 0, form)


def _check(variant: ResNet) -> None:
    check_tuples(variant, 4, "blocks")
    check_tuples(variant, None, "bins")
    check_counts(variant, "width", "classes")
    if variant.rates is not None:
        check_tuples(variant, None, "rates")
    if variant.head_width is not None:
        check_counts(variant, "head_width")
    check_switch(variant, "align_corners")
    check_initialization(variant)
    check_one_of(variant, "context", get_args(ContextModule))
    check_one_of(variant, "output_stride", get_args(OutputStride))
    check_form(variant)
    check_gate(variant, "context_gate", ("unsupervised", "supervised"))
    if variant.supervision is not None:
        check_one_of(variant, "supervision", get_args(Supervision))
    if variant.context_gate == "supervised" and variant.supervision is None:
        raise VariantError("context_gate", "a supervision with supervised gates", "supervision None")
