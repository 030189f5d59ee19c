"""A whole backend in numpy, for tests: a linear classifier of pixels, trained by real gradient descent.

`graph` is its architecture, one 1x1 convolution of stride 2. `events.before_step` is called with the number
of every step of a trainer, and `events.reads` counts how often somebody waited for a loss.

Several processes, LINEAR_PROCESSES of them, each with its LINEAR_INDEX, sum arrays through files in
LINEAR_FOLDER. With LINEAR_SIGNAL=3 a process gets SIGTERM in its third step.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec import Graph, GraphBuilder, WeightsError
from gsto_spec.backend import Training
from gsto_spec.objective import Array, Heatmap, heatmap_loss, optimizer_step

STRIDE = 2


def graph(classes: int) -> Graph:
    """Return the architecture for so many classes."""
    build = GraphBuilder()
    head = build.conv2d("head", build.input(), classes, stride=STRIDE, bias=True)
    return build.graph({"stage4": head})


def two_outputs(classes: int) -> Graph:
    """Return an architecture with a supervised stage beside the result."""
    build = GraphBuilder()
    image = build.input()
    head = build.conv2d("head", image, classes, stride=STRIDE, bias=True)
    return build.graph({"stage4": head, "stage3": build.conv2d("aside", image, classes, stride=4, bias=True)})


def with_corners(classes: int) -> Graph:
    """Return `graph` behind a resize with align_corners that changes nothing."""
    build = GraphBuilder()
    image = build.input()
    image = build.resize(image, like=image, align_corners=True)
    return build.graph({"stage4": build.conv2d("head", image, classes, stride=STRIDE, bias=True)})


@dataclass
class Events:
    """What tests look at and reach into."""

    before_step: Callable[[int], None] = lambda step: _signal(step)
    reads: int = 0
    training: Training | None = None
    rates: list[float] = field(default_factory=list)


events = Events()

Sum = Callable[[Array], Array]
_PATIENCE = 30.0


def _signal(step: int) -> None:
    if os.environ.get("LINEAR_SIGNAL") == str(step):
        signal.raise_signal(signal.SIGTERM)


class _Loss:
    def __init__(self, value: float) -> None:
        self._value = value

    def __float__(self) -> float:
        events.reads += 1
        return self._value


class LinearTrainer:
    """A trainer of `graph` and `two_outputs`."""

    def __init__(
        self, graph: Graph, weights: Mapping[str, Array], training: Training, add: Sum = np.asarray
    ) -> None:
        self._training, self._add = training, add
        self._weights = _single(weights)
        self._slots: dict[str, Array] = {}
        self._names = {
            output: (graph.by_name[node].name, _stride(graph, node)) for output, node in graph.outputs.items()
        }
        self._steps = 0

    def step(self, batch: Mapping[str, Array], learning_rate: float) -> Mapping[str, _Loss]:
        """One step of gradient descent on the pixels under the strides."""
        self._steps += 1
        events.before_step(self._steps)
        events.rates.append(learning_rate)
        with np.errstate(all="ignore"):
            losses, gradients = self._losses(batch)
            updated = optimizer_step(
                self._training.optimizer, self._weights, gradients, self._slots, learning_rate
            )
        values: list[Array | float] = [*losses.values(), *gradients.values()]
        finite = all(np.isfinite(value).all() for value in values)
        if finite:
            self._weights, self._slots = map(_single, updated)
        return {name: _Loss(value) for name, value in (*losses.items(), ("finite", float(finite)))}

    def first_not_finite(self, batch: Mapping[str, Array]) -> str | None:
        """The input, an output's layer, a loss, or a gradient."""
        if not np.isfinite(batch["image"]).all():
            return "image"
        with np.errstate(all="ignore"):
            for name, stride in self._names.values():
                if not np.isfinite(self._logits(batch["image"], name, stride)).all():
                    return name
            losses, gradients = self._losses(batch)
        bad = [name for name, value in losses.items() if name != "loss" and not np.isfinite(value)]
        bad += [f"gradient of {name}" for name, value in gradients.items() if not np.isfinite(value).all()]
        return bad[0] if bad else None

    def _losses(self, batch: Mapping[str, Array]) -> tuple[dict[str, float], dict[str, Array]]:
        losses: dict[str, float] = {}
        gradients: dict[str, Array] = {}
        for output, (name, stride) in self._names.items():
            loss, weight, bias = self._loss(batch, name, stride)
            losses[f"loss_{output}"] = loss
            factor = self._training.objective.stage_weights[output]
            gradients |= {f"{name}.weight": factor * weight[:, :, None, None], f"{name}.bias": factor * bias}
        stage_weights = self._training.objective.stage_weights
        total = sum(stage_weights[output] * losses[f"loss_{output}"] for output in self._names)
        return {"loss": total, **losses}, gradients

    def _loss(self, batch: Mapping[str, Array], name: str, stride: int) -> tuple[float, Array, Array]:
        if isinstance(self._training.objective.loss, Heatmap):
            return self._heatmap_loss(self._training.objective.loss, batch, name, stride)
        pixels = (
            batch["image"][:, :, ::stride, ::stride].transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.float64)
        )
        truth = batch["label"][:, ::stride, ::stride].reshape(-1)
        pixels, truth = pixels[truth != 255], truth[truth != 255]
        logits = pixels @ self._weights[f"{name}.weight"][:, :, 0, 0].T + self._weights[f"{name}.bias"]
        probability = np.exp(logits - logits.max(1, keepdims=True))
        probability /= probability.sum(1, keepdims=True)
        loss = -np.log(probability[np.arange(len(truth)), truth]).sum()
        probability[np.arange(len(truth)), truth] -= 1
        summed = self._add(np.vstack([probability.T @ pixels, [[loss, len(truth), 0.0]]]))
        bias = self._add(probability.sum(0))
        count = max(summed[-1, 1], 1)
        return float(summed[-1, 0] / count), summed[:-1] / count, bias / count

    def _heatmap_loss(
        self, loss: Heatmap, batch: Mapping[str, Array], name: str, stride: int
    ) -> tuple[float, Array, Array]:
        pixels = batch["image"][:, :, ::stride, ::stride].astype(np.float64)
        found, target = self._logits(batch["image"], name, stride), batch["heatmaps"]
        weight = batch["visibility"] * np.asarray(loss.joint_weights or 1.0)
        gradient = np.square(weight)[:, :, None, None] * (found - target) / found.size
        value = float(heatmap_loss(loss, found, target, batch["visibility"]))
        return value, np.einsum("nkhw,nchw->kc", gradient, pixels), gradient.sum(axis=(0, 2, 3))

    def predict(self, images: Array) -> dict[str, Array]:
        """Logits at the stride."""
        return {output: self._logits(images, name, stride) for output, (name, stride) in self._names.items()}

    def _logits(self, images: Array, name: str, stride: int) -> Array:
        weight, bias = self._weights[f"{name}.weight"][:, :, 0, 0], self._weights[f"{name}.bias"]
        logits = np.einsum("kc,nchw->nkhw", weight, images[:, :, ::stride, ::stride])
        return np.asarray(logits + bias[:, None, None], np.float32)

    def state(self) -> dict[str, Array]:
        """Weights and optimiser slots."""
        slots = {f"optimizer/{name}": slot for name, slot in self._slots.items()}
        return {**self._weights, **slots}

    def load(self, state: Mapping[str, Array]) -> None:
        """Go on from a state."""
        if set(self._weights) - set(state):
            raise WeightsError("weights are missing")
        self._weights = {name: state[name] for name in self._weights}
        self._slots = {
            name.removeprefix("optimizer/"): state[name] for name in set(state) - set(self._weights)
        }


def _single(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def _stride(graph: Graph, node: str) -> int:
    stride: int = graph.by_name[node].op.stride[0]  # type: ignore[union-attr]
    return stride


class LinearBackend:
    """The backend "linear"."""

    name = "linear"
    precisions = ("float32", "float64")
    speeds = ("plain",)
    process_index = int(os.environ.get("LINEAR_INDEX", "0"))
    process_count = int(os.environ.get("LINEAR_PROCESSES", "1"))

    def __init__(self) -> None:
        self._sums = 0

    def devices(self) -> tuple[str, ...]:
        return ("cpu",)

    def versions(self) -> dict[str, str]:
        threads = os.environ.get("LINEAR_THREADS")
        return {"linear": "1.0"} | ({"threads": threads} if threads else {})

    def sum_over_processes(self, array: NDArray[Any]) -> NDArray[Any]:
        if self.process_count == 1:
            return array
        folder = Path(os.environ["LINEAR_FOLDER"])
        mine = folder / f"{self._sums}-{self.process_index}.npy"
        np.save(mine.with_suffix(".part.npy"), array)
        mine.with_suffix(".part.npy").rename(mine)
        paths = [folder / f"{self._sums}-{index}.npy" for index in range(self.process_count)]
        self._sums += 1
        total: Array = sum(map(_load, paths), np.zeros_like(array))
        return total

    def trainer(
        self, graph: Graph, weights: Mapping[str, Array], training: Training, *, device: str, precision: str,
        speed: str = "fast",
    ) -> LinearTrainer:  # fmt: skip
        events.training = training
        return LinearTrainer(graph, weights, training, self.sum_over_processes)

    def predictor(
        self, graph: Graph, weights: Mapping[str, Array], *, device: str = "auto",
        precision: str = "float32", speed: str = "fast",
    ) -> LinearTrainer:  # fmt: skip
        return LinearTrainer(graph, weights, Training())


def _load(path: Path) -> Array:
    began = time.monotonic()
    while not path.exists():
        if time.monotonic() - began > _PATIENCE:
            raise TimeoutError(f"the other process did not come to {path.name}")
        time.sleep(0.001)
    found: Array = np.load(path)
    return found
