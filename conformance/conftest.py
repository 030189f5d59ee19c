"""How a run is set: backends, profile, precision; the report at its end."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gsto_spec import GstoError
from gsto_spec.backend import Backend, backends
from gsto_spec.backend import backend as find_backend

# Before torch is imported: at these sizes its threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:  # `pytest conformance`, unlike `python -m pytest`, does not add it
    sys.path.insert(0, str(ROOT))

from conformance import known, profiles, report  # noqa: E402
from conformance.cases import Subject  # noqa: E402
from conformance.drawing import Drawing  # noqa: E402
from conformance.profiles import PRECISIONS  # noqa: E402
from gsto_spec.precision import LOW  # noqa: E402

QUICK_COMPILERS = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip(),
}
"""XLA's compiling takes most of a run, six times more at full length, which `test_compiled.py` covers."""
COMPILED = "test_compiled.py"
COVERAGE = "test_coverage.py"
LOW_PRECISION = "test_low_precision.py"
ORDER = (
    "test_states.py",
    "test_objectives.py",
    "test_small_graphs.py",
    "test_architectures.py",
    "test_runs.py",
    LOW_PRECISION,
    "test_speeds.py",
    COMPILED,
    COVERAGE,
)
"""The quickest to find a fault come first; the last needs all the others."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption(
        "--backend",
        action="append",
        default=[],
        metavar="NAME",
        help="an installed backend, or anybody's as module:attribute; all installed ones by default",
    )
    group.addoption("--profile", choices=list(profiles.PROFILES), default="default")
    group.addoption(
        "--precision",
        choices=PRECISIONS,
        default="float64",
        help="float64 compares meaning, the others rounding; one per run",
    )
    group.addoption("--report", type=Path, default=Path("conformance-report"), metavar="DIR")
    group.addoption("--compilers", choices=["quick", "full"], default="quick",
                    help="how hard XLA tries; full compares compiled with eager too")  # fmt: skip
    group.addoption("--part", action="store_true", help="leave the table to `python -m conformance`")
    group.addoption(
        "--shrink", action="store_true", help="make the first failing case smaller; takes a while"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--compilers") == "quick":
        os.environ.update(QUICK_COMPILERS)
    config.addinivalue_line("markers", "cases(kind): draws as many cases as the profile has of a kind")
    config.addinivalue_line("markers", "speeds(name, ...): asks backends for these, not for the fast one")
    report.LEDGER.folder = config.getoption("--report")
    for name in config.getoption("--backend"):  # here a wrong name is one line, at collection one per file
        _backend(name)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The suite's own tests run only where they are asked for."""
    meta = collection_path == ROOT / "conformance" / "meta"
    return True if meta and not any("meta" in argument for argument in config.args) else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" not in metafunc.fixturenames:
        return
    subjects = _subjects(metafunc.config)
    if (speeds := metafunc.definition.get_closest_marker("speeds")) is not None:
        subjects = [
            replace(one, speed=speed) for one in subjects for speed in speeds.args
            if speed in one.backend.speeds and len(one.backend.speeds) > 1
        ]  # fmt: skip
    kind = next((mark.args[0] for mark in metafunc.definition.iter_markers("cases")), None)
    if kind is None:
        metafunc.parametrize("subject", subjects, ids=str)
        return
    count = getattr(profiles.PROFILES[metafunc.config.getoption("--profile")], kind)
    pairs = [(subject, block) for block in profiles.blocks(count) for subject in subjects]
    names = [f"{subject}-{block[0]}" for subject, block in pairs]
    metafunc.parametrize(("subject", "block"), pairs, ids=names)


def _subjects(config: pytest.Config) -> list[Subject]:
    precision = config.getoption("--precision")
    found = []
    for name in dict.fromkeys(config.getoption("--backend") or backends()):
        backend = _backend(name)
        report.LEDGER.versions |= {f"{name}: {key}": value for key, value in backend.versions().items()}
        if precision not in backend.precisions:
            report.LEDGER.skipped[f"{name}, {precision}"] = f"it offers {', '.join(backend.precisions)}"
            continue
        found += [Subject(backend, name, device, precision) for device in backend.devices()]
        if "cuda" not in backend.devices():
            report.LEDGER.skipped[f"{name}, CUDA"] = "no such device here"
    return found


def _backend(name: str) -> Backend:
    try:
        return find_backend(name)
    except (GstoError, ImportError) as error:
        raise pytest.UsageError(str(error)) from None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known.apply(known.read(ROOT / "conformance" / "expected_failures.toml"), items)
    items[:] = [item for item in items if _is_of(config.getoption("--precision"), item)]
    items.sort(key=lambda item: ORDER.index(item.path.name) if item.path.name in ORDER else -1)
    here = {item.path.name for item in items if item.path.parent == ROOT / "conformance"}
    whole = here >= {path.name for path in (ROOT / "conformance").glob("test_*.py")} - {
        COMPILED,
        LOW_PRECISION,
    }
    if not whole or config.getoption("keyword"):
        skip = pytest.mark.skip(reason="only a run of the whole suite draws everything")
        for item in items:
            if item.path.name == COVERAGE:
                item.add_marker(skip)


def _is_of(precision: str, item: pytest.Item) -> bool:
    """Precisions of two bytes have tests of their own."""
    if item.path.parent != ROOT / "conformance":
        return True
    return (item.path.name == LOW_PRECISION) == (precision in LOW)


@pytest.fixture(scope="session")
def drawing(pytestconfig: pytest.Config) -> Drawing:
    """Draws alike at every run, unless hypothesis is given a seed."""
    base = pytestconfig.getoption("--hypothesis-seed", default=None)
    return Drawing(int(base or 0), pytestconfig.getoption("--shrink"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    names = ("--precision", "--profile", "--compilers")
    if report.LEDGER.rows:
        report.write_part(report.LEDGER, "-".join(session.config.getoption(name) for name in names))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if report.LEDGER.rows and not config.getoption("--part"):
        terminalreporter.section("conformance")
        terminalreporter.write_line(report.to_text(report.LEDGER))
        folder = config.getoption("--report")
        report.write_report(folder)
        terminalreporter.write_line(f"report: {folder / 'report.html'}, {folder / 'report.json'}")
