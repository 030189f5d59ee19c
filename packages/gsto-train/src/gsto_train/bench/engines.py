"""Inference engines that run exported graphs: ONNX Runtime and OpenVINO, each as a `Predictor`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec import Graph
from gsto_spec.backend import Predictor
from gsto_spec.onnx import to_onnx
from gsto_train.absence import Absent, optional

ENGINES = ("onnxruntime", "openvino")

EXTRA = "engines"

Export = Callable[[tuple[int, int]], bytes]
Run = Callable[[NDArray[Any]], Sequence[NDArray[Any]]]


@dataclass(frozen=True)
class Place:
    """Where and how a subject computes; `threads` of the CPU."""

    device: str
    precision: str
    threads: int


_PROVIDERS = {"auto": "CPUExecutionProvider", "cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def engine(name: str, graph: Graph, weights: Mapping[str, NDArray[Any]], place: Place) -> Predictor:
    """Return a predictor of the graph, exported for one size; raises `Absent` for what the engine has not."""
    make: type[OnnxRuntime | OpenVino] = OnnxRuntime if name == "onnxruntime" else OpenVino
    return make(lambda size: _exported(graph, weights, size), tuple(graph.outputs), place)


def _exported(graph: Graph, weights: Mapping[str, NDArray[Any]], size: tuple[int, int]) -> bytes:
    optional("onnx", EXTRA)
    return bytes(to_onnx(graph, weights, size=size).SerializeToString())


class _Engine:
    """Compiles for each shape of pictures when it first meets it, as people do who measure."""

    def __init__(self, export: Export, outputs: tuple[str, ...], place: Place) -> None:
        self._export, self._outputs, self.place = export, outputs, place
        self._compiled: dict[tuple[int, ...], Run] = {}
        self.check()

    def predict(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Output name -> N x K x h x w."""
        if images.shape not in self._compiled:
            model = self._export((images.shape[2], images.shape[3]))
            self._compiled[images.shape] = self.compile(model, images.shape)
        return dict(zip(self._outputs, self._compiled[images.shape](images), strict=True))

    def check(self) -> None:
        """Raise `Absent` where the engine cannot do what is asked."""
        raise NotImplementedError

    def compile(self, model: bytes, shape: tuple[int, ...]) -> Run:
        """Return what gives the outputs, in order."""
        raise NotImplementedError


class OnnxRuntime(_Engine):
    """ONNX Runtime, all its graph optimisations on, which is its default."""

    def check(self) -> None:
        """It computes in float32, where its build has a provider for the device."""
        provider = _PROVIDERS.get(self.place.device)
        if provider is None:
            raise Absent(f"measured on {' and '.join(_PROVIDERS)}, not on {self.place.device}")
        if provider not in optional("onnxruntime", EXTRA).get_available_providers():
            raise Absent(f"this build has no {provider}; pip install onnxruntime-gpu")
        if self.place.precision not in ("float32", "tf32"):
            raise Absent("the exported graph computes in float32")

    def compile(self, model: bytes, shape: tuple[int, ...]) -> Run:
        """A session."""
        runtime: Any = optional("onnxruntime", EXTRA)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.place.threads
        device = self.place.device
        tf32 = {"use_tf32": int(self.place.precision == "tf32")} if device == "cuda" else {}
        session = runtime.InferenceSession(model, options, providers=[(_PROVIDERS[device], tf32)])
        name = session.get_inputs()[0].name
        return lambda images: session.run(None, {name: images})


class OpenVino(_Engine):
    """OpenVINO on the CPU, one request at a time."""

    def check(self) -> None:
        """It is measured on the CPU alone."""
        optional("openvino", EXTRA)
        if self.place.device not in ("auto", "cpu") or self.place.precision not in _HINTS:
            raise Absent(f"measured on the CPU in {' and '.join(_HINTS)}")

    def compile(self, model: bytes, shape: tuple[int, ...]) -> Run:
        """An infer request; what it gives is copied, since it is overwritten by the next."""
        openvino: Any = optional("openvino", EXTRA)
        core = openvino.Core()
        network = core.read_model(model)
        network.reshape(list(shape))
        settings = {
            "INFERENCE_NUM_THREADS": self.place.threads,
            "INFERENCE_PRECISION_HINT": _HINTS[self.place.precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = core.compile_model(network, "CPU", settings).create_infer_request()

        def run(images: NDArray[Any]) -> list[NDArray[Any]]:
            found = request.infer([images])
            return [np.array(found[index]) for index in range(len(self._outputs))]

        return run
