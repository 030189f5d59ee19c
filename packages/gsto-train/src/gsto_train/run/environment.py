"""What a score may depend on beside the settings: versions, platform, devices, threads."""

import os
import platform
from importlib.metadata import PackageNotFoundError, entry_points, version

from gsto_spec.backend import ENTRY_POINTS, Backend

_PACKAGES = (
    "gsto-train",
    "gsto-spec",
    "numpy",
    "opencv-python-headless",
    "Pillow",
    "pycocotools",
    "safetensors",
)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "XLA_FLAGS")


def describe_environment(backend: Backend) -> dict[str, object]:
    """Return the environment of this process, ready for JSON."""
    return {
        "python": platform.python_version(),
        **machine(),
        "packages": {**packages(), **_package_of(backend)},
        "backend": {"name": backend.name, "versions": backend.versions(), "devices": list(backend.devices())},
        "processes": backend.process_count,
    }


def machine() -> dict[str, object]:
    """Return the platform, and how many threads there may be."""
    return {
        "platform": platform.platform(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "thread_variables": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
    }


def packages() -> dict[str, str]:
    """Return the versions of what gsto-train works with, as far as they are installed."""
    return {name: found for name in _PACKAGES if (found := package_version(name))}


def _package_of(backend: Backend) -> dict[str, str]:
    """Return the version of the package that offers a backend; of one of the user's own, nothing."""
    found = entry_points(group=ENTRY_POINTS, name=backend.name)
    return {each.dist.name: each.dist.version for each in found if each.dist is not None}


def package_version(name: str) -> str | None:
    """Return the version of an installed package, None where it is run from its sources."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
