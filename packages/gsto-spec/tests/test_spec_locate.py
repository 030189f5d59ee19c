import dataclasses
import json
from pathlib import Path

import pytest

from gsto_spec import GstoError, VariantError, build, initial_weights, variant
from gsto_spec.locate import LocateError, locate
from gsto_spec.weights import save_directory

MODULE = """
import dataclasses, gsto_spec
small = dataclasses.replace(gsto_spec.variant("gsto-hrnet-w16-mini"), classes=5)
graph = gsto_spec.build(small)
def for_classes(classes):
    return dataclasses.replace(small, classes=classes)
class Family:
    member = small
number = 3
"""


GATED = """import dataclasses, gsto_spec

def my_gate(build, path, x):
    return {}

network = dataclasses.replace(
    gsto_spec.variant("gsto-hrnet-w16-mini"), fusion_gate=my_gate, supervised_stages=()
)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"locate_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_name_a_file_and_a_module_give_the_same_graph(tmp_path: Path, module: str) -> None:
    expected = build(dataclasses.replace(variant("gsto-hrnet-w16-mini"), classes=5)).digest
    file = tmp_path / "graph.json"
    file.write_text(build("gsto-hrnet-w16-mini", classes=5).to_json())
    assert locate("gsto-hrnet-w16-mini", classes=5).digest == expected
    assert locate(str(file)).digest == expected
    for attribute in ("small", "graph", "Family.member"):
        assert locate(f"{module}:{attribute}").digest == expected
    assert locate(f"{module}:for_classes", classes=5).digest == expected


def test_classes_and_form_replace_a_variants(module: str) -> None:
    paper = build(variant("gsto-hrnet-w16-mini"), classes=7, form="paper").digest
    assert locate(f"{module}:small", classes=7, form="paper").digest == paper
    assert locate("gsto-hrnet-w16-mini", classes=7, form="paper").digest == paper


def test_a_graph_has_its_form_already(tmp_path: Path, module: str) -> None:
    (tmp_path / "graph.json").write_text(build("gsto-hrnet-w16-mini").to_json())
    for text in ("graph.json", f"{module}:graph"):
        with pytest.raises(LocateError, match="a graph's form is fixed; leave the form paper out"):
            locate(text, form="paper")


def test_what_is_not_there_is_named_with_what_is_near(tmp_path: Path, module: str) -> None:
    (tmp_path / "graph.json").write_text("{}")
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe")
    newer = json.loads(build("gsto-hrnet-w16-mini").to_json()) | {"version": 9}
    (tmp_path / "newer.json").write_text(json.dumps(newer))
    for text, message in {
        "graf.json": r"graf.json: cannot be read: No such file or directory \(nearest: graph.json\)",
        "graph.json": 'graph.json: graph: expected a JSON object with "format": "gsto-graph"',
        "latin.json": "latin.json: expected UTF-8 text",
        "newer.json": "newer.json: graph.version: expected 1, found 9",
        "no_such_module:x": "no_such_module:x: cannot import no_such_module",
        f"{module}:smal": rf"{module} has no smal \(nearest: small\)",
        f"{module}:Family.membr": r"has no Family.membr \(nearest: member\)",
        f"{module}:number": "expected a Graph, a variant or a function of classes, found int",
        "gsto-hrnet-w84": r"unknown architecture gsto-hrnet-w84 \(nearest: gsto-hrnet-w48\)",
    }.items():
        with pytest.raises(GstoError, match=message):
            locate(text)


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (
            "def network(classes):\n    raise KeyError('width')",
            "its own code failed: {file} line 2: KeyError: 'width'",
        ),
        ("network = lambda: 1", "its own code failed: TypeError: "),
        ("import sys; sys.exit(7)", "its own code failed: {file} line 1: SystemExit: 7"),
        ("network = 1 / 0", "its own code failed: {file} line 1: ZeroDivisionError: division by zero"),
        (
            GATED.format("build.conv2d(path, x, 1, kernel_size=3)"),
            "its own code failed: {file} line 4: TypeError: ",
        ),
        ("network = (", "its own code failed: SyntaxError: "),
        ("import no_such_thing", "cannot import no_such_thing: no such module here"),
    ],
)
def test_code_of_ones_own_that_fails_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, failure: str
) -> None:
    name = f"failing_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LocateError) as caught:
        locate(f"{name}:network")
    told = failure.format(file=f"{name}.py")
    assert str(caught.value).startswith(f"{name}:network: {told}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["fusion_gate", "transition_gate", "attention"])
@pytest.mark.parametrize(("code", "returned"), [("None", "nothing"), ("build", "a GraphBuilder")])
def test_a_gate_that_returns_no_node_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, code: str, returned: str
) -> None:
    name = f"silent_{tmp_path.name.replace('-', '_').replace('[', '_').replace(']', '_')}"
    (tmp_path / f"{name}.py").write_text(GATED.format(code).replace("fusion_gate", field))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VariantError) as caught:
        locate(f"{name}:network")
    assert str(caught.value).endswith(
        "expected the function to return its last node's name, as `return build.sigmoid(g)` does, found "
        f"my_gate, which returns {returned}"
    )


def test_a_python_file_is_answered_with_how_to_name_what_is_in_it() -> None:
    for file, module in (("mine.py", "mine"), ("nets/mine.py", "nets.mine"), ("/there/mine.py", "mine")):
        with pytest.raises(LocateError) as caught:
            locate(file)
        assert str(caught.value) == (
            f"{file}: expected module:attribute, found a file; give {module}:NAME for NAME in it"
        )


def test_a_directory_stands_for_the_graph_of_the_model_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = build("gsto-hrnet-w16-mini", classes=5)
    save_directory(tmp_path / "run" / "model", graph, initial_weights(graph))
    (tmp_path / "gsto-hrnet-w16-mini").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for text in ("run/model", "run/model/", str(tmp_path / "run")):
        assert locate(text).digest == graph.digest
    assert locate("gsto-hrnet-w16-mini").digest == build("gsto-hrnet-w16-mini").digest
    with pytest.raises(LocateError, match=r"^run: output stage4 has 5 channels, expected one for each of 7 "):
        locate("run", classes=7)
    with pytest.raises(LocateError, match=r"^empty/graph\.json: cannot be read: No such file or directory"):
        locate("empty")


def test_a_function_s_own_default_stands_where_no_number_of_classes_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"defaulting_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "import gsto_spec\n"
        "def network(classes=7):\n"
        "    build = gsto_spec.GraphBuilder()\n"
        "    return build.graph({'stage4': build.conv2d('head', build.input(), classes)})\n"
    )
    monkeypatch.chdir(tmp_path)
    assert locate(f"{name}:network").parameters["head.weight"] == (7, 3, 1, 1)
    assert locate(f"{name}:network", classes=5).parameters["head.weight"] == (5, 3, 1, 1)


def test_a_family_given_for_a_member_is_told_in_one_line() -> None:
    with pytest.raises(LocateError, match=r"^gsto_spec:HRNet: its own code failed: TypeError"):
        locate("gsto_spec:HRNet")


def test_a_graph_has_its_classes_already(tmp_path: Path, module: str) -> None:
    (tmp_path / "graph.json").write_text(build("gsto-hrnet-w16-mini", classes=5).to_json())
    assert locate("graph.json", classes=5).digest == locate(f"{module}:graph", classes=5).digest
    for text in ("graph.json", f"{module}:graph"):
        with pytest.raises(
            LocateError, match="output stage4 has 5 channels, expected one for each of 7 classes"
        ):
            locate(text, classes=7)


@pytest.mark.parametrize("text", ["../mine.py:network", "mine:", ":network", "C:/mine.py:network"])
def test_a_path_given_for_a_module_is_told_what_a_module_is(text: str) -> None:
    with pytest.raises(
        LocateError, match=r"expected module:attribute, such as mine:network for mine.py here"
    ):
        locate(text)


CALLED = """import functools, gsto_spec

class Family:
    def __call__(self, classes):
        return gsto_spec.variant("gsto-hrnet-w16-mini")

class Module(Family):
    def __call__(self, image):
        return image.shape

class Endless(Family):
    def __call__(self, *arguments):
        raise ValueError("long " * 300)

def network(classes, name):
    return gsto_spec.variant(name)

works, module, endless = Family(), Module(), Endless()
named = functools.partial(network, name="gsto-hrnet-w16-mini")
misnamed = functools.partial(network, name="none")
text = functools.partial(repr)
"""


def test_what_can_be_called_is_no_function_of_classes_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"called_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(CALLED)
    monkeypatch.chdir(tmp_path)
    for works in ("works", "named"):
        assert locate(f"{name}:{works}") == build(variant("gsto-hrnet-w16-mini"))
    expected = "expected a Graph, a variant or a function of classes, found"
    for attribute, told in (
        ("module", f"{expected} {name}.Module; its own code failed: {name}.py line 9: AttributeError: "),
        ("endless", f"{expected} {name}.Endless; its own code failed: {name}.py line 13: ValueError: long "),
        ("misnamed", f"its own code failed: {name}.py line 16: UnknownArchitecture: "),
        ("text", f"{expected} str"),
    ):
        with pytest.raises(LocateError) as caught:
            locate(f"{name}:{attribute}", classes=2)
        assert str(caught.value).startswith(f"{name}:{attribute}: {told}")
        assert len(str(caught.value)) < 450


def test_a_module_is_answered_with_how_to_name_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets").mkdir()
    for module in ("mine", "nets.mine"):
        file = f"{module.replace('.', '/')}.py"
        Path(file).write_text("raise SystemExit('ran')")
        with pytest.raises(LocateError) as caught:
            locate(module)
        assert (
            str(caught.value) == f"{module}: expected module:attribute; give {module}:NAME for NAME in {file}"
        )
        with pytest.raises(LocateError) as caught:
            locate(f"{file}:network")
        told = f"{file}:network: expected module:attribute, found a file; give {module}:network"
        assert str(caught.value) == told
    Path("gsto-hrnet-w18.py").write_text("raise SystemExit('ran')")
    locate("gsto-hrnet-w16-mini")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("GSTO-HRNet-W48", "gsto-hrnet-w48"),
        ("gsto-hrnet-w16", "gsto-hrnet-w16-mini"),
        ("resnet101", "resnet101-ppm"),
        ("w16", "gsto-hrnet-w16-mini"),
        ("gsto-hrnet-w84", "gsto-hrnet-w48"),
    ],
)
def test_a_name_is_near_whatever_its_capitals_and_however_little_of_it_there_is(text: str, name: str) -> None:
    with pytest.raises(GstoError, match=rf"^unknown architecture {text} \(nearest: {name}\); "):
        locate(text)
