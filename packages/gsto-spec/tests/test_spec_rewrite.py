"""What the driver keeps, drops, names and reports, whatever the rules."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from gsto_spec import Graph, GraphBuilder, RewriteLog, WeightsError, build, evaluate, optimize, variant
from gsto_spec.cli import main
from gsto_spec.graph import Node
from gsto_spec.ops import Parameter, Relu
from gsto_spec.rewrite import Fired, NotFired, Program, Replacement, Rule, rewrite
from gsto_spec.weights import save_directory

Arrays = dict[str, NDArray[Any]]


def ones(graph: Graph) -> Arrays:
    return {name: np.ones(shape, np.float32) for name, shape in graph.parameters.items()}


def small_graph() -> Graph:
    build = GraphBuilder()
    x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", build.input(), 4, kernel=3)))
    return build.graph({"stage4": build.conv2d("head", x, 2, bias=True)}, {"architecture": "small"})


class OneReluLess(Rule[str]):
    """Takes the outer of two relus in a row away, once per sweep of a chain."""

    name = "one-relu-less"

    def pattern(self, program: Program, node: Node) -> str | None:
        if not isinstance(node.op, Relu) or not isinstance(program.graph.by_name[node.operands[0]].op, Relu):
            return None
        return node.name

    def check(self, program: Program, match: str) -> str | None:
        inner = program.graph.by_name[match].operands[0]
        return program.other_need(inner, match)

    def build(self, program: Program, match: str) -> Replacement:
        inner = program.graph.by_name[program.graph.by_name[match].operands[0]]
        return Replacement((Node(match, inner.op, inner.operands),), {})


def relus(count: int, *, also: int | None = None) -> Graph:
    build = GraphBuilder()
    x = build.input()
    names = [x := build.relu(x, name=f"image/relu{k}") for k in range(count)]
    outputs = {"stage4": names[-1]} | ({} if also is None else {"stage3": names[also]})
    return build.graph(outputs)


def test_rules_are_applied_until_none_fires() -> None:
    log = RewriteLog()
    graph, _ = rewrite(relus(4), {}, [OneReluLess()], log)
    assert [node.name for node in graph.nodes] == ["image", "image/relu3"]
    assert [item.node for item in log.fired] == ["image/relu1", "image/relu2", "image/relu3", "image/relu3"]
    assert log.not_fired == []


def test_only_the_last_word_on_a_place_is_reported() -> None:
    log = RewriteLog()
    graph, _ = rewrite(relus(4, also=1), {}, [OneReluLess()], log)
    assert [node.name for node in graph.nodes] == ["image", "image/relu1", "image/relu3"]
    assert log.not_fired == [
        NotFired("one-relu-less", "image/relu3", "image/relu1 is the output stage3"),
    ]
    assert Fired("one-relu-less", "image/relu3") in log.fired
    assert str(log).splitlines()[-1] == "one-relu-less left image/relu3: image/relu1 is the output stage3"


def test_what_is_stored_after_a_rewrite_has_a_name_of_its_own() -> None:
    graph = small_graph()
    optimized, weights = optimize(graph, ones(graph))
    assert list(optimized.parameters) == [
        "optimized.bn1.weight", "optimized.bn1.bias", "head.weight", "head.bias",
    ]  # fmt: skip
    assert optimized.parameters["optimized.bn1.weight"] == graph.parameters["conv1.weight"]
    np.testing.assert_array_equal(weights["head.weight"], np.ones((2, 4, 1, 1)))


def test_a_canonical_name_is_never_given_to_another_tensor() -> None:
    build = GraphBuilder()
    x = build.conv2d("optimized.bn1", build.input(), 3)
    x = build.batch_norm("bn1", build.conv2d("conv1", x, 4))
    graph = build.graph({"stage4": x})
    optimized, weights = optimize(graph, ones(graph))
    assert list(optimized.parameters) == [
        "optimized.bn1.weight", "optimized.bn1.weight_2", "optimized.bn1.bias",
    ]  # fmt: skip
    np.testing.assert_array_equal(weights["optimized.bn1.weight"], np.ones((3, 3, 1, 1)))


def test_a_canonical_name_stays_taken_when_its_tensor_is_gone() -> None:
    build = GraphBuilder()
    x = build.input()
    build.conv2d("optimized.bn1", x, 3)
    x = build.batch_norm("bn1", build.conv2d("conv1", x, 4))
    graph = build.graph({"stage4": x})
    optimized, _ = optimize(graph, ones(graph))
    assert list(optimized.parameters) == ["optimized.bn1.weight_2", "optimized.bn1.bias"]


def test_the_names_of_new_leaves_are_paths_without_slashes() -> None:
    build = GraphBuilder()
    ends = []
    for path in ("a/b", "a.b"):
        ends.append(build.batch_norm(path, build.conv2d(f"{path}.conv", build.input(f"{path}.in"), 2)))
    graph = build.graph({"stage4": ends[0], "stage3": ends[1]})
    optimized, _ = optimize(graph, ones(graph))
    assert list(optimized.parameters) == [
        "optimized.a.b.weight", "optimized.a.b.bias", "optimized.a.b.weight_2", "optimized.a.b.bias_2",
    ]  # fmt: skip


def test_the_inference_form_is_another_graph_and_no_checkpoint(tmp_path: Any) -> None:
    graph = small_graph()
    optimized, weights = optimize(graph, ones(graph))
    assert optimized.digest != graph.digest
    assert dict(optimized.notes) == {"architecture": "small"}
    problem = optimized.training_form_violation()
    assert problem is not None and problem.label == "training_c2"
    with pytest.raises(type(problem), match="training_c2"):
        save_directory(tmp_path / "model", optimized, weights)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_without_either_pattern_comes_back_as_it_was() -> None:
    build = GraphBuilder()
    graph = build.graph({"stage4": build.conv2d("head", build.input(), 2, bias=True)})
    optimized, weights = optimize(graph, ones(graph))
    assert optimized == graph and optimized.digest == graph.digest
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float64)}


def test_the_answer_shares_no_memory_with_the_weights_given() -> None:
    build = GraphBuilder()
    graph = build.graph({"stage4": build.conv2d("head", build.input(), 2)})
    given = {"head.weight": np.ones((2, 3, 1, 1))}
    _, weights = optimize(graph, given)
    assert not np.shares_memory(weights["head.weight"], given["head.weight"])


def test_what_no_output_needs_is_dropped_and_told_but_not_an_input() -> None:
    build = GraphBuilder()
    image, depth = build.input(), build.input("depth", channels=1)
    used = build.conv2d("used", image, 2)
    build.sigmoid(build.conv2d("unused", depth, 1))
    log = RewriteLog()
    graph = build.graph({"stage4": used})
    optimized, weights = optimize(graph, ones(graph), log=log)
    assert dict(optimized.inputs) == {"image": 3, "depth": 1}
    assert list(weights) == ["used.weight"]
    assert log.unneeded == ["unused.weight", "unused", "unused/sigmoid"]
    assert "no output needs unused" in str(log).splitlines()


def test_a_reader_that_no_output_needs_keeps_nothing_from_being_folded() -> None:
    build = GraphBuilder()
    x = build.conv2d("conv", build.input(), 2)
    build.relu(x)
    graph = build.graph({"stage4": build.batch_norm("bn", x)})
    log = RewriteLog()
    optimize(graph, ones(graph), log=log)
    assert log.fired == [Fired("fold-batch-norm", "bn")]


def narrow_network() -> Graph:
    named = variant("gsto-hrnet-w18-small-v2")
    return build(dataclasses.replace(named, widths=(2, 3, 4, 5), modules=(1, 1, 1), blocks=1, stem_width=3,
                                     layer1_width=2, layer1_blocks=1, classes=2))  # fmt: skip


def test_predictors_stay_while_somebody_asks_for_their_logits_or_a_gate_reads_them() -> None:
    graph = narrow_network()
    optimized, _ = optimize(graph, ones(graph))
    assert list(optimized.outputs) == ["stage4", "stage3", "stage2"]
    alone = dataclasses.replace(graph, outputs={"stage4": graph.outputs["stage4"]})
    fewer, _ = optimize(alone, ones(alone))
    assert graph.outputs["stage3"] in fewer.by_name


def test_predictors_that_nobody_needs_are_dropped() -> None:
    plain = dataclasses.replace(variant("hrnetv2-w18-small-v1"), supervised_stages=(3,))
    graph = build(plain)
    alone = dataclasses.replace(graph, outputs={"stage4": graph.outputs["stage4"]})
    optimized, weights = optimize(alone, ones(alone))
    assert graph.outputs["stage3"] not in optimized.by_name
    assert not [name for name in weights if "last_layer_stage3" in name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("head.bias"), "head.bias is missing"),
        (lambda w: w.update(other=np.ones(1)), "other is not declared"),
        (lambda w: w.update({"head.bias": np.ones(3)}), r"head.bias has shape \(3,\), expected \(2,\)"),
        (lambda w: w.update({"head.bias": np.array([1.0, np.nan])}), "head.bias is not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Any, message: str) -> None:
    graph = small_graph()
    weights = ones(graph)
    change(weights)
    with pytest.raises(WeightsError, match=message):
        optimize(graph, weights)


def test_leaves_that_two_convolutions_share_are_folded_for_each() -> None:
    build = GraphBuilder()
    image = build.input()
    kernel = build.parameter("kernel", Parameter((2, 3, 1, 1)))
    convolution = small_graph().by_name["head"].op
    ends = [build.batch_norm(f"bn{k}", build.apply(f"conv{k}", convolution, image, kernel)) for k in (1, 2)]
    graph = build.graph({"stage4": ends[0], "stage3": ends[1]})
    generator = np.random.default_rng(0)
    weights = {name: generator.uniform(0.5, 2, shape) for name, shape in graph.parameters.items()}
    inputs = {"image": generator.standard_normal((1, 3, 4, 5))}
    before, after = evaluate(graph, weights, inputs), evaluate(*optimize(graph, weights), inputs)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=0, atol=1e-12 * np.abs(value).max())


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["optimize", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_tells_what_fired_what_not_and_the_cost_before_and_after() -> None:
    lines = run("gsto-hrnet-w18-small-v2", "--size", "64x96").splitlines()
    assert "fold-batch-norm: fired 215, left 0" in lines
    place = lines.index("hoist-gate: fired 22, left 24")
    assert lines[place + 1] == "  left 24: its kernel is 3x3, and only a 1x1 kernel sees one place at a time"
    title = lines.index("input 1 x 3 x 64 x 96")
    before, after = (line.split() for line in lines[title + 2 : title + 4])
    assert (before[0], after[0]) == ("before", "after")
    assert before[1] == "3,966,276"
    assert int(before[3].replace(",", "")) > int(after[3].replace(",", ""))
    nodes = {line.split()[0]: line.split()[1:] for line in lines[title + 5 :]}
    assert nodes["batch_norm"] == ["215", "0"] and nodes["slice"][0] == "0"
    assert nodes["all"][0] == "843"


def test_the_command_tells_of_every_node_when_asked() -> None:
    lines = run("gsto-hrnet-w18-small-v2", "--size", "64x96", "--nodes").splitlines()
    assert "fold-batch-norm fired at bn1" in lines
    assert "hoist-gate fired at stage2.0.fuse_layers.0.1.1" in lines
    assert (
        "hoist-gate left transition2.2.0.1: its kernel is 3x3, and only a 1x1 kernel sees one place at a time"
    ) in lines


def test_the_command_s_json_says_the_same() -> None:
    rules = ("--rule", "fold-batch-norm", "--rule", "hoist-gate")
    told = json.loads(run("gsto-hrnet-w18-small-v2", "--size", "64x96", "--json", *rules))
    assert {"rule": "fold-batch-norm", "node": "bn1"} in told["fired"]
    assert len(told["fired"]) == 237 and len(told["not_fired"]) == 24
    assert {"rule", "node", "reason"} == set(told["not_fired"][0])
    assert told["unneeded"] == []
    before, after = told["cost"]["before"], told["cost"]["after"]
    assert before["convolutions"]["macs"] == after["convolutions"]["macs"]
    assert before["every-op"]["macs"] > after["every-op"]["macs"]
    assert "batch_norm" in before["every-op"]["by_op"] and "batch_norm" not in after["every-op"]["by_op"]
    assert told["nodes"]["before"]["batch_norm"] == 215 and "batch_norm" not in told["nodes"]["after"]
    assert told["graph_digest"]["before"] != told["graph_digest"]["after"]


def test_the_command_drops_what_chosen_outputs_do_not_need() -> None:
    plain = run("hrnetv2-w18-small-v1", "--size", "64x96", "--output", "stage4").splitlines()
    assert not any(line.startswith("needed by no output") for line in plain)
    lines = run("gsto-hrnet-w18-small-v2", "--size", "64x96", "--output", "stage2").splitlines()
    (dropped,) = (line for line in lines if line.startswith("needed by no output: "))
    assert int(dropped.split()[4]) > 100


def test_the_command_refuses_an_unknown_architecture_in_one_line() -> None:
    result = CliRunner().invoke(main, ["optimize", "gsto-hrnet-w19"])
    assert result.exit_code == 2
    assert result.output.startswith("gsto-spec: unknown architecture gsto-hrnet-w19 (nearest: gsto-hrnet-w18")
