"""Training on JAX: memory, compilations that are kept, precisions and images that it refuses."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import gsto_jax
from contract.networks import chain, gated, gated_batch
from gsto_jax.backend import JaxBackend
from gsto_jax.train import JaxTrainer
from gsto_spec import Graph, initial_weights
from gsto_spec.backend import BackendError, Training


def trainer_of(graph: Graph, training: Training, precision: str = "float32") -> JaxTrainer:
    return JaxBackend().trainer(graph, initial_weights(graph), training, device="cpu", precision=precision)


def test_rematerialisation_takes_less_memory() -> None:
    peaks = [
        trainer_of(chain(4), Training(rematerialize=rematerialize), "float64").memory_analysis((4, 2, 32, 32))
        for rematerialize in (False, True)
    ]
    assert peaks[0]["argument"] == peaks[1]["argument"]
    assert peaks[1]["temporary"] < 0.8 * peaks[0]["temporary"]
    for peak in peaks:
        assert peak["peak"] == peak["argument"] + peak["output"] - peak["alias"] + peak["temporary"]
    assert peaks[0]["argument"] >= 4 * 32 * 32 * (2 * 8 + 4)  # images and labels


def test_a_predictors_memory_is_less_than_a_trainers() -> None:
    weights = initial_weights(gated())
    predictor = JaxBackend().predictor(gated(), weights, device="cpu")
    found = predictor.memory_analysis((4, 2, 7, 6))
    assert found["argument"] >= 4 * (4 * 2 * 7 * 6)
    trained = trainer_of(gated(), Training()).memory_analysis((4, 2, 7, 6))
    assert found["peak"] < trained["peak"]


def test_float16_is_not_trained_in() -> None:
    with pytest.raises(BackendError) as caught:
        trainer_of(gated(), Training(), "float16")
    assert str(caught.value) == (
        "precision: expected one of float32, tf32, float64, bfloat16 to train on JAX, found float16"
    )


def test_a_resumed_run_reads_what_an_earlier_one_compiled(tmp_path: Path) -> None:
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    hits: list[str] = []

    def listen(event: str, **facts: Any) -> None:
        del facts
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    first = trainer_of(gated(), Training())
    jax.monitoring.register_event_listener(listen)
    try:
        jax.config.update(names[0], str(tmp_path))  # type: ignore[no-untyped-call]
        jax.config.update(names[1], 0)  # type: ignore[no-untyped-call]
        compilation_cache.reset_cache()
        first.step(gated_batch(0), 0.1)
        resumed = trainer_of(gated(), Training())
        resumed.load(first.state())
        hits.clear()
        resumed.step(gated_batch(1), 0.05)
        assert len(hits) == 1
    finally:
        jax.monitoring.unregister_event_listener(listen)
        for name, value in before.items():
            jax.config.update(name, value)  # type: ignore[no-untyped-call]
        compilation_cache.reset_cache()


@pytest.mark.parametrize("images", ["image.png", None, np.array(["a"]), [[object()]]])
def test_what_is_no_array_of_numbers_is_refused_in_one_line(images: Any) -> None:
    model = gsto_jax.compile(gated())
    predictor = JaxBackend().predictor(gated(), initial_weights(gated()), device="cpu")
    for takes in (model, predictor.predict):
        with pytest.raises(TypeError) as caught:
            takes(images)
        assert str(caught.value) == f"image: expected an array of numbers, found {type(images).__name__}"
