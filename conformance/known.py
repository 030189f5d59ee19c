"""Known failures as data: `expected_failures.toml`, held strictly; a mended one must be struck out."""

from __future__ import annotations

import builtins
import re
import tomllib
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from conformance.failures import Disagreement
from conformance.profiles import PRECISIONS
from gsto_spec import errors
from gsto_spec.backend import backends
from gsto_spec.errors import nearest


@dataclass(frozen=True)
class KnownFailure:
    """`test` is `file.py::function`; `exception` is what is raised; `precision` None means any."""

    test: str
    backend: str
    reason: str
    exception: str
    precision: str | None = None


def read(path: Path) -> list[KnownFailure]:
    """The known failures of a file. Raises `pytest.UsageError` for a field, test or backend that is none."""
    entries = tomllib.loads(path.read_text()).get("failure", [])
    found = [_entry(path, number, entry) for number, entry in enumerate(entries, 1)]
    for failure in found:
        _check_test(path, failure)
        _exception(path, failure)
    return found


def _entry(path: Path, number: int, entry: dict[str, Any]) -> KnownFailure:
    declared = [item.name for item in fields(KnownFailure)]
    for key in [*entry, *declared[:4]]:
        if key not in declared or key not in entry:
            raise pytest.UsageError(
                f"{path.name}: failure {number}: expected the fields {', '.join(declared[:4])} and "
                f"optionally precision, found {', '.join(entry)}"
            )
    return KnownFailure(**entry)


def _check_test(path: Path, failure: KnownFailure) -> None:
    tests = [
        f"{source.name}::{name}"
        for source in sorted(path.parent.glob("test_*.py"))
        for name in re.findall(r"^def (test_\w+)\(", source.read_text(), re.MULTILINE)
    ]
    if failure.test not in tests:
        hint = nearest(failure.test, tests)
        raise pytest.UsageError(f"{path.name}: {failure.test} is no test of this suite{hint}")
    if failure.precision not in (None, *PRECISIONS):
        hint = nearest(str(failure.precision), PRECISIONS)
        raise pytest.UsageError(f"{path.name}: {failure.precision} is no precision of this suite{hint}")


def _exception(path: Path, failure: KnownFailure) -> type[BaseException]:
    if failure.exception == Disagreement.__name__:
        return Disagreement
    found = getattr(errors, failure.exception, getattr(builtins, failure.exception, None))
    if not isinstance(found, type) or not issubclass(found, BaseException):
        known = [Disagreement.__name__, *vars(errors), *vars(builtins)]
        hint = nearest(failure.exception, known)
        raise pytest.UsageError(f"{path.name}: {failure.exception} is no exception{hint}")
    return found


def _exists(backend: str) -> bool:
    """Whether there is such a `module:attribute`, which this run need not be asked for."""
    module, _, attribute = backend.partition(":")
    try:
        return bool(attribute) and hasattr(import_module(module), attribute)
    except ImportError:
        return False


def apply(failures: list[KnownFailure], items: list[pytest.Item]) -> None:
    """Mark the tests that are known to fail. Raises `pytest.UsageError` for a backend that nobody knows."""
    subjects = [(item, item.callspec.params["subject"]) for item in items  # type: ignore[attr-defined]
                if "subject" in getattr(getattr(item, "callspec", None), "params", {})]  # fmt: skip
    known = {*backends(), *(subject.name for _, subject in subjects)}
    for failure in failures:
        if failure.backend not in known and not _exists(failure.backend):
            hint = nearest(failure.backend, known)
            raise pytest.UsageError(f"{failure.test}: {failure.backend} is no backend here{hint}")
        for item, subject in subjects:
            name = f"{item.path.name}::{getattr(item, 'originalname', item.name)}"
            same = (failure.test, failure.backend) == (name, subject.name)
            if same and failure.precision in (None, subject.precision):
                raised = _exception(Path("expected_failures.toml"), failure)
                item.add_marker(pytest.mark.xfail(reason=failure.reason, raises=raised, strict=True))
