"""Backends are found by entry point; what is not installed is said with the mend."""

from pathlib import Path

import pytest

from gsto_spec.backend import OPTIMIZER_PREFIX, Backend, BackendError, Training, backend, backends
from gsto_spec.objective import SGD, Objective

MODULE = """
class Abacus:
    name = "abacus"
    precisions = ("float64",)
    process_index = 0
    process_count = 1

    def devices(self): ...
    def versions(self): ...
    def sum_over_processes(self, array): ...
    def trainer(self, graph, weights, training, *, device="auto", precision="float32"): ...
    def predictor(self, graph, weights, *, device="auto", precision="float32"): ...
"""


@pytest.fixture
def abacus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution that offers a backend of its own."""
    (tmp_path / "abacus_backend.py").write_text(MODULE)
    facts = tmp_path / "abacus_backend-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: abacus-backend\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[gsto.backends]\nabacus = abacus_backend:Abacus\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("abacus")
def test_a_backend_is_found_by_its_entry_point() -> None:
    assert "abacus" in backends()
    found = backend("abacus")
    assert isinstance(found, Backend)
    assert found.name == "abacus"


@pytest.mark.usefixtures("abacus")
def test_an_unknown_backend_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(BackendError) as caught:
        backend("abakus")
    message = str(caught.value)
    assert message.startswith("backend abakus is not installed (installed: abacus")
    assert message.endswith(" (nearest: abacus)")


def test_a_known_backend_that_is_missing_is_told_how_to_be_installed() -> None:
    (missing,) = [name for name in ("jax", "torch") if name not in backends()][:1] or ["no such"]
    with pytest.raises(BackendError) as caught:
        backend(missing)
    hint = f"; install the package gsto-{missing}" if missing != "no such" else ""
    assert str(caught.value) == (
        f"backend {missing} is not installed (installed: {', '.join(backends()) or 'none'}){hint}"
    )


def test_what_is_no_backend_does_not_pass_for_one() -> None:
    assert not isinstance(object(), Backend)


def test_training_has_the_protocols_defaults() -> None:
    assert Training() == Training(Objective(), SGD(0.9, 5e-4), None)
    assert OPTIMIZER_PREFIX == "optimizer/"
