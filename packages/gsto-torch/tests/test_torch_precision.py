"""bfloat16 and float16: which values are stored in which type, what an op rounds, the loss scale."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from torch import Tensor, nn

import gsto_torch
from gsto_spec import Graph, GraphBuilder, HRNet, build, evaluate, initial_weights
from gsto_spec.backend import LOSS_SCALE, Training
from gsto_spec.objective import SGD, Adam, CrossEntropy, Objective
from gsto_spec.ops import AdaptiveAvgPool, AvgPool, BatchNorm, Mul, Op, Resize, Sigmoid, Softmax
from gsto_spec.precision import LOW, Precision, computes_in
from gsto_torch.backend import TorchBackend
from gsto_torch.batch_norm import BiasedBatchNorm2d
from gsto_torch.ops import DTYPES, compute, compute_in
from gsto_torch.pointwise import RowsConv2d

Arrays = dict[str, NDArray[Any]]

GSTO = HRNet(
    widths=(2, 4, 6, 8), modules=(1, 1, 1), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1,
    classes=3, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised",
)  # fmt: skip
UNIT = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""The largest relative error of rounding to nearest."""


def pictures(seed: int, images: int = 2) -> Arrays:
    draw = np.random.default_rng(seed)
    return {
        "image": draw.standard_normal((images, 3, 65, 65)), "label": draw.integers(0, 2, (images, 65, 65))
    }  # fmt: skip


def trainer_of(precision: str, graph: Graph, training: Training = Training()) -> Any:  # noqa: B008
    return TorchBackend().trainer(graph, initial_weights(graph), training, device="cpu", precision=precision)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape)).float()


WIDE: list[Op] = [
    Sigmoid(), Softmax(), Resize("bilinear", size=(7, 5)), Resize("bilinear", True, (3, 9)),
    AvgPool((2, 2), (2, 2)), AdaptiveAvgPool((2, 3)),
]  # fmt: skip


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("op", WIDE, ids=str)
def test_what_computes_in_float32_is_rounded_once_and_so_is_its_gradient(op: Op, low: Precision) -> None:
    assert computes_in(op, low) == "float32"
    narrow = drawn(0, 2, 3, 5, 6).to(DTYPES[low])
    x, wide = narrow.clone().requires_grad_(), narrow.float().requires_grad_()
    found, wanted = compute_in(low, op, [x]), compute(op, [wide])
    assert torch.equal(found, wanted.to(DTYPES[low]))
    seed = drawn(1, *found.shape).to(DTYPES[low])
    (gradient,) = torch.autograd.grad(found, x, seed)
    (exact,) = torch.autograd.grad(wanted, wide, seed.float())
    assert torch.equal(gradient, exact.to(DTYPES[low]))


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("shape", [(2, 1, 5, 6), (2, 3, 1, 1), (2, 3, 5, 6), (1, 3, 1, 1)])
def test_a_gate_multiplies_in_float32_and_keeps_its_factors_narrow(
    shape: tuple[int, ...], low: Precision
) -> None:
    factors = [drawn(k, *each).to(DTYPES[low]) for k, each in enumerate([(2, 3, 5, 6), shape])]
    narrow = [factor.clone().requires_grad_() for factor in factors]
    wide = [factor.float().requires_grad_() for factor in factors]
    kept: list[Tensor] = []

    def keep(saved: Tensor) -> Tensor:
        kept.append(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        found = compute_in(low, Mul(), narrow)
    assert {tensor.dtype for tensor in kept} == {DTYPES[low]}
    wanted = wide[0] * wide[1]
    assert torch.equal(found, wanted.to(DTYPES[low]))
    seed = drawn(2, *found.shape).to(DTYPES[low])
    gradients = torch.autograd.grad(found, narrow, seed), torch.autograd.grad(wanted, wide, seed.float())
    for gradient, exact in zip(*gradients, strict=True):
        assert torch.equal(gradient, exact.to(DTYPES[low]))


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_computes_and_keeps_statistics_in_float32(
    low: Precision, unbiased: bool, training: bool
) -> None:
    kind: type[nn.BatchNorm2d] = nn.BatchNorm2d if unbiased else BiasedBatchNorm2d
    found, exact = kind(3).train(training), kind(3).double().train(training)
    # A mean that two bytes hold in a few steps only.
    x = (100 + drawn(0, 4, 3, 5, 6)).to(DTYPES[low])
    result, wanted = found(x), exact(x.double())
    assert result.dtype == DTYPES[low]
    assert_allclose(result.detach().double(), wanted.detach(), rtol=1.01 * UNIT[low], atol=1e-4)
    for name in ("running_mean", "running_var"):
        buffer, wide = found.get_buffer(name), exact.get_buffer(name)
        assert buffer.dtype == torch.float32
        assert_allclose(buffer, wide, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(LOW), st.integers(0, 99), st.integers(1, 8), st.sampled_from([1, 3]))
def test_a_convolution_rounds_its_factors_and_its_sum(
    low: Precision, seed: int, channels: int, k: int
) -> None:
    build = GraphBuilder()
    graph = build.graph({"y": build.conv2d("conv", build.input("x", channels), 4, kernel=k, bias=True)})
    weights = {name: np.array(array) for name, array in initial_weights(graph, seed).items()}
    weights["conv.bias"] = drawn(seed, 4).numpy()
    image = drawn(seed + 1, 2, channels, 6, 5)
    model = gsto_torch.compile(graph, weights, precision=low)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    found = model(image)["y"]
    assert found.dtype == torch.float32
    rounded = {
        name: torch.from_numpy(array).to(DTYPES[low]).double().numpy() for name, array in weights.items()
    }
    narrow = image.to(DTYPES[low]).double().numpy()
    wanted = evaluate(graph, rounded, {"x": narrow})["y"]
    magnitudes = {name: np.abs(array) for name, array in rounded.items()}
    summed = evaluate(graph, magnitudes, {"x": np.abs(narrow)})["y"]
    # Rounded to two bytes at most twice (the bias may be added after), the sum in float32 between.
    assert (np.abs(found.detach().numpy() - wanted) <= 2.1 * UNIT[low] * summed + 1e-7).all()


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("rematerialize", [False, True])
def test_feature_maps_take_two_bytes_and_the_rest_four(low: str, rematerialize: bool) -> None:
    graph = build(GSTO)
    trainer = trainer_of(low, graph, Training(optimizer=Adam(), rematerialize=rematerialize))
    stored: dict[str, torch.dtype] = {}
    trainer.model.watch = lambda name, value: stored.setdefault(name, value.dtype)
    losses = trainer.step(pictures(0), 1e-3)
    assert set(stored) == {node.name for node in graph.order if node.name not in graph.leaves}
    assert set(stored.values()) == {DTYPES[low]}
    assert {loss.dtype for name, loss in losses.items() if name != "finite"} == {torch.float32}
    state = trainer.state()
    whole = {"optimizer/step", LOSS_SCALE[1]}
    assert {array.dtype for name, array in state.items() if name not in whole} == {np.dtype(np.float32)}
    predictor = TorchBackend().predictor(graph, initial_weights(graph), device="cpu", precision=low)
    for each in (trainer, predictor):
        assert {array.dtype for array in each.predict(pictures(0)["image"]).values()} == {
            np.dtype(np.float32)
        }


def test_other_precisions_are_untouched() -> None:
    graph = build(GSTO)
    for precision in ("float32", "float64"):
        model = trainer_of(precision, graph).model
        kinds = {type(module) for module in model.modules() if isinstance(module, nn.Conv2d)}
        assert kinds == {nn.Conv2d, RowsConv2d}


@pytest.mark.parametrize("form", ["release", "paper"])
@pytest.mark.parametrize("low", LOW)
def test_networks_learn(low: str, form: Any) -> None:
    trainer = trainer_of(low, build(GSTO, form=form), Training(batch_norm_momentum=0.1))
    losses = [trainer.step(pictures(0), 0.02) for _ in range(8)]
    assert all(float(each["finite"]) == 1 for each in losses)
    assert float(losses[-1]["loss"]) < 0.9 * float(losses[0]["loss"])


@pytest.mark.parametrize("low", LOW)
def test_optimised_graphs_are_predicted_with(low: str) -> None:
    import gsto_spec

    graph, image = build(GSTO), pictures(0)["image"]
    exact = evaluate(graph, initial_weights(graph), {"image": image})
    folded, weights = gsto_spec.optimize(graph, initial_weights(graph))
    found = TorchBackend().predictor(folded, weights, device="cpu", precision=low).predict(image)
    for name, array in exact.items():
        # An error of every op's rounding, added up along the deepest path as independent ones are.
        bound = 8 * UNIT[low] * np.sqrt(len(graph.order)) * np.sqrt(np.mean(array**2))
        assert np.sqrt(np.mean((found[name] - array) ** 2)) < bound


def linear() -> tuple[Graph, Arrays]:
    build = GraphBuilder()
    x = build.batch_norm("bn", build.conv2d("conv", build.input("image", 3), 4, kernel=3))
    return build.graph({"stage4": build.conv2d("head", build.relu(x), 2)}), pictures(0)


def with_scale(trainer: Any, factor: float, steps: int) -> Arrays:
    state: Arrays = trainer.state() | dict(
        zip(LOSS_SCALE, (np.float32(factor), np.int64(steps)), strict=True)
    )
    trainer.load({name: np.asarray(array) for name, array in state.items()})
    return state


def scale_of(trainer: Any) -> tuple[float, int]:
    factor, steps = (trainer.state()[name] for name in LOSS_SCALE)
    return float(factor), int(steps)


def test_a_loss_scale_starts_at_65536_and_counts_good_steps() -> None:
    graph, batch = linear()
    trainer = trainer_of("float16", graph)
    assert scale_of(trainer) == (65536.0, 0)
    trainer.step(batch, 0.01)
    assert scale_of(trainer) == (65536.0, 1)
    assert not set(LOSS_SCALE) & set(trainer_of("bfloat16", graph).state())


def test_a_loss_scale_doubles_after_two_thousand_good_steps() -> None:
    graph, batch = linear()
    trainer = trainer_of("float16", graph)
    with_scale(trainer, 512.0, 1999)
    trainer.step(batch, 0.01)
    assert scale_of(trainer) == (1024.0, 0)


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_gradients_that_overflow_halve_the_scale_and_change_nothing_else(optimizer: SGD | Adam) -> None:
    graph, batch = linear()
    trainer = trainer_of("float16", graph, Training(optimizer=optimizer))
    trainer.step(batch, 0.01)
    before = with_scale(trainer, 2.0**40, 7)
    assert float(trainer.step(batch, 0.01)["finite"]) == 1
    assert scale_of(trainer) == (2.0**39, 0)
    after = trainer.state()
    assert all(np.array_equal(after[name], before[name]) for name in before if name not in LOSS_SCALE)


def test_what_no_smaller_scale_can_mend_is_not_finite() -> None:
    graph, batch = linear()
    trainer = trainer_of("float16", graph)
    broken = {**batch, "image": np.where(batch["image"] > 3, np.nan, batch["image"])}
    assert float(trainer.step(broken, 0.01)["finite"]) == 0
    assert scale_of(trainer) == (32768.0, 0)
    assert trainer.first_not_finite(broken) == "image"
    overflowing = trainer_of("float16", graph, Training(Objective(stage_weights={"stage4": 1e12})))
    with_scale(overflowing, 1.0, 0)
    losses = overflowing.step(batch, 0.01)
    assert np.isfinite(float(losses["loss"]))
    assert float(losses["finite"]) == 0
    assert scale_of(overflowing) == (1.0, 0)
    named = overflowing.first_not_finite(batch)
    assert named is not None
    assert named.startswith("gradient of ")


def test_the_scale_leaves_the_update_alone() -> None:
    graph, batch = linear()
    states = []
    for factor in (256.0, 4096.0):
        trainer = trainer_of("float16", graph)
        with_scale(trainer, factor, 0)
        trainer.step(batch, 0.1)
        states.append(trainer.state())
    for name in graph.trainable:
        assert_allclose(states[0][name], states[1][name], rtol=1e-3, atol=1e-5)
    start = initial_weights(graph)
    assert not np.array_equal(states[0]["conv.weight"], start["conv.weight"])


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_a_run_goes_on_from_its_state(low: str, optimizer: SGD | Adam) -> None:
    graph, batch = linear()
    training = Training(Objective(CrossEntropy(class_weights=(1.0, 2.0))), optimizer)
    first, second = (trainer_of(low, graph, training) for _ in range(2))
    first.step(batch, 0.01)
    if low == "float16":
        with_scale(first, 2.0**40, 3)  # the next step overflows
    second.load(first.state())
    for each in (first, second):
        each.step(batch, 0.01)
        each.step(pictures(1), 0.01)
    ends = first.state(), second.state()
    assert ends[0].keys() == ends[1].keys()
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_state_of_float16_goes_on_in_float32() -> None:
    graph, batch = linear()
    first, second = trainer_of("float16", graph), trainer_of("float32", graph)
    first.step(batch, 0.01)
    second.load(first.state())
    assert second.state().keys() == first.state().keys() - set(LOSS_SCALE)


def test_every_op_of_batch_norm_alone_is_widened() -> None:
    """A norm whose stored tensors are leaves of their own, as in graphs in inference form."""
    stored = [drawn(k, 3).abs() for k in range(4)]
    x = drawn(9, 2, 3, 4, 4).bfloat16()
    found = compute_in("bfloat16", BatchNorm(), [x, *stored])
    assert torch.equal(found, compute(BatchNorm(), [x.float(), *stored]).bfloat16())
