"""The two forms of the paper's operation, as data: what the equations say and what the checkpoints mean.

The published numbers come from the released code, which differs from the equations in the fields below. Each
field of each form has a source; `chosen` marks what the paper leaves open and this project decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

FormName = Literal["release", "paper"]


@dataclass(frozen=True, slots=True)
class Transfer:
    """The scale-transfer of equations 1 and 2: project the channels with a 1x1 convolution, then resample."""

    projection_bias: bool
    projection_norm: bool
    fusion_relu: bool
    transition_relu: bool
    down: Literal["average", "bilinear", "nearest"]
    up: Literal["bilinear", "nearest"]
    united_branch: int
    new_branch_stride: int


@dataclass(frozen=True, slots=True)
class Form:
    """How a gated network is built.

    - `gate_norm_relu`: batch norm and relu between an unsupervised gate's convolution and its sigmoid.
    - `gates_identity`: whether a gated fusion gates the path from a branch to itself, too.
    - `transfer`: how a gated path changes scale; None takes HRNet's own fusion and transition paths.
    - `predictor_hidden`: whether a supervised gate's predictor has a hidden layer, or is one convolution.
    - `supervised_gate`: `halving_chain`, 3x3 convolutions down to the lowest branch's resolution, or
      `one_layer`, a 1x1 convolution of the probability matrix.
    - `gated_feature`: what a gated transition gates, the lowest branch or the united feature of all.
    """

    name: FormName
    gate_norm_relu: bool
    gates_identity: bool
    transfer: Transfer | None
    predictor_hidden: bool
    supervised_gate: Literal["halving_chain", "one_layer"]
    gated_feature: Literal["lowest", "united"]
    sources: Mapping[str, str]


RELEASE = Form(
    name="release",
    gate_norm_relu=True,
    gates_identity=True,
    transfer=None,
    predictor_hidden=True,
    supervised_gate="halving_chain",
    gated_feature="lowest",
    sources={
        "gate_norm_relu": "released code: sigmoid(relu(bn(conv1x1))), so a gate lies in [0.5, 1)",
        "gates_identity": "released code: att_layers.I.I exist and are applied",
        "transfer": "released code: the fusion and transition layers of HRNet",
        "predictor_hidden": "released code: conv1x1, bn, relu, conv1x1, both with bias, as HRNetV2's head",
        "supervised_gate": "released code: 3x3 conv, bn, relu at stride 1, then one at stride 2 per halving",
        "gated_feature": "released code: the lowest-resolution branch alone",
    },
)

PAPER = Form(
    name="paper",
    gate_norm_relu=False,
    gates_identity=False,
    transfer=Transfer(
        projection_bias=False,
        projection_norm=True,
        fusion_relu=False,
        transition_relu=True,
        down="average",
        up="bilinear",
        united_branch=0,
        new_branch_stride=2,
    ),
    predictor_hidden=False,
    supervised_gate="one_layer",
    gated_feature="united",
    sources={
        "gate_norm_relu": "equation 4",
        "gates_identity": "section 3.2.1: the cross-scale interaction is replaced",
        "transfer": "equations 1 to 3: gate, project, then transfer",
        "transfer.projection_bias": "chosen; equation 1 has none",
        "transfer.projection_norm": "chosen, after the CBR of figure 2's caption",
        "transfer.fusion_relu": "chosen: HRNet's fusion has no relu on its last layers",
        "transfer.transition_relu": "chosen: HRNet's transition ends in one",
        "transfer.down": "chosen, after section 3.1.1: averages on the target's grid, at odd sizes too",
        "transfer.up": "section 3.1.1 (bilinear interpolation)",
        "transfer.united_branch": "chosen: the highest resolution, stride 4",
        "transfer.new_branch_stride": "section 3.2.2 (half the resolution); chosen: ceil(n/2) of the lowest",
        "predictor_hidden": "equation 5 (section 3.1.2: such as a 1x1 convolution)",
        "supervised_gate": "equation 6",
        "gated_feature": "section 3.2.2: up-sample, concatenate, GSTO on the united feature",
    },
)

FORMS: Mapping[str, Form] = {"release": RELEASE, "paper": PAPER}


def form_of(form: FormName | Form) -> Form:
    """A form by its name; one of your own is itself."""
    return FORMS[form] if isinstance(form, str) else form


def describe() -> str:
    """Every field of every form beside its source, as a Markdown table."""
    rows = [("field", *(f"`{name}`: value, source" for name in FORMS)), ("---",) * (1 + len(FORMS))]
    for field in _paths():
        rows.append((f"`{field}`", *(_cell(form, field) for form in FORMS.values())))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _paths() -> list[str]:
    """The fields that have sources: those of `Form`, each followed by its own where it has any."""
    inner = {"transfer": [f"transfer.{item.name}" for item in fields(Transfer)]}
    outer = [item.name for item in fields(Form) if item.name not in ("name", "sources")]
    return [path for name in outer for path in (name, *inner.get(name, ()))]


def _cell(form: Form, path: str) -> str:
    if path not in form.sources:
        return ""
    value: object = form
    for name in path.split("."):
        value = getattr(value, name)
    if isinstance(value, Transfer):
        return form.sources[path]
    return f"`{value}`; {form.sources[path]}"
