"""What a run learns and is scored by: all in which segmentation and keypoints differ."""

from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gsto_spec.backend import Batch, Predictor
from gsto_spec.graph import Graph
from gsto_spec.objective import Objective
from gsto_train.processes import ALONE, Processes
from gsto_train.report import Report

Scores = Mapping[str, Any]
"""Scores by name, as result.json has them; None where one is undefined."""


OnConfusion = Callable[[NDArray[np.int64]], None]
"""What gets the pixels behind a score, (K, K): rows the truth, columns the prediction."""


class TrainingBatch(Protocol):
    """What a trainer takes for one step, with the names of the samples in it."""

    @property
    def inputs(self) -> Batch:
        """The arrays, as `gsto_spec.backend.Trainer.step` takes them."""

    @property
    def names(self) -> tuple[str, ...]:
        """What each sample is called: a file, or "scene 12 of train"."""

    @property
    def step(self) -> int:
        """The 0-based training step."""

    @property
    def epoch(self) -> int:
        """The epoch of the first sample."""


class Task(Protocol):
    """A data set to train on, one to score on, and how both is done."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the channels of the network's outputs: classes, or joints."""

    @property
    def training_count(self) -> int:
        """Samples of an epoch."""

    @property
    def validation_count(self) -> int:
        """Samples that are scored."""

    @property
    def unit(self) -> str:
        """What the samples are, in the plural."""

    @property
    def label_unit(self) -> str:
        """What the labels are, in the plural."""

    def protocol(self, graph: Graph) -> str:
        """Return how scores of a network are made; a score means nothing without it."""

    def check(self, graph: Graph) -> None:
        """Raise `InputError` where the settings do not go with the data or the network."""

    def objective(self, graph: Graph) -> Objective:
        """Return what is minimised."""

    def batches(
        self, graph: Graph, *, start_step: int, total_steps: int, slots: range
    ) -> Generator[TrainingBatch]:
        """Yield the samples `slots` of the batches of steps start_step .. total_steps - 1.

        Closing it ends its threads.
        """

    def baselines(self, graph: Graph, report: Report) -> dict[str, Any]:
        """Return the scores of answers that need no network, by name; reads every picture.

        Raises `InputError` for one that does not read or that the network cannot predict.
        """

    def are_baselines(self, found: Mapping[str, object]) -> bool:
        """Return whether `found` is what `baselines` returns for these data."""

    def evaluate(
        self,
        graph: Graph,
        predictor: Predictor,
        on_scored: Callable[[int], None],
        *,
        on_confusion: OnConfusion = lambda counts: None,
        processes: Processes = ALONE,
    ) -> dict[str, Any]:
        """Return the scores of the first output, in every process those of all of them.

        `on_scored` hears how many more samples this process has predicted, `on_confusion` of the pixels of
        each class, where there are classes.
        """

    def score(self, scores: Scores) -> float | None:
        """Return the one score that tells most, the higher the better; None where it is undefined."""

    def headline(self, scores: Scores) -> str:
        """Return that score in words."""

    def facts(self) -> dict[str, Any]:
        """Return what result.json says of the data beside the scores."""

    def show(self, report: Report, title: str, columns: Mapping[str, Scores]) -> None:
        """Print a table of scores, a column each."""
