"""What a run leaves to be shared, the commands on it, and `gsto-eval --verify`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gsto_spec import GraphBuilder
from gsto_spec.pretrained import FILES, save_pretrained
from gsto_spec.weights import load_directory, save_directory
from gsto_train.commands import evaluate, predict

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def score(command: Any, invoke: Run) -> Run:
    """Runs `gsto-eval`, or another command's `main`, in a working folder with the linear backend."""

    def run(*arguments: str, main: Callable[..., Any] = evaluate.main) -> tuple[int, str, str]:
        return invoke(main, *arguments)

    return run


@pytest.fixture
def shared(command: Any, pictures: Path) -> Path:
    """A copy, far from the run, of what a run leaves; its classes have colours of their own."""
    table = json.loads((pictures / "classes.json").read_text())
    table["palette"] = [[9, 8, 7], [6, 5, 4], [3, 2, 1]]
    (pictures / "classes.json").write_text(json.dumps(table))
    assert command("--output", "run").status == 0
    return Path("run/model").rename("shared")


VERIFY = ("shared", "--verify", "--precision", "float32")


def card_with(folder: Path, **entries: Any) -> None:
    path = folder / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_a_run_leaves_all_that_goes_with_a_shared_model(shared: Path, pictures: Path) -> None:
    assert {path.name for path in shared.iterdir()} == {*FILES}
    _, _, card = load_directory(shared)
    assert card["palette"] == [[9, 8, 7], [6, 5, 4], [3, 2, 1]]
    assert card["data"] == {
        "benchmark": "folder",
        "kind": "list",
        "pictures": {"training": 4, "validation": 2},
    }
    config = json.loads(Path("run/config.json").read_text())
    settings = config["settings"]
    assert settings["data"].pop("folder") == str(pictures)
    del settings["architecture"]["initialize_from"], settings["data"]["decoded"]
    assert card["settings"] == settings
    page = (shared / "README.md").read_text()
    assert "| red | [9, 8, 7] |" in page
    assert not any(str(pictures) in path.read_text() for path in (shared / "card.json", shared / "README.md"))


def test_the_page_names_a_data_set_that_the_public_knows_and_no_other(command: Any, tmp_path: Path) -> None:
    assert command("--output", "run").status == 0
    assert "datasets" not in Path("run/model/README.md").read_text()
    record = '[record]\nsource = "me"\ncommand = "-"\n'
    for name, line in (("own", ""), ("known", 'data_set = "camvid"\n')):
        Path(f"{name}.toml").write_text(f'extends = "folder"\n{record}{line}')
        assert command("--output", name, "--benchmark", f"{name}.toml").status == 0
    assert "datasets" not in Path("own/model/README.md").read_text()
    assert '\ndatasets: ["camvid"]\n' in Path("known/model/README.md").read_text()


def test_of_a_graph_in_a_file_the_card_tells_no_folder(shared: Path, command: Any, tmp_path: Path) -> None:
    Path("net.json").write_bytes((shared / "graph.json").read_bytes())
    assert command("--output", "again", "--architecture", "net.json").status == 0
    _, _, card = load_directory("again/model")
    assert card["architecture"] == card["settings"]["architecture"]["name"] == "net.json"
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in Path("again/model").iterdir())


def test_of_a_list_in_another_folder_the_card_tells_the_name(command: Any, pictures: Path) -> None:
    train_list = f"data.train_list={pictures / 'train.txt'}"
    assert command("--output", "listed", "--set", train_list).status == 0
    _, _, card = load_directory("listed/model")
    assert card["settings"]["data"]["train_list"] == "train.txt"


def test_a_shared_model_is_scored_and_predicts_by_what_its_card_says(
    shared: Path, score: Run, pictures: Path
) -> None:
    status, out, error = score("shared", "--data", str(pictures), "--json")
    assert status == 0, error
    found, result = json.loads(out), json.loads(Path("run/result.json").read_text())
    for key in ("metrics", "protocol", "benchmark", "backend", "architecture"):
        assert found[key] == result[key]
    status, _, error = score(
        str(pictures / "4.png"), "--model", "shared", "--output", "seen", main=predict.main
    )
    assert status == 0, error
    assert "#090807" in Path("seen/legend.svg").read_text()


def test_a_card_runs_no_code_and_its_settings_may_be_of_another_version(
    shared: Path, score: Run, pictures: Path
) -> None:
    Path("evil.py").write_text("raise SystemExit('ran')")
    card_with(shared, backend="evil:backend", settings={"data": {"kind": "sences"}})
    status, _, error = score("shared", "--benchmark", "folder", "--data", str(pictures))
    assert (status, error) == (
        2,
        "gsto-eval: shared: names no backend; give one with --backend, torch or jax\n",
    )
    status, _, error = score("shared", "--backend", "linear")
    assert (status, "name the benchmark with --benchmark" in error) == (2, True)
    benchmark = ("--benchmark", "folder", "--data", str(pictures))
    status, _, error = score("shared", "--backend", "linear", *benchmark)
    assert (status, "its settings are not those of this version" in error) == (0, True)
    assert score(*VERIFY, "--backend", "linear")[0] == 0
    assert "evil" not in sys.modules


def test_a_shared_model_is_verified(shared: Path, score: Run) -> None:
    status, out, error = score(*VERIFY)
    assert (status, error) == (0, "")
    assert out.startswith("shared: verified: 2 tensors and graph ")
    assert out.endswith("of what rounding may do)\n")
    found = json.loads(score(*VERIFY, "--json")[1])
    assert (found["verified"], found["problems"], found["backend"]) == (True, [], "linear")
    assert found["outputs"]["stage4"]["distance"] <= found["outputs"]["stage4"]["bound"]


def test_a_run_is_verified_by_its_model(command: Any, score: Run) -> None:
    command("--output", "run")
    assert score("run", *VERIFY[1:])[0] == 0


def problems(error: str) -> list[str]:
    """Return what is wrong by the lines of `gsto-eval shared --verify`."""
    start = "gsto-eval: shared: not as it was saved: "
    lines = error.splitlines()
    assert all(line.startswith(start) for line in lines)
    return [line.removeprefix(start) for line in lines]


def config_with(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    ("card", "config", "told"),
    [
        ({}, {"graph_digest": "0" * 64}, ["config.json: graph_digest: expected "]),
        ({}, {"graph": "other.json"}, ['config.json: graph: expected "graph.json", as graph.json and ']),
        ({}, {"id2label": {"0": "red", "1": "green"}}, ["config.json: id2label: expected "]),
        ({}, {"preprocessing": 1, "architectures": []}, ["config.json: arch", "config.json: preproc"]),
        ({"palette": [[1, 2, 3]] * 4}, {}, ["card.json: palette: expected one for each of the 3 channels"]),
        (
            {"classes": ["red", "green"]},
            {},
            ["card.json: classes: expected one for each of the 3 channels of output stage4, found 2",
             "config.json: id2label: expected "],
        ),
    ],
)  # fmt: skip
def test_what_goes_with_the_network_is_held_to_it(
    shared: Path, score: Run, card: dict[str, Any], config: dict[str, Any], told: list[str]
) -> None:
    card_with(shared, **card)
    config_with(shared, **config)
    status, out, error = score(*VERIFY)
    assert (status, out) == (1, "")
    found = problems(error)
    assert len(found) == len(told)
    assert all(line.startswith(start) for line, start in zip(found, told, strict=True)), found
    assert json.loads(score(*VERIFY, "--json")[1])["problems"] == found


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{")])
def test_a_configuration_that_does_not_read_is_told(
    shared: Path, score: Run, damage: Callable[[Path], object]
) -> None:
    damage(shared / "config.json")
    status, _, error = score(*VERIFY)
    assert status == 1
    (line,) = problems(error)
    assert "config.json" in line


def test_a_tensor_that_changed_is_named(shared: Path, score: Run) -> None:
    tensors = load_file(shared / "model.safetensors")
    tensors["head.bias"][0] = np.nextafter(tensors["head.bias"][0], np.float32(9))
    save_file(tensors, shared / "model.safetensors")
    status, out, error = score(*VERIFY)
    assert (status, out) == (1, "")
    assert problems(error) == [
        "model.safetensors is not the file that card.json describes",
        "tensor head.bias is not the one recorded",
    ]
    status, out, _ = score(*VERIFY, "--json")
    assert (status, json.loads(out)["verified"]) == (1, False)


def test_a_backend_that_computes_something_else_is_told(shared: Path, score: Run) -> None:
    status, _, error = score(
        "shared", "--verify", "--precision", "float64"
    )  # linear computes in float32 there
    assert status == 1
    assert "output stage4 lies" in error
    assert "the definition" not in error
    record = json.loads((shared / "golden.json").read_text())
    record["outputs"]["stage4"][0][0] += 1
    (shared / "golden.json").write_text(json.dumps(record))
    assert "from the recorded answer, rounding explains" in (error := score(*VERIFY)[2])
    assert "the numpy definition on this machine is off as well, so weights or graph changed" in error


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_model_that_one_wrote_is_verified_on_a_backend_that_trains_and_scores(
    score: Run, backend: str, tmp_path: Path
) -> None:
    pytest.importorskip(f"gsto_{backend}")
    build = GraphBuilder()
    x = build.relu(build.batch_norm("bn", build.conv2d("conv", build.input(), 8, kernel=3, stride=2)))
    graph = build.graph({"y": build.resize(build.conv2d("head", x, 3, bias=True), like="image")})
    draw = np.random.default_rng(0)
    weights = {
        name: draw.uniform(0.5, 1, shape).astype(np.float32) for name, shape in graph.parameters.items()
    }
    save_pretrained(tmp_path / "mine", graph, weights)
    for precision in ((), ("--precision", "float32")):
        status, out, error = score(str(tmp_path / "mine"), "--verify", "--backend", backend, *precision)
        assert (status, error) == (0, ""), out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shared", "--verify", "--submit", "x"), "--verify goes with --backend"),
        (("shared", "--verify", "--set", "train.seed=1"), "--verify goes with --backend"),
        (("shared", "--verify", "--precision", "tf32"), "a golden answer is held to in float32 or float64"),
        (("shered", "--verify"), "shered: no such folder of a saved model (nearest: shared)"),
        (("bare", "--verify", "--backend", "linear"), "save the network again with save_pretrained"),
        (("me/net", "--verify"), "to ask the hub for it, pip install huggingface_hub"),
        (("me/net",), "to ask the hub for it, pip install huggingface_hub"),
        (("bare", "--benchmark", "folder", "--data", "pictures"), "names no backend; give one with"),
        (("bare", "--backend", "linear"), "says nothing of the data to score on; name the benchmark"),
    ],
)  # fmt: skip
def test_what_cannot_be_verified_is_told_in_one_line(
    shared: Path, score: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    graph, weights, _ = load_directory(shared)
    save_directory("bare", graph, weights)
    status, out, error = score(*arguments)
    assert (status, out, len(error.splitlines())) == (2, "", 1)
    assert message in error


def test_a_folder_to_share_is_no_run_to_resume(shared: Path, command: Any) -> None:
    outcome = command("--output", "shared", "--resume", new=False)
    assert outcome.status == 2
    assert "no run to resume here" in outcome.error
    assert {path.name for path in shared.iterdir()} == {*FILES}


RIGHT = {"channels": "RGB / 255", "mean": [0.485, 0.456, 0.406], "deviation": [0.229, 0.224, 0.225]}
OTHERWISE: list[tuple[object, str]] = [
    (
        {**RIGHT, "mean": [0.5, 0.5, 0.5]},
        ".mean: expected [0.485, 0.456, 0.406], the only one that is computed here, found [0.5",
    ),
    ({**RIGHT, "deviation": None}, ".deviation: expected [0.229, 0.224, 0.225], the only"),
    ({"channels": "BGR"}, '.channels: expected "RGB / 255", the only one that is '),
    ({"std": RIGHT["deviation"]}, ": unknown key 'std'; expected channels, mean, deviation"),
    (None, ": expected an object of channels, mean, deviation, found null"),
    ([0.5], ": expected an object of channels, mean, deviation, found [0.5]"),
]


def test_pictures_are_never_prepared_otherwise_than_the_card_says(
    shared: Path, score: Run, pictures: Path
) -> None:
    for preprocessing, message in OTHERWISE:
        card_with(shared, preprocessing=preprocessing)
        picture = (str(pictures / "4.png"), "--model", "shared", "--output", "seen")
        for program, main, arguments in (
            ("gsto-eval", evaluate.main, ("shared", "--data", str(pictures))),
            ("gsto-predict", predict.main, picture),
        ):
            status, out, error = score(*arguments, main=main)
            assert (status, out, error.count("\n")) == (2, "", 1)
            assert error.startswith(f"{program}: shared/card.json: preprocessing{message}")
    assert not Path("seen").exists()
    shared.rename("run/model")
    assert "run/model/card.json: preprocessing: expected" in score("run")[2]


def test_what_is_computed_may_be_told_in_part(shared: Path, score: Run, pictures: Path) -> None:
    assert json.loads((shared / "card.json").read_text())["preprocessing"] == RIGHT
    for preprocessing in ({}, RIGHT, {"mean": RIGHT["mean"]}):
        card_with(shared, preprocessing=preprocessing)
        status, _, error = score("shared", "--data", str(pictures))
        assert (status, "card.json" in error) == (0, False)


UNFIT: list[tuple[str, object, str]] = [
    ("classes", ["red", "green"], "expected one for each of the 3 channels of output stage4, found 2"),
    ("classes", [], "expected one for each of the 3 channels of output stage4, found 0"),
    ("classes", "red", 'expected a list of names, each once, found "red"'),
    ("classes", None, "expected a list of names, each once, found null"),
    ("classes", ["a", 1, "b"], 'expected a list of names, each once, found ["a", 1, "b"]'),
    ("classes", ["a", "b", "a"], 'expected a list of names, each once, found ["a", "b", "a"]'),
    ("palette", [[1, 2, 3]], "expected one for each of the 3 channels of output stage4, found 1"),
    ("palette", [[1, 2, 3]] * 2 + [[0, 0, 256]], "expected a list of colours [R, G, B], each 0..255, fo"),
    ("palette", {"red": 1}, 'expected a list of colours [R, G, B], each 0..255, found {"red": 1}'),
]


def test_classes_that_the_network_has_not_are_warned_of(shared: Path, score: Run, pictures: Path) -> None:
    card = (shared / "card.json").read_text()
    for index, (key, value, told) in enumerate(UNFIT):
        (shared / "card.json").write_text(card)
        card_with(shared, **{key: value})
        picture = (str(pictures / "4.png"), "--model", "shared", "--output", f"seen{index}", "--json")
        scored = score("shared", "--data", str(pictures))
        predicted = score(*picture, main=predict.main)
        assert len(json.loads(predicted[1])["classes"]) == 3
        for status, _, error in (scored, predicted):
            assert (status, error.count("card.json")) == (0, 1)
            assert f"warning: shared/card.json: {key}: {told}" in error


def test_a_network_whose_output_has_no_places_is_refused(score: Run, pictures: Path) -> None:
    build = GraphBuilder()
    build.conv2d("head", build.input(), 3, bias=True)
    graph = build.graph({"stage4": "head.bias"})
    save_directory("flat", graph, {name: np.zeros(s, np.float32) for name, s in graph.parameters.items()})
    asked = ("--backend", "linear", "--benchmark", "folder", "--data", str(pictures))
    told = "flat: output stage4: expected a feature map, found 3; give another\n"
    assert score("flat", *asked) == (2, "", f"gsto-eval: {told}")
    picture = (str(pictures / "4.png"), "--model", "flat", "--backend", "linear")
    assert score(*picture, main=predict.main) == (2, "", f"gsto-predict: {told}")
