"""Predicting with PyTorch, by the contract of `gsto_spec.backend`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsto_spec import Graph
from gsto_spec.allocator import keep_freed_memory
from gsto_spec.backend import Speed
from gsto_spec.precision import Precision
from gsto_torch.compile import CompiledGraph, compile
from gsto_torch.ops import DTYPES

Arrays = dict[str, NDArray[Any]]


class TorchPredictor:
    """A compiled graph in inference mode on one device; a `gsto_spec.backend.Predictor`.

    At any speed but `plain` its layout is channels_last, and on the CPU freed memory is kept.
    """

    def __init__(
        self, model: CompiledGraph, device: torch.device, precision: Precision, speed: Speed = "fast"
    ) -> None:
        self.device, self.dtype = device, stored_type(precision)
        self.model = model.to(device)
        self.layout = torch.contiguous_format
        if speed != "plain":
            self.layout = torch.channels_last
            _channels_last(self.model)
            if device.type == "cpu":
                keep_freed_memory()

    def predict(self, images: NDArray[Any]) -> Arrays:
        """Output name -> N x K x h x w, in the type of the model's weights."""
        was_training = self.model.training
        self.model.eval()
        with torch.inference_mode():
            outputs = self._outputs(self._images(images))
        self.model.train(was_training)
        return {name: output.cpu().numpy() for name, output in outputs.items()}

    def _outputs(self, images: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self.model(images)
        return outputs

    def _images(self, images: NDArray[Any]) -> Tensor:
        placed = moved(images, self.device).to(self.dtype)
        return placed.contiguous(memory_format=self.layout)


def _channels_last(model: CompiledGraph) -> CompiledGraph:
    """Kernels in the layout that is fastest, but for those of one input channel.

    `Module.to` would give these channels_last strides too, which torch's CPU kernels misread (pytorch#82060).
    """
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def stored_type(precision: Precision) -> torch.dtype:
    """The type of weights, statistics and pictures in a precision of `gsto_spec.precision`."""
    return DTYPES["float64" if precision == "float64" else "float32"]


def compile_in(graph: Graph, weights: Mapping[str, NDArray[Any]], precision: Precision) -> CompiledGraph:
    """The module that computes in a precision of `gsto_spec.precision`."""
    return compile(graph, weights, dtype=stored_type(precision), precision=precision)


def moved(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array of any layout as a tensor on a device."""
    # torch takes neither negative strides nor, without a warning, arrays that are read-only.
    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    # Only from pinned memory does a copy not wait for the device.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
