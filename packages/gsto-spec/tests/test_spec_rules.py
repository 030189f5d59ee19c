"""Rules of the optimiser one by one: what each makes of a graph worked out by hand, and where it refuses."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gsto_spec import (
    Graph,
    GraphBuilder,
    GraphError,
    GstoError,
    RewriteLog,
    build,
    cost,
    evaluate,
    optimize,
    variant,
)
from gsto_spec.ops import (
    AdaptiveAvgPool,
    Add,
    Concat,
    Conv2d,
    Mul,
    Op,
    Parameter,
    Relu,
    Resize,
    Sigmoid,
    Slice,
)
from gsto_spec.passes import RULES

Weights = dict[str, NDArray[np.float64]]


def drawn(graph: Graph) -> Weights:
    generator = np.random.default_rng(0)
    weights = {name: generator.standard_normal(shape) for name, shape in graph.parameters.items()}
    return {name: abs(array) if "running_var" in name else array for name, array in weights.items()}


def optimized_by(graph: Graph, *rules: str) -> tuple[Graph, Weights]:
    """The graph that rules make, and its weights, after a look at whether it computes the same."""
    weights = drawn(graph)
    result, values = optimize(graph, weights, rules=rules)
    inputs = {
        name: np.random.default_rng(1).standard_normal((2, c, 9, 14)) for name, c in graph.inputs.items()
    }
    before, after = evaluate(graph, weights, inputs), evaluate(result, values, inputs)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=0, atol=1e-12 * max(1, np.abs(value).max()))
    return result, values


def reason(graph: Graph, rule: str) -> str:
    log = RewriteLog()
    optimize(graph, drawn(graph), rules=[rule], log=log)
    assert log.fired == [] and len(log.not_fired) == 1
    return log.not_fired[0].reason


def count(graph: Graph, op: type[Op]) -> int:
    return sum(isinstance(node.op, op) for node in graph.nodes)


def half(build: GraphBuilder, x: str, channels: int = 4) -> str:
    return build.conv2d(f"{x}.half", x, channels, kernel=3, stride=2)


def test_folded_weights_are_worked_out_by_hand() -> None:
    build = GraphBuilder(eps=1.0)
    y = build.batch_norm("norm", build.conv2d("conv", build.input(channels=1), 2, bias=True))
    values = {"conv.weight": np.array([2.0, 3.0]).reshape(2, 1, 1, 1), "conv.bias": np.array([1.0, 5.0]),
              "norm.weight": np.array([4.0, -6.0]), "norm.bias": np.array([0.5, 7.0]),
              "norm.running_mean": np.array([3.0, 4.0]),
              "norm.running_var": np.array([3.0, 8.0])}  # fmt: skip
    optimized, weights = optimize(build.graph({"stage4": y}), values)
    assert optimized.by_name["norm"].operands == ("image", "optimized.norm.weight", "optimized.norm.bias")
    assert weights["optimized.norm.weight"].ravel().tolist() == [2.0 * 2.0, -2.0 * 3.0]
    assert weights["optimized.norm.bias"].tolist() == [2.0 * (1.0 - 3.0) + 0.5, -2.0 * (5.0 - 4.0) + 7.0]


def test_a_bias_added_to_a_feature_map_is_repeated_everywhere() -> None:
    build = GraphBuilder()
    bias = build.parameter("bias", Parameter((1, 3, 1, 1)))
    graph = build.graph({"stage4": build.add([build.input(), bias], name="image/biased")})
    inputs = {"image": np.random.default_rng(0).standard_normal((2, 3, 4, 5))}
    value = np.array([1.0, 2.0, 3.0])
    result = evaluate(graph, {"bias": value.reshape(1, 3, 1, 1)}, inputs)["stage4"]
    np.testing.assert_array_equal(result, inputs["image"] + value[:, None, None])


def test_constants_are_computed_once() -> None:
    build = GraphBuilder()
    bias, scale = (build.parameter(name, Parameter((1, 3, 1, 1))) for name in ("bias", "scale"))
    constant = build.mul(scale, build.apply("bias/relu", Relu(), bias), name="bias/scaled")
    result, weights = optimized_by(
        build.graph({"stage4": build.add([build.input(), constant], name="image/sum")}), "fold-constants"
    )
    assert list(weights) == ["optimized.bias.scaled.value"]
    assert count(result, Mul) == count(result, Relu) == 0


def test_a_projection_moves_behind_an_average_to_fewer_places() -> None:
    build = GraphBuilder()
    image = build.input()
    grid = build.avg_pool(image, 1, 2, name="image/grid")
    x = build.conv2d("project", image, 5, bias=True)
    graph = build.graph({"stage4": build.adaptive_avg_pool(x, like=grid, name="project/down")})
    result, _ = optimized_by(graph, "project-after-shrinking")
    end = result.by_name["project/down"]
    assert isinstance(end.op, Conv2d) and isinstance(result.by_name[end.operands[0]].op, AdaptiveAvgPool)
    shape = (1, 3, 64, 64)
    assert cost(result, shape).macs * 4 == cost(graph, shape).macs


def shrinking(build: GraphBuilder, x: str, *, padding: int = 0) -> str:
    return build.avg_pool(x, 3, 2, padding=padding, name="project/down")


def test_a_projection_stays_in_front_where_moving_changes_or_costs_something() -> None:
    def found(*, channels: int = 5, padding: int = 0, kernel: int = 1, twice: bool = False) -> str:
        build = GraphBuilder()
        x = build.conv2d("project", build.input(channels=40), channels, kernel=kernel, bias=True)
        ends = {"stage4": shrinking(build, x, padding=padding)} | ({"stage3": x} if twice else {})
        return reason(build.graph(ends), "project-after-shrinking")

    assert found(padding=1) == "its padding is (1, 1, 1, 1), so its weights need not add up to 1"
    assert found(kernel=3).startswith("its kernel is 3x3")
    assert found(twice=True) == "project is the output stage3"
    assert found(channels=1) == "40 channels cost more to shrink than it saves"


def head(*, channels: int = 6, kernel: int = 1, method: Any = "bilinear", twice: bool = False) -> Graph:
    build = GraphBuilder()
    image = build.input()
    low = half(build, image)
    lower = build.conv2d("lower", low, 5, kernel=3, stride=2)
    parts = [build.resize(x, like=image, method=method, name=f"{x}/up") for x in (low, lower)]
    x = build.conv2d("head", build.concat([parts[0], image, parts[1]], name="all"), channels, kernel=kernel,
                     bias=True)  # fmt: skip
    return build.graph(
        {"stage4": build.relu(x)} | ({"stage3": parts[0], "stage2": parts[1]} if twice else {})
    )


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_a_head_is_computed_before_its_maps_are_enlarged(method: str) -> None:
    graph = head(method=method)
    result, weights = optimized_by(graph, "project-before-enlarging")
    end = result.by_name["head"]
    assert isinstance(end.op, Add) and count(result, Concat) == 0
    whole, *parts = (result.by_name[name] for name in end.operands)
    assert whole.operands[0] == "image" and whole.operands[2] == "head.bias"
    assert [type(part.op) for part in parts] == [Resize, Resize]
    sources = [result.by_name[part.operands[0]].operands[0] for part in parts]
    assert sources == ["image.half", "lower"]
    kernels = [weights[result.by_name[part.operands[0]].operands[1]] for part in parts]
    given = drawn(graph)["head.weight"]
    np.testing.assert_array_equal(kernels[0], given[:, :4])
    np.testing.assert_array_equal(kernels[1], given[:, 7:])


def test_a_head_of_one_enlarged_map_alone_keeps_its_bias() -> None:
    build = GraphBuilder()
    image = build.input()
    up = build.resize(half(build, image), like=image, name="up")
    graph = build.graph({"stage4": build.conv2d("head", up, 3, bias=True)})
    result, _ = optimized_by(graph, "project-before-enlarging")
    end = result.by_name["head"]
    assert isinstance(end.op, Resize) and result.by_name[end.operands[0]].operands[2] == "head.bias"


def test_a_head_stays_where_moving_changes_or_costs_something() -> None:
    assert reason(head(kernel=3), "project-before-enlarging").startswith("its kernel is 3x3")
    costlier = "no resize enlarges a map that is cheaper to convolve before"
    assert reason(head(twice=True), "project-before-enlarging") == costlier
    build = GraphBuilder()
    image = build.input()
    down = build.resize(image, like=half(build, image), name="down")
    graph = build.graph({"stage4": build.conv2d("head", down, 3)})
    assert reason(graph, "project-before-enlarging") == costlier


def test_sums_become_flat_unless_somebody_else_reads_the_inner_one() -> None:
    build = GraphBuilder()
    image = build.input()
    a, b = build.relu(image), build.relu(image)
    inner = build.add([a, b], name="inner")
    total = build.add([image, inner], name="total")
    graph = build.graph({"stage4": total})
    assert optimized_by(graph, "flatten-sum")[0].by_name["total"].operands == (image, a, b)
    both = build.graph({"stage4": total, "stage3": inner})
    assert reason(both, "flatten-sum") == "inner is the output stage3"


def resized_sum(methods: tuple[Any, Any], *, plain: bool = True) -> Graph:
    build = GraphBuilder()
    image = build.input()
    low = build.conv2d("low", image, 3, kernel=3, stride=2)
    lows = (low, build.relu(low))
    ups = [build.resize(x, like=image, method=m, name=f"up{k}")
           for k, (x, m) in enumerate(zip(lows, methods, strict=True))]  # fmt: skip
    return build.graph({"stage4": build.add([*([image] if plain else []), *ups], name="total")})


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
@pytest.mark.parametrize("plain", [True, False])
def test_what_comes_from_one_size_is_resized_once(method: str, plain: bool) -> None:
    result, _ = optimized_by(resized_sum((method, method), plain=plain), "sum-before-resize")
    assert count(result, Resize) == 1
    assert isinstance(result.by_name["total"].op, Add if plain else Resize)


def test_resizes_of_two_methods_stay_two() -> None:
    assert reason(resized_sum(("bilinear", "nearest")), "sum-before-resize") == (
        "its resizes differ in method or source size, or something else reads them"
    )


def biased(*, convolution: bool, resizes: int, method: Any = "bilinear") -> Graph:
    build = GraphBuilder()
    image = build.input()
    terms = [build.conv2d("same", image, 3)] if convolution else [image]
    x = image
    for k in range(resizes):
        x = build.relu(build.conv2d(f"low{k}", x, 3, kernel=3, stride=2))
        bias = build.parameter(f"bias{k}", Parameter((1, 3, 1, 1)))
        outside = build.add([x, bias], name=f"low{k}/biased")
        terms.append(build.resize(outside, like=image, method=method, name=f"up{k}"))
    terms.append(build.parameter("bias", Parameter((1, 3, 1, 1))))
    return build.graph({"stage4": build.add(terms, name="total")})


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_a_convolution_takes_all_biases_of_a_sum(method: str) -> None:
    graph = biased(convolution=True, resizes=2, method=method)
    result, weights = optimized_by(graph, "merge-biases")
    given = drawn(graph)
    assert [name for name in weights if "bias" in name] == ["optimized.same.bias"]
    wanted = (given["bias"] + given["bias0"] + given["bias1"]).ravel()
    np.testing.assert_allclose(weights["optimized.same.bias"], wanted, rtol=1e-15)
    assert count(result, Add) == 1


def test_without_a_convolution_the_lowest_map_takes_the_biases() -> None:
    result, weights = optimized_by(biased(convolution=False, resizes=2), "merge-biases")
    (leaf,) = (name for name in weights if "bias" in name)
    (user,) = (node for node in result.nodes if leaf in node.operands)
    assert "low1/relu" in " ".join(user.operands) or user.operands[0] == "low1/relu"
    assert count(result, Add) == 2


def test_a_lonely_bias_stays_where_it_is() -> None:
    graph = biased(convolution=False, resizes=0)
    assert (
        reason(graph, "merge-biases") == "it adds one bias, and none of its terms is a convolution that could"
    )


def test_a_sum_of_a_convolution_and_a_bias_is_that_convolution() -> None:
    build = GraphBuilder()
    x = build.conv2d("conv", build.input(), 4, kernel=3, bias=True)
    total = build.add([x, build.parameter("bias", Parameter((1, 4, 1, 1)))], name="total")
    result, _ = optimized_by(build.graph({"stage4": total}), "merge-biases")
    assert isinstance(result.by_name["total"].op, Conv2d)


def test_without_a_bias_the_gate_comes_last() -> None:
    build = GraphBuilder()
    image = build.input()
    g = build.sigmoid(build.conv2d("gate", image, 1))
    y = build.conv2d("project", build.mul(g, image, name="image/gated"), 2)
    result, _ = optimized_by(build.graph({"stage4": y}), "hoist-gate")
    assert isinstance(result.by_name["project"].op, Mul)


def gates(*, channels: int = 4) -> Graph:
    build = GraphBuilder()
    x = build.conv2d("branch", build.input(), channels, kernel=3)
    products = []
    for k in range(3):
        g = build.sigmoid(build.relu(build.conv2d(f"gate{k}", x, 1, bias=k > 0)))
        projected = build.conv2d(f"project{k}", x, 2)
        products.append(build.mul(g, projected, name=f"gated{k}"))
    return build.graph({"stage4": build.concat(products, name="all")})


def test_gates_and_projections_of_a_branch_are_one_convolution() -> None:
    result, weights = optimized_by(gates(), "merge-convolutions", "merge-pointwise")
    assert count(result, Conv2d) == 2 and count(result, Relu) == count(result, Sigmoid) == 1
    merged = next(node for node in result.nodes if isinstance(node.op, Conv2d) and node.name != "branch")
    kernel, bias = (weights[name] for name in merged.operands[1:])
    given = drawn(gates())
    # What a relu reads comes together, so that one relu does for the three gates.
    order = ["project0", "project1", "project2", "gate0", "gate1", "gate2"]
    np.testing.assert_array_equal(kernel, np.concatenate([given[f"{name}.weight"] for name in order]))
    assert not bias[:7].any()
    assert bias[7:].tolist() == [given["gate1.bias"][0], given["gate2.bias"][0]]
    assert all(isinstance(result.by_name[f"project{k}"].op, Slice) for k in range(3))


def test_convolutions_stay_apart_where_one_would_not_be_cheaper() -> None:
    def found(channels: int, kernel: int) -> str:
        build = GraphBuilder()
        x = build.input(channels=4)
        ends = [build.conv2d(f"conv{k}", x, channels, kernel=kernel) for k in (0, 1)]
        return reason(build.graph({"stage4": build.concat(ends, name="all")}), "merge-convolutions")

    assert found(4, 1) == "conv0 writes 4 channels and reads 4"
    assert found(2, 3) == "3x3 kernels cost much to compute, and reading twice adds little"


def test_slices_that_do_not_touch_keep_their_relus() -> None:
    build = GraphBuilder()
    x = build.input(channels=6)
    ends = [build.relu(build.slice(x, start, start + 2)) for start in (0, 4)]
    graph = build.graph({"stage4": build.concat(ends, name="all")})
    assert optimized_by(graph, "merge-pointwise")[0] == graph


def narrow(**fields: Any) -> Graph:
    named = variant("gsto-hrnet-w18-small-v2")
    return build(dataclasses.replace(named, widths=(4, 5, 6, 7), modules=(1, 1, 1), blocks=1, stem_width=3,
                                     layer1_width=2, layer1_blocks=1, classes=2, **fields))  # fmt: skip


@pytest.mark.parametrize("form", ["release", "paper"])
@pytest.mark.parametrize("rule", RULES)
def test_each_rule_alone_keeps_what_a_network_computes(form: str, rule: str) -> None:
    optimized_by(narrow(form=form), *dict.fromkeys(["fold-batch-norm", rule]))


def test_the_order_in_which_rules_are_asked_for_changes_nothing() -> None:
    graph = narrow()
    first, again = (
        optimize(graph, drawn(graph), rules=rules)[0] for rules in (RULES, reversed(tuple(RULES)))
    )
    assert first == again and first.digest == again.digest


def test_outputs_that_nobody_asks_for_are_dropped_with_what_they_alone_need() -> None:
    graph = narrow(transition_gate="unsupervised")
    log = RewriteLog()
    result, weights = optimize(graph, drawn(graph), outputs=["stage4"], log=log)
    assert list(result.outputs) == ["stage4"]
    assert graph.outputs["stage3"] in log.unneeded
    assert not [name for name in weights if "last_layer_stage3" in name]
    both, _ = optimize(graph, drawn(graph), outputs=["stage2", "stage4"])
    assert list(both.outputs) == ["stage4", "stage2"]


def test_wrong_names_are_one_line_with_the_nearest() -> None:
    graph = narrow()
    with pytest.raises(GraphError, match=r"found stage5 \(nearest: stage") as wrong_output:
        optimize(graph, drawn(graph), outputs=["stage5"])
    assert wrong_output.value.label == "graph_c4"
    with pytest.raises(GstoError, match=r"found hoist-gates \(nearest: hoist-gate\)"):
        optimize(graph, drawn(graph), rules=["hoist-gates"])


PAGE = (Path(__file__).parents[3] / "docs" / "optimize.md").read_text(encoding="utf-8")


def test_the_page_on_optimising_runs_and_names_every_rule_in_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    space: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for block in (block for block in blocks if not re.search("gsto_torch|gsto_jax", block)):
        exec(compile(block, "docs/optimize.md", "exec"), space)
    assert capsys.readouterr().out == "False ['stage4']\n"
    assert re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE) == list(RULES)
