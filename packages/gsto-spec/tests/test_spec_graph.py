"""Graphs: what is refused, by message; order, shapes, training form, equality and copies."""

import copy
import pickle
from collections.abc import Sequence
from itertools import pairwise

import pytest

from gsto_spec import Graph, GraphBuilder, GraphError, Node, build, variant
from gsto_spec.ops import Add, BatchNorm, Concat, Conv2d, Input, Mul, Parameter, Relu

IMAGE = Node("image", Input(3))


def refusal(nodes: Sequence[Node], outputs: dict[str, str]) -> str:
    with pytest.raises(GraphError) as caught:
        Graph(tuple(nodes), outputs)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a b", "a..b", "/a", "a.", "naïve", "a\nb"])
def test_graph_c1_a_name_is_a_path(name: str) -> None:
    assert refusal([IMAGE, Node(name, Relu(), ("image",))], {"y": "image"}) == (
        f"{' '.join(name.splitlines())}: expected a path of letters, digits and _ joined by . or /, "
        f"found {name!r} [graph_c1]"
    )


def test_graph_c1_a_name_is_not_empty() -> None:
    assert refusal([Node("", Input())], {"y": ""}).startswith("(unnamed): expected a path")


def test_graph_c1_a_name_is_used_once() -> None:
    assert refusal([IMAGE, Node("a", Relu(), ("image",)), Node("a", Relu(), ("image",))], {"y": "a"}) == (
        "a: expected one node of each name, found a second one [graph_c1]"
    )


def test_graph_c2_an_operand_is_a_node() -> None:
    assert refusal([IMAGE, Node("net/a", Relu(), ("imagr",))], {"y": "net/a"}) == (
        "net/a: expected operands that are nodes, found imagr (nearest: image) [graph_c2]"
    )


def test_graph_c3_there_is_no_cycle() -> None:
    nodes = [
        IMAGE,
        Node("a", Add(), ("image", "c")),
        Node("b", Relu(), ("a",)),
        Node("c", Relu(), ("b",)),
    ]
    assert refusal(nodes, {"y": "c"}) == (
        "a: expected a graph without cycles, found the cycle a <- c <- b <- a [graph_c3]"
    )


def test_graph_c3_a_node_does_not_read_itself() -> None:
    assert refusal([IMAGE, Node("a", Add(), ("image", "a"))], {"y": "image"}) == (
        "a: expected a graph without cycles, found the cycle a <- a [graph_c3]"
    )


def test_graph_c4_an_output_is_a_node() -> None:
    assert refusal([IMAGE, Node("head", Relu(), ("image",))], {"stage4": "heat"}) == (
        "outputs.stage4: expected the name of a node, found heat (nearest: head) [graph_c4]"
    )


def test_graph_c4_there_is_an_output() -> None:
    assert refusal([IMAGE], {}) == "outputs: expected at least one output, found none [graph_c4]"


def test_graph_c5_every_size_is_at_least_one() -> None:
    build = GraphBuilder()
    deep = build.conv2d("deep", build.avg_pool(build.input(), 4, 4), 2, kernel=3, padding=0)
    graph = build.graph({"y": deep})
    with pytest.raises(GraphError) as caught:
        graph.check((1, 3, 11, 40))
    assert str(caught.value) == (
        "deep: expected a size of at least 1 x 1, found 1 x 2 x 0 x 8 for an input of 1 x 3 x 11 x 40 "
        "[graph_c5]"
    )
    assert graph.check((1, 3, 12, 40))["deep"] == (1, 2, 1, 8)


def test_graph_c5_the_input_has_the_declared_channels() -> None:
    build = GraphBuilder()
    graph = build.graph({"y": build.relu(build.input("image", 3))})
    with pytest.raises(GraphError) as caught:
        graph.check((1, 4, 8, 8))
    assert str(caught.value) == "image: expected 3 channels, found 4 [graph_c5]"
    with pytest.raises(
        GraphError, match=r"^input: expected N x C x H x W of at least 1, found \(1, 3, 0, 8\)"
    ):
        graph.check((1, 3, 0, 8))


def test_shapes_that_do_not_meet_are_refused_with_the_path_of_the_node() -> None:
    nodes = [
        IMAGE,
        Node("conv1", Conv2d((2, 2), (1, 1, 1, 1)), ("image", "conv1.weight")),
        Node("conv1.weight", Parameter((3, 3, 3, 3))),
        Node("stage2.0/fuse.0/sum", Add(), ("image", "conv1")),
    ]
    assert refusal(nodes, {"y": "stage2.0/fuse.0/sum"}) == (
        "stage2.0/fuse.0/sum: expected operands of one shape, N x 3 x H x W (bring them to one size with "
        "resize(like=...)), found N x 3 x (H+1)//2 x (W+1)//2 (operands image, conv1) [add_c2]"
    )


def test_sizes_that_agree_for_some_inputs_only_do_not_meet() -> None:
    build = GraphBuilder()
    image = build.input()
    halves = [build.avg_pool(image, 2, 2), build.avg_pool(image, 1, 2)]
    with pytest.raises(GraphError, match=r"found N x 3 x \(H\+1\)//2 x \(W\+1\)//2"):
        build.add(halves)


def test_a_parameter_of_the_wrong_shape_is_refused_at_its_user() -> None:
    nodes = [
        IMAGE,
        Node("conv1.weight", Parameter((8, 4, 3, 3))),
        Node("conv1", Conv2d(), ("image", "conv1.weight")),
    ]
    assert refusal(nodes, {"y": "conv1"}) == (
        "conv1: expected a weight of shape O x 3/groups x kh x kw with O divisible by groups, found "
        "O = 8, I = 4, groups = 1 (operands image, conv1.weight) [conv2d_c4]"
    )


def test_errors_carry_their_parts() -> None:
    with pytest.raises(GraphError) as caught:
        Graph((IMAGE, Node("a", Mul(), ("image",))), {"y": "a"})
    error = caught.value
    assert (error.node, error.label) == ("a", "mul_c1")
    assert (error.expected, error.found) == ("two operands", "1 (operands image)")
    assert isinstance(error, ValueError)


def trained() -> GraphBuilder:
    build = GraphBuilder()
    build.relu(build.batch_norm("bn", build.conv2d("conv", build.input(), 3)))
    return build


def violation(build: GraphBuilder) -> str | None:
    problem = build.graph({"y": "image"}).training_form_violation()
    return None if problem is None else str(problem)


def test_built_graphs_are_in_training_form() -> None:
    assert violation(trained()) is None


def test_training_c1_a_parameter_has_one_conv2d_or_batch_norm() -> None:
    build = trained()
    build.apply("bn/scaled", Mul(), "bn.weight", "bn.weight")
    assert violation(build) == (
        "bn.weight: expected to be one operand of exactly one conv2d or batch_norm, found bn (batch_norm), "
        "bn/scaled (mul), bn/scaled (mul) [training_c1]"
    )


def test_training_c1_a_parameter_is_used() -> None:
    build = trained()
    build.parameter("lonely.weight", Parameter((1,)))
    assert violation(build) == (
        "lonely.weight: expected to be one operand of exactly one conv2d or batch_norm, found no user "
        "[training_c1]"
    )


@pytest.mark.parametrize("name", ["other.weight", "convolution", "conv2.kernel", "conv2.bias"])
def test_training_c2_a_parameter_is_called_by_its_user_and_role(name: str) -> None:
    build = trained()
    build.apply("conv2", Conv2d(), "image", build.parameter(name, Parameter((1, 3, 1, 1))))
    assert violation(build) == (
        f"{name}: expected the name conv2.weight, by its user and its role there, found {name} [training_c2]"
    )


def test_training_c3_what_stores_nothing_has_a_slash() -> None:
    build = trained()
    build.relu("bn", name="plain")
    assert violation(build) == (
        "plain: expected a name with '/' for a node that stores nothing, found plain [training_c3]"
    )


def test_training_c4_running_statistics_are_not_learnt() -> None:
    build = GraphBuilder()
    image = build.input()
    names = [f"bn.{role}" for role in ("weight", "bias", "running_mean", "running_var")]
    build.apply("bn", BatchNorm(), image, *(build.parameter(name, Parameter((3,))) for name in names))
    assert violation(build) == (
        "bn.running_mean: expected running statistics with trainable false, found trainable true "
        "[training_c4]"
    )


def test_operands_come_first_and_declared_order_is_kept_where_it_can_be() -> None:
    nodes = [
        Node("c", Relu(), ("b",)),
        Node("b", Relu(), ("image",)),
        Node("a", Relu(), ("image",)),
        IMAGE,
    ]
    graph = Graph(tuple(nodes), {"y": "c", "x": "a"})
    assert [node.name for node in graph.order] == ["image", "b", "c", "a"]
    assert [node.name for node in graph.nodes] == ["c", "b", "a", "image"]


def test_a_very_deep_graph_needs_no_recursion() -> None:
    names = ["image", *(f"r/{k}" for k in range(5000))]
    chain = [Node(name, Relu(), (before,)) for before, name in pairwise(names)]
    graph = Graph((*reversed(chain), IMAGE), {"y": names[-1]})
    assert [node.name for node in graph.order] == names
    assert len(graph.digest) == 64


def test_outputs_keep_their_order() -> None:
    graph = build("gsto-hrnet-w18-small-v2", classes=5)
    assert list(graph.outputs) == ["stage4", "stage3", "stage2"]
    assert [graph.shapes[node][1] for node in graph.outputs.values()] == [5, 5, 5]


def test_parameters_hold_running_statistics_and_trainable_does_not() -> None:
    graph = trained().graph({"y": "bn"})
    assert dict(graph.parameters) == {
        "conv.weight": (3, 3, 1, 1), "bn.weight": (3,), "bn.bias": (3,), "bn.running_mean": (3,),
        "bn.running_var": (3,),
    }  # fmt: skip
    assert list(graph.trainable) == ["conv.weight", "bn.weight", "bn.bias"]
    assert dict(graph.inputs) == {"image": 3}


def test_shapes_are_expressions_of_the_input() -> None:
    graph = build("hrnetv2-w18-small-v2")
    strides = {
        "stage4.0/fuse.1/out": "N x 36 x (H+7)//8 x (W+7)//8",
        "last_layer.3": "N x 19 x (H+3)//4 x (W+3)//4",
    }
    assert {name: " x ".join(map(str, graph.shapes[name])) for name in strides} == strides


def test_a_graph_cannot_be_changed() -> None:
    graph = trained().graph({"y": "bn"}, {"about": "test"})
    for mapping in (graph.outputs, graph.notes, graph.parameters, graph.shapes):
        with pytest.raises(TypeError):
            mapping["y"] = "image"  # type: ignore[index]
    with pytest.raises(AttributeError):
        graph.nodes = ()  # type: ignore[misc]


def test_equal_graphs_are_equal_and_hash_alike() -> None:
    first, second = build("hrnetv2-w18-small-v1"), build("hrnetv2-w18-small-v1")
    assert first == second
    assert len({first, second}) == 1
    assert first != Graph(first.nodes, first.outputs, {"architecture": "another"})
    assert first != build("hrnetv2-w18-small-v1", classes=2)
    assert first != "hrnetv2-w18-small-v1"


def test_a_graph_is_copied_and_pickled_whole() -> None:
    graph = build(variant("hrnetv2-w18-small-v1"))
    for again in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        assert again == graph
        assert again.digest == graph.digest


def test_a_graph_prints_its_nodes_without_their_parameters() -> None:
    build = GraphBuilder()
    half = build.conv2d("conv1", build.input(), 4, kernel=3, stride=2)
    graph = build.graph({"y": build.concat([half, half], name="both/ways")})
    lines = str(graph).splitlines()
    assert lines[0] == f"graph {graph.digest[:12]}: 3 nodes, 1 parameters"
    assert lines[1:] == [
        "image: N x 3 x H x W = input(channels=3)",
        "conv1: N x 4 x (H+1)//2 x (W+1)//2 = conv2d(image, stride=(2, 2), padding=(1, 1, 1, 1), "
        "dilation=(1, 1), groups=1)",
        "both/ways: N x 8 x (H+1)//2 x (W+1)//2 = concat(conv1, conv1)",
        "output y = both/ways",
    ]


def test_concat_is_checked_where_it_is_built() -> None:
    build = GraphBuilder()
    image = build.input()
    with pytest.raises(GraphError, match="concat_c3"):
        build.apply("net/cat", Concat(), image, build.max_pool(image, 2, 2))
