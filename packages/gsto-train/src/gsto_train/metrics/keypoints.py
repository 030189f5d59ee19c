"""Keypoints: OKS average precision and recall by pycocotools, and PCK."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

COCO_NAMES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
"""pycocotools' ten numbers, in its order."""

_CATEGORY = 1


def oks_scores(
    pictures: Sequence[int],
    annotations: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    sigmas: Sequence[float],
) -> dict[str, float | None]:
    """Return pycocotools' ten numbers for keypoints, None where it has nothing to count.

    `annotations` are COCO's (image_id, keypoints, bbox, area; iscrowd where it is 1), `results` those of a
    detector (image_id, keypoints, score); of `results` for pictures that are not among `pictures` none
    counts. Every number is of one category. Source: cocodataset's evaluation, run as it is.
    """
    truth = [_annotation(number, each) for number, each in enumerate(annotations, start=1)]
    found = [_result(number, each) for number, each in enumerate(results, start=1)]
    with redirect_stdout(io.StringIO()):  # It tells its steps on standard output.
        evaluation = COCOeval(_coco(pictures, truth), _coco(pictures, found), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: None if value < 0 else float(value)
        for name, value in zip(COCO_NAMES, evaluation.stats, strict=True)
    }


def _coco(pictures: Sequence[int], annotations: list[dict[str, Any]]) -> Any:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": picture} for picture in pictures],
        "categories": [{"id": _CATEGORY, "name": "object"}],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _annotation(number: int, annotation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the evaluation reads; numbered from 1, because it takes a match with id 0 for none."""
    keypoints = list(annotation["keypoints"])
    labelled = sum(visible > 0 for visible in keypoints[2::3])
    return {
        "id": number,
        "image_id": annotation["image_id"],
        "category_id": _CATEGORY,
        "keypoints": keypoints,
        "num_keypoints": labelled,
        "bbox": list(annotation["bbox"]),
        "area": float(annotation["area"]),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }


def _result(number: int, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a detection as pycocotools' own reader makes it: its area is that of the joints' extent."""
    x, y = (np.asarray(result["keypoints"], np.float64)[axis::3] for axis in (0, 1))
    left, top, width, height = x.min(), y.min(), np.ptp(x), np.ptp(y)
    return {
        "id": number,
        "image_id": result["image_id"],
        "category_id": _CATEGORY,
        "keypoints": list(result["keypoints"]),
        "score": float(result["score"]),
        "bbox": [left, top, width, height],
        "area": float(width * height),
        "iscrowd": 0,
    }


class PercentageOfCorrectKeypoints:
    """PCK: the share of labelled joints found within `threshold` times the longer side of their box.

    Counts are int64 and merge by addition.
    """

    def __init__(self, joints: int, threshold: float = 0.1) -> None:
        self.threshold = threshold
        self.correct: NDArray[np.int64] = np.zeros(joints, np.int64)
        self.labelled: NDArray[np.int64] = np.zeros(joints, np.int64)

    def update(
        self, truth: NDArray[np.float64], predicted: NDArray[np.float64], boxes: NDArray[np.float64]
    ) -> None:
        """Count joints: truth (N, K, 3) with visibility, predicted (N, K, 2), boxes (N, 4..): x, y, w, h."""
        distance = np.linalg.norm(predicted - truth[..., :2], axis=-1)
        near = distance <= self.threshold * boxes[:, 2:4].max(axis=1)[:, None]
        labelled = truth[..., 2] > 0
        self.labelled += labelled.sum(axis=0)
        self.correct += (labelled & near).sum(axis=0)

    def merge(self, other: "PercentageOfCorrectKeypoints") -> None:
        """Add the counts of `other`: the same as having updated with its joints too."""
        self.correct += other.correct
        self.labelled += other.labelled

    def value(self) -> float | None:
        """Return the share over all joints; None where none is labelled."""
        total = int(self.labelled.sum())
        return int(self.correct.sum()) / total if total else None

    def by_joint(self) -> list[float | None]:
        """Return the share of each joint; None where none is labelled."""
        return [
            int(right) / int(total) if total else None
            for right, total in zip(self.correct, self.labelled, strict=True)
        ]
