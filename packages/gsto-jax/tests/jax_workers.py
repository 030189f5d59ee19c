"""What the tests of several devices and processes run: a few steps on a global batch, and what came of them.

Arguments: where to write the results; the environment says which devices and processes there are.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_jax.backend import JaxBackend
from gsto_jax.train import JaxTrainer
from gsto_spec import Graph, GraphBuilder, initial_weights
from gsto_spec.backend import Training, share
from gsto_spec.objective import SGD, Adam, CrossEntropy, Objective, Ohem

Arrays = dict[str, NDArray[Any]]

WEIGHTED = CrossEntropy(class_weights=(0.5, 1.0, 2.0))
TRAININGS = {
    "weighted": Training(Objective(WEIGHTED), SGD(0.9, 5e-4), 0.5),
    "ohem in parts": Training(Objective(replace(WEIGHTED, ohem=Ohem(0.4, 5))), Adam(), 0.5, micro_batches=2),
}
SIZES = {"weighted": (4, 4, 6, 4, 3), "ohem in parts": (8, 8, 8, 8, 6)}
"""Images of each step; the last ones divide by fewer devices, or by none."""


def graph() -> Graph:
    build = GraphBuilder(momentum=0.2)
    image = build.input("image", 2)
    x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", image, 2, kernel=3, stride=2)))
    x = build.mul(build.sigmoid(build.conv2d("att.0", x, 1)), x)
    low = build.resize(build.max_pool(x, 2, 2), like=x)
    head = build.conv2d("head", build.concat([x, low]), 3, bias=True)
    return build.graph({"stage4": head, "stage2": build.conv2d("aux", low, 3)})


def batch_of(seed: int, images: int) -> Arrays:
    """A global batch; no pixel of its first image is valid."""
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 3, (images, 7, 6))
    label[draw.random(label.shape) < 0.2] = 255
    label[0] = 255
    return {"image": draw.standard_normal((images, 2, 7, 6)), "label": label}


def mine(backend: JaxBackend, batch: Arrays) -> Arrays:
    rows = share(len(batch["image"]), backend.process_index, backend.process_count)
    return {name: array[rows.start : rows.stop] for name, array in batch.items()}


def trained(backend: JaxBackend, name: str) -> Arrays:
    """The losses of every step, and the state after them."""
    trainer = backend.trainer(
        graph(), initial_weights(graph()), TRAININGS[name], device="cpu", precision="float64"
    )
    results: Arrays = {}
    for step, images in enumerate(SIZES[name]):
        losses = trainer.step(mine(backend, batch_of(step, images)), 0.1)
        results |= {f"{name}/{step}/{loss}": np.asarray(float(value)) for loss, value in losses.items()}
    if name == "weighted":
        refused(backend, trainer)
        alone(backend, trainer)
    return results | {f"{name}/{key}": array for key, array in trainer.state().items()}


def refused(backend: JaxBackend, trainer: JaxTrainer) -> None:
    """A step that is not finite for the last device alone changes nothing anywhere."""
    broken = batch_of(0, 4)
    broken["image"][3, 0, 2, 2] = np.nan
    trainer.load(before := trainer.state())
    assert float(trainer.step(mine(backend, broken), 0.1)["finite"]) == 0
    assert all(np.array_equal(before[name], array) for name, array in trainer.state().items())
    assert trainer.first_not_finite(mine(backend, broken)) == "image"


def alone(backend: JaxBackend, trainer: JaxTrainer) -> None:
    """Each process predicts images of its own, as many as it likes."""
    own = batch_of(7 + backend.process_index, 3 + backend.process_index)["image"]
    found = trainer.predict(own)["stage4"]
    single = np.concatenate([trainer.predict(image[None])["stage4"] for image in own])
    np.testing.assert_allclose(found, single, rtol=0, atol=1e-12)


def main(output: Path) -> None:
    backend = JaxBackend()
    results: Arrays = {}
    for name in TRAININGS:
        results |= trained(backend, name)
    counts = np.array([2**62 // backend.process_count, backend.process_index + 1], np.int64)
    results["sum"] = backend.sum_over_processes(counts)
    versions = backend.versions()
    results["layout"] = np.array([int(versions["devices"]), int(versions["processes"])])
    # Not allow_pickle=False: numpy before 2.1 would write that as one of the arrays.
    np.savez(output, **results)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
