"""`JaxBackend`: what the entry point `gsto.backends` finds."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from typing import Any, cast

import jax
import numpy as np
from numpy.typing import NDArray

from gsto_jax.inference import JaxPredictor
from gsto_jax.place import Place
from gsto_jax.processes import gather, join
from gsto_jax.program import Program
from gsto_jax.train import JaxTrainer
from gsto_spec import Graph, optimize
from gsto_spec.allocator import keep_freed_memory
from gsto_spec.backend import BackendError, Speed, Training, resolve_device
from gsto_spec.precision import Precision


class JaxBackend:
    """JAX as a `gsto_spec.backend.Backend`, on all devices of a kind: CPU or CUDA, one process or several.

    Processes find each other as `gsto_jax.processes.join` says: by `JAX_COORDINATOR_ADDRESS`,
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`, or by a cluster named in `GSTO_JAX_CLUSTER`. The devices of a
    process are those that JAX sees (`JAX_LOCAL_DEVICE_IDS`, `CUDA_VISIBLE_DEVICES`); a CPU is one, or N with
    `XLA_FLAGS=--xla_force_host_platform_device_count=N`.

    Precisions: `float32` turns TF32 off, `tf32` turns it on (CUDA only), `float64` is for proofs; `bfloat16`
    and `float16` are those of `gsto_spec.precision`, and `float16` does not train. JAX's x64 is switched on
    while a float64 trainer or predictor works and off while another does: nobody sets it.

    Speeds: `fast` predicts by the optimised graph and, on a CPU, takes the convolutions of
    `gsto_jax.convolution` and keeps a step's old tensors until the new ones are there, which costs the memory
    of weights and slots once more. `compiled` is `fast`; `plain` is compiled by XLA too, as all of JAX is.

    Where JAX has no plugin for an accelerator, freed memory is kept at every speed, as
    `gsto_spec.allocator.keep_freed_memory` says; all of it only if JAX has computed nothing here before.

    With a folder in `JAX_COMPILATION_CACHE_DIR` a resumed run, or a second process, reads there what an
    earlier one compiled, where that took longer than `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS` (1).
    """

    name = "jax"
    precisions: tuple[str, ...] = ("float32", "tf32", "float64", "bfloat16", "float16")
    speeds: tuple[Speed, ...] = ("plain", "fast")

    def __init__(self) -> None:
        """Joins the other processes; raises `BackendError` where that fails, or JAX has no devices."""
        if not _has_plugins():
            keep_freed_memory()
        join()
        try:
            self.process_index = jax.process_index()
            self.process_count = jax.process_count()
        except (RuntimeError, AssertionError) as error:
            raise BackendError(_no_devices(error)) from None

    def devices(self) -> tuple[str, ...]:
        """`cpu`, and `cuda` where JAX sees one."""
        return ("cpu", "cuda") if _cuda() else ("cpu",)

    def versions(self) -> dict[str, str]:
        """JAX, what it computes with, how many devices and processes, and the card where there is one."""
        facts = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}
        facts["python"] = platform.python_version()
        facts["devices"] = str(len(jax.devices(self.devices()[-1])))
        facts["processes"] = str(self.process_count)
        for card in _cuda()[:1]:
            facts |= {"cuda": card.client.platform_version, "device": card.device_kind}
        return facts

    def free_memory(self, device: str) -> int | None:
        """Bytes left on the fullest of this process's cards, of what XLA may take of it; None of a CPU."""
        if device != "cuda":
            return None
        told = [card.memory_stats() for card in _cuda() if card.process_index == self.process_index]
        left = [facts["bytes_limit"] - facts["bytes_in_use"] for facts in told if facts]
        return min(left, default=None)

    def sum_over_processes(self, array: NDArray[Any]) -> NDArray[Any]:
        """The sum of every process's array, on every process: exact for integers."""
        gathered = gather(array)
        return array if len(gathered) == 1 else np.sum(gathered, axis=0, dtype=array.dtype)

    def trainer(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], training: Training, *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> JaxTrainer:  # fmt: skip
        """See `gsto_spec.backend.Backend.trainer`."""
        if precision == "float16":  # its gradients underflow, and nothing here scales the loss
            trained = ", ".join(name for name in self.precisions if name != precision)
            raise BackendError(f"precision: expected one of {trained} to train on JAX, found {precision}")
        return JaxTrainer(graph, weights, training, self._place(device, precision), speed)

    def predictor(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], *,
        device: str = "auto", precision: str = "float32", speed: Speed = "fast",
    ) -> JaxPredictor:  # fmt: skip
        """See `gsto_spec.backend.Backend.predictor`."""
        place = self._place(device, precision)
        quick = speed != "plain"
        if quick:
            graph, weights = optimize(graph, weights)
        program = Program(graph, precision=place.precision, quick_on_cpu=quick and place.on_cpu)
        return JaxPredictor(program, weights, place)

    def _place(self, device: str, precision: str) -> Place:
        devices = jax.devices(resolve_device(self, device, precision))
        ordered = sorted(devices, key=lambda one: (one.process_index, one.id))
        return Place(tuple(ordered), cast(Precision, precision))


def _no_devices(error: Exception) -> str:
    named = os.environ.get("JAX_PLATFORMS", "")
    told = " ".join(str(error).split()) or "none of its kind is here"
    return f"JAX_PLATFORMS={named}: expected devices that JAX has here, found: {told}; leave the variable out"


def _has_plugins() -> bool:
    """Whether JAX may find more than CPUs; asking JAX itself would start its threads."""
    return bool(entry_points(group="jax_plugins")) or find_spec("jax_plugins") is not None


def _cuda() -> list[jax.Device]:
    try:
        return jax.devices("cuda")
    except RuntimeError:  # how JAX says that there is none
        return []
