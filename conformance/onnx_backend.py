r"""What `gsto-spec export` writes, run by ONNX Runtime, as a backend that only predicts.

    python -m conformance --backend conformance.onnx_backend:OnnxBackend --precision float32 \
        -k "outputs_at_several or inference_form or every_node_of"

It knows no other backend; it needs the packages onnx and onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from gsto_spec import Graph
from gsto_spec.backend import BackendError, Predictor, Speed, Training, resolve_device
from gsto_spec.onnx import to_onnx

Array = NDArray[Any]


class OnnxBackend:
    """ONNX Runtime on the CPU, in float32, which is all that a model holds."""

    name: str = "onnx"
    precisions: tuple[str, ...] = ("float32",)
    speeds: tuple[Speed, ...] = ("plain",)
    process_index = 0
    process_count = 1

    def devices(self) -> tuple[str, ...]:
        """The CPU alone."""
        return ("cpu",)

    def versions(self) -> dict[str, str]:
        """Of the format's package and of the engine."""
        return {name: version(name) for name in ("onnx", "onnxruntime")}

    def sum_over_processes(self, array: Array) -> Array:
        """The array itself: there is one process."""
        return array

    def trainer(
        self, graph: Graph, weights: Mapping[str, Array], training: Training, *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> NoReturn:  # fmt: skip
        """Always raises `BackendError`."""
        raise BackendError("onnx: a model in ONNX only predicts; train on torch or jax")

    def predictor(
        self, graph: Graph, weights: Mapping[str, Array], *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> Predictor:  # fmt: skip
        """A session of the exported graph."""
        resolve_device(self, device, precision)
        return OnnxPredictor(graph, weights)


class OnnxPredictor:
    """A model in memory, which takes pictures of any size."""

    def __init__(self, graph: Graph, weights: Mapping[str, Array]) -> None:
        onnxruntime = import_module("onnxruntime")  # it has no types
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        model = to_onnx(graph, weights).SerializeToString()
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.outputs = tuple(graph.outputs)

    def predict(self, images: Array) -> dict[str, Array]:
        """Output name -> N x K x h x w at network stride, for images N x 3 x H x W."""
        (name,) = (item.name for item in self.session.get_inputs())
        values = self.session.run(list(self.outputs), {name: np.asarray(images, np.float32)})
        return dict(zip(self.outputs, values, strict=True))
