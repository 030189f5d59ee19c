"""What is done once and timed: a prediction, a step, a picture scored, a picture read."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
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
from gsto_train.data.decoded import keep_in
from gsto_train.data.loader import training_batches
from gsto_train.pose.loading import pose_batches
from gsto_train.pose.targets import Codec
from gsto_train.pose.task import Keypoints, open_part
from gsto_train.segmentation.evaluation import align_corners, evaluate

LEARNING_RATE = 0.01
SCORED_PICTURES = 4
HEATMAP_STRIDE = 4
STREETS, PERSONS = "cityscapes", "coco-keypoints-w32"
"""The benchmarks whose crops `data` reads: from PNGs of picture and label, and from JPEGs."""

DECODER, LOADER, KEEPER = "decode", "loader", "loader-decoded"
"""Subjects of `data`: cv2's bare decoding, this package's loader of the same files, and with data.decoded."""


@dataclass(frozen=True)
class Order:
    """A task as it is handed to a process.

    `folder` holds the pictures of `data`. With `gives_back` the process is to be no larger than its arrays.
    """

    case: Case
    subject: str
    place: Place
    folder: str = ""
    gives_back: bool = False

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
        "data": partial(Reading, reader=READERS.get(order.subject, _load)),
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
    """The files of a data set read in one thread; nothing to compare."""

    def __init__(self, order: Order, reader: "Callable[[Crops], None]") -> None:
        makers: Mapping[str, Callable[[Case, Path], Crops]] = {STREETS: StreetCrops, PERSONS: PersonCrops}
        self._crops = makers[order.case.architecture](order.case, Path(order.folder))
        self._read, self.items = reader, len(self._crops)

    def run(self) -> None:
        """Read every crop, or decode the files that this takes."""
        self._read(self._crops)

    def answer(self) -> dict[str, NDArray[Any]]:
        """Nothing."""
        return {}


class Crops(Protocol):
    """The crops of one run, as many as files are decoded for them."""

    files: list[Path]

    def __len__(self) -> int:
        """Return how many there are."""

    def load(self) -> Iterable[object]:
        """Yield each, ready for a network, from one thread."""


class StreetCrops:
    """Cityscapes' training crops, of every picture at each of the protocol's scales once."""

    def __init__(self, case: Case, folder: Path) -> None:
        data = settings.resolve(benchmarks.load(case.architecture).values).data
        whole = Augmentation((case.height, case.width), data.base_size, data.scales, data.flip)
        # One by one: all scales weigh alike, whatever a seed would draw.
        self._augmentations = [replace(whole, scales=(scale,)) for scale in data.scales]
        self._dataset = Cityscapes(folder, "train")
        pairs = self._dataset.listing.pairs
        self.files = [path for pair in pairs for path in (pair.image, pair.label) if path] * len(data.scales)

    def __len__(self) -> int:
        """Return the number of pictures times that of scales."""
        return len(self._augmentations) * len(self._dataset)

    def load(self) -> Iterator[object]:
        """Yield a batch of one crop each time."""
        for augmentation in self._augmentations:
            yield from training_batches(
                self._dataset, augmentation, batch=1, seed=0, start_step=0, total_steps=len(self._dataset),
                threads=1,
            )  # fmt: skip


class PersonCrops:
    """COCO's training crops with their heatmaps, of every person once."""

    def __init__(self, case: Case, folder: Path) -> None:
        crop = {"data.crop": [case.height, case.width], "data.folder": str(folder)}
        whole = settings.resolve(benchmarks.load(case.architecture).values, crop)
        self._persons = open_part(whole, "train", skip_unreadable=False)
        self._task = Keypoints(whole, self._persons, self._persons)
        heatmap = (case.height // HEATMAP_STRIDE, case.width // HEATMAP_STRIDE)
        self._codec = Codec(heatmap, HEATMAP_STRIDE, whole.pose.sigma, whole.pose.targets)
        self.files = sorted((folder / whole.data.train_pictures).iterdir())

    def __len__(self) -> int:
        """Return the number of persons."""
        return len(self._persons.persons)

    def load(self) -> Iterable[object]:
        """Return batches of one crop each."""
        how = (self._task.cropping, self._codec, self._task.augmentation)
        return pose_batches(
            self._persons, *how, batch=1, seed=0, start_step=0, total_steps=len(self), threads=1
        )


def _decode(crops: Crops) -> None:
    cv2.setNumThreads(0)
    for path in crops.files:
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is not None, path


def _load(crops: Crops) -> None:
    deque(crops.load(), maxlen=0)


@cache
def _scratch() -> "TemporaryDirectory[str]":
    return TemporaryDirectory(prefix="gsto-bench-")


def _load_kept(crops: Crops) -> None:
    keep_in(_scratch().name)
    _load(crops)


READERS: Mapping[str, Callable[[Crops], None]] = {DECODER: _decode, LOADER: _load, KEEPER: _load_kept}
