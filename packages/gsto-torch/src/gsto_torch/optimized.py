"""Predictors of rewritten graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from gsto_spec import Graph, optimize
from gsto_spec.passes import RULES
from gsto_spec.precision import Precision
from gsto_torch.predict import TorchPredictor, compile_in

EAGER_RULES = tuple(name for name in RULES if name != "project-before-enlarging")
"""Those that pay op by op: resizing wider maps costs more than the head saves, unless it is fused."""


class OptimizedPredictor(TorchPredictor):
    """A predictor of the optimised graph, whose weights stay as they are."""

    def __init__(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], device: torch.device, precision: Precision,
        rules: Iterable[str] = EAGER_RULES,
    ) -> None:  # fmt: skip
        model = compile_in(*optimize(graph, weights, rules=rules), precision)
        model.overwrite()
        super().__init__(model.eval().requires_grad_(False), device, precision)
