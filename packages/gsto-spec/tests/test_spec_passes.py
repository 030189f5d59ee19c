"""Optimised graphs compute what the declared ones do: random graphs, and narrow networks of both forms."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gsto_spec import Graph, GraphBuilder, GraphError, HRNet, RewriteLog, build, cost, evaluate, optimize
from gsto_spec.cost import Counting
from gsto_spec.graph import Node
from gsto_spec.ops import AdaptiveAvgPool, Add, BatchNorm, Conv2d, Mul, Parameter, Relu, Sigmoid
from gsto_spec.passes_fold import FoldBatchNorm
from gsto_spec.passes_gate import Gated, HoistGate
from gsto_spec.reference import compute, evaluate_nodes
from gsto_spec.rewrite import Program, Replacement, Rule, rewrite

Array = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]
SIZE = (7, 6)
EXACT = 1e-12
"""Of the magnitude that was summed: about 4,500 roundings."""


def random_weights(graph: Graph, seed: int) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(seed)
    weights: dict[str, NDArray[Any]] = {}
    for name, shape in graph.parameters.items():
        if name.endswith("running_var"):
            weights[name] = generator.uniform(0.5, 2.0, shape)
        else:
            weights[name] = generator.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
    return weights


def random_image(graph: Graph, seed: int, size: tuple[int, int] = SIZE) -> dict[str, Array]:
    generator = np.random.default_rng([seed, 1])
    return {name: generator.standard_normal((2, c, *size)) for name, c in graph.inputs.items()}


def channels(graph: Graph) -> int:
    return graph.inputs["image"]


def magnitudes(graph: Graph, weights: Arrays, inputs: Arrays) -> dict[str, Array]:
    """Of every node the sum of the absolute values that its value was summed from."""
    leaves: Arrays = {**weights, **inputs}
    sums: dict[str, Array] = {}
    for node in graph.order:
        operands = [sums[name] for name in node.operands]
        match node.op:
            case BatchNorm(eps=eps):
                x, gamma, beta, mean, variance = (v if v.ndim == 4 else v[:, None, None] for v in operands)
                sums[node.name] = (x + mean) / np.sqrt(variance + eps) * gamma + beta
            case Sigmoid():
                sums[node.name] = 1 + operands[0]
            case op if not operands:
                sums[node.name] = np.abs(leaves[node.name])
            case op:
                sums[node.name] = compute(op, operands)  # type: ignore[arg-type]
    return sums


def disagreement(graph: Graph, weights: Arrays, other: Graph, others: Arrays, inputs: Arrays) -> float:
    """The worst difference of a node that both graphs have, over its magnitude and `EXACT`."""
    before, after = evaluate_nodes(graph, weights, inputs), evaluate_nodes(other, others, inputs)
    bounds = magnitudes(graph, weights, inputs)
    shared = [name for name in before if name in after]
    assert set(graph.outputs.values()) <= set(shared)
    return max(
        float(np.abs(before[name] - after[name]).max() / (EXACT * bounds[name].max() + 1e-300))
        for name in shared
    )


class Sketch:
    """A random graph in the making; `draw` decides."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.build = GraphBuilder()
        self.maps = [self.build.input("image", channels=draw(st.integers(1, 3)))]

    def any_map(self) -> str:
        return self.draw(st.sampled_from(self.maps))

    def conv(self, x: str) -> str:
        build, draw = self.build, self.draw
        groups = draw(st.sampled_from([1, build.channels(x)]))
        return build.conv2d(
            f"conv{len(self.maps)}", x, groups * draw(st.integers(1, 4)),
            kernel=draw(st.sampled_from([1, 1, 3])), stride=draw(st.sampled_from([1, 1, 1, 2])),
            dilation=draw(st.integers(1, 2)),
            groups=groups, bias=draw(st.booleans()),
        )  # fmt: skip

    def norm(self, x: str) -> str:
        return self.build.batch_norm(f"norm{len(self.maps)}", x)

    def relu(self, x: str) -> str:
        return self.build.relu(x, name=f"node{len(self.maps)}/relu")

    def gated(self, x: str) -> str:
        """A product with a gate of 1 channel, of as many as x, of one value per picture, or of x itself."""
        build, number = self.build, len(self.maps)
        channels = self.draw(st.sampled_from([1, 1, 1, build.channels(x)]))
        g = build.sigmoid(build.conv2d(f"gate{number}", x, channels), name=f"node{number}/gate")
        if self.draw(st.booleans()):
            g = build.apply(f"node{number}/pooled", AdaptiveAvgPool((1, 1)), g)
        factors = self.draw(st.permutations([g, x]))
        return build.mul(factors[0], factors[1], name=f"node{number}/gated")

    def united(self, x: str) -> str:
        like = self.any_map()
        resized = self.build.resize(x, like=like, name=f"node{len(self.maps)}/resized")
        return self.build.concat([resized, like], name=f"node{len(self.maps)}/united")

    def number(self) -> str:
        return f"node{len(self.maps)}"

    def biased(self, x: str) -> str:
        """A bias, stored or computed of two stored tensors."""
        build, number, shape = self.build, self.number(), (1, self.build.channels(x), 1, 1)
        bias = build.parameter(f"{number}.bias", Parameter(shape))
        if self.draw(st.booleans()):
            scale = build.parameter(f"{number}.scale", Parameter((1, 1, 1, 1)))
            bounded = build.apply(f"{number}/sigmoid", Sigmoid(), bias)
            bias = build.mul(scale, bounded, name=f"{number}/scaled")
        return build.add([x, bias], name=f"{number}/biased")

    def fused(self, x: str) -> str:
        """x and projections of other maps, some gated, some biased, brought to its size."""
        build, draw, place = self.build, self.draw, self.number()
        terms = [x]
        for k in range(draw(st.integers(1, 4))):
            y = self.any_map()
            y = self.gated_by(y, f"{place}.gate{k}") if draw(st.booleans()) else y
            y = build.conv2d(f"{place}.project{k}", y, build.channels(x), bias=draw(st.booleans()))
            y = build.batch_norm(f"{place}.norm{k}", y) if draw(st.booleans()) else y
            method = draw(st.sampled_from(["bilinear", "bilinear", "nearest"]))
            terms.append(build.resize(y, like=x, method=method, name=f"{place}/resize{k}"))  # type: ignore[arg-type]
        if draw(st.booleans()):
            terms[:2] = [build.add(terms[:2], name=f"{place}/inner")]
        return build.add(terms, name=f"{place}/sum") if len(terms) > 1 else build.relu(terms[0])

    def gated_by(self, x: str, path: str) -> str:
        g = self.build.sigmoid(self.build.conv2d(path, x, 1, bias=True))
        return self.build.mul(g, x, name=f"{path}/gated")

    def shrunk(self, x: str) -> str:
        """A projection brought to fewer places, or to those of any other map."""
        build, place = self.build, self.number()
        x = build.conv2d(f"{place}.project", x, self.draw(st.integers(1, 5)), bias=True)
        how = self.draw(st.sampled_from(["grid", "pool", "one", "resize", "like"]))
        if how == "one":
            x = build.adaptive_avg_pool(x, size=(1, 1))
            return build.resize(x, like="image", name=f"{place}/shrunk")
        grid = self.any_map() if how == "like" else build.avg_pool(x, 1, 2, name=f"{place}/grid")
        if how == "pool":
            return build.resize(build.avg_pool(x, 2, 1), like="image", name=f"{place}/shrunk")
        if how == "resize":
            return build.resize(x, like=grid, name=f"{place}/shrunk")
        return build.adaptive_avg_pool(x, like=grid, name=f"{place}/shrunk")

    def siblings(self, x: str) -> str:
        """Projections of one map, each with a relu or sigmoid, together again."""
        build, draw, place = self.build, self.draw, self.number()
        ends = []
        for k in range(draw(st.integers(2, 4))):
            y = build.conv2d(f"{place}.project{k}", x, draw(st.integers(1, 2)), bias=draw(st.booleans()))
            ends.append(draw(st.sampled_from([build.relu, build.sigmoid]))(y))
        return build.concat(ends, name=f"{place}/together")

    def step(self) -> None:
        """One part, usually several in the order in which networks have them."""
        chains = ("conv norm", "gated conv", "gated conv norm", "gated conv norm relu",
                  "gated gated conv norm conv", "norm", "relu", "conv", "united", "united conv", "biased",
                  "biased biased conv", "fused", "fused", "conv fused", "shrunk", "siblings")  # fmt: skip
        x = self.any_map()
        for part in self.draw(st.sampled_from(chains)).split():
            x = getattr(self, part)(x)
            self.maps.append(x)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    sketch = Sketch(draw)
    for _ in range(draw(st.integers(1, 4))):
        sketch.step()
    ends = draw(st.lists(st.sampled_from(sketch.maps[1:]), min_size=1, max_size=3, unique=True))
    ends = draw(st.sampled_from([ends, sketch.maps[-1:]]))
    return sketch.build.graph({f"stage{4 - k}": end for k, end in enumerate(ends)})


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    supervised = draw(st.sampled_from([(), (2, 3), (1, 2, 3), (3,)]))
    gates: list[Any] = [None, "unsupervised", *(["supervised"] if supervised else [])]
    variant = HRNet(
        widths=(3, 4, 5, 6), modules=(1, 1, 1), blocks=1, stem_width=3, layer1_width=2, layer1_blocks=1,
        classes=draw(st.integers(1, 3)), form=draw(st.sampled_from(["release", "paper"])),
        upsampling=draw(st.sampled_from(["bilinear", "nearest"])), align_corners=draw(st.booleans()),
        head=draw(st.sampled_from(["hrnetv2", "hrnetv1"])),
        fusion_gate=draw(st.sampled_from([None, "unsupervised"])), supervised_stages=supervised,
        transition_gate=draw(st.sampled_from(gates)),
    )  # fmt: skip
    return build(variant)


@settings(max_examples=200)
@given(graph=graphs(), seed=st.integers(0, 2**32 - 1))
def test_every_kept_node_of_a_random_graph_keeps_its_value(graph: Graph, seed: int) -> None:
    weights, inputs = random_weights(graph, seed), random_image(graph, seed)
    optimized, optimized_weights = optimize(graph, weights)
    assert disagreement(graph, weights, optimized, optimized_weights, inputs) <= 1


@settings(max_examples=25)
@given(
    graph=networks(), seed=st.integers(0, 2**32 - 1), size=st.tuples(st.integers(1, 40), st.integers(1, 40))
)
def test_a_network_of_either_form_keeps_its_outputs(graph: Graph, seed: int, size: tuple[int, int]) -> None:
    weights, inputs = random_weights(graph, seed), random_image(graph, seed, size)
    before = evaluate(graph, weights, inputs)
    after = evaluate(*optimize(graph, weights), inputs)
    assert list(before) == list(after)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=0, atol=EXACT * np.abs(value).max(), err_msg=name)


@given(graph=st.one_of(graphs(), networks()))
def test_outputs_inputs_and_shapes_are_kept(graph: Graph) -> None:
    optimized, weights = optimize(graph, random_weights(graph, 0))
    assert list(optimized.outputs.items()) == list(graph.outputs.items())
    assert optimized.inputs == graph.inputs
    before, after = graph.check((1, channels(graph), 33, 21)), optimized.check((1, channels(graph), 33, 21))
    assert [after[node] for node in graph.outputs.values()] == [
        before[node] for node in graph.outputs.values()
    ]
    assert {name: array.shape for name, array in weights.items()} == optimized.parameters
    assert {array.dtype for array in weights.values()} <= {np.dtype(np.float64)}
    assert Graph.from_json(optimized.to_json()) == optimized


@given(graph=st.one_of(graphs(), networks()))
def test_optimizing_twice_changes_nothing_more(graph: Graph) -> None:
    once, weights = optimize(graph, random_weights(graph, 0))
    log = RewriteLog()
    twice, same_weights = optimize(once, weights, log=log)
    assert twice == once
    assert log.fired == [] and log.unneeded == []
    assert all(np.array_equal(weights[name], same_weights[name]) for name in once.parameters)


@given(graph=st.one_of(graphs(), networks()), counting=st.sampled_from(get_args(Counting)))
def test_multiply_adds_never_grow(graph: Graph, counting: Counting) -> None:
    optimized, _ = optimize(graph, random_weights(graph, 0))
    shape = (1, channels(graph), 64, 96)
    assert cost(optimized, shape, counting=counting).macs <= cost(graph, shape, counting=counting).macs


@given(graph=st.one_of(graphs(), networks()))
def test_what_is_left_of_either_pattern_has_a_reason(graph: Graph) -> None:
    log = RewriteLog()
    optimized, _ = optimize(graph, random_weights(graph, 0), log=log)
    rules = (FoldBatchNorm.name, HoistGate.name)
    left = {(item.rule, item.node) for item in log.not_fired if item.rule in rules}
    norms = {("fold-batch-norm", n.name) for n in optimized.nodes if isinstance(n.op, BatchNorm)}
    gated = {
        ("hoist-gate", n.name) for n in optimized.nodes
        if isinstance(n.op, Conv2d) and isinstance(optimized.by_name[n.operands[0]].op, Mul)
    }  # fmt: skip
    assert left == norms | gated
    assert all(item.reason for item in log.not_fired)


@settings(max_examples=30)
@given(graph=networks())
def test_a_network_keeps_no_batch_norm_and_is_no_longer_trained(graph: Graph) -> None:
    optimized, _ = optimize(graph, random_weights(graph, 0))
    assert not any(isinstance(node.op, BatchNorm) for node in optimized.nodes)
    assert optimized.digest != graph.digest
    assert optimized.training_form_violation() is not None


def test_the_gates_of_the_released_network_are_hoisted_over_every_up_projection() -> None:
    log = RewriteLog()
    graph = build("gsto-hrnet-w18-small-v2")
    optimize(graph, {name: np.zeros(shape) for name, shape in graph.parameters.items()}, log=log)
    modules_by_branches = {2: 1, 3: 3, 4: 2}
    up_paths = sum(count * k * (k - 1) // 2 for k, count in modules_by_branches.items())
    branches = sum(count * k for k, count in modules_by_branches.items())
    norms = sum(isinstance(node.op, BatchNorm) for node in graph.nodes)
    fired = Counter(item.rule for item in log.fired)
    assert fired["fold-batch-norm"] == norms and fired["hoist-gate"] == up_paths
    assert fired["merge-convolutions"] == branches and fired["merge-pointwise"] == 2 * branches
    assert fired["project-before-enlarging"] == 3
    left = [item for item in log.not_fired if item.rule == "hoist-gate"]
    assert left and all("kernel is 3x3" in item.reason for item in left)


class BiasInsideGate(HoistGate):
    """The mistake that looks right: the whole convolution, bias included, comes before the gate."""

    def build(self, program: Program, match: Gated) -> Replacement:
        node = match.node
        assert match.gate is not None
        inside = Node(program.free_name(f"{node.name}/ungated"), match.op, (match.source, *node.operands[1:]))
        return Replacement((inside, Node(node.name, Mul(), (match.gate, inside.name))), {})


def gated_projection(*, bias: bool, norm: bool) -> Graph:
    build = GraphBuilder()
    image = build.input()
    g = build.sigmoid(build.conv2d("gate", image, 1))
    y = build.conv2d("project", build.mul(g, image, name="image/gated"), 2, bias=bias)
    return build.graph({"stage4": build.batch_norm("norm", y) if norm else y})


@pytest.mark.parametrize(("bias", "norm"), [(True, False), (False, True), (True, True)])
def test_a_bias_inside_the_gate_would_be_seen(bias: bool, norm: bool) -> None:
    graph = gated_projection(bias=bias, norm=norm)
    weights, inputs = random_weights(graph, 3), random_image(graph, 3)
    rules: Sequence[Rule[Any]] = (FoldBatchNorm(), BiasInsideGate())
    wrong = rewrite(graph, weights, rules, RewriteLog())
    assert disagreement(graph, weights, *wrong, inputs) > 1e9
    right = optimize(graph, weights)
    assert disagreement(graph, weights, *right, inputs) <= 1


TWO = ("fold-batch-norm", "hoist-gate")
"""What these tests are about: other rules would work on what they leave."""


@pytest.mark.parametrize(("bias", "norm"), [(True, False), (False, True), (True, True)])
def test_the_bias_is_added_after_the_gate(bias: bool, norm: bool) -> None:
    optimized, _ = optimize(*with_weights(gated_projection(bias=bias, norm=norm)), rules=TWO)
    end = optimized.by_name[optimized.outputs["stage4"]]
    assert isinstance(end.op, Add)
    product, outside = (optimized.by_name[name] for name in end.operands)
    assert isinstance(product.op, Mul) and outside.op == Parameter((1, 2, 1, 1))
    convolution = optimized.by_name[product.operands[1]]
    assert isinstance(convolution.op, Conv2d) and convolution.operands[0] == "image"
    assert len(convolution.operands) == 2


def with_weights(graph: Graph, seed: int = 0) -> tuple[Graph, dict[str, NDArray[Any]]]:
    return graph, random_weights(graph, seed)


def reasons(graph: Graph) -> dict[tuple[str, str], str]:
    log = RewriteLog()
    optimize(*with_weights(graph), rules=TWO, log=log)
    return {(item.rule, item.node): item.reason for item in log.not_fired}


def test_a_convolution_that_is_read_twice_keeps_its_batch_norm() -> None:
    build = GraphBuilder()
    x = build.conv2d("conv", build.input(), 3)
    y = build.add([build.batch_norm("norm", x), build.relu(x)], name="end/sum")
    assert reasons(build.graph({"stage4": y})) == {
        ("fold-batch-norm", "norm"): "conv is read by conv/relu too"
    }


def test_a_convolution_that_is_an_output_keeps_its_batch_norm() -> None:
    build = GraphBuilder()
    x = build.conv2d("conv", build.input(), 3)
    graph = build.graph({"stage4": build.batch_norm("norm", x), "stage3": x})
    assert reasons(graph) == {("fold-batch-norm", "norm"): "conv is the output stage3"}


def test_a_batch_norm_over_something_else_stays() -> None:
    build = GraphBuilder()
    x = build.relu(build.conv2d("conv", build.input(), 3))
    assert reasons(build.graph({"stage4": build.batch_norm("norm", x)})) == {
        ("fold-batch-norm", "norm"): "it normalises conv/relu, which is no conv2d but relu"
    }


def test_a_reader_of_a_convolution_is_named_once() -> None:
    build = GraphBuilder()
    x = build.conv2d("conv", build.input(), 3)
    y = build.add([build.batch_norm("norm", x), build.mul(x, x, name="conv/squared")], name="end/sum")
    assert reasons(build.graph({"stage4": y})) == {
        ("fold-batch-norm", "norm"): "conv is read by conv/squared too"
    }


def test_computed_weights_stay() -> None:
    build = GraphBuilder()
    kernel = build.apply("kernel/relu", Relu(), build.parameter("kernel", Parameter((1, 3, 1, 1))))
    x = build.apply("conv", Conv2d(), build.input(), kernel)
    assert reasons(build.graph({"stage4": build.batch_norm("norm", x)})) == {
        ("fold-batch-norm", "norm"): "kernel/relu is computed, not stored"
    }


def test_a_gate_stays_before_a_computed_bias() -> None:
    build = GraphBuilder()
    image = build.input()
    gated = build.mul(build.sigmoid(build.conv2d("gate", image, 1)), image, name="image/gated")
    kernel, bias = (
        build.parameter(*leaf) for leaf in (("k", Parameter((2, 3, 1, 1))), ("b", Parameter((2,))))
    )
    computed = build.apply("b/relu", Relu(), bias)
    graph = build.graph({"stage4": build.apply("conv", Conv2d(), gated, kernel, computed)})
    assert reasons(graph) == {("hoist-gate", "conv"): "b/relu is computed, not stored"}


def test_a_gate_of_a_stored_tensor_stays() -> None:
    build = GraphBuilder()
    g = build.sigmoid(build.conv2d("gate", build.input(), 1))
    product = build.mul(g, build.parameter("pattern", Parameter((1, 3, 1, 1))), name="gate/pattern")
    assert reasons(build.graph({"stage4": build.conv2d("conv", product, 2)})) == {
        ("hoist-gate", "conv"): "gate/pattern is not a gate of 1 channel times a feature map"
    }


def gate_reason(*, gate_channels: int = 1, channels: int = 2, output: bool = False, twice: bool = False,
                **window: Any) -> str:  # fmt: skip
    build = GraphBuilder()
    image = build.input()
    g = build.sigmoid(build.conv2d("gate", image, gate_channels))
    gated = build.mul(g, image, name="image/gated")
    outputs = {"stage4": build.conv2d("conv", gated, channels, **window)}
    outputs |= {"stage3": gated} if output else {}
    outputs |= {"stage2": build.relu(gated)} if twice else {}
    found = reasons(build.graph(outputs))
    assert set(found) <= {("hoist-gate", "conv")}
    return found.get(("hoist-gate", "conv"), "")


def test_gates_that_may_not_or_need_not_be_hoisted_have_their_reason() -> None:
    assert gate_reason() == ""
    assert gate_reason(dilation=2) == ""
    assert gate_reason(gate_channels=3) == "image/gated is not a gate of 1 channel times a feature map"
    assert gate_reason(kernel=3) == "its kernel is 3x3, and only a 1x1 kernel sees one place at a time"
    assert gate_reason(stride=2) == (
        "its stride is (2, 2) and its padding (0, 0, 0, 0), so places do not stay"
    )
    assert gate_reason(padding=1) == (
        "its stride is (1, 1) and its padding (1, 1, 1, 1), so places do not stay"
    )
    assert gate_reason(channels=4) == "the gate would multiply 4 channels instead of 3"
    assert gate_reason(output=True) == "image/gated is the output stage3"
    assert gate_reason(twice=True) == "image/gated is read by image/gated/relu too"


def test_chained_projections_pass_the_gate_on_until_none_fires() -> None:
    build = GraphBuilder()
    image = build.input()
    g = build.sigmoid(build.conv2d("gate", image, 1), name="gate/sigmoid")
    x = build.mul(g, image)
    for k, channels in enumerate((3, 2, 2)):
        x = build.conv2d(f"project{k}", x, channels)
    graph = build.graph({"stage4": x})
    weights, inputs = random_weights(graph, 0), random_image(graph, 0)
    log = RewriteLog()
    optimized, optimized_weights = optimize(graph, weights, log=log)
    assert [item.node for item in log.fired] == ["project0", "project1", "project2"]
    assert optimized.by_name["project2"].op == Mul()
    convolutions = [n.name for n in optimized.order if isinstance(n.op, Conv2d) and n.name != "gate"]
    following = pairwise(convolutions)
    assert all(optimized.by_name[after].operands[0] == before for before, after in following)
    assert disagreement(graph, weights, optimized, optimized_weights, inputs) <= 1


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 1, 1, 1), (3,), (2, 3, 1, 1)])
def test_another_parameter_is_not_added_to_a_feature_map(shape: tuple[int, ...]) -> None:
    build = GraphBuilder()
    bias = build.parameter("bias", Parameter(shape))
    image = build.input()
    with pytest.raises(GraphError, match="add_c2"):
        build.add([image, bias])


def test_a_bias_does_not_come_first() -> None:
    build = GraphBuilder()
    bias = build.parameter("bias", Parameter((1, 3, 1, 1)))
    with pytest.raises(GraphError, match="add_c2"):
        build.add([bias, build.input()])


def test_parameters_of_one_shape_may_be_added() -> None:
    build = GraphBuilder()
    first, second = (build.parameter(name, Parameter((3,))) for name in ("first", "second"))
    kernel = build.parameter("kernel", Parameter((3, 3, 1, 1)))
    bias = build.apply("bias/sum", Add(), first, second)
    graph = build.graph({"stage4": build.apply("conv", Conv2d(), build.input(), kernel, bias)})
    weights = {"first": np.ones(3), "second": np.ones(3), "kernel": np.zeros((3, 3, 1, 1))}
    assert np.all(evaluate(graph, weights, random_image(graph, 0))["stage4"] == 2)
