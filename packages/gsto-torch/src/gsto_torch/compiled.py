"""Networks through torch's compiler."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._dynamo import config as dynamo
from torch._dynamo.exc import TorchDynamoException
from torch._inductor import config as inductor

from gsto_spec import Graph
from gsto_spec.passes import RULES
from gsto_spec.precision import Precision
from gsto_torch.optimized import OptimizedPredictor

_NO_LIMIT = 1 << 30


class CompiledPredictor(OptimizedPredictor):
    """A predictor that compiles the optimised graph, weights frozen, for every image shape it meets.

    Where no compiler is to be had it says so in a `RuntimeWarning`, and goes on without.
    """

    def __init__(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], device: torch.device, precision: Precision
    ) -> None:
        super().__init__(graph, weights, device, precision, RULES)
        # CUDA graphs: so small a network would wait for its kernels to be launched one by one.
        mode = "reduce-overhead" if device.type == "cuda" else None
        self._compiled: Any = torch.compile(self.model, dynamic=False, fullgraph=True, mode=mode)
        self._shapes: set[torch.Size] = set()

    def _outputs(self, images: Tensor) -> dict[str, Tensor]:
        if self._compiled is None:
            return super()._outputs(images)
        if images.shape in self._shapes:
            outputs: dict[str, Tensor] = self._compiled(images)
            return outputs
        try:
            outputs = self._first_outputs(images)
        except TorchDynamoException as error:
            reason = str(getattr(error, "inner_exception", error)).strip().splitlines()[0]
            warnings.warn(f"speed: expected a compiler, found {reason}, so fast", RuntimeWarning, 3)
            self._compiled = None
            return super()._outputs(images)
        self._shapes.add(images.shape)
        return outputs

    def _first_outputs(self, images: Tensor) -> dict[str, Tensor]:
        # All models share one limit, beyond which torch would quietly run them uncompiled.
        unlimited = {"recompile_limit": _NO_LIMIT, "accumulated_recompile_limit": _NO_LIMIT}
        # Nor does it freeze weights of float64: its packing of kernels fails on them.
        with inductor.patch(freezing=self.dtype != torch.float64), dynamo.patch(unlimited):
            outputs: dict[str, Tensor] = self._compiled(images)
        return outputs
