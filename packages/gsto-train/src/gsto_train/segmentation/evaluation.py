"""From logits to scores: one evaluator for a score during training, at its end, and later."""

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gsto_spec.backend import Predictor
from gsto_spec.graph import Graph
from gsto_spec.ops import Resize
from gsto_train.data.cityscapes import CLASSES, label_ids
from gsto_train.data.loader import LoadedBatch, evaluation_batches
from gsto_train.data.readable import Subset
from gsto_train.data.samples import IGNORE_LABEL, Dataset
from gsto_train.errors import InputError
from gsto_train.finite import WatchedPredictor, count_not_finite
from gsto_train.metrics import CityscapesCounts, CityscapesScores, ConfusionMatrix, SegmentationScores
from gsto_train.metrics.segmentation import AbsentClasses
from gsto_train.processes import ALONE, Processes, Sum
from gsto_train.segmentation.procedures import WHOLE, Procedure, Size, class_planes, largest, resize
from gsto_train.settings import DataSettings, EvaluationSettings
from gsto_train.task import OnConfusion


@dataclass(frozen=True)
class Evaluation:
    """A test procedure and what its scores count.

    With `resize_label` labels are resized to `procedure.size` too, by nearest, floor(i in / out), and the
    score is taken there; `absent` is what `ConfusionMatrix.scores` makes of it.
    """

    procedure: Procedure = WHOLE
    resize_label: bool = False
    absent: AbsentClasses = "left out"

    @classmethod
    def of(cls, evaluation: EvaluationSettings, data: DataSettings) -> "Evaluation":
        """Return what the settings say."""
        procedure = Procedure(
            scales=evaluation.scales,
            base_size=evaluation.base_size,
            size=evaluation.size,
            window=evaluation.window,
            stride=evaluation.window_stride,
            window_above=evaluation.window_above,
            flip=evaluation.flip,
            flip_pairs=data.flip_pairs or (),
            aggregation=evaluation.aggregation,
        )
        return cls(procedure, evaluation.resize_label, evaluation.absent_classes)

    @property
    def protocol(self) -> str:
        """What is done, in words; a score means nothing without it."""
        resized = ", which is resized to the same size by nearest" if self.resize_label else ""
        absent = "; classes that occur nowhere count as 0" if self.absent == "zero" else ""
        return f"{self.procedure.protocol}{resized}{absent}"


OnClasses = Callable[[str, NDArray[np.uint8]], None]
"""What gets a picture's name and the class of each of its pixels, (H, W)."""

PLAIN = Evaluation()

PROTOCOL = PLAIN.protocol
"""What `evaluate` does where it is told nothing else."""


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    *,
    align_corners: bool,
    batch: int,
    threads: int,
    evaluation: Evaluation = PLAIN,
    on_pictures: Callable[[int], None] = lambda count: None,
    on_classes: OnClasses = lambda name, classes: None,
    on_not_finite: Callable[[int], None] = lambda count: None,
    on_confusion: OnConfusion = lambda counts: None,
    processes: Processes = ALONE,
) -> SegmentationScores:
    """Return the scores of the first output over every picture once, each predicted by one of `processes`.

    Those of a data set with instance maps are `CityscapesScores`, unless labels are resized. `on_classes`
    gets the name and classes, (H, W), of every picture of this process; `on_pictures` hears of each batch,
    `on_not_finite` at the end of how many pictures not all logits were finite, `on_confusion` of the counts
    behind the scores. Raises `NotFiniteError` where none was.
    """
    watched = WatchedPredictor(predictor)
    scorer, indices = _scorer(dataset, evaluation), processes.share(len(dataset))
    seen = 0
    batches = evaluation_batches(dataset, batch=batch, threads=threads, indices=indices)
    # What is not finite is counted; numpy need not warn of it besides.
    with processes.together(), closing(batches), np.errstate(invalid="ignore"):
        for loaded in batches:
            label = _resized_label(loaded, evaluation)
            size: Size = (label.shape[1], label.shape[2])
            planes = class_planes(
                watched, loaded.image, evaluation.procedure, size, align_corners=align_corners
            )
            for offset, (name, classes) in enumerate(zip(loaded.names, largest(planes), strict=True)):
                scorer.update(indices[seen + offset], label[offset], classes)
                on_classes(name, classes)
            watched.scored(loaded.names)
            seen += len(loaded.names)
            on_pictures(len(loaded.names))
    scorer.gather(processes.sum)
    scored = int(processes.sum(np.array([seen]))[0])
    assert scored == len(dataset), f"scored {scored} pictures of {len(dataset)}"
    on_not_finite(
        count_not_finite(
            watched.names, found_finite=watched.found_finite, total=scored, unit="pictures",
            processes=processes,
        )
    )  # fmt: skip
    on_confusion(scorer.confusion())
    return scorer.scores()


def classify(
    logits: NDArray[np.floating], size: tuple[int, ...], align_corners: bool = False
) -> NDArray[np.uint8]:
    """Return the class with the largest logit at each pixel, (N, H, W), of (N, K, h, w) logits.

    The logits are resized as `gsto_spec.reference.resize_bilinear` does, one class at a time, so that no
    array of N x K x H x W is ever held. Of equal logits the first class wins, as in numpy's argmax.
    """
    return largest(resize(logits[:, index], size, align_corners) for index in range(logits.shape[1]))


def as_json(scores: SegmentationScores, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the scores as result.json has them: None where a score is undefined."""
    summary = {
        "mean_iou": _defined(scores.mean_iou),
        "pixel_accuracy": _defined(scores.pixel_accuracy),
        "mean_accuracy": _defined(scores.mean_accuracy),
        "iou": {name: _defined(value) for name, value in zip(classes, scores.iou, strict=True)},
    }
    if isinstance(scores, CityscapesScores):
        summary |= {
            "mean_instance_iou": _defined(scores.mean_instance_iou),
            "mean_category_iou": _defined(scores.mean_category_iou),
            "mean_category_instance_iou": _defined(scores.mean_category_instance_iou),
            "instance_iou": _all_defined(scores.instance_iou),
            "category_iou": _all_defined(scores.category_iou),
            "category_instance_iou": _all_defined(scores.category_instance_iou),
        }
    return summary


def align_corners(graph: Graph) -> bool:
    """Return the graph's bilinear convention, False where it never resizes; raises InputError for two."""
    conventions = {
        node.op.align_corners
        for node in graph.nodes
        if isinstance(node.op, Resize) and node.op.method == "bilinear"
    }
    if len(conventions) > 1:
        raise InputError(
            "the architecture resizes with and without align_corners, so it does not say how its logits are "
            "to be resized to the label; use one of the two"
        )
    return conventions == {True}


@runtime_checkable
class WithInstances(Protocol):
    """A data set of Cityscapes' classes with a map of instances beside each label."""

    def instance_ids(self, index: int) -> NDArray[np.int32]:
        """Return the (H, W) instance ids of a picture: label id x 1000 + number, or a label id."""


class _Scorer(Protocol):
    def update(self, index: int, label: NDArray[np.int64], classes: NDArray[np.uint8]) -> None: ...

    def gather(self, add: Sum) -> None:
        """Take in what every process counted."""

    def confusion(self) -> NDArray[np.int64]:
        """Return the pixels of each class, (K, K): rows the truth, columns the prediction."""

    def scores(self) -> SegmentationScores: ...


class _Plain:
    def __init__(self, classes: int, absent: AbsentClasses) -> None:
        self._confusion, self._absent = ConfusionMatrix(classes), absent

    def update(self, index: int, label: NDArray[np.int64], classes: NDArray[np.uint8]) -> None:
        self._confusion.update(label, classes)

    def gather(self, add: Sum) -> None:
        self._confusion = ConfusionMatrix.from_counts(add(self._confusion.counts))

    def confusion(self) -> NDArray[np.int64]:
        return self._confusion.counts

    def scores(self) -> SegmentationScores:
        return self._confusion.scores(absent=self._absent)


class _Cityscapes:
    def __init__(self, instance_ids: Callable[[int], NDArray[np.int32]]) -> None:
        self._instance_ids, self._counts = instance_ids, CityscapesCounts()

    def update(self, index: int, label: NDArray[np.int64], classes: NDArray[np.uint8]) -> None:
        labelled = label != IGNORE_LABEL
        if not labelled.any():
            return  # A picture of the test split has no instances either.
        # Every id that does not count is as good as 0: none of them costs anything.
        truth = np.where(labelled, label_ids(np.where(labelled, label, 0)), 0)
        self._counts.update(truth, label_ids(classes), self._instance_ids(index))

    def gather(self, add: Sum) -> None:
        counts = self._counts
        self._counts = CityscapesCounts.from_counts(add(counts.pixels), add(counts.instances))

    def confusion(self) -> NDArray[np.int64]:
        scored = label_ids(np.arange(len(CLASSES)))
        return self._counts.pixels[np.ix_(scored, scored)]

    def scores(self) -> SegmentationScores:
        return self._counts.scores()


def _scorer(dataset: Dataset, evaluation: Evaluation) -> _Scorer:
    instance_ids = _instance_ids(dataset)
    if instance_ids is None or evaluation.resize_label or evaluation.absent == "zero":
        return _Plain(len(dataset.classes), evaluation.absent)
    return _Cityscapes(instance_ids)


def _instance_ids(dataset: Dataset) -> Callable[[int], NDArray[np.int32]] | None:
    """Return what gives the instances of a picture of `dataset`, None where it has none."""
    if isinstance(dataset, Subset):
        whole, indices = _instance_ids(dataset.dataset), dataset.indices
        return None if whole is None else lambda index: whole(indices[index])
    return dataset.instance_ids if isinstance(dataset, WithInstances) else None


def _resized_label(loaded: LoadedBatch, evaluation: Evaluation) -> NDArray[np.int64]:
    label, size = loaded.label, evaluation.procedure.size
    if not evaluation.resize_label or size is None:
        return label
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, label.shape[1:], strict=True))
    return np.asarray(label.take(rows, axis=1).take(columns, axis=2))


def _all_defined(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _defined(value) for name, value in values.items()}


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
