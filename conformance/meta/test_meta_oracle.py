"""The oracle against the definition: values directly, gradients by the complex step through it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray

from conformance import expected, noise
from conformance.cases import Case, image_as_parameter
from conformance.expected import Quantities, oracle_trainer
from conformance.losses import objective_losses
from conformance.strategies import (
    objective_cases,
    small_cases,
    statistics_cases,
    trained_architectures,
)  # fmt: skip
from gsto_spec import Graph, evaluate
from gsto_spec.graph import Node
from gsto_spec.objective import objective_value
from gsto_spec.ops import BatchNorm, Conv2d, Parameter

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
    outputs, statistics = by_definition(case, case.weights, case.image)
    losses = objective_value(case.training.objective, outputs, case.batch)
    answers = expected.training(case)
    within(answers.losses, losses)
    if case.training.batch_norm_momentum is None:
        within(answers.statistics, statistics)
    for name, node in case.graph.outputs.items():
        assert np.abs(answers.values[node] - outputs[name]).max() <= EXACT * (1 + np.abs(outputs[name]).max())


def by_definition(
    case: Case, weights: Arrays, image: Array, dtype: DTypeLike = np.float64
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Outputs and running statistics, one part of the batch after another, frozen norms as convolutions."""
    graph, stored = without_frozen_norms(case, weights)
    outputs: list[dict[str, Array]] = []
    for part in np.split(image, case.training.micro_batches):
        found, statistics = evaluate(graph, stored, {"image": part}, dtype, train_mode=True)
        stored |= statistics
        outputs.append(found)
    kept = {name: stored[name] for name in case.graph.parameters if name not in case.graph.trainable}
    running = {name: array for name, array in kept.items() if name.rpartition(".")[2].startswith("running")}
    return {name: np.concatenate([each[name] for each in outputs]) for name in outputs[0]}, running


def without_frozen_norms(case: Case, weights: Arrays) -> tuple[Graph, dict[str, Array]]:
    """A batch norm by its running statistics is a convolution of every channel by itself."""
    nodes, stored = list[Node](), dict(weights)
    for node in case.graph.nodes:
        if not (isinstance(node.op, BatchNorm) and node.operands[1] in case.training.frozen):
            nodes.append(node)
            continue
        weight, bias, mean, variance = (np.asarray(stored[name]) for name in node.operands[1:])
        scale = weight / np.sqrt(variance.astype(np.float64) + node.op.eps)
        names = (f"{node.name}/scale", f"{node.name}/shift")
        stored |= dict(zip(names, (scale.reshape(-1, 1, 1, 1), bias - mean * scale), strict=True))
        nodes += [Node(name, Parameter(stored[name].shape)) for name in names]
        nodes.append(Node(node.name, Conv2d(groups=len(weight)), (node.operands[0], *names)))
    return replace(case.graph, nodes=tuple(nodes)), stored


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
    learnt = case.training.learnt(case.graph)
    starts = {**{name: case.weights[name] for name in learnt}, "image": case.image}
    everywhere = {name: generator.standard_normal(array.shape) for name, array in starts.items()}
    directions = [everywhere, *(one_value(starts, generator) for _ in range(3))]
    for direction in directions:
        found, summed = directional(case, direction)
        parts = [(gradients[name], array) for name, array in direction.items()]
        wanted = sum(float((quantity[0] * array).sum()) for quantity, array in parts)
        summed += sum(float((quantity[1] * np.abs(array)).sum()) for quantity, array in parts)
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


def directional(case: Case, direction: Arrays) -> tuple[float, float]:
    """The derivative of the loss, from the definition alone, and the magnitude of what outputs add to it.

    Gradients at the outputs may cancel, of classes with the same logit, say; a gradient's own magnitude
    begins anew below them.
    """
    weights, image = dict(case.weights), case.image.astype(complex)
    for name, array in direction.items():
        if name == "image":
            image = image + 1j * STEP * array
        else:
            weights[name] = weights[name] + 1j * STEP * array
    outputs, _ = by_definition(case, weights, image, np.complex128)
    objective = case.training.objective
    loss: Any = objective_value(objective, outputs, case.batch)["loss"]
    values = {name: output.real for name, output in outputs.items()}
    sizes = {name: np.abs(output) for name, output in values.items()}
    summed = sum(
        weight * float((each.gradient_magnitude * np.abs(outputs[name].imag)).sum())
        for name, (each, weight) in objective_losses(objective, values, sizes, case.batch).items()
    )
    return float(np.imag(loss) / STEP), summed / STEP


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
