"""Every speed computes what `plain` does, which computes what the definition says."""

import dataclasses
import platform
import subprocess
import sys
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

import gsto_torch
from gsto_spec import Graph, GraphBuilder, build, evaluate, initial_weights, variant
from gsto_spec.backend import Predictor, Speed, Training
from gsto_spec.ops import Parameter
from gsto_torch.backend import TorchBackend

Arrays = dict[str, NDArray[Any]]

# torch's compiler imports what torch deprecates.
compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def drawn_weights(graph: Graph, seed: int = 0) -> Arrays:
    draw = np.random.default_rng(seed)
    return {name: draw.uniform(0.5, 1.5, shape) for name, shape in graph.parameters.items()}


def pictures(*shape: int, seed: int = 1) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal(shape)


def predictor(graph: Graph, weights: Arrays, speed: Speed, precision: str = "float64") -> Predictor:
    return TorchBackend().predictor(graph, weights, device="cpu", precision=precision, speed=speed)


def require_close(found: Arrays, wanted: Arrays, tolerance: float = 1e-12) -> None:
    """Within a tolerance of the largest value of all: some gradients are nought but for rounding."""
    assert list(found) == list(wanted)
    largest = max(np.abs(array).max() for array in wanted.values())
    for name, array in wanted.items():
        assert_allclose(found[name], array, rtol=0, atol=tolerance * largest)


def narrow() -> Graph:
    return build(dataclasses.replace(
        variant("gsto-hrnet-w18-small-v2"), widths=(3, 4, 5, 6), modules=(1, 1, 1), blocks=1, stem_width=4,
        layer1_width=2, layer1_blocks=1, classes=3,
    ))  # fmt: skip


def shared_operands(*, leaf: bool) -> Graph:
    """Sums and relus of what others read too, before or after, of an output, of the input and of a leaf."""
    build = GraphBuilder()
    image = build.input()
    offset = build.parameter("offset", Parameter((1, 3, 1, 1))) if leaf else None
    first = build.conv2d("first", image, 3, bias=True)
    positive = build.add([build.relu(first), image], name="first/positive")
    second = build.conv2d("second", positive, 3)
    total = build.add([second, first, positive], name="second/total")
    terms = [build.conv2d("third", total, 3), second, image]
    own = build.relu(build.add([*terms, offset] if offset else terms))
    return build.graph({"stage4": own, "stage3": build.relu(total), "stage2": "third", "stage1": first})


@pytest.mark.parametrize("speed", ["plain", "fast"])
def test_what_others_read_is_not_overwritten(speed: Speed) -> None:
    graph, image = shared_operands(leaf=True), pictures(2, 3, 5, 4)
    weights = drawn_weights(graph)
    kept = image.copy()
    found = predictor(graph, weights, speed).predict(image)
    require_close(found, evaluate(graph, weights, {"image": image}))
    assert_array_equal(image, kept)


@settings(max_examples=10)
@given(size=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 2**32 - 1))
def test_fast_predicts_what_plain_does(size: tuple[int, int], seed: int) -> None:
    graph = narrow()
    weights = initial_weights(graph, seed)
    images = pictures(2, 3, *size, seed=seed)
    wanted = predictor(graph, weights, "plain").predict(images)
    require_close(predictor(graph, weights, "fast").predict(images), wanted, 1e-10)


def test_plain_is_the_network_as_it_is_written() -> None:
    graph = narrow()
    weights = initial_weights(graph)
    images = pictures(1, 3, 33, 40).astype(np.float32)
    with torch.inference_mode():
        wanted = gsto_torch.compile(graph, weights).eval()(torch.from_numpy(images))
    for name, array in predictor(graph, weights, "plain", "float32").predict(images).items():
        assert_array_equal(array, wanted[name].numpy())


def fusion() -> Graph:
    build = GraphBuilder()
    image = build.input()
    wide = build.batch_norm("norm", build.conv2d("wide", image, 4, kernel=3))
    deep = build.conv2d("deep", build.relu(build.conv2d("down", image, 4, kernel=3, stride=2)), 4)
    return build.graph({"stage4": build.relu(build.add([wide, build.resize(deep, like=wide)]))})


@compiles
def test_compiled_predicts_what_is_defined_at_every_size_and_compiles_each_once() -> None:
    graph = fusion()
    weights = drawn_weights(graph)
    compiled = predictor(graph, weights, "compiled")
    before = counters["stats"]["unique_graphs"]
    for size in ((6, 5), (7, 4), (6, 5), (7, 4)):
        image = pictures(1, 3, *size)
        require_close(compiled.predict(image), evaluate(graph, weights, {"image": image}))
    assert counters["stats"]["unique_graphs"] - before == 2
    frozen = predictor(graph, weights, "compiled", "float32")
    require_close(frozen.predict(image), evaluate(graph, weights, {"image": image}), 1e-6)


@compiles
def test_compiled_without_a_compiler_says_so_and_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, image = fusion(), pictures(1, 3, 6, 5)
    weights = drawn_weights(graph)
    compiled = predictor(graph, weights, "compiled")
    torch._dynamo.reset()

    def missing() -> str:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", missing)
    with pytest.warns(RuntimeWarning, match=r"^speed: expected a compiler, found .*, so fast$") as caught:
        found = compiled.predict(image)
    assert "\n" not in str(caught[0].message)
    require_close(found, evaluate(graph, weights, {"image": image}))
    require_close(compiled.predict(image), found)


def steps(graph: Graph, batch: Arrays, speed: Speed, *, rematerialize: bool = False) -> Arrays:
    training = Training(rematerialize=rematerialize)
    trainer = TorchBackend().trainer(
        graph, initial_weights(graph), training, device="cpu", precision="float64", speed=speed
    )
    losses = [np.asarray(float(trainer.step(batch, 0.1)["loss"])) for _ in range(2)]
    return trainer.state() | {"losses": np.stack(losses)}


@pytest.mark.parametrize("speed", ["fast", "compiled"])
@pytest.mark.parametrize("rematerialize", [False, True])
def test_every_speed_trains_alike(speed: Speed, rematerialize: bool) -> None:
    graph = narrow()
    batch = {"image": pictures(2, 3, 32, 64), "label": np.arange(2 * 32 * 64).reshape(2, 32, 64) % 3}
    found = steps(graph, batch, speed, rematerialize=rematerialize)
    require_close(found, steps(graph, batch, "plain"), 1e-9)


def multiply_adds(speed: Speed) -> int:
    graph = narrow()
    batch = {"image": pictures(1, 3, 64, 64), "label": np.zeros((1, 64, 64), np.int64)}
    trainer = TorchBackend().trainer(graph, initial_weights(graph), Training(), device="cpu", speed=speed)
    with FlopCounterMode(display=False) as counted:
        trainer.step(batch, 0.1)
    return int(counted.get_total_flops())


def test_fast_steps_take_less_arithmetic() -> None:
    assert multiply_adds("fast") < multiply_adds("plain")


def test_training_overwrites_nothing_that_a_gradient_reads() -> None:
    graph = shared_operands(leaf=False)
    batch = {"image": pictures(2, 3, 6, 5), "label": np.arange(60).reshape(2, 6, 5) % 3}
    require_close(steps(graph, batch, "fast"), steps(graph, batch, "plain"), 1e-9)


def in_a_process_of_its_own(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", dedent(program)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


def test_strided_projections_of_few_channels_train_in_channels_last() -> None:
    # torch's own kernel writes beyond its memory, which ends the process some steps later.
    in_a_process_of_its_own("""
        import numpy as np
        from gsto_spec import GraphBuilder, initial_weights
        from gsto_spec.backend import Training
        from gsto_torch.backend import TorchBackend
        for channels in (3, 4, 12):
            build = GraphBuilder()
            image = build.input(channels=channels)
            graph = build.graph({"stage4": build.conv2d("project", image, 19, stride=2)})
            trainer = TorchBackend().trainer(graph, initial_weights(graph), Training(), device="cpu")
            pictures, label = np.ones((1, channels, 64, 128), np.float32), np.zeros((1, 64, 128), np.int64)
            for _ in range(40):
                trainer.step({"image": pictures, "label": label}, 0.01)
    """)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_a_prediction_takes_no_new_memory_from_the_system() -> None:
    pages = in_a_process_of_its_own("""
        import resource
        import numpy as np
        from gsto_spec import GraphBuilder, initial_weights
        from gsto_torch.backend import TorchBackend
        build = GraphBuilder()
        x = build.input()
        for number in range(4):
            x = build.conv2d(f"conv{number}", x, 16)
        graph = build.graph({"stage4": build.conv2d("head", x, 1)})
        predictor = TorchBackend().predictor(graph, initial_weights(graph), device="cpu")
        image = np.ones((1, 3, 512, 512), np.float32)
        # The first ones find out where everything fits.
        for number in range(16):
            if number == 8:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            predictor.predict(image)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """)
    one_map = 16 * 512 * 512 * 4 // 4096
    # In eight predictions; without, each takes one or more on average.
    assert int(pages) < 4 * one_map
