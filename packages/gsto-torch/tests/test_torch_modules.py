"""A compiled graph is an ordinary torch module: hooks, converters, copies, pickles, statistics, errors."""

import copy
import io
import pickle
import shutil
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

import gsto_torch
from gsto_spec import Graph, GraphBuilder, GraphError, evaluate
from gsto_spec.ops import BatchNorm, Conv2d, Parameter


def small(**options: Any) -> Graph:
    """Two layers, two outputs, a gate; odd padding in one convolution."""
    build = GraphBuilder(**options)
    x = build.conv2d("conv1", build.input(), 4, kernel=3, stride=2, padding=(1, 1, 0, 1))
    x = build.relu(build.batch_norm("bn1", x))
    x = build.mul(build.sigmoid(build.conv2d("att.0", x, 1)), x)
    head = build.conv2d("last_layer.0", x, 2, bias=True)
    return build.graph({"stage4": head, "stage1": x})


IMAGE = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 9, 7)))


def model_of(graph: Graph, seed: int = 0) -> gsto_torch.CompiledGraph:
    return gsto_torch.compile(graph, seed=seed, dtype=torch.float64)


def test_layers_are_torchs_own_under_the_graphs_names() -> None:
    model = model_of(small())
    assert type(model.get_submodule("conv1")) is nn.Conv2d
    assert type(model.get_submodule("bn1")) is nn.BatchNorm2d
    assert [name for name, _ in model.named_children()] == ["conv1", "bn1", "att", "last_layer"]
    assert model.get_submodule("last_layer.0").bias is not None


def test_making_a_model_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    gsto_torch.compile(small())
    assert torch.equal(torch.rand(3), wanted)


def test_hooks_see_every_layer() -> None:
    model = model_of(small())
    seen: dict[str, tuple[int, ...]] = {}

    def watch(name: str) -> None:
        def hook(module: nn.Module, operands: tuple[Tensor, ...], result: Tensor) -> None:
            seen[name] = tuple(result.shape)

        model.get_submodule(name).register_forward_hook(hook)

    for name in ("conv1", "bn1", "att.0", "last_layer.0"):
        watch(name)
    model(IMAGE)
    shapes = small().check((2, 3, 9, 7))
    assert seen == {name: shapes[name] for name in seen}
    assert len(seen) == 4


def test_a_hook_can_change_what_a_layer_gives() -> None:
    model = model_of(small()).eval()
    plain = model(IMAGE)["stage4"]
    model.get_submodule("last_layer.0").register_forward_hook(lambda module, operands, result: result + 1)
    assert torch.equal(model(IMAGE)["stage4"], plain + 1)


def test_a_layer_that_is_replaced_is_used() -> None:
    class Doubled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = 2 * self.inner(x)
            return result

    model = model_of(small()).eval()
    plain = model(IMAGE)["stage4"]
    head = model.get_submodule("last_layer")
    setattr(head, "0", Doubled(head.get_submodule("0")))
    assert torch.equal(model(IMAGE)["stage4"], 2 * plain)


def test_batch_norms_convert_to_synchronised_ones_which_are_used() -> None:
    model = model_of(small()).eval()
    plain = model(IMAGE)
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    norm = converted.get_submodule("bn1")
    assert isinstance(norm, nn.SyncBatchNorm)
    assert torch.equal(converted(IMAGE)["stage4"], plain["stage4"])
    norm.register_forward_hook(lambda module, operands, result: 0 * result)
    assert converted(IMAGE)["stage1"].count_nonzero() == 0


def test_a_copy_is_whole_and_on_its_own() -> None:
    model = model_of(small()).eval()
    twin = copy.deepcopy(model)
    wanted = model(IMAGE)["stage4"]
    assert torch.equal(twin(IMAGE)["stage4"], wanted)
    with torch.no_grad():
        twin.get_parameter("last_layer.0.bias").add_(1.0)
    assert torch.equal(model(IMAGE)["stage4"], wanted)
    assert twin.graph == model.graph


@pytest.mark.parametrize("form", ["pickle", "torch.save"])
def test_a_model_is_pickled_whole(form: str) -> None:
    model = model_of(small()).eval()
    if form == "pickle":
        again = pickle.loads(pickle.dumps(model))
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        again = torch.load(buffer, weights_only=False)
    assert list(again(IMAGE)) == ["stage4", "stage1"]
    assert torch.equal(again(IMAGE)["stage4"], model(IMAGE)["stage4"])


def test_a_state_dict_goes_from_one_model_to_another() -> None:
    first, second = model_of(small(), 0), model_of(small(), 1)
    first(IMAGE)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.eval()(IMAGE)["stage4"], first.eval()(IMAGE)["stage4"])


def test_gradients_of_a_biased_norm_are_those_of_an_unbiased_one() -> None:
    gradients = []
    for unbiased in (True, False):
        build = GraphBuilder()
        names = [build.parameter(f"bn.{role}", Parameter((3,))) for role in ("weight", "bias")]
        names += [
            build.parameter(f"bn.{role}", Parameter((3,), trainable=False))
            for role in ("running_mean", "running_var")
        ]
        op = BatchNorm(unbiased=unbiased)
        graph = build.graph({"y": build.apply("bn", op, build.input("x", 3), *names)})
        weights = {name: np.ones(3) for name in names}
        x = IMAGE.clone().requires_grad_()
        gsto_torch.compile(graph, weights, dtype=torch.float64)(x)["y"].square().mul(IMAGE).sum().backward()
        assert x.grad is not None
        gradients.append(x.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    "path",
    [
        "train", "conv.forward", "eval.conv", "graph", "a.weight.b", "state_dict", "_steps", "_inputs",
        "_outputs",
    ],
)  # fmt: skip
def test_torch_c1_a_path_that_torch_uses_itself_is_refused(path: str) -> None:
    build = GraphBuilder()
    build.conv2d("a", build.input(), 2)
    graph = build.graph({"y": build.conv2d(path, "a", 2)})
    with pytest.raises(GraphError) as caught:
        gsto_torch.compile(graph)
    parts = ("train", "forward", "eval", "graph", "weight", "state_dict", "_steps", "_inputs", "_outputs")
    part = next(part for part in parts if part in path.split("."))
    assert str(caught.value) == (
        f"{path}: expected a path that a torch module can have, found {part}, which torch uses itself "
        "[torch_c1]"
    )


def test_torch_c1_a_layer_has_no_slash_in_its_path() -> None:
    build = GraphBuilder()
    graph = build.graph({"y": build.conv2d("net/conv", build.input(), 2)})
    with pytest.raises(GraphError, match=r"^net/conv: .* found the / in net/conv \[torch_c1\]$"):
        gsto_torch.compile(graph)


def test_padding_that_torch_cannot_express_is_applied() -> None:
    model = model_of(small())
    convolution = model.get_submodule("conv1")
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.padding == (0, 0)
    plain = Conv2d((2, 2), (1, 1, 0, 1))
    assert small().by_name["conv1"].op == plain
    wanted = evaluate(small(), gsto_torch.weights_of(model), {"image": IMAGE.numpy()})
    assert_allclose(model.eval()(IMAGE)["stage1"].detach().numpy(), wanted["stage1"], atol=1e-12)


def test_what_is_printed_names_the_graph() -> None:
    assert f"graph={small().digest[:12]}, outputs=['stage4', 'stage1']" in repr(model_of(small()))


def test_the_number_of_inputs_is_the_graphs() -> None:
    with pytest.raises(ValueError, match="argument 2 is"):
        model_of(small())(IMAGE, IMAGE)


@pytest.mark.parametrize(
    ("compiler", "training"), [("aot_eager", False), ("aot_eager", True), ("inductor", False)]
)
def test_torch_compile_takes_the_whole_graph_and_gives_what_the_module_gives(
    compiler: str, training: bool
) -> None:
    if compiler == "inductor" and shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler here, and torch.compile makes CPU code with one")
    torch.compiler.reset()
    model = model_of(small()).train(training)
    twin = copy.deepcopy(model)
    with warnings.catch_warnings(), torch.set_grad_enabled(training):
        warnings.simplefilter("ignore")  # the compiler's own, about this machine
        found = torch.compile(model, fullgraph=True, backend=compiler)(IMAGE)
        wanted = twin(IMAGE)
        if training:
            for outputs in (found, wanted):
                sum(output.square().sum() for output in outputs.values()).backward()
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-12)
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-10, atol=1e-12)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad, rtol=1e-10, atol=1e-12)
