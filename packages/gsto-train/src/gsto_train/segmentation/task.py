"""Semantic segmentation as a task: a class for every pixel."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from gsto_spec import Graph, GraphError
from gsto_spec.backend import Predictor
from gsto_spec.objective import CrossEntropy, Objective, Ohem
from gsto_train.data.augment import Augmentation
from gsto_train.data.loader import LoadedBatch, training_batches
from gsto_train.data.readable import Subset
from gsto_train.data.resized import Resized
from gsto_train.data.samples import IGNORE_LABEL, Dataset, Sample
from gsto_train.errors import InputError
from gsto_train.finite import NOT_FINITE, told_of
from gsto_train.processes import ALONE, Processes
from gsto_train.report import Report, Scores
from gsto_train.segmentation import evaluation
from gsto_train.segmentation.comparison import are_scores, baseline_scores
from gsto_train.segmentation.evaluation import Evaluation, OnClasses
from gsto_train.segmentation.procedures import Procedure
from gsto_train.settings import Settings
from gsto_train.task import OnConfusion
from gsto_train.wording import counted


@dataclass(frozen=True)
class Segmentation:
    """Cross-entropy over labelled pixels; scores from one confusion matrix of all of them."""

    settings: Settings
    training: Dataset
    validation: Dataset

    unit = "pictures"
    label_unit = "classes"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.training.classes

    @property
    def training_count(self) -> int:
        """Pictures of an epoch."""
        return len(self.training)

    @property
    def validation_count(self) -> int:
        """Pictures that are scored."""
        return len(self.validation)

    @property
    def evaluation(self) -> Evaluation:
        """The test procedure."""
        return Evaluation.of(self.settings.evaluation, self.settings.data)

    def protocol(self, graph: Graph) -> str:
        """Return how scores are made."""
        return self.evaluation.protocol

    @property
    def augmentation(self) -> Augmentation:
        """How training crops are cut."""
        data = self.settings.data
        return Augmentation(data.crop, data.base_size, data.scales, data.flip, data.flip_pairs or ())

    def check(self, graph: Graph) -> None:
        """Raise `InputError` where weights, pairs or the network do not go with the classes."""
        _check_against_classes(self.settings, self.labels)
        evaluation.align_corners(graph)

    def objective(self, graph: Graph) -> Objective:
        """Return the cross-entropy of every output."""
        loss = self.settings.loss
        ohem = Ohem(loss.ohem_threshold, loss.ohem_kept_per_image) if loss.ohem else None
        cross_entropy = CrossEntropy(IGNORE_LABEL, loss.class_weights, ohem)
        return Objective(cross_entropy, asdict(loss.stage_weights), evaluation.align_corners(graph))

    def batches(
        self, graph: Graph, *, start_step: int, total_steps: int, slots: range
    ) -> Generator[LoadedBatch]:
        """Yield the crops `slots` of steps start_step .. total_steps - 1."""
        train = self.settings.train
        return training_batches(
            self.training,
            self.augmentation,
            batch=train.batch,
            seed=train.seed,
            start_step=start_step,
            total_steps=total_steps,
            threads=train.threads,
            slots=slots,
        )

    def baselines(self, graph: Graph, report: Report) -> dict[str, Any]:
        """Score a constant, and a histogram of colour and position; finds pictures that do not fit."""
        return baseline_scores(
            self.training,
            self.validation,
            threads=self.settings.train.threads,
            report=report,
            check=_size_check(graph, self.evaluation.procedure),
        )

    def are_baselines(self, found: Mapping[str, object]) -> bool:
        """Return whether `found` are scores of these classes."""
        return are_scores(found, self.validation.classes)

    def evaluate(
        self,
        graph: Graph,
        predictor: Predictor,
        on_scored: Callable[[int], None],
        on_classes: OnClasses = lambda name, classes: None,
        *,
        on_confusion: OnConfusion = lambda counts: None,
        processes: Processes = ALONE,
    ) -> dict[str, Any]:
        """Score the validation pictures by `protocol`; `on_classes` gets each one's name and classes."""
        not_finite = list[int]()
        scores = evaluation.evaluate(
            predictor,
            self.validation,
            align_corners=evaluation.align_corners(graph),
            batch=self.settings.train.evaluation_batch,
            threads=self.settings.train.threads,
            evaluation=self.evaluation,
            on_pictures=on_scored,
            on_classes=on_classes,
            on_not_finite=not_finite.append,
            on_confusion=on_confusion,
            processes=processes,
        )
        found = evaluation.as_json(scores, self.validation.classes)
        return found | ({NOT_FINITE: not_finite[0]} if not_finite[0] else {})

    def score(self, scores: Scores) -> float | None:
        """Return the mean IoU."""
        found: float | None = scores["mean_iou"]
        return found

    def headline(self, scores: Scores) -> str:
        """Return the mean IoU in words."""
        found = self.score(scores)
        mean = float("nan") if found is None else found
        return f"mean IoU {mean:.3f}{told_of(scores, self.unit)}"

    def facts(self) -> dict[str, Any]:
        """Return how many pictures there are, how many files are left out, and the seed of generated ones."""
        data = self.settings.data
        seeds = {"scenes": data.scene_seed} if data.kind == "scenes" else {}
        return {
            "pictures": {"training": self.training_count, "validation": self.validation_count},
            "left_out": {"training": _left_out(self.training), "validation": _left_out(self.validation)},
            "seeds": seeds,
        }

    def show(self, report: Report, title: str, columns: Mapping[str, Scores]) -> None:
        """Print the IoU of every class, and the pooled scores."""
        report.scores(title, columns)
        for name, scores in columns.items():
            if told_of(scores, self.unit):
                report.note(f"warning: {name}: {self.headline(scores)}")


def _left_out(dataset: Dataset) -> int:
    """Return how many files of a data set are missing or do not read, and are not used."""
    if isinstance(dataset, Resized):
        return _left_out(dataset.dataset)
    return dataset.left_out if isinstance(dataset, Subset) else 0


def _check_against_classes(settings: Settings, classes: tuple[str, ...]) -> None:
    weights = settings.loss.class_weights
    if weights is not None and len(weights) != len(classes):
        raise InputError(
            f"setting 'loss.class_weights': expected {counted(len(classes), 'number')}, one per class, "
            f"found {len(weights)}"
        )
    for pair in settings.data.flip_pairs or ():
        if max(pair) >= len(classes):
            raise InputError(
                f"setting 'data.flip_pairs': expected class numbers of at most {len(classes) - 1}, "
                f"found {list(pair)}"
            )


def _size_check(graph: Graph, procedure: Procedure) -> Callable[[Sample], None]:
    """Return what raises `InputError` for a picture that the network cannot predict by the procedure."""
    return partial(_check_size, graph, procedure, set[tuple[int, ...]]())


def _check_size(graph: Graph, procedure: Procedure, fitting: set[tuple[int, ...]], sample: Sample) -> None:
    height, width = sample.label.shape
    if (height, width) in fitting:
        return
    try:
        for size in procedure.inputs((height, width)):
            graph.check((1, 3, *size))
    except GraphError as error:
        taken = "" if size == (height, width) else f", predicted at {size[1]}x{size[0]},"
        what = f"{width}x{height} (width x height){taken}"
        raise InputError(
            f"{sample.name}: {what} does not fit the architecture: {error}; replace this picture or "
            "take it off data.val_list"
        ) from None
    fitting.add((height, width))
