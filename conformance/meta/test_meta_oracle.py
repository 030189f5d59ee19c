"""The oracle against the definition: values directly, gradients by the complex step through it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance import expected, noise
from conformance.cases import Case, image_as_parameter
from conformance.expected import Quantities, oracle_trainer
from conformance.strategies import (
    objective_cases,
    small_cases,
    statistics_cases,
    trained_architectures,
)  # fmt: skip
from gsto_spec import evaluate
from gsto_spec.objective import objective_value

Array = NDArray[Any]
Arrays = Mapping[str, Array]

STEP = 1e-30
"""The derivative is Im f(x + i STEP d) / STEP, without any difference of near numbers."""
EXACT = 1e-12
"""Of the magnitude summed; `tolerance.MEANING` is a hundred times this."""

drawn = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
few = settings(drawn, max_examples=6)


@drawn
@given(small_cases() | objective_cases() | statistics_cases())
def test_values_in_training_are_the_definitions(case: Case) -> None:
    outputs, statistics = evaluate(case.graph, case.weights, {"image": case.image}, train_mode=True)
    losses = objective_value(case.training.objective, outputs, case.batch)
    answers = expected.training(case)
    within(answers.losses, losses)
    if case.training.batch_norm_momentum is None:
        within(answers.statistics, statistics)
    for name, node in case.graph.outputs.items():
        assert np.abs(answers.values[node] - outputs[name]).max() <= EXACT * (1 + np.abs(outputs[name]).max())


@drawn
@given(small_cases())
def test_values_in_inference_are_the_definitions(case: Case) -> None:
    values = oracle_trainer(case, "float64").run(case.image, training=False)
    within(expected.inference(case), values)


@drawn
@given(small_cases() | objective_cases() | statistics_cases(), st.integers(0, 2**32))
def test_gradients_are_those_of_the_complex_step(case: Case, seed: int) -> None:
    check_gradients(case, seed)


@few
@given(trained_architectures(), st.integers(0, 2**32))
def test_gradients_of_an_architecture_are_those_of_the_complex_step(case: Case, seed: int) -> None:
    check_gradients(case, seed)


def check_gradients(case: Case, seed: int) -> None:
    """In a random direction through all parameters and pixels, and along a few of them alone."""
    assume(fair(case))
    generator = np.random.default_rng(seed)
    gradients = {**gradients_of(case), "image": image_gradient(case)}
    starts = {**{name: case.weights[name] for name in case.graph.trainable}, "image": case.image}
    everywhere = {name: generator.standard_normal(array.shape) for name, array in starts.items()}
    directions = [everywhere, *(one_value(starts, generator) for _ in range(3))]
    for direction in directions:
        found = directional(case, direction)
        parts = [(gradients[name], array) for name, array in direction.items()]
        wanted = sum(float((quantity[0] * array).sum()) for quantity, array in parts)
        summed = sum(float((quantity[1] * np.abs(array)).sum()) for quantity, array in parts)
        assert abs(found - wanted) <= EXACT * summed + 1e-300


def fair(case: Case) -> bool:
    try:
        noise.require_fair(case, "float64")
    except noise.SetAside:
        return False
    return True


def gradients_of(case: Case) -> dict[str, tuple[Array, Array]]:
    return {name: (found.want, found.magnitude) for name, found in expected.training(case).gradients.items()}


def image_gradient(case: Case) -> tuple[Array, Array]:
    """From the convolution whose weight is the image, turned back."""
    found = expected.training(image_as_parameter(case)).gradients["pixels.weight"]
    value, magnitude = (part.swapaxes(0, 1)[:, :, ::-1, ::-1] for part in (found.want, found.magnitude))
    return value, magnitude


def one_value(starts: Arrays, generator: np.random.Generator) -> dict[str, Array]:
    name = generator.choice(list(starts))
    direction = np.zeros(starts[name].shape)
    direction.reshape(-1)[generator.integers(direction.size)] = 1.0
    return {str(name): direction}


def directional(case: Case, direction: Arrays) -> float:
    """The derivative of the loss, from the definition alone."""
    weights, image = dict(case.weights), case.image.astype(complex)
    for name, array in direction.items():
        if name == "image":
            image = image + 1j * STEP * array
        else:
            weights[name] = weights[name] + 1j * STEP * array
    outputs, _ = evaluate(case.graph, weights, {"image": image}, np.complex128, train_mode=True)
    loss: Any = objective_value(case.training.objective, outputs, case.batch)["loss"]
    return float(np.imag(loss) / STEP)


@drawn
@given(small_cases() | objective_cases())
def test_magnitudes_are_never_below_what_they_are_magnitudes_of(case: Case) -> None:
    answers = expected.training(case)
    for quantities in (answers.losses, answers.gradients, answers.statistics, expected.inference(case)):
        for name, quantity in quantities.items():
            assert (np.abs(quantity.want) <= quantity.magnitude * (1 + EXACT) + 1e-300).all(), name


@drawn
@given(small_cases())
def test_an_image_as_parameter_changes_nothing_else(case: Case) -> None:
    pixels = expected.training(image_as_parameter(case))
    plain = expected.training(case)
    within(plain.losses, {name: quantity.want for name, quantity in pixels.losses.items()})
    within(plain.gradients, {name: pixels.gradients[name].want for name in plain.gradients})


def within(wanted: Quantities, found: Mapping[str, Any]) -> None:
    assert set(found) == set(wanted)
    for name, quantity in wanted.items():
        assert (np.abs(found[name] - quantity.want) <= EXACT * quantity.magnitude + 1e-300).all(), name
