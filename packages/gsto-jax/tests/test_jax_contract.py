"""Frozen tensors, rates of their own, parts of a batch, rematerialisation, values that are not finite."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from numpy.testing import assert_allclose
from numpy.typing import NDArray

import gsto_jax
from gsto_jax.backend import JaxBackend
from gsto_jax.train import JaxTrainer
from gsto_spec import Graph, GraphBuilder, GstoError, evaluate, initial_weights
from gsto_spec.backend import BackendError, Training
from gsto_spec.objective import SGD, Adam, CrossEntropy, Heatmap, Objective, Ohem, objective_value

Arrays = dict[str, NDArray[Any]]

WEIGHTED = CrossEntropy(class_weights=(0.5, 1.0, 2.0))
OHEM = replace(WEIGHTED, ohem=Ohem(0.4, 5))


def graph(norm: bool = True) -> Graph:
    build = GraphBuilder(momentum=0.2)
    x = build.conv2d("conv1", build.input("image", 2), 4, kernel=3, stride=2)
    x = build.relu(build.batch_norm("bn1", x) if norm else x)
    low = build.max_pool(build.conv2d("conv2", x, 4), 2, 2)
    head = build.conv2d("head", build.concat([x, build.resize(low, like=x)]), 3, bias=True)
    return build.graph({"stage4": head, "stage2": build.conv2d("aux", low, 3)})


def batch_of(seed: int = 0) -> Arrays:
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 3, (4, 7, 6))
    label[draw.random(label.shape) < 0.3] = 255
    label[2:, :4] = 255  # parts of different weight
    return {"image": draw.standard_normal((4, 2, 7, 6)), "label": label}


def trainer_of(training: Training, made: Graph | None = None, precision: str = "float64") -> JaxTrainer:
    made = made or graph()
    return JaxBackend().trainer(made, initial_weights(made), training, device="cpu", precision=precision)


def stepped(trainer: JaxTrainer, batch: Arrays | None = None, steps: int = 2) -> Arrays:
    """The state after some steps, and the last losses."""
    for step in range(steps):
        losses = trainer.step(batch or batch_of(step), 0.1)
    return {**trainer.state(), **{name: np.asarray(float(value)) for name, value in losses.items()}}


def assert_same(found: Arrays, wanted: Arrays, bound: float = 0.0) -> None:
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert_allclose(found[name], array, rtol=0, atol=bound, err_msg=name)


def test_frozen_tensors_and_statistics_stay_and_have_no_slots() -> None:
    trainer = trainer_of(Training(frozen=frozenset({"bn1.weight", "bn1.bias", "conv1.weight"})))
    before = trainer.state()
    after = stepped(trainer, steps=1)
    changed = {name for name, array in before.items() if not np.array_equal(after[name], array)}
    assert changed == {"conv2.weight", "head.weight", "head.bias", "aux.weight"}
    assert {name for name in after if name.startswith("optimizer/")} == {
        f"optimizer/momentum/{name}" for name in changed
    }
    outputs = evaluate(graph(), before, {"image": batch_of()["image"]})
    assert_allclose(after["loss"], loss_of(outputs, batch_of()), rtol=1e-12)
    trainer.load(trainer.state())


def loss_of(outputs: Arrays, batch: Arrays) -> float:
    return objective_value(Objective(), outputs, batch)["loss"]


def test_a_frozen_name_that_is_not_learnt_is_refused() -> None:
    with pytest.raises(BackendError, match=r"^frozen: expected learnt tensors, found bn1\.running_var"):
        trainer_of(Training(frozen=frozenset({"bn1.running_var"})))


def test_rate_factors_multiply_the_rate_of_what_they_name() -> None:
    plain = trainer_of(Training(optimizer=SGD(0.9, 0.1)))
    before, after = plain.state(), stepped(plain, steps=1)
    faster = stepped(trainer_of(Training(optimizer=SGD(0.9, 0.1), rate_factors={"head.bias": 10.0})), steps=1)
    for name, array in before.items():
        factor = 10.0 if name == "head.bias" else 1.0
        moved = array + factor * (after[name] - array)
        assert_allclose(faster[name], moved, rtol=0, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("loss", [WEIGHTED, OHEM, Heatmap((1.0, 2.0, 0.5))], ids=["weighted", "ohem", "pose"])
def test_parts_have_the_losses_and_gradients_of_the_whole_batch(loss: Any) -> None:
    made = graph(norm=False)
    batch = batch_of()
    if isinstance(loss, Heatmap):
        made = Graph(made.nodes, {"stage4": "head"})
        draw = np.random.default_rng(1)
        batch |= {"heatmaps": draw.random((4, 3, 4, 3)), "visibility": draw.integers(0, 2, (4, 3))}
    whole = Training(Objective(loss), SGD())
    wanted = stepped(trainer_of(whole, made), batch)
    assert_same(stepped(trainer_of(replace(whole, micro_batches=2), made), batch), wanted, 1e-12)


def test_statistics_are_each_parts_own_and_taken_in_one_after_another() -> None:
    trainer = trainer_of(Training(Objective(OHEM), micro_batches=2, rematerialize=True))
    weights: Arrays = {name: array.astype(float) for name, array in trainer.state().items()}
    images = batch_of()["image"]
    for part in (images[::2], images[1::2]):
        _, statistics = evaluate(graph(), weights, {"image": part}, train_mode=True)
        weights |= statistics
    after = stepped(trainer, steps=1)
    for name in statistics:
        assert_allclose(after[name], weights[name], rtol=1e-12, err_msg=name)


def test_a_batch_that_parts_do_not_divide_is_refused() -> None:
    with pytest.raises(GstoError) as caught:
        trainer_of(Training(micro_batches=3)).step(batch_of(), 0.1)
    assert str(caught.value) == "micro_batches: expected a divisor of the batch's 4 images, found 3"


def chain(blocks: int) -> Graph:
    """One scale, no branches: what a backward pass keeps is one map per node, or one per segment."""
    build = GraphBuilder()
    x = build.input("image", 2)
    for index in range(blocks):
        for part in (1, 2, 3):
            y = build.conv2d(f"layer{index}.0.conv{part}", x, 4, kernel=3)
            x = build.relu(build.batch_norm(f"layer{index}.0.bn{part}", y))
    return build.graph({"stage4": build.conv2d("head", x, 3)})


def test_rematerialisation_takes_less_memory_and_changes_no_result() -> None:
    kept, again = (
        trainer_of(Training(rematerialize=rematerialize), chain(4)) for rematerialize in (False, True)
    )
    shape = (4, 2, 32, 32)
    peaks = [trainer.memory_analysis(shape) for trainer in (kept, again)]
    assert peaks[0]["argument"] == peaks[1]["argument"]
    assert peaks[1]["temporary"] < 0.8 * peaks[0]["temporary"]
    for peak in peaks:
        assert peak["peak"] == peak["argument"] + peak["output"] - peak["alias"] + peak["temporary"]
    assert peaks[0]["argument"] >= 4 * 32 * 32 * (2 * 8 + 4)  # images and labels
    draw = np.random.default_rng(0)
    batch = {"image": draw.standard_normal(shape), "label": draw.integers(0, 3, (4, 32, 32))}
    assert_same(stepped(again, batch), stepped(kept, batch), 1e-12)


def test_a_predictors_memory_is_less_than_a_trainers() -> None:
    weights = initial_weights(graph())
    predictor = JaxBackend().predictor(graph(), weights, device="cpu")
    found = predictor.memory_analysis((4, 2, 7, 6))
    assert found["argument"] >= 4 * (4 * 2 * 7 * 6)
    assert found["peak"] < trainer_of(Training(), precision="float32").memory_analysis((4, 2, 7, 6))["peak"]


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_a_step_that_is_not_finite_changes_nothing(optimizer: SGD | Adam) -> None:
    trainer, untouched = (trainer_of(Training(optimizer=optimizer)) for _ in range(2))
    broken = batch_of(5)
    broken["image"][3, 1, 2, 2] = np.inf
    for steps in range(2):  # before the first step, when there are no slots, and after it
        before = trainer.state()
        assert float(trainer.step(broken, 0.1)["finite"]) == 0
        assert_same(trainer.state(), before)
        if steps == 0:
            assert float(trainer.step(batch_of(), 0.1)["finite"]) == 1
    untouched.step(batch_of(), 0.1)
    assert_same(stepped(trainer, batch_of(9), steps=1), stepped(untouched, batch_of(9), steps=1))


def test_the_first_node_that_is_not_finite_is_named() -> None:
    trainer = trainer_of(Training(Objective(WEIGHTED)))
    assert trainer.first_not_finite(batch_of()) is None
    broken = batch_of()
    broken["image"][3, 1, 2, 2] = np.nan
    assert trainer.first_not_finite(broken) == "image"
    state = trainer.state()
    state["head.weight"] = np.full_like(state["head.weight"], 1e308)
    trainer.load(state)
    assert trainer.first_not_finite(batch_of()) == "head"


def test_bfloat16_keeps_tensors_and_losses_in_float32() -> None:
    training = Training(Objective(WEIGHTED), Adam(), micro_batches=2, rematerialize=True)
    exact = trainer_of(training, precision="float32")
    rounded = trainer_of(training, precision="bfloat16")
    wanted, found = stepped(exact), stepped(rounded)
    assert {array.dtype for name, array in rounded.state().items() if name != "optimizer/step"} == {
        np.dtype(np.float32)
    }
    # A rounding of 2^-9 in each of some ten ops, of losses near 1: far from equal, farther from wrong.
    assert found["loss"] != wanted["loss"]
    assert_allclose(found["loss"], wanted["loss"], rtol=10 * 2**-8)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_two_bytes_predict_in_float32(precision: str) -> None:
    weights = initial_weights(graph())
    images = batch_of()["image"]
    found = JaxBackend().predictor(graph(), weights, device="cpu", precision=precision).predict(images)
    unit = {"bfloat16": 2**-8, "float16": 2**-11}[precision]
    for name, wanted in evaluate(graph(), weights, {"image": images}).items():
        assert found[name].dtype == np.float32
        worst = np.abs(found[name] - wanted).max() / np.abs(wanted).max()
        assert unit / 100 < worst < 10 * unit, name


def test_float16_is_not_trained_in() -> None:
    with pytest.raises(BackendError) as caught:
        trainer_of(Training(), precision="float16")
    assert str(caught.value) == (
        "precision: expected one of float32, tf32, float64, bfloat16 to train on JAX, found float16"
    )


def test_a_deterministic_run_is_repeated_bit_for_bit() -> None:
    training = Training(deterministic=True)
    first, second = (stepped(trainer_of(training, precision="float32")) for _ in range(2))
    assert_same(second, first)


def test_a_resumed_run_reads_what_an_earlier_one_compiled(tmp_path: Path) -> None:
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    hits: list[str] = []

    def listen(event: str, **facts: Any) -> None:
        del facts
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    first = trainer_of(Training(), precision="float32")
    jax.monitoring.register_event_listener(listen)
    try:
        jax.config.update(names[0], str(tmp_path))  # type: ignore[no-untyped-call]
        jax.config.update(names[1], 0)  # type: ignore[no-untyped-call]
        compilation_cache.reset_cache()
        first.step(batch_of(), 0.1)
        resumed = trainer_of(Training(), precision="float32")
        resumed.load(first.state())
        hits.clear()
        resumed.step(batch_of(1), 0.05)
        assert len(hits) == 1
    finally:
        jax.monitoring.unregister_event_listener(listen)
        for name, value in before.items():
            jax.config.update(name, value)  # type: ignore[no-untyped-call]
        compilation_cache.reset_cache()


@pytest.mark.parametrize("images", ["image.png", None, np.array(["a"]), [[object()]]])
def test_what_is_no_array_of_numbers_is_refused_in_one_line(images: Any) -> None:
    model = gsto_jax.compile(graph())
    predictor = JaxBackend().predictor(graph(), initial_weights(graph()), device="cpu")
    for takes in (model, predictor.predict):
        with pytest.raises(TypeError) as caught:
            takes(images)
        assert str(caught.value) == f"image: expected an array of numbers, found {type(images).__name__}"
