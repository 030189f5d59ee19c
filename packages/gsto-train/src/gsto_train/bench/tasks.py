"""What is done once and timed: a prediction, a step, a picture scored, a picture read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, SupportsFloat

import cv2
import numpy as np
from numpy.typing import NDArray

from gsto_spec import Graph, initial_weights
from gsto_spec.backend import Training
from gsto_train import benchmarks, settings
from gsto_train.bench.cases import Case
from gsto_train.bench.engines import Place
from gsto_train.bench.material import Pictures, batch, classes, images, live_weights, objective
from gsto_train.bench.subjects import Subject
from gsto_train.data.augment import Augmentation
from gsto_train.data.cityscapes import Cityscapes
from gsto_train.data.loader import training_batches
from gsto_train.segmentation.evaluation import align_corners, evaluate

LEARNING_RATE = 0.01
SCORED_PICTURES = 4
PROTOCOL = "cityscapes"
"""The benchmark whose augmentation the loader is measured with."""

LOADER, DECODER = "loader", "decode"
"""The subjects of `data`: this package's loader, and cv2's bare decoding of picture and label."""


@dataclass(frozen=True)
class Order:
    """A task as it is handed to a process; `folder` holds the pictures of `data`."""

    case: Case
    subject: str
    place: Place
    folder: str = ""

    @property
    def network_subject(self) -> Subject:
        """The subject, of all jobs but `data`."""
        maker, _, manner = self.subject.rpartition("-")
        return Subject(maker, manner)


class Task(Protocol):
    """Something that is done again and again.

    `items`: how many predictions, steps, scored pictures or crops one `run` is.
    """

    items: int

    def run(self) -> None:
        """Do it, to the end."""

    def answer(self) -> dict[str, NDArray[Any]]:
        """What the first run gave, to be compared with the other subjects' answers."""


def make_task(order: Order) -> Task:
    """Make what the order says, ready for its first run; raises whatever the subject fails with."""
    makers: Mapping[str, Callable[[Order], Task]] = {
        "inference": Inference, "growth": Inference, "step": Step, "evaluation": Evaluation,
        "data": partial(Reading, reader=_READERS.get(order.subject, _load)),
    }  # fmt: skip
    return makers[order.case.job](order)


class Inference:
    """A prediction of a batch, from numpy to numpy."""

    items = 1

    def __init__(self, order: Order) -> None:
        graph = Graph.from_json(order.case.graph)
        self._images = images(order.case.shape)
        self._predictor = order.network_subject.predictor(graph, live_weights(graph), order.place)
        self._answer: dict[str, NDArray[Any]] = {}

    def run(self) -> None:
        """Predict."""
        found = self._predictor.predict(self._images)
        self._answer = self._answer or found

    def answer(self) -> dict[str, NDArray[Any]]:
        """The outputs."""
        return {name: np.asarray(array, np.float32) for name, array in self._answer.items()}


class Step:
    """A training step; its loss is read when the next step is under way, as in training."""

    items = 1

    def __init__(self, order: Order) -> None:
        graph = Graph.from_json(order.case.graph)
        self._batch = batch(graph, order.case.shape)
        self._trainer = order.network_subject.trainer(
            graph, initial_weights(graph), Training(objective(graph)), order.place
        )
        self._first: Mapping[str, SupportsFloat] = {}
        self._pending: SupportsFloat = 0.0

    def run(self) -> None:
        """Step."""
        losses = self._trainer.step(self._batch, LEARNING_RATE)
        self._first = self._first or losses
        float(self._pending)
        self._pending = losses["loss"]

    def answer(self) -> dict[str, NDArray[Any]]:
        """The losses of the first step."""
        return {name: np.asarray(float(value)) for name, value in self._first.items()}


class Evaluation:
    """Pictures predicted and scored as `gsto-eval` does it; they are in memory."""

    items = SCORED_PICTURES

    def __init__(self, order: Order) -> None:
        graph = Graph.from_json(order.case.graph)
        self._predictor = order.network_subject.predictor(graph, live_weights(graph), order.place)
        pictures = Pictures(self.items, (order.case.height, order.case.width), classes(graph))
        self._evaluate = partial(
            evaluate, dataset=pictures, align_corners=align_corners(graph), batch=order.case.batch,
            threads=order.place.threads,
        )  # fmt: skip
        self._answer: dict[str, NDArray[Any]] = {}

    def run(self) -> None:
        """Score every picture."""
        scores = self._evaluate(self._predictor)
        self._answer = self._answer or {"iou": np.nan_to_num(np.asarray(scores.iou))}

    def answer(self) -> dict[str, NDArray[Any]]:
        """The IoU of every class."""
        return self._answer


class Reading:
    """Pictures of Cityscapes' size read from PNGs, in one thread; nothing to compare."""

    def __init__(self, order: Order, reader: Callable[[Case, Cityscapes], Callable[[], int]]) -> None:
        self._read = reader(order.case, Cityscapes(Path(order.folder), "train"))
        self.items = 1

    def run(self) -> None:
        """Read every picture, at every scale where scales matter."""
        self.items = self._read()

    def answer(self) -> dict[str, NDArray[Any]]:
        """Nothing."""
        return {}


def _decode(case: Case, dataset: Cityscapes) -> Callable[[], int]:
    files = [path for pair in dataset.listing.pairs for path in (pair.image, pair.label) if path]
    cv2.setNumThreads(0)

    def read() -> int:
        for path in files:
            assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is not None, path
        return len(dataset)

    return read


def _load(case: Case, dataset: Cityscapes) -> Callable[[], int]:
    augmentations = _augmentations((case.height, case.width))

    def read() -> int:
        for augmentation in augmentations:
            steps = training_batches(
                dataset, augmentation, batch=1, seed=0, start_step=0, total_steps=len(dataset), threads=1
            )
            for _ in steps:
                pass
        return len(augmentations) * len(dataset)

    return read


_READERS = {LOADER: _load, DECODER: _decode}


def _augmentations(crop: tuple[int, int]) -> list[Augmentation]:
    """The protocol's augmentation, its scales one by one: all weigh alike, whatever a seed would draw."""
    data = settings.resolve(benchmarks.load(PROTOCOL).values).data
    whole = Augmentation(crop, data.base_size, data.scales, data.flip, data.flip_pairs or ())
    return [replace(whole, scales=(scale,)) for scale in whole.scales]
