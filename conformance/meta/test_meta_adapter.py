"""The examples of docs/conformance.md, run as a third party would run them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
PREDICTS = "(node or outputs or inference_form) and not architecture"
TRAINS = "training_step_of_a_small_graph or states"


@pytest.fixture
def modules(tmp_path: Path) -> dict[str, Path]:
    """The page's examples as files, by module."""
    found = {}
    for name, code in re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        found[name] = tmp_path / f"{name}.py"
        found[name].write_text(code, encoding="utf-8")
    return found


def run(folder: Path, backend: str, chosen: str, *more: str) -> tuple[int, str]:
    """Exit status and output of the suite for a backend that lies in a folder."""
    arguments = ["--backend", backend, "--profile", "quick", "--precision", "float64", "-k", chosen]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "conformance", "-q", "-p", "no:cacheprovider", *arguments,
         "--report", str(folder / "report"), *more],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("backend", "chosen"), [("tiny:TinyBackend", PREDICTS), ("mixed:MixedBackend", TRAINS)]
)
def test_a_backend_of_the_page_passes(modules: dict[str, Path], backend: str, chosen: str) -> None:
    folder = modules["tiny"].parent
    status, output = run(folder, backend, chosen)
    assert status == 0, output
    rows = json.loads((folder / "report" / "report.json").read_text())["rows"]
    checked = {row["check"] for row in rows if row["cases"]}
    assert {row["backend"] for row in rows} == {backend}
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert checked <= set(re.findall(r"`([^`]+)`", prose)), "a line of the report that the page leaves out"
    assert max(row["worst"] for row in rows) < 1e-3


def test_a_flipped_kernel_is_caught_at_its_node(modules: dict[str, Path]) -> None:
    code = modules["tiny"].read_text(encoding="utf-8")
    flipped = code.replace("weight[..., i, j]", "weight[..., height - 1 - i, j]")
    assert flipped != code
    modules["tiny"].write_text(flipped, encoding="utf-8")
    status, output = run(modules["tiny"].parent, "tiny:TinyBackend", "every_node_of_a_small")
    assert status == 1, output
    where = re.search(r"tiny:TinyBackend in float64 disagrees: each op of (\S+)", output)
    assert where is not None, output
    name = where.group(1)
    (graph,) = (modules["tiny"].parent / "report" / "failures").iterdir()
    nodes = {node["name"]: node["op"] for node in json.loads(graph.read_text())["nodes"]}
    assert nodes[name] == "conv2d"
    assert re.search(rf"node +{re.escape(name)}\n", output)


def test_a_backend_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Mine: ...\n", encoding="utf-8")
    for backend, words in (("tornch", "torch"), ("mine:Mime", "Mine"), ("nowhere:Backend", "nowhere")):
        status, output = run(tmp_path, backend, "every_node")
        assert status == 4, output
        (line,) = output.strip().splitlines()
        assert backend in line and words in line
