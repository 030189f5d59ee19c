"""`TorchBackend`: what the entry point `gsto.backends` finds."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from typing import Any, cast, get_args

import torch
from numpy.typing import NDArray

from gsto_spec import Graph
from gsto_spec.backend import BackendError, Speed, Training, resolve_device
from gsto_spec.precision import Precision
from gsto_torch.optimized import OptimizedPredictor
from gsto_torch.predict import TorchPredictor, compile_in
from gsto_torch.processes import Processes
from gsto_torch.train import TorchTrainer


class TorchBackend:
    """PyTorch as a `gsto_spec.backend.Backend`: CPU or CUDA, one process or those that torchrun starts.

    Precisions: `float32` turns TF32 off, `tf32` turns it on (CUDA only), `float64` is for proofs, `bfloat16`
    and `float16` are `gsto_spec.precision`'s, the latter with a loss scale.

    With several processes, each with one card, all that start a trainer or a sum wait for each other.
    Raises `BackendError` for launchers' variables that do not fit together.
    """

    name = "torch"
    precisions: tuple[str, ...] = get_args(Precision)
    speeds: tuple[Speed, ...] = ("plain", "fast", "compiled")

    def __init__(self) -> None:
        self.processes = Processes.of_environment()
        self.process_index = self.processes.index
        self.process_count = self.processes.count

    def devices(self) -> tuple[str, ...]:
        """`cpu`, and `cuda` where torch sees one."""
        return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

    def versions(self) -> dict[str, str]:
        """torch, what it computes with, its threads and processes, and the card where there is one."""
        facts = {"torch": torch.__version__, "python": platform.python_version(),
                 "threads": str(torch.get_num_threads()), "processes": str(self.process_count)}  # fmt: skip
        if torch.cuda.is_available():
            facts |= {"cuda": str(torch.version.cuda), "device": torch.cuda.get_device_name()}
        return facts

    def free_memory(self, device: str) -> int | None:
        """Bytes that this process may still have of `cuda`, torch's own cache counted; None of a CPU."""
        if device != "cuda":
            return None
        card = self.processes.cuda
        cached = torch.cuda.memory_reserved(card) - torch.cuda.memory_allocated(card)
        return torch.cuda.mem_get_info(card)[0] + cached

    def sum_over_processes(self, array: NDArray[Any]) -> NDArray[Any]:
        """See `gsto_spec.backend.Backend.sum_over_processes`; exact for integers."""
        return self.processes.sum_of_arrays(array)

    def trainer(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], training: Training, *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> TorchTrainer:  # fmt: skip
        """See `gsto_spec.backend.Backend.trainer`."""
        place, resolved = self._resolve(device, precision)
        training.learnt(graph)
        with self.processes.together():
            self.processes.join()
            return TorchTrainer(graph, weights, training, place, resolved, self.processes, speed)

    def predictor(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> TorchPredictor:  # fmt: skip
        """See `gsto_spec.backend.Backend.predictor`."""
        place, resolved = self._resolve(device, precision)
        if speed == "plain":
            return TorchPredictor(compile_in(graph, weights, resolved), place, resolved, speed)
        if speed == "fast":
            return OptimizedPredictor(graph, weights, place, resolved)
        # Here, since torch takes a second to import its compiler.
        from gsto_torch.compiled import CompiledPredictor

        return CompiledPredictor(graph, weights, place, resolved)

    def _resolve(self, device: str, precision: str) -> tuple[torch.device, Precision]:
        chosen = resolve_device(self, device, precision)
        if chosen == "cpu" and precision == "float16" and not _half_on_cpu():
            raise BackendError(
                "precision: expected bfloat16 on cpu, found float16: torch lacks it on this CPU"
            )
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        place = self.processes.cuda if chosen == "cuda" else torch.device(chosen)
        return place, cast(Precision, precision)


@cache
def _half_on_cpu() -> bool:
    """Whether torch convolves float16 here, gradient and all: it depends on its version and the CPU."""
    x, kernel = (torch.ones((1, 1, 3, 3), dtype=torch.float16, requires_grad=True) for _ in range(2))
    try:
        torch.nn.functional.conv2d(x, kernel).sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return False
    return True
