"""The processes that train together, by `jax.distributed`, and what they tell each other outside a step."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from gsto_spec.backend import BackendError

CLUSTER = "GSTO_JAX_CLUSTER"
_ADDRESS, _COUNT, _INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def join() -> None:
    """Join the other processes where the environment says that there are some; before JAX computes anything.

    `JAX_COORDINATOR_ADDRESS` (host:port of process 0), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`, all three;
    or `GSTO_JAX_CLUSTER`, what jax calls the cluster that tells them: `slurm`, `ompi`, `mpi4py`, `k8s`. With
    none of them this process trains alone, in a job of Slurm's too. Raises `BackendError`.
    """
    if jax.distributed.is_initialized() or not (_ADDRESS in os.environ or CLUSTER in os.environ):
        return
    where: dict[str, Any] = (
        {"cluster_detection_method": os.environ[CLUSTER]} if CLUSTER in os.environ else
        {"coordinator_address": os.environ[_ADDRESS],
         "num_processes": _number(_COUNT), "process_id": _number(_INDEX)}
    )  # fmt: skip
    try:
        jax.distributed.initialize(**where)
    except (RuntimeError, ValueError) as error:  # how it fails
        raise BackendError(f"jax.distributed: {' '.join(str(error).split())}") from None


def _number(variable: str) -> int:
    found = os.environ.get(variable, "nothing")
    if not found.isdecimal():
        raise BackendError(f"{variable}: expected a number beside {_ADDRESS}, found {found}")
    return int(found)


def gather(array: NDArray[Any]) -> list[NDArray[Any]]:
    """The array of every process, bit for bit, in their order; all have the same shape and type.

    By way of the CPUs, so that it waits for no accelerator.
    """
    if jax.process_count() == 1:
        return [array]
    mesh, mine = _one_cpu_each()
    row = jax.device_put(np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)[None], mine)
    shape = (jax.process_count(), row.shape[1])
    rows = jax.make_array_from_single_device_arrays(shape, sharded(mesh, "process"), [row])
    everywhere = np.asarray(_spread(mesh)(rows))
    return [np.frombuffer(data.tobytes(), array.dtype).reshape(array.shape) for data in everywhere]


@cache
def _one_cpu_each() -> tuple[Mesh, jax.Device]:
    first: dict[int, jax.Device] = {}
    for device in jax.devices("cpu"):
        first.setdefault(device.process_index, device)
    devices = [first[index] for index in range(jax.process_count())]
    return Mesh(np.array(devices), ("process",)), first[jax.process_index()]


@cache
def _spread(mesh: Mesh) -> Any:
    def same(rows: Array) -> Array:
        return rows

    return jax.jit(same, out_shardings=sharded(mesh))


def sharded(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """Every axis of an array cut along that axis of the devices, or not."""
    return NamedSharding(mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]
