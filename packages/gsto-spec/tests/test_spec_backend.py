"""Backends are found by entry point; what is not installed is said with the mend."""

from pathlib import Path

import pytest

from gsto_spec import GstoError
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

def make(): return Abacus()
def fails(): raise RuntimeError("no beads")
made = Abacus()
beads = 10
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
    missing = {"jax", "torch"} - set(backends())
    if not missing:
        pytest.skip("torch and jax are both installed")
    for name in missing:
        with pytest.raises(BackendError) as caught:
            backend(name)
        installed = ", ".join(backends()) or "none"
        assert str(caught.value) == (
            f"backend {name} is not installed (installed: {installed}); install the package gsto-{name}"
        )


@pytest.mark.usefixtures("abacus")
@pytest.mark.parametrize("attribute", ["Abacus", "made", "make"])
def test_anybodys_backend_is_found_by_module_and_attribute(attribute: str) -> None:
    assert backend(f"abacus_backend:{attribute}").name == "abacus"


@pytest.mark.usefixtures("abacus")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("abacus_backend:Abakus", "abacus_backend has no Abakus (nearest: Abacus)"),
        ("abacsu_backend:Abacus", "cannot import abacsu_backend: no such module here"),
        ("abacus_backend:", "expected module:attribute, such as"),
        ("abacus_backend:fails", "abacus_backend:fails: its own code failed: RuntimeError: no beads"),
        ("abacus_backend:beads", "expected a Backend or what makes one, found int without name, "),
    ],
)
def test_a_module_without_a_backend_is_told_in_one_line(name: str, message: str) -> None:
    with pytest.raises(GstoError) as caught:
        backend(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_backend_does_not_pass_for_one() -> None:
    assert not isinstance(object(), Backend)


def test_training_has_the_protocols_defaults() -> None:
    assert Training() == Training(Objective(), SGD(0.9, 5e-4), None)
    assert OPTIMIZER_PREFIX == "optimizer/"
