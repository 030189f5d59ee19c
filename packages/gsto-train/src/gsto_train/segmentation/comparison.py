"""The scores to print beside a network's: those of answers that need no network."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from gsto_train.data.samples import Dataset, Sample
from gsto_train.report import CountReport, Report
from gsto_train.segmentation.baselines import Classifier, ColourPositionHistogram, ConstantAnswer, score
from gsto_train.segmentation.evaluation import as_json
from gsto_train.wording import counted

BASELINES: dict[str, Callable[[Dataset], Classifier]] = {
    "histogram": ColourPositionHistogram.fit,
    "constant": ConstantAnswer.fit,
}
"""What result.json and the table call them."""


def baseline_scores(
    training: Dataset,
    validation: Dataset,
    *,
    threads: int,
    report: Report,
    check: Callable[[Sample], None] = lambda sample: None,
) -> dict[str, Any]:
    """Return each baseline's scores, as result.json has them, fitted to `training` on `validation`.

    Reads every picture of both, so that one that is missing or broken is found before hours of training.
    Raises `InputError` for it, and what `check` raises for a picture of `validation`.
    """
    readings = len(BASELINES) * (len(training) + len(validation))
    what = f"fitting the baselines to {counted(len(training), 'picture')}"
    with ThreadPoolExecutor(threads) as pool, report.counting(what, readings) as count:
        fitted = _ReadAhead(training, pool, 2 * threads, count, lambda sample: None)
        scored = _ReadAhead(validation, pool, 2 * threads, count, check)
        scores = {name: score(fit(fitted), scored) for name, fit in BASELINES.items()}
    return {name: as_json(each, validation.classes) for name, each in scores.items()}


def are_scores(found: Mapping[str, object], classes: tuple[str, ...]) -> bool:
    """Return whether `found` is what `baseline_scores` returns for these classes."""
    return set(found) == set(BASELINES) and all(_are_scores(each, classes) for each in found.values())


def _are_scores(found: object, classes: tuple[str, ...]) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("iou"), dict):
        return False
    values = [found.get(key, "") for key in ("mean_iou", "pixel_accuracy", "mean_accuracy")]
    values += found["iou"].values()
    return tuple(found["iou"]) == classes and all(isinstance(each, float | int | None) for each in values)


class _ReadAhead:
    """A data set that is read in order: the next samples are on their way, and each one read is counted."""

    def __init__(
        self,
        dataset: Dataset,
        pool: ThreadPoolExecutor,
        ahead: int,
        count: CountReport,
        check: Callable[[Sample], None],
    ) -> None:
        self._check = check
        self._dataset, self._pool, self._ahead, self._count = dataset, pool, ahead, count
        self._coming: dict[int, Future[Sample]] = {}
        self.classes, self.palette = dataset.classes, dataset.palette

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        for each in range(index, min(index + self._ahead, len(self))):
            if each not in self._coming:
                self._coming[each] = self._pool.submit(self._dataset.__getitem__, each)
        self._count.advance(1)
        sample = self._coming.pop(index).result()
        self._check(sample)
        return sample
