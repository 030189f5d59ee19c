"""OKS scores against an implementation from the definition, PCK, OKS-NMS and rescoring."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gsto_train.metrics.keypoints import COCO_NAMES, PercentageOfCorrectKeypoints, oks_scores
from gsto_train.pose import nms
from gsto_train.pose.skeleton import COCO_SIGMAS

SETS = 240
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = {"all": (0, 1e10), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
REAL = Path(os.environ.get("GSTO_REAL_DATA", Path(__file__).parents[4] / "shared/data"))


def oks(truth: dict[str, Any], result: dict[str, Any], sigmas: NDArray[np.float64]) -> float:
    true, found = (np.array(each["keypoints"], float).reshape(-1, 3) for each in (truth, result))
    offsets, counted = found[:, :2] - true[:, :2], true[:, 2] > 0
    if not counted.any():
        x, y, width, height = truth["bbox"]
        low = np.array([x - width, y - height])
        high = np.array([x + 2 * width, y + 2 * height])
        offsets = np.maximum(low - found[:, :2], 0) + np.maximum(found[:, :2] - high, 0)
        counted[:] = True
    squares = np.square(offsets).sum(axis=1)
    exponents = squares / (2 * np.square(2 * sigmas) * (truth["area"] + np.spacing(1)))
    return float(np.exp(-exponents[counted]).mean())


def ignored(truth: dict[str, Any], low: float, high: float) -> bool:
    labelled = any(visible > 0 for visible in truth["keypoints"][2::3])
    return not labelled or bool(truth.get("iscrowd")) or not low <= truth["area"] <= high


def area_of(result: dict[str, Any]) -> float:
    points = np.array(result["keypoints"], float).reshape(-1, 3)[:, :2]
    return float(np.prod(np.ptp(points, axis=0)))


def matched(
    truths: list[dict[str, Any]], results: list[dict[str, Any]], similar: Any, threshold: float, area: Any
) -> list[str]:
    """What each result is, best first: "right", "wrong" or "out" (counts nowhere)."""
    taken: set[int] = set()
    outcomes = []
    for result in results:
        free = [t for t in truths if id(t) not in taken or t.get("iscrowd")]
        fitting = [t for t in free if similar[id(t), id(result)] >= threshold]
        # The better of equals is the later one; those to be ignored come last and only for want of others.
        real = [t for t in fitting if not ignored(t, *area)]
        choice = real or [t for t in fitting if ignored(t, *area)]
        if choice:
            best = max(reversed(choice), key=lambda t: similar[id(t), id(result)])
            taken.add(id(best))
            outcomes.append("right" if real else "out")
        else:
            outcomes.append("wrong" if area[0] <= area_of(result) <= area[1] else "out")
    return outcomes


def average_precision(scores: list[float], outcomes: list[str], count: int) -> tuple[float, float]:
    """AP at 101 recalls, and the largest recall, of pooled results."""
    order = np.argsort(-np.array(scores), kind="stable")
    counted = [outcomes[i] for i in order if outcomes[i] != "out"]
    right = np.cumsum([outcome == "right" for outcome in counted])
    precision = right / np.arange(1, len(counted) + 1)
    recall = right / count
    best = [max(precision[recall >= level], default=0.0) for level in RECALLS]
    return float(np.mean(best)), float(recall[-1]) if len(recall) else 0.0


def scores_by_definition(
    pictures: list[int], truths: list[dict[str, Any]], results: list[dict[str, Any]], sigmas: Any
) -> dict[str, float | None]:
    table: dict[tuple[str, float], tuple[float, float] | None] = {}
    for name, area in AREAS.items():
        count = sum(not ignored(truth, *area) for truth in truths)
        for threshold in THRESHOLDS:
            scores: list[float] = []
            outcomes: list[str] = []
            for picture in pictures:
                here = [truth for truth in truths if truth["image_id"] == picture]
                found = sorted((r for r in results if r["image_id"] == picture), key=lambda r: -r["score"])[
                    :20
                ]
                similar = {(id(t), id(r)): oks(t, r, sigmas) for t in here for r in found}
                scores += [result["score"] for result in found]
                outcomes += matched(here, found, similar, threshold, area)
            table[name, threshold] = average_precision(scores, outcomes, count) if count else None
    return named(table)


def named(table: Any) -> dict[str, float | None]:
    def mean(area: str, which: int, thresholds: Any = THRESHOLDS) -> float | None:
        values = [table[area, threshold] for threshold in thresholds]
        return None if values[0] is None else float(np.mean([value[which] for value in values]))

    half, strict = THRESHOLDS[:1], THRESHOLDS[5:6]
    numbers = [
        value
        for which in (0, 1)
        for value in (
            mean("all", which), mean("all", which, half), mean("all", which, strict),
            mean("medium", which), mean("large", which),
        )
    ]  # fmt: skip
    return dict(zip(COCO_NAMES, numbers, strict=True))


def generated(seed: int) -> tuple[list[int], list[dict[str, Any]], list[dict[str, Any]], Any]:
    """Pictures with and without persons, crowds, unlabelled joints and persons, too many results."""
    generator = np.random.default_rng(seed)
    joints = int(generator.choice([1, 4, 17]))
    sigmas = generator.uniform(0.03, 0.12, joints)
    pictures = [int(i) for i in generator.permutation(100)[: generator.integers(1, 5)]]
    truths, results = [], []
    for picture in pictures:
        persons = [truth_in(picture, joints, generator) for _ in range(generator.choice([0, 1, 1, 2, 4]))]
        truths += persons
        for truth in persons:
            results += [near(truth, generator) for _ in range(generator.integers(0, 4))]
        many = generator.choice([0, 1, 2, 24], p=[0.4, 0.3, 0.2, 0.1])
        results += [near(truth_in(picture, joints, generator), generator) for _ in range(many)]
    return sorted(pictures), truths, results, sigmas


def truth_in(picture: int, joints: int, generator: np.random.Generator) -> dict[str, Any]:
    side = generator.choice([20, 60, 150])
    x, y = generator.uniform(0, 300, 2)
    width, height = side * generator.uniform(0.7, 1.5, 2)
    places = np.array([x, y]) + generator.random((joints, 2)) * [width, height]
    visible = generator.choice([0, 1, 2], joints, p=[0.3, 0.2, 0.5]) * (generator.random() < 0.85)
    keypoints = np.concatenate([places * (visible > 0)[:, None], visible[:, None]], axis=1)
    return {
        "image_id": picture,
        "keypoints": keypoints.ravel().tolist(),
        "bbox": [x, y, width, height],
        "area": float(0.6 * width * height),
        "iscrowd": int(generator.random() < 0.15),
    }


def near(truth: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    x, y, width, height = truth["bbox"]
    keypoints = np.array(truth["keypoints"]).reshape(-1, 3)
    missing = keypoints[:, 2] == 0
    keypoints[missing, :2] = np.array([x, y]) + generator.random((missing.sum(), 2)) * [width, height]
    keypoints[:, :2] += generator.normal(0, generator.choice([0, 0.03, 0.1]) * width, (len(keypoints), 2))
    score = float(generator.choice([0.25, 0.5, generator.random()]))
    return {"image_id": truth["image_id"], "keypoints": keypoints.ravel().tolist(), "score": score}


def test_the_ten_numbers_are_those_of_the_definition() -> None:
    compared = 0
    for seed in range(SETS):
        pictures, truths, results, sigmas = generated(seed)
        found = oks_scores(pictures, truths, results, sigmas)
        expected = scores_by_definition(pictures, truths, results, sigmas)
        for name in COCO_NAMES:
            assert (found[name] is None) == (expected[name] is None), (seed, name)
            if found[name] is not None:
                assert found[name] == pytest.approx(expected[name], abs=1e-12), (seed, name)
                compared += 1
    assert compared > 5 * SETS


def test_nothing_found_scores_0_and_nothing_to_find_has_no_score() -> None:
    pictures, _, results, sigmas = generated(1)
    assert set(oks_scores(pictures, [], results, sigmas).values()) == {None}
    person = truth_in(1, 4, np.random.default_rng(0)) | {"keypoints": [1, 2, 2] * 4, "iscrowd": 0}
    nothing = oks_scores([1, 2], [person], [], [0.1] * 4)
    assert (nothing["AP"], nothing["AR"]) == (0, 0)
    same = {"image_id": 1, "keypoints": person["keypoints"], "score": 0.1}
    assert oks_scores([1, 2], [person], [same], [0.1] * 4)["AP"] == pytest.approx(1)


def test_the_numbers_of_real_pictures_are_pycocotools_own() -> None:
    folder = REAL / "pose-coco17"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set GSTO_REAL_DATA to the folder of real data")
    truth = json.loads((folder / "annotations/person_keypoints_val2017.json").read_text())
    results = json.loads((folder / "fixtures/keypoints_val2017_jitter_results.json").read_text())
    expected = json.loads((folder / "fixtures/expected_stats.json").read_text())
    pictures = [image["id"] for image in truth["images"]]
    found = oks_scores(pictures, truth["annotations"], results, COCO_SIGMAS)
    assert expected["names"] == list(COCO_NAMES)
    assert list(found.values()) == expected["stats"]


def test_pck_counts_labelled_joints_by_the_longer_side_of_their_box() -> None:
    count = PercentageOfCorrectKeypoints(3)
    truth = np.array([[[10, 10, 2], [20, 20, 1], [0, 0, 0]]], float)
    boxes = np.array([[0, 0, 30, 50]], float)
    count.update(truth, np.array([[[13, 14], [20, 25.1], [0, 0]]]), boxes)
    assert (count.value(), count.by_joint()) == (0.5, [1.0, 0.0, None])
    other = PercentageOfCorrectKeypoints(3)
    assert other.value() is None
    other.update(truth, truth[..., :2], boxes)
    count.merge(other)
    assert (count.value(), count.by_joint()) == (0.75, [1.0, 0.5, None])


def test_of_poses_that_are_alike_the_best_stays() -> None:
    poses = np.zeros((4, 17, 2))
    poses[1] += 1
    poses[2] += 40
    scores, areas = np.array([0.5, 0.9, 0.2, 0.5]), np.full(4, 100.0**2)
    assert nms.keep(poses, scores, areas, COCO_SIGMAS, 0.9) == [1, 2]
    assert nms.keep(poses, scores, areas, COCO_SIGMAS, 1.0) == [1, 0, 3, 2]
    assert nms.keep(poses[:0], scores[:0], areas[:0], COCO_SIGMAS) == []


def test_similarity_is_oks_between_the_mean_of_both_areas() -> None:
    pose, other = np.zeros((2, 2)), np.array([[[3.0, 4.0], [0.0, 0.0]]])
    found = nms.similarity(pose, other, 100.0, np.array([300.0]), (0.1, 0.05))
    assert found == pytest.approx([(np.exp(-25 / (2 * 0.2**2 * 200)) + 1) / 2])


def test_a_person_scores_the_box_times_the_mean_of_the_certain_joints() -> None:
    assert nms.person_score(0.5, np.array([0.9, 0.2, 0.7])) == pytest.approx(0.4)
    assert nms.person_score(0.5, np.array([0.1, 0.2])) == 0
