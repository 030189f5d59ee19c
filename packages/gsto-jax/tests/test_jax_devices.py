"""Several devices and several processes do what one device does with the same global batches."""

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from gsto_jax.backend import JaxBackend
from gsto_spec.backend import BackendError

Arrays = dict[str, NDArray[Any]]

WORKERS = Path(__file__).with_name("jax_workers.py")
PATIENCE = 240.0
"""Seconds after which a process that should have ended is a failure, not a hang."""


@pytest.fixture(scope="module")
def workers() -> ModuleType:
    spec = importlib.util.spec_from_file_location(WORKERS.stem, WORKERS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def alone(workers: ModuleType) -> Arrays:
    """What one device makes of the global batches."""
    results: Arrays = {}
    for name in workers.TRAININGS:
        results |= workers.trained(JaxBackend(), name)
    return results


def started(output: Path, devices: int, **environment: str) -> subprocess.Popen[str]:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, str(WORKERS), str(output)], env=os.environ | environment | {"XLA_FLAGS": flags},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def four_devices(tmp_path: Path) -> Path:
    process = started(tmp_path / "devices.npz", 4)
    try:
        ended(process)
    finally:
        process.kill()
    return tmp_path / "devices.npz"


@pytest.fixture
def two_processes(tmp_path: Path) -> Iterator[list[Path]]:
    paths = [tmp_path / f"process{index}.npz" for index in range(2)]
    common = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    processes = [started(path, 2, JAX_PROCESS_ID=str(index), **common) for index, path in enumerate(paths)]
    try:
        for process in processes:
            ended(process)
        yield paths
    finally:
        for process in processes:
            process.kill()


def assert_alike(path: Path, wanted: Arrays, layout: list[int], total: list[int]) -> None:
    with np.load(path) as file:
        found = {name: file[name] for name in file.files}
    assert_array_equal(found.pop("layout"), layout)
    assert_array_equal(found.pop("sum"), total)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert_allclose(found[name], array, rtol=0, atol=1e-10, err_msg=name)


def test_four_devices_train_as_one_does(alone: Arrays, four_devices: Path) -> None:
    assert_alike(four_devices, alone, layout=[4, 1], total=[2**62, 1])


def test_two_processes_of_two_devices_train_as_one_device_does(
    alone: Arrays, two_processes: list[Path]
) -> None:
    for path in two_processes:
        assert_alike(path, alone, layout=[4, 2], total=[2**62, 3])


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "localhost:1"},
         "JAX_NUM_PROCESSES: expected a number beside JAX_COORDINATOR_ADDRESS, found nothing"),
        ({"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "one"},
         "JAX_PROCESS_ID: expected a number beside JAX_COORDINATOR_ADDRESS, found one"),
    ],
)  # fmt: skip
def test_an_environment_that_says_half_is_refused(
    environment: dict[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BackendError) as caught:
        JaxBackend()
    assert str(caught.value) == problem


def test_a_job_of_slurm_alone_does_not_make_processes_join(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"):
        monkeypatch.setenv(name, "3")
    assert JaxBackend().process_count == 1
