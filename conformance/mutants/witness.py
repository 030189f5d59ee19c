"""A pytest plugin that writes down what stopped a run: `-p conformance.mutants.witness --witness FILE`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.failures import Disagreement


def pytest_addoption(parser: pytest.Parser) -> None:
    """The file to write."""
    parser.addoption("--witness", type=Path, required=True, metavar="FILE")


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Write the first failure of a run, whatever it was."""
    path: Path = item.config.getoption("--witness")
    if call.excinfo is None or call.excinfo.errisinstance(pytest.skip.Exception) or path.exists():
        return
    path.write_text(json.dumps(testimony(item.nodeid, call.excinfo.value)))


def testimony(test: str, error: BaseException) -> dict[str, Any]:
    """What failed and how; a `row` and a `path` only where a check of the suite found the fault."""
    found = next((one for one in leaves(error) if isinstance(one, Disagreement)), None)
    if found is None:
        first, _, _ = str(error).partition("\n")
        return {"test": test, "error": f"{type(error).__name__}: {first}"}
    return {
        "test": test, "row": found.row, "path": found.path, "index": found.index, "got": found.got,
        "want": found.want, "ratio": str(found.ratio),
    }  # fmt: skip


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that a group holds, or the exception itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
