"""What a failure says, whether its snippet shows it again, and known failures held strictly."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conformance import checks, report, states
from conformance.cases import Case, image_as_parameter, subject
from conformance.drawing import Check, attempt
from conformance.failures import Disagreement
from conformance.strategies import heads
from gsto_spec.backend import Training
from gsto_spec.objective import Adam, CrossEntropy, Objective, Ohem, Poly

ROOT = Path(__file__).parents[2]
PLANTED = """
from conformance.oracle import OracleBackend


class Planted(OracleBackend):
    def forward(self, node, operands, training):
        result = super().forward(node, operands, training)
        if node.name == "trunk.1":
            result = result.copy()
            result[0, 3, 2, 1] += 16
        return result


class Credulous(OracleBackend):
    def trainer(self, *arguments, **options):
        trainer = super().trainer(*arguments, **options)
        trainer.load = lambda state: None
        return trainer
"""
CASE = Case(heads(3, ("stage4", "stage3"), 2), (2, 3, 7, 9), seed=5)
PIXELS = image_as_parameter(CASE)
OBJECTIVE = Objective(
    CrossEntropy(-1, (0.5, 1.0, 2.0), Ohem(0.5, 7.5)), {"stage4": 1.0, "stage3": 0.25}, True
)


def trained(training: Training) -> Case:
    return replace(CASE, training=training)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path with the backends above, and a ledger of its own."""
    (tmp_path / "planted.py").write_text(PLANTED, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(report.LEDGER, "folder", tmp_path / "report")
    monkeypatch.setattr(report.LEDGER, "rows", {})
    monkeypatch.setattr(report.LEDGER, "drawn", Counter())
    return tmp_path


def disagreement(check: Check, backend: str, case: Case, *arguments: Any) -> Disagreement:
    with pytest.raises(Disagreement) as caught:
        attempt(check, subject(f"planted:{backend}"), case, *arguments)
    if caught.value.graph_file is not None and not caught.value.graph_file.exists():
        caught.value.save()
    return caught.value


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder)}


def python(folder: Path, code: str) -> str:
    """What a fresh Python at the root of the repository says to pasted code, having failed."""
    done = subprocess.run([sys.executable, "-"], input=code, cwd=ROOT, env=environment(folder), text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 1
    return done.stderr


def test_a_planted_disagreement_says_where_what_and_by_how_much(planted: Path) -> None:
    found = disagreement(checks.nodes, "Planted", CASE)
    said = dict(re.findall(r"^  (node|index|got|want|error) +(.+)$", str(found), re.MULTILINE))
    assert str(found).splitlines()[0] == "planted:Planted in float64 disagrees: each op of trunk.1"
    assert (said["node"], said["index"]) == ("trunk.1", "(0, 3, 2, 1)")
    assert float(said["got"]) - float(said["want"]) == pytest.approx(16)
    error, ratio = re.findall(r"\d[\d.e+-]*", said["error"])
    assert float(error) == 16
    # The bound is 1e-10 of what was summed, which is near 1.
    assert 1e10 < float(ratio) < 1e12


@pytest.mark.parametrize(
    ("check", "backend", "case", "arguments"),
    [
        pytest.param(checks.nodes, "Planted", CASE, (), id="nodes"),
        pytest.param(checks.forward, "Planted", CASE, ((1, 3, 8, 9),), id="other sizes"),
        pytest.param(checks.optimized, "Planted", CASE, (), id="inference form"),
        pytest.param(checks.training, "Planted", trained(Training(OBJECTIVE)), (), id="losses"),
        pytest.param(checks.training, "Planted", PIXELS, (), id="image as parameter"),
        pytest.param(
            checks.steps, "Planted", trained(Training(optimizer=Adam())), (Poly(0.01), 3), id="steps"
        ),
        pytest.param(states.leaves_alone, "Planted", CASE, (), id="states"),
        pytest.param(states.refuses, "Credulous", CASE, (), id="refusals"),
    ],
)
def test_a_pasted_snippet_shows_the_same_disagreement(
    planted: Path, check: Check, backend: str, case: Case, arguments: tuple[Any, ...]
) -> None:
    found = disagreement(check, backend, case, *arguments)
    text, _, snippet = str(found).partition("root of the repository:\n\n")
    assert snippet
    shown_again = python(planted, snippet)
    for line in text.splitlines()[:6]:
        assert line in shown_again


def test_the_graph_of_a_failure_lies_there_for_checks_without_draws(planted: Path) -> None:
    with pytest.raises(Disagreement) as caught:
        attempt(states.refuses, subject("planted:Credulous"), CASE)
    assert caught.value.graph_file is not None and caught.value.graph_file.is_file()


# Runs of the suite in a copy of it, whose known failures are the test's own


@pytest.fixture
def suite(planted: Path) -> Path:
    shutil.copytree(
        ROOT / "conformance", planted / "conformance", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", planted)
    return planted


def run(folder: Path, backend: str, chosen: str, *more: str) -> tuple[int, str, str]:
    arguments = ["--backend", f"planted:{backend}", "--profile", "quick", "--precision", "float64", *more]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "conformance", "-q", "-k", chosen, *arguments],
        cwd=folder, env=environment(folder), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def known_failure(folder: Path, **changed: str) -> None:
    fields = {
        "test": "test_states.py::test_tensors_that_do_not_fit_are_refused",
        "backend": "planted:Credulous", "reason": "it believes anything", "exception": "Disagreement",
    } | changed  # fmt: skip
    lines = [f'{name} = "{value}"' for name, value in fields.items() if value]
    text = "\n".join(["[[failure]]", *lines])
    (folder / "conformance" / "expected_failures.toml").write_text(text, encoding="utf-8")


def test_a_known_failure_does_not_fail_the_run_and_a_mended_one_does(suite: Path) -> None:
    status, _, _ = run(suite, "Credulous", "that_do_not_fit")
    assert status == 1
    known_failure(suite)
    status, output, _ = run(suite, "Credulous", "that_do_not_fit")
    assert status == 0 and "2 xfailed" in output
    known_failure(suite, backend="planted:Planted")
    status, output, _ = run(suite, "Planted", "that_do_not_fit")
    assert status == 1 and "XPASS(strict)" in output and "it believes anything" in output


def test_a_failure_of_another_kind_or_precision_than_the_known_one_fails(suite: Path) -> None:
    for changed in ({"exception": "WeightsError"}, {"precision": "float32"}):
        known_failure(suite, **changed)
        assert run(suite, "Credulous", "that_do_not_fit")[0] == 1


@pytest.mark.parametrize(
    ("field", "value", "nearest"),
    [
        ("test", "test_states.py::test_statistics_of_one_are_refused", "_of_one_value_are_refused"),
        ("test", "test_sates.py::test_statistics_of_one_value_are_refused", "test_states.py"),
        ("backend", "planted:Credulus", "planted:Credulous"),
        ("exception", "Disagrement", "Disagreement"),
        ("precision", "float23", "float32"),
        ("bakend", "torch", "backend"),
        ("reason", "", "reason"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_one_line_that_names_the_nearest(
    suite: Path, field: str, value: str, nearest: str
) -> None:
    known_failure(suite, **{field: value})
    status, output, errors = run(suite, "Credulous", "that_do_not_fit")
    assert status == 4, output
    (line,) = [line for line in (output + errors).splitlines() if "ERROR" in line]
    assert nearest in line and (value in line or field in line)
    assert "Traceback" not in output + errors


def test_failures_of_several_kinds_in_one_test_are_shown_as_one(suite: Path) -> None:
    wrong = "result = result + (1 if node.op.kind == 'relu' else float('nan'))"
    code = PLANTED.replace('node.name == "trunk.1"', 'node.op.kind in ("relu", "sigmoid")')
    code = code.replace("result[0, 3, 2, 1] += 16", wrong)
    (suite / "planted.py").write_text(code, encoding="utf-8")
    status, output, _ = run(suite, "Planted", "every_node_of_a_small", "--report", str(suite / "report"))
    assert status == 1
    assert "ExceptionGroup" not in output
    (graph,) = (suite / "report" / "failures").iterdir()
    assert str(graph) in output
