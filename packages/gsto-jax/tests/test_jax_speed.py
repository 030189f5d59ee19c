"""Speed "fast": convolutions and their gradients, its arithmetic, and how often it compiles."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from contract.networks import lively_weights, strided
from gsto_jax import convolution, ops
from gsto_jax.backend import JaxBackend
from gsto_spec import GraphBuilder, initial_weights
from gsto_spec.backend import Speed, Training
from gsto_spec.ops import Conv2d

Arrays = dict[str, NDArray[Any]]


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Conv2d, tuple[int, ...], tuple[int, ...]]:
    """A convolution, the shape of its kernel, and that of an x that holds it."""
    kernel, stride = (draw(st.tuples(st.integers(1, 4), st.integers(1, 4))) for _ in range(2))
    top, bottom, left, right = draw(st.tuples(*[st.integers(0, 5)] * 4))
    source, target = draw(st.sampled_from([(1, 1), (3, 2), (4, 1), (8, 2)]))
    height = max(1, kernel[0] - top - bottom) + draw(st.integers(0, 6))
    width = max(1, kernel[1] - left - right) + draw(st.integers(0, 6))
    op = Conv2d(stride, (top, bottom, left, right))
    return op, (*kernel, source, target), (2, height, width, source)


@settings(max_examples=10, deadline=None)
@given(convolutions(), st.sampled_from([0, convolution.CACHE]))
def test_convolutions_and_their_gradients_are_the_plain_ones(
    drawn: tuple[Conv2d, tuple[int, ...], tuple[int, ...]], cache: int
) -> None:
    op, kernel_shape, shape = drawn
    generator = np.random.default_rng(0)
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "CACHE", cache)
        x, kernel = (jnp.asarray(generator.standard_normal(size)) for size in (shape, kernel_shape))
        gradient = jnp.asarray(generator.standard_normal(ops.conv2d(op, x, kernel).shape))

        @partial(jax.jit, static_argnums=0)
        def with_gradients(convolve: ops.Convolve, x: Array, kernel: Array, gradient: Array) -> list[Array]:
            result, pull = jax.vjp(partial(convolve, op), x, kernel)
            return [result, *pull(gradient)]

        wanted = with_gradients(ops.conv2d, x, kernel, gradient)
        found = with_gradients(convolution.conv2d, x, kernel, gradient)
    for one, other in zip(found, wanted, strict=True):
        assert_allclose(one, other, rtol=0, atol=1e-12 * max(1.0, float(np.abs(other).max(initial=0))))


@pytest.mark.parametrize("op", [Conv2d(groups=2), Conv2d(dilation=(2, 1), padding=(1, 1, 1, 1))])
def test_groups_and_dilations_are_left_to_the_plain_convolution(op: Conv2d) -> None:
    x = jnp.ones((1, 6, 6, 4))
    kernel = jnp.ones((3, 3, 4 // op.groups, 2))
    assert jnp.array_equal(convolution.conv2d(op, x, kernel), ops.conv2d(op, x, kernel))


def test_a_fast_predictor_takes_less_arithmetic_and_a_plain_one_the_graph_as_it_is() -> None:
    builder = GraphBuilder()
    doubled = builder.conv2d("first", builder.input(), 8)
    graph = builder.graph({"y": builder.batch_norm("norm", doubled)})
    weights = lively_weights(graph)

    def arguments(speed: Speed) -> int:
        predictor = JaxBackend().predictor(graph, weights, device="cpu", speed=speed)
        return predictor.memory_analysis((1, 3, 8, 8))["argument"]

    # Four vectors of the batch norm become one bias.
    assert arguments("plain") - arguments("fast") == 3 * 8 * 4


def test_no_gradient_is_a_convolution_of_a_map_full_of_zeros() -> None:
    op, x, kernel = Conv2d((2, 2), (1, 1, 1, 1)), jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))

    def dilated(convolve: ops.Convolve) -> bool:
        return "lhs_dilation=(2, 2)" in str(
            jax.make_jaxpr(jax.grad(lambda x: convolve(op, x, kernel).sum()))(x)
        )

    assert dilated(ops.conv2d)
    assert not dilated(convolution.conv2d)


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Every compilation from here on."""
    found: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if "backend_compile" in event:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def test_no_step_but_the_first_compiles_and_a_size_is_compiled_once(compilations: list[str]) -> None:
    graph, draw = strided(), np.random.default_rng(3)
    trainer = JaxBackend().trainer(graph, initial_weights(graph), Training(), device="cpu")

    def step(number: int) -> None:
        batch = {"image": draw.standard_normal((2, 3, 9, 12)), "label": draw.integers(0, 2, (2, 9, 12))}
        float(trainer.step(batch, 0.1 / (1 + number))["loss"])

    step(0)
    after_first = len(compilations)
    assert after_first > 0
    for number in range(1, 4):
        step(number)
    assert len(compilations) == after_first
    for size in ((8, 8), (10, 8)):
        trainer.predict(np.ones((1, 3, *size), np.float32))
    both = len(compilations)
    for size in ((8, 8), (10, 8), (8, 8)):
        trainer.predict(np.ones((1, 3, *size), np.float32))
    assert both > after_first and len(compilations) == both
