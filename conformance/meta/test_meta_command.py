"""`python -m conformance`: wrong usage is told in one line, with status 2, before anything is run."""

from pathlib import Path

import pytest

from conformance.__main__ import main

ORACLE = "conformance.oracle:OracleBackend"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--backend", "tourch"], "backend tourch is not installed"),
        (["--backend", "conformance.oracle:Orakel"], "has no Orakel"),
        (["--backend", "conformance.profiles:BLOCK"], "expected a Backend or what makes one, found int"),
    ],
)
def test_a_backend_that_is_none_is_told_at_once(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--report", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("conformance: ") and expected in captured.err
    assert captured.err.count("\n") == 1


def test_a_report_folder_that_cannot_be_made_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--backend", ORACLE, "--report", str(tmp_path / "file" / "report")]) == 2
    assert "Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_a_number_of_jobs_that_is_none_is_refused(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([f"--jobs={jobs}"])
    assert ended.value.code == 2
    assert f"expected a whole number of at least 1, found {jobs}" in capsys.readouterr().err


def test_a_run_that_selects_nothing_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backend", ORACLE, "--profile", "quick", "--precision", "float64", "-k", "no_such_test"]
    assert main([*arguments, "--report", str(tmp_path)]) == 2
    assert "conformance: no test was selected" in capsys.readouterr().err
