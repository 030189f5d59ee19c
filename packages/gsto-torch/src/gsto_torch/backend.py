"""`TorchBackend`: what the entry point `gsto.backends` finds."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from gsto_spec import Graph
from gsto_spec.backend import BackendError, Training
from gsto_spec.errors import nearest
from gsto_torch.compile import compile
from gsto_torch.train import TorchPredictor, TorchTrainer

_DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float64": torch.float64}


class TorchBackend:
    """PyTorch as a `gsto_spec.backend.Backend`: one process, CPU or CUDA.

    Precisions: `float32` turns TF32 off, `tf32` turns it on (CUDA only), `float64` is for proofs.
    """

    name = "torch"
    precisions = tuple(_DTYPES)
    process_index = 0
    process_count = 1

    def devices(self) -> tuple[str, ...]:
        """`cpu`, and `cuda` where torch sees one."""
        return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

    def versions(self) -> dict[str, str]:
        """torch, what it computes with, its threads, and the card where there is one."""
        facts = {"torch": torch.__version__, "python": platform.python_version(),
                 "threads": str(torch.get_num_threads())}  # fmt: skip
        if torch.cuda.is_available():
            facts |= {"cuda": str(torch.version.cuda), "device": torch.cuda.get_device_name()}
        return facts

    def sum_over_processes(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself: this backend trains in one process."""
        return array

    def trainer(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], training: Training, *,
        device: str = "auto", precision: str = "float32",
    ) -> TorchTrainer:  # fmt: skip
        """See `gsto_spec.backend.Backend.trainer`."""
        place, dtype = self._resolve(device, precision)
        return TorchTrainer(graph, weights, training, place, dtype)

    def predictor(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], *,
        device: str = "auto", precision: str = "float32",
    ) -> TorchPredictor:  # fmt: skip
        """See `gsto_spec.backend.Backend.predictor`."""
        place, dtype = self._resolve(device, precision)
        return TorchPredictor(compile(graph, weights, dtype=dtype), place)

    def _resolve(self, device: str, precision: str) -> tuple[torch.device, torch.dtype]:
        chosen = self.devices()[-1] if device == "auto" else device
        if chosen not in self.devices():
            raise BackendError(f"device: expected one of auto, {', '.join(self.devices())}, found {device}")
        if precision not in _DTYPES:
            hint = nearest(precision, _DTYPES)
            raise BackendError(f"precision: expected one of {', '.join(_DTYPES)}, found {precision}{hint}")
        if precision == "tf32" and chosen != "cuda":
            raise BackendError("precision: expected float32 or float64 on cpu, found tf32")
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        return torch.device(chosen), _DTYPES[precision]
