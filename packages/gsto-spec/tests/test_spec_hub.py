"""Where a model is looked for: here; on the hub only by an id that is no path, with an optional library."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gsto_spec import GraphBuilder, WeightsError, initial_weights
from gsto_spec.hub import HubError
from gsto_spec.pretrained import FILES, load_pretrained, save_pretrained
from gsto_spec.weights import save_directory


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved model, `model`, in the working folder."""
    monkeypatch.chdir(tmp_path)
    build = GraphBuilder()
    graph = build.graph({"y": build.conv2d("head", build.input(), 2)})
    save_pretrained("model", graph, initial_weights(graph))
    return tmp_path / "model"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, model: Path) -> list[tuple[Any, ...]]:
    """What a stand-in for the library is asked for; it answers with `model`."""
    calls: list[tuple[Any, ...]] = []

    def snapshot_download(name: str, **options: Any) -> str:
        calls.append((name, options))
        if name == "me/none":
            raise ConnectionError("nobody\nanswers")
        return str(model)

    library = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    return calls


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


def test_a_directory_needs_neither_network_nor_library(model: Path, without_library: None) -> None:
    for name in ("model", "./model", str(model), Path("model"), model):
        assert load_pretrained(name)[0].outputs["y"] == "head"
    Path("me").mkdir()
    Path("me/net").symlink_to(model)
    assert load_pretrained("me/net")[0].outputs["y"] == "head"


def test_an_id_is_asked_of_the_hub_for_the_files_of_a_model_and_no_others(
    asked: list[tuple[Any, ...]],
) -> None:
    assert load_pretrained("me/net-1.5", revision="v2")[0].outputs["y"] == "head"
    assert asked == [("me/net-1.5", {"revision": "v2", "allow_patterns": [*FILES]})]


@pytest.mark.parametrize(
    "name",
    ["modle", "./me/net", "../me/net", "/me/net", "~/net", "a/b/c", "me/", "me\\net", "model/net",
     "me/net.pth", "me/net\n", "", "me/\0net", "x" * 5000, "me/..", Path("me/net")],
)  # fmt: skip
def test_what_can_only_be_a_path_is_never_asked_of_the_hub(asked: list[tuple[Any, ...]], name: Any) -> None:
    with pytest.raises((HubError, WeightsError)) as caught:
        load_pretrained(name)
    assert asked == []
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", [None, 3, b"me/net"])
def test_what_is_no_name_is_told(name: Any) -> None:
    told = f"name: expected a saved model's directory or owner/name, found {type(name).__name__}"
    with pytest.raises(TypeError, match=f"^{told}$"):
        load_pretrained(name)


def test_a_missing_directory_is_told_with_the_nearest(model: Path) -> None:
    with pytest.raises(HubError, match=r"^modle: no such directory \(nearest: model\)$"):
        load_pretrained("modle")
    with pytest.raises(
        HubError, match=r"graph.json: expected a saved model's directory, found something else"
    ):
        load_pretrained("model/graph.json")


def test_without_the_library_one_line_says_what_to_install(model: Path, without_library: None) -> None:
    with pytest.raises(HubError) as caught:
        load_pretrained("me/net")
    assert str(caught.value) == (
        "me/net: no such directory here; to ask the hub for it, pip install huggingface_hub"
    )


def test_what_the_hub_says_is_one_line(asked: list[tuple[Any, ...]]) -> None:
    with pytest.raises(
        HubError, match=r"^me/none: no such directory here, and the hub says: nobody answers$"
    ):
        load_pretrained("me/none")


def test_a_repository_that_is_no_saved_model_says_so(asked: list[tuple[Any, ...]], model: Path) -> None:
    (model / "graph.json").unlink()
    with pytest.raises(
        WeightsError, match=r"graph.json: a saved model has graph.json, model.safetensors and card"
    ):
        load_pretrained("me/net")


@pytest.fixture
def server(model: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The address of a hub on this machine that has `model` as `me/net`, and code beside it."""
    (model / "modeling.py").write_text("raise SystemExit('ran')")
    command = [sys.executable, str(Path(__file__).with_name("hub_server.py")), str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}", process
        finally:
            process.kill()


@pytest.mark.skipif(
    not importlib.util.find_spec("huggingface_hub"), reason="huggingface_hub is not installed"
)
def test_the_library_itself_fetches_a_model_and_reads_it_again_without_network(
    server: tuple[str, "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    address, process = server
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"),
                   "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
    code = (
        "from gsto_spec.pretrained import load_pretrained; print(load_pretrained('me/net')[0].outputs['y'])"
    )

    def run(**more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], env={**environment, **more}, capture_output=True, text=True,
            timeout=60, cwd=tmp_path,
        )  # fmt: skip
        return done.stdout.strip() or done.stderr

    assert run() == "head"
    fetched = {path.name for path in (tmp_path / "home").rglob("snapshots/*/*")}
    assert fetched == {*FILES}
    process.kill()
    assert run(HF_HUB_OFFLINE="1") == "head"


def test_a_saved_directory_of_before_is_opened_too(tmp_path: Path) -> None:
    build = GraphBuilder()
    graph = build.graph({"y": build.conv2d("head", build.input(), 2)})
    save_directory(tmp_path / "old", graph, initial_weights(graph))
    assert load_pretrained(tmp_path / "old")[0] == graph
