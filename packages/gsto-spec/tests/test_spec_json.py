"""Graphs as JSON: a round trip that loses nothing, and a reader that accepts nothing else."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsto_spec import Graph, GraphBuilder, GraphError, architectures, build


def small() -> Graph:
    """A graph with a field of every type that JSON must carry."""
    build = GraphBuilder(eps=1e-3)
    x = build.batch_norm("bn", build.conv2d("conv", build.input(), 4, kernel=3, stride=2, bias=True))
    x = build.mul(build.sigmoid(build.slice(x, 0, 1)), build.relu(x))
    pooled = build.adaptive_avg_pool(build.avg_pool(x, 2, 2, padding=1), size=(2, 3))
    x = build.concat([x, build.resize(pooled, like=x, align_corners=True)])
    return build.graph({"stage4": x, "stage3": "bn"}, {"architecture": "small"})


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(small().to_json())
    return loaded


def node(content: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in content["nodes"] if entry["name"] == name)
    return found


def refusal(content: object) -> str:
    with pytest.raises(GraphError) as caught:
        Graph.from_json(content if isinstance(content, str) else json.dumps(content))
    return str(caught.value)


Edit = Callable[[dict[str, Any]], object]


def refusal_of(edit: Edit) -> str:
    content = document()
    edit(content)
    return refusal(content)


@pytest.mark.parametrize("name", [*architectures(), "gsto-hrnet-w18-small-v2 paper"])
def test_every_architecture_survives_the_round_trip(name: str) -> None:
    graph = build(name.split()[0], form="paper" if "paper" in name else None)
    again = Graph.from_json(graph.to_json())
    assert again == graph
    assert again.digest == graph.digest
    assert list(again.outputs.items()) == list(graph.outputs.items())


def test_indentation_changes_nothing() -> None:
    assert Graph.from_json(small().to_json(indent=2)) == small()
    assert len(small().to_json(indent=1).splitlines()) > 100


def test_fields_with_defaults_may_be_left_out() -> None:
    content = document()
    for field in ("groups", "dilation"):
        del node(content, "conv")[field]
    del node(content, "image")["operands"]
    assert Graph.from_json(json.dumps(content)) == small()
    del content["notes"]
    assert dict(Graph.from_json(json.dumps(content)).notes) == {}


def test_a_whole_number_will_do_where_a_float_is_declared() -> None:
    content = document()
    node(content, "bn")["eps"] = 1
    bn = Graph.from_json(json.dumps(content)).by_name["bn"].op
    assert isinstance(bn.eps, float)  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["", "{", "graph", "\x00", "[" * 100_000])
def test_json_c1_text_is_json(text: str) -> None:
    assert refusal(text).startswith("graph: expected JSON text, found what is none: ")


@pytest.mark.parametrize(
    ("content", "found"), [([], "list"), (3, "int"), ({}, "None"), ({"format": "onnx"}, "onnx")]
)
def test_json_c1_names_its_format(content: object, found: str) -> None:
    assert refusal(content) == (
        f'graph: expected a JSON object with "format": "gsto-graph", found {found} [json_c1]'
    )


def test_json_c2_a_newer_version_is_refused() -> None:
    assert refusal_of(lambda content: content.update(version=2)) == (
        "graph.version: expected 1, found 2 (a newer gsto-spec wrote it) [json_c2]"
    )


@pytest.mark.parametrize(("version", "found"), [(0, "0"), (None, "None"), ("1", "1"), (True, "True")])
def test_json_c2_the_version_is_the_number_one(version: object, found: str) -> None:
    assert refusal_of(lambda content: content.update(version=version)) == (
        f"graph.version: expected 1, found {found} [json_c2]"
    )


def test_json_c3_an_op_is_of_the_closed_set() -> None:
    assert refusal_of(lambda content: node(content, "conv").update(op="conv2")) == (
        "conv: expected one of the ops input, parameter, conv2d, batch_norm, relu, sigmoid, softmax, add, "
        "mul, concat, slice, resize, avg_pool, max_pool, adaptive_avg_pool, found conv2 (nearest: conv2d) "
        "[json_c3]"
    )


def test_json_c4_a_field_of_a_node_is_known() -> None:
    assert refusal_of(lambda content: node(content, "conv").update(strides=[1, 1])) == (
        "conv: expected fields name, op, operands, stride, padding, dilation, groups, found strides "
        "(nearest: stride) [json_c4]"
    )


def test_json_c4_a_field_of_the_graph_is_known() -> None:
    assert refusal_of(lambda content: content.update(output={})) == (
        "graph: expected fields format, version, notes, nodes, outputs, found output (nearest: outputs) "
        "[json_c4]"
    )


def test_json_c4_a_field_without_default_is_there() -> None:
    assert refusal_of(lambda content: node(content, "conv.weight").pop("shape")) == (
        "conv.weight: expected the field shape of parameter, found none [json_c4]"
    )


def test_json_c4_a_field_is_given_once() -> None:
    text = small().to_json().replace('"stage3": "bn"', '"stage4": "bn"')
    assert refusal(text) == "graph: expected one field of each name, found stage4 twice [json_c4]"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda content: content.update(nodes={}),
            "nodes: expected a list of nodes, found {}",
        ),
        (
            lambda content: content["nodes"].append("relu"),
            "nodes[17]: expected a JSON object, found 'relu'",
        ),
        (
            lambda content: content["nodes"][0].pop("name"),
            "nodes[0].name: expected a text, found None",
        ),
        (
            lambda content: node(content, "conv").update(op=None),
            "conv.op: expected a text, found None",
        ),
        (
            lambda content: node(content, "conv").update(operands="image"),
            "conv.operands: expected a list of node names, found 'image'",
        ),
        (
            lambda content: node(content, "conv").update(operands=["image", 1]),
            "conv.operands: expected a node name, found 1",
        ),
        (
            lambda content: content.update(outputs=["conv"]),
            "outputs: expected a JSON object of texts, found ['conv']",
        ),
        (
            lambda content: content["outputs"].update(stage4=4),
            "outputs.stage4: expected a text, found 4",
        ),
        (
            lambda content: content.update(notes=None),
            "notes: expected a JSON object of texts, found None",
        ),
        (
            lambda content: node(content, "conv").update(stride=2),
            "conv.stride: expected a list, found 2",
        ),
        (
            lambda content: node(content, "conv").update(stride=[2]),
            "conv.stride: expected a list of 2 numbers, found [2]",
        ),
        (
            lambda content: node(content, "conv").update(stride=[2, 2.0]),
            "conv.stride: expected a whole number, found 2.0",
        ),
        (
            lambda content: node(content, "conv").update(groups=True),
            "conv.groups: expected a whole number, found True",
        ),
        (
            lambda content: node(content, "bn").update(eps="1e-5"),
            "bn.eps: expected a finite number, found '1e-5'",
        ),
        (
            lambda content: node(content, "bn").update(eps=float("nan")),
            "bn.eps: expected a finite number, found nan",
        ),
        (
            lambda content: node(content, "bn").update(unbiased=1),
            "bn.unbiased: expected a truth value, found 1",
        ),
        (
            lambda content: node(content, "conv.weight").update(initial="xavier"),
            "conv.weight.initial: expected one of constant, normal, fan_in_normal, found 'xavier'",
        ),
        (
            lambda content: node(content, "conv").update(groups=10**18),
            "graph: expected numbers of at most 18 digits, found '1000000000000000000'",
        ),
    ],
)
def test_json_c5_a_value_is_of_its_declared_type(edit: Edit, message: str) -> None:
    assert refusal_of(edit) == f"{message} [json_c5]"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda content: content["nodes"].append({"name": "bn", "op": "relu", "operands": ["conv"]}),
            "bn: expected one node of each name, found a second one [graph_c1]",
        ),
        (
            lambda content: node(content, "conv").update(operands=["image", "conv.weights", "conv.bias"]),
            "conv: expected operands that are nodes, found conv.weights (nearest: conv.weight) [graph_c2]",
        ),
        (
            lambda content: node(content, "conv")["operands"].__setitem__(0, "bn"),
            "conv: expected a graph without cycles, found the cycle conv <- bn <- conv [graph_c3]",
        ),
        (
            lambda content: content["outputs"].update(stage4="bm"),
            "outputs.stage4: expected the name of a node, found bm (nearest: bn) [graph_c4]",
        ),
        (
            lambda content: node(content, "bn")["operands"].pop(),
            "bn: expected x, weight, bias, running_mean and running_var, found 4 (operands conv, bn.weight, "
            "bn.bias, bn.running_mean) [batch_norm_c1]",
        ),
        (
            lambda content: node(content, "conv.weight").update(shape=[4, 2, 3, 3]),
            "conv: expected a weight of shape O x 3/groups x kh x kw with O divisible by groups, found "
            "O = 4, I = 2, groups = 1 (operands image, conv.weight, conv.bias) [conv2d_c4]",
        ),
        (
            lambda content: node(content, "bn/relu").update(op="max_pool", kernel=[2, 2], stride=[2, 2]),
            "bn/slice/sigmoid/mul: expected shapes equal or 1 in every dimension of N x 1 x (H+1)//2 x "
            "(W+1)//2 (bring them to one size with resize(like=...)), found N x 4 x (H+1)//4 x (W+1)//4 "
            "(operands bn/slice/sigmoid, bn/relu) [mul_c2]",
        ),
    ],
)
def test_a_graph_that_means_nothing_is_refused_when_it_is_read(edit: Edit, message: str) -> None:
    assert refusal_of(edit) == message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def accept_or_refuse(text: str) -> None:
    try:
        graph = Graph.from_json(text)
    except GraphError as error:
        assert len(str(error).splitlines()) == 1
        assert error.label in str(error)
    else:
        assert Graph.from_json(graph.to_json()).digest == graph.digest


@given(st.text())
def test_no_text_does_worse_than_a_graph_error(text: str) -> None:
    accept_or_refuse(text)


@given(st.dictionaries(st.sampled_from(["format", "version", "nodes", "outputs", "notes", "x\n"]), JSON))
def test_no_document_does_worse_than_a_graph_error(entries: dict[str, object]) -> None:
    accept_or_refuse(json.dumps({"format": "gsto-graph", "version": 1, **entries}))


@given(st.data(), JSON)
def test_no_changed_graph_does_worse_than_a_graph_error(data: st.DataObject, value: object) -> None:
    content = document()
    place: Any = content
    while isinstance(place, (dict, list)) and place and data.draw(st.integers(0, 4)) > 0:
        keys: Any = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        parent, place = place, place[key]
    if place is not content:
        parent[key] = value
    accept_or_refuse(json.dumps(content))


@pytest.mark.parametrize("digits", [19, 5000])
@pytest.mark.parametrize("field", ["groups", "eps", "scale"])
def test_a_number_beyond_all_sizes_is_refused(field: str, digits: int) -> None:
    text = re.sub(rf'"{field}": [^,]*', f'"{field}": {"9" * digits}', small().to_json(), count=1)
    with pytest.raises(GraphError):
        Graph.from_json(text)


@pytest.mark.parametrize("depth", [100, 900, 950, 980, 990, 100_000])
def test_a_deeply_nested_value_is_refused(depth: int) -> None:
    text = small().to_json().replace('"stride": [2, 2]', f'"stride": {"[" * depth}{"]" * depth}')
    with pytest.raises(GraphError):
        Graph.from_json(text)
