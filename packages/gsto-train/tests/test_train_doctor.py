"""`gsto-doctor`: what it finds of backends that work, are wrong, do not import, or end their process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gsto_spec import evaluate, initial_weights
from gsto_train.commands.doctor import main
from gsto_train.doctor import selftest
from gsto_train.doctor.examination import examine_backend

MODULE = """
import os
from gsto_spec import evaluate


class Oracle:
    precisions, speeds = ("float32",), ("plain",)
    process_index, process_count = 0, 1
    name, factor, losses = "good", 1.0, (2.0, 1.5, 1.0)

    def devices(self):
        return ("cpu",)

    def versions(self):
        return {"oracle": "1"}

    def sum_over_processes(self, array):
        return array

    def predictor(self, graph, weights, **_):
        return Predictor(graph, weights, self.factor)

    def trainer(self, graph, weights, training, **_):
        return Trainer(self.losses)


class Wrong(Oracle):
    name, factor, losses = "wrong", 1.001, (1.0, 1.0, 1.0)


def crash():
    os._exit(3)


class Predictor:
    def __init__(self, graph, weights, factor):
        self.graph, self.weights, self.factor = graph, weights, factor

    def predict(self, images):
        found = evaluate(self.graph, self.weights, {"image": images})
        return {name: self.factor * array for name, array in found.items()}


class Trainer:
    def __init__(self, losses):
        self.losses = iter(losses)

    def step(self, batch, rate):
        return {"loss": next(self.losses), "finite": 1.0}
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Backends that a package would install, for this process and those that it starts."""
    (tmp_path / "doctors_backends.py").write_text(MODULE)
    information = tmp_path / "doctors_backends-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: doctors-backends\nVersion: 1.0\n")
    made = {"good": "Oracle", "wrong": "Wrong", "crash": "crash", "absent": "Absent"}
    lines = [f"{name} = doctors_backends{'' if name != 'absent' else '_not_there'}:{attribute}"
             for name, attribute in made.items()]  # fmt: skip
    (information / "entry_points.txt").write_text("\n".join(["[gsto.backends]", *lines, ""]))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_backend_that_works_has_no_problems(installed: Path) -> None:
    found = examine_backend("good")
    assert found["problems"] == []
    assert (found["versions"], found["devices"]) == ({"oracle": "1"}, ["cpu"])
    assert found["tests"]["cpu"]["error_over_bound"] == 0


def test_a_backend_that_is_wrong_is_told(installed: Path) -> None:
    prediction, steps = examine_backend("wrong")["problems"]
    assert "times as wrong as rounding explains" in prediction
    assert "do not lower the loss" in steps


def test_a_backend_that_breaks_is_told_in_a_line(installed: Path) -> None:
    assert examine_backend("crash")["problems"] == ["its process ended with 3"]
    (problem,) = examine_backend("absent")["problems"]
    assert problem == "ModuleNotFoundError: No module named 'doctors_backends_not_there'"


@pytest.mark.parametrize("seed", range(5))
def test_rounding_to_float32_stays_within_the_bound(seed: int) -> None:
    graph = selftest.network()
    weights = initial_weights(graph, seed)
    image = np.random.default_rng(seed).standard_normal((1, 3, 16, 16)).astype(np.float32)
    exact = evaluate(graph, weights, {"image": image})["stage4"]
    rounded = evaluate(graph, weights, {"image": image}, dtype=np.float32)["stage4"]
    bound = selftest.bound(graph, weights, image)
    assert np.abs(rounded - exact).max() > 0
    assert (np.abs(rounded - exact) <= bound).all()
    assert bound.max() < 1e-3 * np.abs(exact).max()


@pytest.fixture
def only(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets which backends are there; the frameworks' own take seconds."""
    return lambda *names: monkeypatch.setattr("gsto_train.doctor.examination.backends", lambda: names)


def test_all_that_works_ends_with_0(only: Any, pictures: Path, monkeypatch: Any, invoke: Any) -> None:
    only("good")
    monkeypatch.setenv("GSTO_DATA_FOLDER", str(pictures))
    status, out, _ = invoke(main, "--json")
    found = json.loads(out)
    assert (status, found["problems"]) == (0, [])
    assert found["data"]["GSTO_DATA_FOLDER"] == {
        "folder": str(pictures), "benchmarks": ["folder"], "validation": 2
    }  # fmt: skip
    assert found["versions"]["numpy"] == np.__version__
    assert found["machine"]["disk_bytes"]["free"] > 0
    assert found["optional"]["tensorboard"]["missing"] in ([], ["tensorboardX"])
    engines = found["optional"]["engines"]
    assert {"onnx", "onnxruntime", "openvino"} == {*engines["installed"], *engines["missing"]}
    status, out, _ = invoke(main)
    assert status == 0 and out.endswith("all that is installed works\n")
    assert f"data: GSTO_DATA_FOLDER={pictures}, for folder: 2 to score on" in out.splitlines()


def test_what_is_missing_is_installed_from_an_index_or_a_checkout(
    only: Any, monkeypatch: Any, invoke: Any
) -> None:
    only("good")
    monkeypatch.setattr("gsto_train.doctor.examination.package_version", lambda name: None)
    found = json.loads(invoke(main, "--json")[1])["optional"]
    checkout = ", from a checkout: pip install -c constraints.txt "
    assert found["jax"]["install"] == f"pip install 'gsto-train[jax]'{checkout}./packages/gsto-jax"
    assert (
        found["plot"]["install"] == f"pip install 'gsto-train[plot]'{checkout}'./packages/gsto-train[plot]'"
    )


def test_what_is_broken_ends_with_1(only: Any, monkeypatch: Any, tmp_path: Path, invoke: Any) -> None:
    only("good", "crash")
    monkeypatch.setenv("GSTO_DATA_CITYSCAPE", str(tmp_path))
    monkeypatch.setenv("GSTO_DATA_LIP", str(tmp_path / "absent"))
    status, out, error = invoke(main)
    assert (status, error) == (1, "gsto-doctor: 2 problems, told above\n")
    assert "backend crash: broken" in out
    assert "problem: backend crash: its process ended with 3" in out
    assert f"problem: GSTO_DATA_LIP: {tmp_path / 'absent'}: no such folder of data" in out
    assert "of no benchmark here (nearest: GSTO_DATA_CITYSCAPES)" in out


def test_a_working_folder_that_is_gone_is_told(
    only: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, invoke: Any
) -> None:
    only()
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert invoke(main) == (1, "", "gsto-doctor: .: No such file or directory\n")


def test_no_backend_is_a_problem(only: Any, invoke: Any) -> None:
    only()
    status, out, _ = invoke(main)
    assert status == 1 and "no backend is installed; install gsto-torch or gsto-jax" in out
