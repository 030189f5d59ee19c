"""The digest covers what inference computes and what weights are called, and nothing else."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsto_spec import HRNET_NORMAL, Graph, GraphBuilder, Node, build, variant
from gsto_spec.ops import (
    OPS,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    Input,
    MaxPool,
    Parameter,
    Relu,
    Resize,
    Slice,
)


def every_op() -> Graph:
    """Each op reads the picture and is an output of its own, so that any field can change alone."""
    build = GraphBuilder()
    x = build.input("image", 4)
    build.input("unused", 1)
    build.parameter("spare", Parameter((3,)))
    build.conv2d("conv2d", x, 4, kernel=3)
    build.batch_norm("batch_norm", x)
    for made in (build.relu, build.sigmoid, build.softmax):
        made(x)
    build.add([x, "conv2d"], name="image/add")
    build.mul(x, x, name="image/mul")
    build.concat([x, "conv2d"], name="image/concat")
    build.apply("image/slice", Slice(0, 2), x)
    build.apply("image/resize", Resize(size=(4, 4)), x)
    build.apply("image/avg_pool", AvgPool((2, 2), (2, 2)), x)
    build.apply("image/max_pool", MaxPool((2, 2), (2, 2)), x)
    build.apply("image/adaptive_avg_pool", AdaptiveAvgPool((2, 2)), x)
    ends = [f"image/{kind}" for kind in OPS if kind not in ("input", "parameter", "conv2d", "batch_norm")]
    return build.graph({f"out{k}": name for k, name in enumerate(["conv2d", "batch_norm", *ends])})


# Node, field, another value: each field that is not marked as read by training alone.
MEANING: list[tuple[str, str, Any]] = [
    ("unused", "channels", 2),
    ("spare", "shape", (4,)),
    ("conv2d", "stride", (2, 1)),
    ("conv2d", "padding", (1, 1, 1, 0)),
    ("conv2d", "dilation", (1, 2)),
    ("batch_norm", "eps", 1e-4),
    ("image/slice", "start", 1),
    ("image/slice", "stop", 3),
    ("image/resize", "method", "nearest"),
    ("image/resize", "align_corners", True),
    ("image/resize", "size", (4, 5)),
    ("image/avg_pool", "kernel", (2, 3)),
    ("image/avg_pool", "stride", (1, 2)),
    ("image/avg_pool", "padding", (0, 1, 0, 0)),
    ("image/avg_pool", "count_padding", False),
    ("image/max_pool", "kernel", (3, 2)),
    ("image/max_pool", "stride", (2, 1)),
    ("image/max_pool", "padding", (0, 0, 0, 1)),
    ("image/adaptive_avg_pool", "size", (3, 2)),
]
TRAINING_ONLY: list[tuple[str, str, Any]] = [
    ("spare", "initial", "normal"),
    ("spare", "scale", 2.0),
    ("spare", "trainable", False),
    ("batch_norm", "momentum", 0.5),
    ("batch_norm", "unbiased", False),
]


def changed(graph: Graph, name: str, **fields: Any) -> Graph:
    def change(node: Node) -> Node:
        if node.name != name:
            return node
        return dataclasses.replace(node, op=dataclasses.replace(node.op, **fields))

    # An operand that no longer meets its neighbour would be refused: what reads the node is left out.
    kept = {end: node for end, node in graph.outputs.items() if name not in graph.by_name[node].operands}
    nodes = [change(node) for node in graph.nodes if name not in node.operands]
    return Graph(tuple(nodes), kept, graph.notes)


def without_readers(graph: Graph, name: str) -> Graph:
    return changed(graph, name)


@pytest.mark.parametrize(("name", "field", "value"), MEANING)
def test_the_digest_changes_with_every_field_that_means_something(name: str, field: str, value: Any) -> None:
    graph = every_op()
    assert changed(graph, name, **{field: value}).digest != without_readers(graph, name).digest


@pytest.mark.parametrize(("name", "field", "value"), TRAINING_ONLY)
def test_the_digest_is_free_of_what_only_training_reads(name: str, field: str, value: Any) -> None:
    graph = every_op()
    assert changed(graph, name, **{field: value}).digest == without_readers(graph, name).digest


def test_every_field_of_every_op_is_in_one_of_the_two_tables() -> None:
    graph = every_op()
    assert {node.op.kind for node in graph.nodes} == set(OPS)
    tabled = {(graph.by_name[name].op.kind, field) for name, field, _ in [*MEANING, *TRAINING_ONLY]}
    declared = {(kind, item.name) for kind, op in OPS.items() for item in dataclasses.fields(op)}
    assert declared - tabled == {("conv2d", "groups")}  # changes only together with the weight's shape


def test_groups_change_the_digest() -> None:
    digests = set()
    for groups in (1, 2, 4):
        build = GraphBuilder()
        digests.add(build.graph({"y": build.conv2d("c", build.input(channels=4), 4, groups=groups)}).digest)
    assert len(digests) == 3


@given(st.data())
def test_the_digest_is_free_of_declared_order(data: st.DataObject) -> None:
    graph = every_op()
    inputs = iter([node for node in graph.nodes if isinstance(node.op, Input)])
    shuffled = data.draw(st.permutations(graph.nodes))
    nodes = tuple(next(inputs) if isinstance(node.op, Input) else node for node in shuffled)
    assert Graph(nodes, graph.outputs).digest == graph.digest


def test_the_order_of_several_inputs_is_in_the_digest_since_a_module_takes_them_by_place() -> None:
    x, y, total = Node("x", Input()), Node("y", Input()), Node("s/s", Add(), ("x", "y"))
    assert Graph((x, y, total), {"o": "s/s"}).digest != Graph((y, x, total), {"o": "s/s"}).digest


def test_a_number_given_as_another_type_is_the_same_field() -> None:
    def graph(eps: float, channels: int) -> Graph:
        build = GraphBuilder(eps=eps)
        return build.graph({"o": build.batch_norm("bn", build.conv2d("c", build.input(), channels))})

    made = graph(1, np.int64(2))  # type: ignore[arg-type]
    again = Graph.from_json(made.to_json())
    assert made == again == graph(1.0, 2)
    assert made.digest == again.digest == graph(1.0, 2).digest


def renamed(graph: Graph, names: dict[str, str]) -> Graph:
    def operands(node: Node) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in node.operands)

    nodes = [Node(names.get(node.name, node.name), node.op, operands(node)) for node in graph.nodes]
    return Graph(tuple(nodes), {end: names.get(name, name) for end, name in graph.outputs.items()})


def nameless(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if not isinstance(node.op, (Input, Parameter))]


@given(st.data())
def test_the_digest_is_free_of_the_names_of_nodes_that_store_nothing(data: st.DataObject) -> None:
    graph = every_op()
    labels = data.draw(st.permutations(range(len(nameless(graph)))))
    names = {name: f"n/{label}" for name, label in zip(nameless(graph), labels, strict=True)}
    assert renamed(graph, names).digest == graph.digest


@pytest.mark.parametrize("form", ["release", "paper"])
def test_the_digest_of_a_network_is_free_of_names_and_order(form: Any) -> None:
    graph = build("gsto-hrnet-w18-small-v2", form=form)
    names = {name: f"n/{number}" for number, name in enumerate(nameless(graph))}
    other = renamed(graph, names)
    assert Graph(tuple(reversed(other.nodes)), other.outputs).digest == graph.digest


@given(st.dictionaries(st.text(), st.text()))
def test_the_digest_is_free_of_notes(notes: dict[str, str]) -> None:
    graph = every_op()
    assert Graph(graph.nodes, graph.outputs, notes).digest == graph.digest


def test_the_digest_is_free_of_nodes_that_no_output_needs() -> None:
    graph = every_op()
    for name in ("a/dead", "z/dead"):
        assert Graph((*graph.nodes, Node(name, Relu(), ("image",))), graph.outputs).digest == graph.digest


def test_the_digest_is_free_of_momentum_and_initialisers_of_a_variant() -> None:
    chosen = variant("gsto-hrnet-w18-small-v2")
    other = dataclasses.replace(chosen, batch_norm_momentum=0.1, initialization=HRNET_NORMAL)
    assert build(other).digest == build(chosen).digest


EDITS: dict[str, Callable[[GraphBuilder, str], dict[str, str]]] = {
    "plain": lambda build, x: {"y": build.concat([build.conv2d("c", x, 2), x]), "z": "c"},
    "operands swapped": lambda build, x: {"y": build.concat([x, build.conv2d("c", x, 2)]), "z": "c"},
    "parameter renamed": lambda build, x: {"y": build.concat([build.conv2d("d", x, 2), x]), "z": "d"},
    "output renamed": lambda build, x: {"y": build.concat([build.conv2d("c", x, 2), x]), "w": "c"},
    "outputs reordered": lambda build, x: {"z": build.conv2d("c", x, 2), "y": build.concat(["c", x])},
    "another op": lambda build, x: {"y": build.relu(build.concat([build.conv2d("c", x, 2), x])), "z": "c"},
    "a bias": lambda build, x: {"y": build.concat([build.conv2d("c", x, 2, bias=True), x]), "z": "c"},
    "one output": lambda build, x: {"y": build.concat([build.conv2d("c", x, 2), x])},
}


def test_the_digest_tells_structure_names_and_outputs_apart() -> None:
    digests = {}
    for edit, ends in EDITS.items():
        build = GraphBuilder()
        outputs = ends(build, build.input("image", 2))
        digests[edit] = build.graph(outputs).digest
    build = GraphBuilder()
    outputs = EDITS["plain"](build, build.input("picture", 2))
    digests["input renamed"] = build.graph(outputs).digest
    assert len(set(digests.values())) == len(EDITS) + 1


def test_the_digest_tells_architectures_and_forms_apart() -> None:
    names = ("gsto-hrnet-w18-small-v2", "hrnetv2-w18-small-v2")
    graphs = [build(name) for name in names]
    graphs += [build(names[0], form="paper"), build(names[0], classes=5)]
    graphs.append(build(dataclasses.replace(variant(names[1]), align_corners=True)))
    assert len({graph.digest for graph in graphs}) == 5


def test_ungated_networks_have_no_form() -> None:
    assert build("hrnetv2-w18-small-v2", form="paper").digest == build("hrnetv2-w18-small-v2").digest


def test_a_digest_is_stable_across_versions() -> None:
    build = GraphBuilder()
    x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", build.input(), 4, kernel=3, stride=2)))
    graph = build.graph({"stage4": build.conv2d("head", x, 2, bias=True)})
    assert graph.digest == "ee06061d8dcab608cf286db685929786425e8f2dc8a6303c15fd39d3c87314b7"
