"""`gsto-convert` between folders, safetensors, and files of frameworks: a made-up one, and torch's."""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import gsto_spec
from gsto_spec import Graph, GraphBuilder
from gsto_spec.backend import tensor_file_endings
from gsto_spec.weights import load_directory, save_directory
from gsto_train.commands.convert import main

Arrays = dict[str, NDArray[Any]]

# A framework's files: `.npz`, and `.half`, which loses precision. What is read and written can be watched.
PLUGIN = """
import io, zipfile, numpy as np
from gsto_spec import WeightsError

hooks = []

class Npz:
    def decode(self, data):
        try:
            return dict(np.load(io.BytesIO(data), allow_pickle=False)), ["looked twice"]
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise WeightsError("expected an npz file, found something else") from error

    def encode(self, graph, weights):
        for hook in hooks:
            hook()
        file = io.BytesIO()
        np.savez(file, **weights)
        return file.getvalue(), ["added nothing"]

class Half(Npz):
    def encode(self, graph, weights):
        return super().encode(graph, {name: array.astype(np.float16) for name, array in weights.items()})
"""


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    error: str

    @property
    def failure(self) -> str:
        (line,) = self.error.splitlines()
        assert self.out == ""
        assert line.startswith("gsto-convert: ")
        return line.removeprefix("gsto-convert: ")


@pytest.fixture
def plugin(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "npz_files.py").write_text(PLUGIN)
    information = folder / "npz_files-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: npz-files\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[gsto.files]\nnpz = npz_files:Npz\nhalf = npz_files:Half\n"
    )
    monkeypatch.syspath_prepend(folder)
    import npz_files  # type: ignore[import-not-found]

    yield npz_files
    sys.modules.pop("npz_files")


def small_graph(classes: int | None = None) -> Graph:
    build = GraphBuilder()
    x = build.batch_norm("bn1", build.conv2d("conv1", build.input(), 4, kernel=3))
    return build.graph({"stage4": build.conv2d("head", build.relu(x), classes or 2, bias=True)})


def random_weights(graph: Graph, seed: int = 0, dtype: Any = np.float32) -> Arrays:
    drawn, shapes = np.random.default_rng(seed), graph.parameters
    return {name: drawn.uniform(0.5, 2.0, shape).astype(dtype) for name, shape in shapes.items()}


@pytest.fixture
def run(
    plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Callable[..., tuple[int, str, str]]
) -> Callable[..., Outcome]:
    """Runs the command in a folder that holds the graph `small.json`."""
    monkeypatch.chdir(tmp_path)
    Path("small.json").write_text(small_graph().to_json())

    def command(*arguments: str) -> Outcome:
        return Outcome(*invoke(main, *arguments))

    return command


SMALL = ("--architecture", "small.json")


def write_npz(path: str, tensors: Arrays) -> None:
    np.savez(path, **tensors)  # type: ignore[arg-type]


def write_safetensors(path: str, tensors: Arrays) -> None:
    Path(path).write_bytes(safetensors.numpy.save(tensors))


def left_behind(*known: str) -> list[str]:
    """What the working folder holds beside the graph and the files named."""
    return sorted(set(os.listdir()) - {"small.json", *known})


def assert_same_bits(found: Arrays, expected: Arrays) -> None:
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name


def frameworks() -> list[str]:
    return [ending for ending in ("pth", "pt") if ending in tensor_file_endings()]


@pytest.mark.parametrize("ending", ["npz", *frameworks()])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_go_round_all_kinds_and_come_back_bit_for_bit(
    run: Callable[..., Outcome], ending: str, dtype: Any
) -> None:
    graph = small_graph()
    weights = random_weights(graph, dtype=dtype)
    weights["head.bias"] = np.array([-0.0, np.finfo(dtype).smallest_subnormal], dtype)
    save_directory("a", graph, weights, {"score": 0.5})
    steps = (("a", f"b.{ending}"), (f"b.{ending}", "c.safetensors"), ("c.safetensors", f"d.{ending}"),
             (f"d.{ending}", "e"), ("e", "f.safetensors"), ("f.safetensors", "g"))  # fmt: skip
    for source, target in steps:
        outcome = run(source, target, *SMALL)
        assert outcome.status == 0, outcome.error
        assert outcome.error == ""
    for folder in ("e", "g"):
        found, arrays, card = load_directory(folder)
        assert found.digest == graph.digest
        assert_same_bits(dict(arrays), weights)
        assert card["licence"] == "that of the file converted from"
    assert Path("g/model.safetensors").read_bytes() == Path("a/model.safetensors").read_bytes()
    assert Path("f.safetensors").read_bytes() == Path("c.safetensors").read_bytes()
    assert Path(f"d.{ending}").read_bytes() == Path(f"b.{ending}").read_bytes()


@settings(max_examples=25)
@given(data=st.data())
def test_any_bits_of_any_finite_tensor_survive(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    graph = small_graph()
    width = data.draw(st.sampled_from([16, 32, 64]))
    finite = st.floats(allow_nan=False, allow_infinity=False, width=width)  # type: ignore[arg-type]
    weights = random_weights(graph, dtype=f"float{width}")
    weights["bn1.bias"] = np.array(data.draw(st.lists(finite, min_size=4, max_size=4)), f"float{width}")
    folder = tmp_path_factory.mktemp("case")
    save_directory(folder / "a", graph, weights)
    for source, target in (("a", "b.safetensors"), ("b.safetensors", "c")):
        (folder / "g.json").write_text(graph.to_json())
        with pytest.raises(SystemExit) as ended:
            main([str(folder / source), str(folder / target), "--architecture", str(folder / "g.json")])
        assert ended.value.code == 0
    assert_same_bits(dict(load_directory(folder / "c")[1]), weights)


def test_the_report_counts_and_tells_everything(run: Callable[..., Outcome]) -> None:
    graph = small_graph()
    given = {f"module.{name}": array for name, array in random_weights(graph).items()}
    write_npz("in.npz", given | {"module.bn1.num_batches_tracked": np.array(3)})
    assert run("in.npz", "out", *SMALL).out.splitlines() == [
        f"in.npz -> out, graph {graph.digest[:12]}",
        "7 tensors of float32: 126 parameters, 8 running statistics; read again, bit for bit the same",
        "reading: 7 of 7 tensors, 100% of parameters",
        "reading: looked twice",
        "reading: took module. off 7 names",
        "reading: left out module.bn1.num_batches_tracked: torch counts batches there, which nothing reads",
        "writing: added README.md, config.json, golden.json, card.json, graph.json",
    ]
    assert run("out", "again.npz").out.splitlines()[2:] == [
        "writing: added nothing",
        "writing: left out README.md, config.json, golden.json, card.json, graph.json",
    ]


def test_the_report_for_machines(run: Callable[..., Outcome]) -> None:
    save_directory("a", small_graph(), random_weights(small_graph()))
    outcome = run("a", "b.safetensors", "--json")
    assert json.loads(outcome.out) == {
        "source": "a", "target": "b.safetensors", "graph_digest": small_graph().digest, "tensors": 7,
        "parameters": 126, "running_statistics": 8, "dtypes": ["float32"],
        "notes": ["writing: left out card.json, graph.json"],
    }  # fmt: skip


def test_the_card_says_where_weights_came_from_and_keeps_what_it_said(run: Callable[..., Outcome]) -> None:
    write_safetensors("a.safetensors", random_weights(small_graph()))
    run("a.safetensors", "b", *SMALL)
    card = json.loads(Path("b/card.json").read_text())
    assert card["converted_from"]["file"] == "a.safetensors"
    save_directory("c", small_graph(), random_weights(small_graph()), {"licence": "CC0", "score": 0.5})
    assert run("c", "d").status == 0
    assert json.loads(Path("d/card.json").read_text()) == json.loads(Path("c/card.json").read_text())


def test_a_run_s_folder_is_taken_for_its_trained_network(run: Callable[..., Outcome]) -> None:
    graph = small_graph()
    weights = random_weights(graph)
    Path("run").mkdir()
    Path("run/config.json").write_text("{}")
    assert "run: this run has no model/ yet" in run("run", "out.npz").failure
    save_directory("run/model", graph, weights)
    assert run("run", "out.npz").status == 0
    with np.load("out.npz") as found:
        assert all(np.array_equal(found[name], array) for name, array in weights.items())


def test_another_number_of_classes_is_told_before_the_shapes(run: Callable[..., Outcome]) -> None:
    write_npz("in.npz", random_weights(small_graph(5)))
    failure = run("in.npz", "out.npz", *SMALL).failure
    assert failure.startswith("in.npz: the file has 5 classes, the graph 2: give --classes 5, from Python")
    assert "head.bias has shape (5,), expected (2,)" in failure


def test_a_run_s_checkpoint_gives_its_weights(run: Callable[..., Outcome]) -> None:
    weights = random_weights(small_graph())
    slots = {f"optimizer/momentum/{name}": array for name, array in weights.items()}
    write_safetensors("state.safetensors", weights | slots)
    outcome = run("state.safetensors", "a", *SMALL)
    assert re.search(
        r"^reading: left out 7 tensors such as optimizer/.*: optimiser slots$", outcome.out, re.M
    )
    assert_same_bits(dict(load_directory("a")[1]), weights)


@pytest.mark.parametrize(
    ("option", "scales"),
    [("--inplace-abn", [2.00001, 0.50001, 1.00001, 1.00001]), ("--no-inplace-abn", [-2, 0.5, 1, 1])],
)  # fmt: skip
def test_negative_scales_are_read_as_asked_and_told(
    run: Callable[..., Outcome], option: str, scales: list[float]
) -> None:
    weights = random_weights(small_graph()) | {"bn1.weight": np.array([-2, 0.5, 1, 1], np.float32)}
    write_safetensors("a.safetensors", weights)
    assert "reading: 1 negative batch-norm scales in 1 tensors such as bn1.weight: " in run(
        "a.safetensors", "unasked", *SMALL
    ).out  # fmt: skip
    assert_same_bits(dict(load_directory("unasked")[1]), weights)
    assert run("a.safetensors", "asked", option, *SMALL).status == 0
    _, found, card = load_directory("asked")
    np.testing.assert_allclose(found["bn1.weight"], scales, rtol=1e-6)
    assert card["converted_from"]["inplace_abn"] is (option == "--inplace-abn")


def test_a_backbone_s_file_becomes_a_network_whose_other_parts_are_initialised_and_told(
    run: Callable[..., Outcome],
) -> None:
    weights = random_weights(small_graph())
    backbone = {name: array for name, array in weights.items() if not name.startswith("head.")}
    write_safetensors("a.safetensors", backbone)
    told = run("a.safetensors", "b", "--seed", "3", *SMALL).out
    assert "reading: kept as initialised (seed 3), 2 tensors: head (2)" in told.splitlines()
    graph, found, card = load_directory("b")
    initial = gsto_spec.initial_weights(graph, 3)
    assert_same_bits(dict(found), backbone | {name: initial[name] for name in ("head.weight", "head.bias")})
    assert card["converted_from"]["initialised"] == ["head.weight", "head.bias"]
    write_safetensors("other.safetensors", weights | {"head.weight": np.ones((9, 4, 1, 1), np.float32)})
    assert "say initialize" in run("other.safetensors", "c", *SMALL).failure
    assert run("other.safetensors", "c", "--initialize", *SMALL).status == 0
    assert "expected a file" in run("b", "d", "--initialize").failure


def test_gated_networks_carry_the_authors_licence(run: Callable[..., Outcome]) -> None:
    graph = gsto_spec.build("gsto-hrnet-w16-mini")
    write_safetensors("a.safetensors", dict(gsto_spec.initial_weights(graph)))
    run("a.safetensors", "b", "--architecture", "gsto-hrnet-w16-mini")
    assert "academic use" in load_directory("b")[2]["licence"]


def test_classes_and_form_change_the_named_architecture(run: Callable[..., Outcome]) -> None:
    graph = gsto_spec.build("hrnetv2-w18-small-v1", classes=3)
    write_safetensors("a.safetensors", dict(gsto_spec.initial_weights(graph)))
    assert run("a.safetensors", "b", "--architecture", "hrnetv2-w18-small-v1").status == 2
    assert run("a.safetensors", "b", "--architecture", "hrnetv2-w18-small-v1", "--classes", "3").status == 0
    assert load_directory("b")[0].digest == graph.digest
    assert "--architecture" in run("a.safetensors", "c", "--classes", "3").failure


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("bn1.running_var"), "a.npz: bn1.running_var is missing (of the"),
        (lambda w: w.update(extra=np.ones(1)), "a.npz: extra is not declared (of the"),
        (lambda w: w.update({"head.bias": np.ones(3)}),
         "a.npz: head.bias has shape (3,), expected (2,) (of the"),
        (lambda w: w.update({"head.bias": np.array([1, np.inf])}), "a.npz: head.bias is not finite (of the"),
        (lambda w: w.update({"head.bias": np.ones(2, int)}),
         "a.npz: head.bias is of int64, expected floating-point numbers (of the"),
        (lambda w: w.update({"module.head.bias": np.ones(2)}),
         "a.npz: head.bias is there twice, as head.bias and as module.head.bias"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(run: Callable[..., Outcome], change: Any, message: str) -> None:
    weights = random_weights(small_graph())
    change(weights)
    write_npz("a.npz", weights)
    outcome = run("a.npz", "b", *SMALL)
    assert outcome.status == 2
    assert outcome.failure.startswith(message)
    assert left_behind("a.npz") == []


def test_all_offenders_are_listed_at_once_and_counted(run: Callable[..., Outcome]) -> None:
    weights = random_weights(small_graph())
    weights["other"] = weights.pop("head.bias")
    weights["conv1.weight"] = np.ones((1, 1, 1, 1))
    write_npz("a.npz", weights)
    assert run("a.npz", "b.safetensors", *SMALL).failure == (
        "a.npz: head.bias is missing; other is not declared; conv1.weight has shape (1, 1, 1, 1), expected "
        "(4, 3, 3, 3) (of the architecture's 7 tensors the file has 6, and 1 others; is it of another "
        "architecture?)"
    )


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", *(f"a.{ending}" for ending in frameworks())])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_truncated_files_are_refused(run: Callable[..., Outcome], name: str, share: float) -> None:
    save_directory("whole", small_graph(), random_weights(small_graph()))
    assert run("whole", f"whole{Path(name).suffix}").status == 0
    data = Path(f"whole{Path(name).suffix}").read_bytes()
    Path(name).write_bytes(data[: int(share * len(data))])
    outcome = run(name, "b", *SMALL)
    assert outcome.status == 2
    assert outcome.failure.startswith(f"{name}: expected a")
    assert left_behind("whole", f"whole{Path(name).suffix}", name) == []


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", *(f"a.{ending}" for ending in frameworks())])
def test_foreign_files_are_refused(run: Callable[..., Outcome], name: str) -> None:
    Path(name).write_text("a poem, or anything else that is no tensor")
    assert run(name, "b", *SMALL).failure.startswith(f"{name}: expected a")


def test_a_graph_of_a_newer_version_is_refused_by_its_field(run: Callable[..., Outcome]) -> None:
    save_directory("a", small_graph(), random_weights(small_graph()))
    newer = json.loads(Path("a/graph.json").read_text()) | {"version": 2}
    Path("a/graph.json").write_text(json.dumps(newer))
    failure = run("a", "b.safetensors").failure
    assert failure.startswith("a/graph.json: graph.version: expected 1, found 2 (a newer gsto-spec wrote it)")
    Path("newer.json").write_text(json.dumps(newer))
    write_safetensors("c.safetensors", random_weights(small_graph()))
    failure = run("c.safetensors", "b", "--architecture", "newer.json").failure
    assert failure.startswith("newer.json: graph.version: expected 1, found 2")


@pytest.mark.parametrize("name", ["graph.json", "model.safetensors", "card.json"])
def test_a_folder_that_lacks_a_file_or_has_a_broken_one_is_refused(
    run: Callable[..., Outcome], name: str
) -> None:
    save_directory("a", small_graph(), random_weights(small_graph()))
    Path("a", name).write_text("{")
    assert run("a", "b.safetensors").failure.startswith(f"a/{name}: ")
    Path("a", name).unlink()
    assert run("a", "b.safetensors").failure.startswith(f"a/{name}: ")
    assert left_behind("a") == []


def test_weights_of_the_inference_form_are_no_checkpoint(run: Callable[..., Outcome]) -> None:
    graph, weights = gsto_spec.optimize(small_graph(), random_weights(small_graph()))
    Path("optimized.json").write_text(graph.to_json())
    write_safetensors("a.safetensors", dict(weights))
    failure = run("a.safetensors", "b", "--architecture", "optimized.json").failure
    assert failure.startswith("a.safetensors: this graph's weights are no checkpoint: ")


def test_a_saved_model_contradicts_another_architecture(run: Callable[..., Outcome]) -> None:
    save_directory("a", small_graph(3), random_weights(small_graph(3)))
    failure = run("a", "b.safetensors", *SMALL).failure
    assert failure.startswith("a: expected the graph that --architecture names")
    assert run("a", "b.safetensors").status == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.safetensors", "b"), "a.safetensors: a file of tensors names no network; name it with"),
        (("b.safetensors", "c", *SMALL),
         "b.safetensors: no such file or folder (nearest: a.safetensors)"),
        (("small.json", "c", *SMALL), "small.json: nothing installed reads .json files (installed: "),
        (("a.safetensors", "b.nqz", *SMALL), "b.nqz: nothing installed reads .nqz files (installed: "),
        (("bare", "c", *SMALL), "bare: expected a saved model's folder or a file with an ending"),
        (("a.safetensors", "new/b", *SMALL), "new: no such folder"),
        (("a.safetensors", "a.safetensors", *SMALL), "a.safetensors: is what is to be converted"),
        (("a.safetensors", "a.safetensors", "--force", *SMALL), "a.safetensors: is what is to be converted"),
        (("a.safetensors", "b", "--architecture", "smal.json"), "smal.json: cannot be read"),
        (("a.safetensors", "b", "--architecture", "gsto-hrnet"), "unknown architecture gsto-hrnet"),
    ],
)  # fmt: skip
def test_what_the_command_cannot_do_is_one_line(
    run: Callable[..., Outcome], arguments: tuple[str, ...], message: str
) -> None:
    write_safetensors("a.safetensors", random_weights(small_graph()))
    Path("bare").write_text("")
    outcome = run(*arguments)
    assert outcome.status == 2
    assert outcome.failure.startswith(message)
    assert left_behind("a.safetensors", "bare") == []


@pytest.mark.parametrize("target", ["b.safetensors", "b.npz", "b"])
def test_nothing_is_overwritten_without_being_told_to(run: Callable[..., Outcome], target: str) -> None:
    save_directory("a", small_graph(), random_weights(small_graph(), 1))
    save_directory("other", small_graph(), random_weights(small_graph(), 2))
    assert run("other", target).status == 0
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    outcome = run("a", target)
    assert outcome.status == 2
    assert outcome.failure.startswith(f"{target}: ") and "--force" in outcome.failure
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert run("a", target, "--force").status == 0
    assert run(target, "back", *(() if target == "b" else SMALL)).status == 0
    assert_same_bits(dict(load_directory("back")[1]), random_weights(small_graph(), 1))


def test_an_empty_folder_is_filled_and_one_with_other_files_is_never_replaced(
    run: Callable[..., Outcome],
) -> None:
    save_directory("a", small_graph(), random_weights(small_graph()))
    Path("empty").mkdir()
    assert run("a", "empty").status == 0
    Path("empty", "thesis.tex").write_text("years of work")
    outcome = run("a", "empty", "--force")
    assert outcome.failure.startswith("empty: holds thesis.tex, which is no part of a saved model")
    assert Path("empty", "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("existing", [False, True])
def test_a_file_that_would_lose_bits_is_not_left_behind(run: Callable[..., Outcome], existing: bool) -> None:
    save_directory("a", small_graph(), random_weights(small_graph()))
    if existing:
        Path("b.half").write_bytes(b"before")
    outcome = run("a", "b.half", "--force")
    assert outcome.status == 1
    assert outcome.failure.startswith("b.half: not written, since it would not give back conv1.weight, ")
    assert left_behind("a") == (["b.half"] if existing else [])
    if existing:
        assert Path("b.half").read_bytes() == b"before"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_nothing_behind(
    run: Callable[..., Outcome], plugin: Any, number: int, status: int
) -> None:
    save_directory("a", small_graph(), random_weights(small_graph()))
    plugin.hooks.append(lambda: os.kill(os.getpid(), number))
    outcome = run("a", "b.npz")
    assert outcome.status == status
    assert outcome.failure == "interrupted; nothing was written"
    assert left_behind("a") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_named(run: Callable[..., Outcome]) -> None:
    save_directory("a", small_graph(), random_weights(small_graph()))
    Path("locked").mkdir(mode=0o500)
    outcome = run("a", "locked/b.safetensors")
    assert outcome.status == 1
    assert "locked/" in outcome.failure and outcome.failure.endswith("mend that, try again")


def test_a_full_disk_leaves_nothing_behind(
    run: Callable[..., Outcome], plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_directory("a", small_graph(), random_weights(small_graph()))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for target in ("b.npz", "b.safetensors", "b"):
        outcome = run("a", target)
        assert outcome.status == 1
        assert outcome.failure.endswith("No space left on device; mend that, try again")
        assert left_behind("a") == []
