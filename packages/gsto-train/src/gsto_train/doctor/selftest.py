"""A backend put to a small test: a prediction against the definition, and steps that learn.

`python -m gsto_train.doctor.selftest BACKEND` prints the findings as JSON; in a process of its own, since a
framework that is broken may take its process along.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec import Graph, GraphBuilder, evaluate, initial_weights
from gsto_spec.backend import Backend, Batch, Training, backend
from gsto_spec.objective import SGD
from gsto_spec.ops import BatchNorm, Conv2d

CLASSES, SIZE = 3, 32
_RATE, _STEPS = 0.05, 3
_UNIT_ROUNDOFF = 2.0**-24
_OTHER_ROUNDINGS = 12
"""At most, of one value in any op of `network` but a convolution: a resize at factor 2 has 4 products and 3
sums, a batch norm a square root, a quotient, a product and two sums."""


def network() -> Graph:
    """Return what HRNet is made of, in small: a stem, a branch at half its size, and their sum."""
    build = GraphBuilder()
    stem = build.conv2d("conv1", build.input(), 8, kernel=3, stride=2)
    stem = build.relu(build.batch_norm("bn1", stem))
    low = build.relu(build.conv2d("low", stem, 8, kernel=3, stride=2, bias=True))
    summed = build.relu(build.add([stem, build.resize(low, like=stem)]))
    return build.graph({"stage4": build.conv2d("head", summed, CLASSES, bias=True)})


def bound(graph: Graph, weights: Mapping[str, NDArray[Any]], image: NDArray[Any]) -> NDArray[Any]:
    """Return how far from exact a prediction in float32 may lie, an array like the first output.

    A sum of products of n roundings is off by at most gamma_n = n u / (1 - n u) times the sum of their
    magnitudes, in any order (Higham, Accuracy and Stability, section 3.1); ReLUs let errors through
    unchanged at most. So a network of such ops is off by gamma of all roundings along it, times what the
    same network makes of the magnitudes of weights and image.
    """
    roundings = sum(_roundings(graph, node.name) for node in graph.nodes)
    gamma = roundings * _UNIT_ROUNDOFF / (1 - roundings * _UNIT_ROUNDOFF)
    magnitudes = {name: np.abs(array) for name, array in weights.items()}
    # A batch norm subtracts its mean, so that a negative one adds its magnitude.
    magnitudes |= {name: -array for name, array in magnitudes.items() if name.endswith(".running_mean")}
    return np.asarray(gamma * _first(evaluate(graph, magnitudes, {"image": np.abs(image)})))


def examine(backend: Backend) -> dict[str, Any]:
    """Return versions, devices and precisions of a backend, and what it did on each device."""
    return {
        "versions": backend.versions(),
        "devices": list(backend.devices()),
        "precisions": list(backend.precisions),
        "tests": {device: _test(backend, device) for device in backend.devices()},
    }


def problems(found: Mapping[str, Any]) -> list[str]:
    """Return what is wrong in the findings of `examine`, a line each."""
    told = []
    for device, test in found["tests"].items():
        if not test["error_over_bound"] <= 1:
            times = f"{test['error_over_bound']:.3g}"
            told.append(f"{device}: a prediction is {times} times as wrong as rounding explains")
        losses = test["losses"]
        if not np.isfinite(losses).all() or losses[-1] >= losses[0]:
            told.append(f"{device}: {_STEPS - 1} training steps do not lower the loss: {losses}")
    return told


def _test(backend: Backend, device: str) -> dict[str, Any]:
    graph, generator = network(), np.random.default_rng(0)
    weights = initial_weights(graph)
    image = generator.standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
    label = generator.integers(0, CLASSES, (2, SIZE, SIZE))
    predictor = backend.predictor(graph, weights, device=device, precision="float32")
    error = np.abs(_first(predictor.predict(image)) - _first(evaluate(graph, weights, {"image": image})))
    terms = Training(optimizer=SGD(momentum=0.0, weight_decay=0.0))
    trainer = backend.trainer(graph, weights, terms, device=device, precision="float32")
    batch: Batch = {"image": image, "label": label}
    losses = [float(trainer.step(batch, _RATE)["loss"]) for _ in range(_STEPS)]
    return {"error_over_bound": float((error / bound(graph, weights, image)).max()), "losses": losses}


def _roundings(graph: Graph, node: str) -> int:
    """Return how many roundings stand between a value of this node and its operands, one more for a fold."""
    op = graph.by_name[node].op
    if isinstance(op, Conv2d):
        _, channels, height, width = graph.parameters[f"{node}.weight"]
        return channels * height * width + 2
    return _OTHER_ROUNDINGS if isinstance(op, BatchNorm) or graph.by_name[node].operands else 0


def _first(outputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    return next(iter(outputs.values()))


def main(arguments: Sequence[str]) -> None:
    """Examine the backend of this name and print the findings, or why there are none."""
    began = time.monotonic()
    try:
        found: dict[str, Any] = examine(backend(arguments[0]))
        found["problems"] = problems(found)
    except Exception as error:  # Whatever a broken framework raises.
        found = {"problems": [f"{type(error).__name__}: {' '.join(str(error).split())}"]}
    print(json.dumps({**found, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main(sys.argv[1:])
