"""Which backends are tested, and what tests get of them."""

import importlib
from types import ModuleType
from typing import cast

import pytest

from contract.compilers import compile_quickly
from contract.framework import Framework
from gsto_spec import GstoError
from gsto_spec.backend import Backend, backends
from gsto_spec.backend import backend as find_backend

compile_quickly()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("contract").addoption(
        "--backend", action="append", default=[], metavar="NAME",
        help="a backend of this repository; all installed ones by default",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """A wrong name is told once, not by every test."""
    for name in config.getoption("--backend"):
        try:
            find_backend(name)
        except GstoError as error:
            raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test once for every backend."""
    names = metafunc.config.getoption("--backend") or backends()
    metafunc.parametrize("backend", list(dict.fromkeys(names)), indirect=True, scope="session")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    """The backend under test."""
    return find_backend(request.param)


@pytest.fixture(scope="session")
def package(backend: Backend) -> ModuleType:
    """The backend's package: `compile`, `load`, `save`, ..."""
    return importlib.import_module(f"gsto_{backend.name}")


@pytest.fixture(scope="session")
def framework(backend: Backend) -> Framework:
    """The backend's compiled modules and losses as numpy."""
    return cast(Framework, importlib.import_module(f"{backend.name}_framework"))
