"""The findings of `gsto-doctor`: facts as JSON has them, what is broken, and what a user can better."""

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from gsto_spec import GstoError
from gsto_spec.backend import backends
from gsto_train import benchmarks
from gsto_train.data.classes import existing_folder, given_folders
from gsto_train.errors import InputError, nearest
from gsto_train.files import naming
from gsto_train.pose.task import open_part
from gsto_train.resolve import open_split
from gsto_train.run.environment import machine, package_version, packages
from gsto_train.run.host import free_host_memory
from gsto_train.settings import KEYPOINTS
from gsto_train.settings import resolve as resolve_settings

PATIENCE = 300.0
"""Seconds that a backend's test may take; it takes ten, but on a busy machine with a cold disk more."""

OURS = ("gsto-spec", "gsto-torch", "gsto-jax", "gsto-train")
_LITTLE_DISK = 2**30
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(?:\[([a-z,]+)\])?[^;]*;\s*extra\s*==\s*['\"]([a-z]+)['\"]")


def examine() -> dict[str, Any]:
    """Return all that is found; `problems` are what is broken, `advice` what could be better."""
    found: dict[str, Any] = {
        "versions": _versions(),
        "machine": _machine(),
        "backends": {name: examine_backend(name) for name in backends()},
        "data": {name: _data(name, folder) for name, folder in given_folders()},
        "optional": dict(_optional()),
    }
    return {**found, "problems": list(_problems(found)), "advice": list(_advice(found))}


def examine_backend(name: str) -> dict[str, Any]:
    """Return what `selftest` finds of a backend, in a process that may break."""
    command = [sys.executable, "-m", "gsto_train.doctor.selftest", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return {"problems": [f"no answer in {PATIENCE:.0f} s"]}
    try:
        found = json.loads(done.stdout.splitlines()[-1])
        assert isinstance(found, dict)
    except (IndexError, ValueError, AssertionError):
        last = (done.stderr.split("\n") or [""])[-2:][0].strip()
        return {"problems": [f"its process ended with {done.returncode}{': ' if last else ''}{last}"]}
    return found


def _versions() -> dict[str, str | None]:
    ours = {name: package_version(name) for name in OURS}
    return {"python": platform.python_version(), **ours, **packages()}


def _machine() -> dict[str, Any]:
    with naming(Path(".")):  # It may have been removed.
        here = Path.cwd()
    disk = shutil.disk_usage(here)
    return {
        **machine(),
        "memory_bytes": {"free": free_host_memory()},
        "disk_bytes": {"folder": str(here), "free": disk.free, "total": disk.total},
        "gpu": shutil.which("nvidia-smi") is not None and Path("/dev/nvidiactl").exists(),
    }


def _data(variable: str, folder: str) -> dict[str, Any]:
    """Return which benchmarks take this folder, and what keeps it from being read."""
    takers = [name for name in benchmarks.names() if variable in benchmarks.data_variables(name)]
    takers = [name for name in takers if benchmarks.load(name).values.get("data.folder") == folder]
    found: dict[str, Any] = {"folder": folder, "benchmarks": takers}
    try:
        existing_folder(folder)
        if takers:
            found["validation"] = _validation_count(takers[0])
    except (InputError, GstoError, OSError) as error:
        found["problem"] = str(error)
    return found


def _validation_count(benchmark: str) -> int:
    """Return how many samples a benchmark is scored on; raises `InputError`."""
    settings = resolve_settings(benchmarks.load(benchmark).values)
    if settings.data.kind in KEYPOINTS:
        return len(open_part(settings, "val", skip_unreadable=True).persons)
    return len(open_split(settings.data, "val", skip_missing=True))


def _optional() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every extra of gsto-train that brings libraries, with those that are not installed."""
    extras = dict[str, list[str]]()
    for extra, name in _brought("gsto-train"):
        extras.setdefault(extra, []).append(name)
    for extra, names in sorted(extras.items()):
        installed = {name: found for name in names if (found := package_version(name))}
        missing = [name for name in names if name not in installed]
        install = _install(extra, missing) if missing else None
        yield extra, {"installed": installed, "missing": missing, "install": install}


def _install(extra: str, missing: Sequence[str]) -> str:
    """Return the command that brings an extra; our own packages lie in a checkout, not in an index."""
    ours = [f"./packages/{name}" for name in missing if name in OURS] or [f"'./packages/gsto-train[{extra}]'"]
    checkout = f"pip install -c constraints.txt {' '.join(ours)}"
    return f"pip install 'gsto-train[{extra}]', from a checkout: {checkout}"


def _brought(package: str) -> Iterator[tuple[str, str]]:
    """Yield a package's extras with the libraries of each; an extra of another package stands for its own."""
    try:
        lines = requires(package) or []
    except PackageNotFoundError:
        return
    for match in filter(None, map(_REQUIREMENT.match, lines)):
        name, nested, extra = match.groups()
        if nested is None:
            yield extra, name
        else:
            yield from ((extra, library) for inner, library in _brought(name) if inner in nested.split(","))


def _problems(found: Mapping[str, Any]) -> Iterator[str]:
    ours = set(filter(None, map(found["versions"].get, OURS)))
    if len(ours) > 1:
        yield f"the packages gsto-* are of versions {' and '.join(sorted(ours))}; install one of all"
    if not found["backends"]:
        yield "no backend is installed; install gsto-torch or gsto-jax"
    for name, backend in found["backends"].items():
        yield from (f"backend {name}: {problem}" for problem in backend["problems"])
    for variable, data in found["data"].items():
        if "problem" in data:
            yield f"{variable}: {data['problem']}, or unset the variable"


def _advice(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a user can do something about."""
    known = [variable for name in benchmarks.names() for variable in benchmarks.data_variables(name)]
    for variable in found["data"]:
        if variable not in known:
            yield f"{variable} names the data of no benchmark here{nearest(variable, known)}"
    working = [backend for backend in found["backends"].values() if "devices" in backend]
    if found["machine"]["gpu"] and working and not any("cuda" in each["devices"] for each in working):
        yield "there is an NVIDIA GPU that no backend finds; install a framework's build for CUDA"
    if found["machine"]["disk_bytes"]["free"] < _LITTLE_DISK:
        yield "less than 1 GiB of disk is free here, where runs go; make room, or give another --output"
