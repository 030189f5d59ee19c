"""From heatmaps to scores: poses of every box, those that stay, OKS AP and PCK."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec.backend import Predictor
from gsto_train.finite import NOT_FINITE, count_not_finite
from gsto_train.metrics.keypoints import PercentageOfCorrectKeypoints, oks_scores
from gsto_train.pose import nms
from gsto_train.pose.decoding import Decoding, decode, merge_flipped
from gsto_train.pose.loading import Cropping, evaluation_crops
from gsto_train.pose.samples import KeypointDataset, Person
from gsto_train.pose.skeleton import Skeleton
from gsto_train.pose.targets import Codec
from gsto_train.pose.transform import Floats, move, region_of
from gsto_train.processes import ALONE, Processes

PCK_THRESHOLD = 0.1
"""Of the longer side of a person's box."""


@dataclass(frozen=True)
class PoseTest:
    """The test procedure: everything between a box and a pose that is scored."""

    cropping: Cropping
    codec: Codec
    decoding: Decoding = "quarter"
    flip: bool = True
    joint_threshold: float = 0.2
    nms: float = 0.9


@dataclass(frozen=True, eq=False)
class Pose:
    """What was found in a person's box: joints (K, 2) in the picture, and their scores (K,)."""

    person: Person
    joints: Floats
    scores: Floats


def predict_poses(
    predictor: Predictor,
    dataset: KeypointDataset,
    test: PoseTest,
    *,
    batch: int,
    threads: int,
    on_scored: Callable[[int], None] = lambda count: None,
    processes: Processes = ALONE,
) -> list[Pose]:
    """Return a pose for every box, each predicted by one of `processes`; `on_scored` hears of each batch.

    Raises `NotFiniteError` where no heatmap of any box has a finite maximum.
    """
    poses, indices = list[Pose](), processes.share(len(dataset.persons))
    batches = evaluation_crops(dataset, test.cropping, batch=batch, threads=threads, indices=indices)
    # What is not finite is counted; numpy need not warn of it besides.
    with processes.together(), closing(batches), np.errstate(invalid="ignore"):
        for crops in batches:
            heatmaps = predict_heatmaps(predictor, crops.image, test, dataset.skeleton)
            joints, scores = decode(heatmaps, test.codec, test.decoding)
            for person, back, found, certain in zip(crops.persons, crops.back, joints, scores, strict=True):
                poses.append(Pose(person, move(found, back), certain))
            on_scored(len(crops.persons))
    count_not_finite(
        [pose.person.name for pose in _not_finite(poses)],
        found_finite=any(np.isfinite(pose.scores).any() for pose in poses),
        total=len(dataset.persons), unit="persons", processes=processes,
    )  # fmt: skip
    return _gathered(poses, indices, dataset.persons, processes)


def _not_finite(poses: Iterable[Pose]) -> list[Pose]:
    """Return those of heatmaps with a maximum that is not finite: NaN is the maximum wherever it is."""
    return [pose for pose in poses if not np.isfinite(pose.scores).all()]


def _gathered(
    poses: Sequence[Pose], indices: range, persons: Sequence[Person], processes: Processes
) -> list[Pose]:
    """Return the poses of every process, in the order of the persons; each fills in its own rows of a sum."""
    found = processes.sum(_rows([len(poses)], [0], 1))
    assert found[0] == len(persons), f"scored {found[0]:g} boxes of {len(persons)}"
    if not persons or processes.count == 1:
        return list(poses)
    joints = len(persons[0].joints)
    places = processes.sum(_rows([pose.joints for pose in poses], indices, (len(persons), joints, 2)))
    scores = processes.sum(_rows([pose.scores for pose in poses], indices, (len(persons), joints)))
    return [Pose(*each) for each in zip(persons, places, scores, strict=True)]


def _rows(values: Sequence[Any], indices: Sequence[int], shape: int | tuple[int, ...]) -> Floats:
    rows = np.zeros(shape)
    for index, value in zip(indices, values, strict=True):
        rows[index] = value
    return rows


def predict_heatmaps(
    predictor: Predictor, crops: NDArray[np.float32], test: PoseTest, skeleton: Skeleton
) -> NDArray[np.floating]:
    """Return the first output for crops (N, 3, H, W), averaged with their mirror's where the test flips."""
    heatmaps = next(iter(predictor.predict(crops).values()))
    if not test.flip:
        return heatmaps
    mirror = np.ascontiguousarray(crops[..., ::-1])
    flipped = next(iter(predictor.predict(mirror).values()))
    return merge_flipped(heatmaps, flipped, skeleton.mirrored, test.codec.flip_shift)


def results(poses: Iterable[Pose], test: PoseTest, skeleton: Skeleton) -> list[dict[str, Any]]:
    """Return the poses that stay, rescored, as COCO's results: x, y, score for every joint.

    In each picture OKS-NMS drops poses that are too like a better one; without sigmas all stay.
    """
    by_picture = defaultdict[int, list[Pose]](list)
    for pose in poses:
        by_picture[pose.person.picture].append(pose)
    return [
        _result(pose, score)
        for group in by_picture.values()
        for pose, score in _staying(group, test, skeleton.sigmas)
    ]


def _staying(
    poses: Sequence[Pose], test: PoseTest, sigmas: Sequence[float] | None
) -> list[tuple[Pose, float]]:
    scores = [nms.person_score(pose.person.score, pose.scores, test.joint_threshold) for pose in poses]
    if sigmas is None:
        return list(zip(poses, scores, strict=True))
    cropping = test.cropping
    areas = [region_of(pose.person.box, cropping.crop, cropping.box_scale).area for pose in poses]
    joints = np.stack([pose.joints for pose in poses])
    kept = nms.keep(joints, np.array(scores), np.array(areas), sigmas, test.nms)
    return [(poses[i], scores[i]) for i in kept]


def _result(pose: Pose, score: float) -> dict[str, Any]:
    rows = np.concatenate([pose.joints, pose.scores[:, None]], axis=1)
    return {
        "image_id": pose.person.picture,
        "category_id": 1,
        "keypoints": rows.ravel().tolist(),
        "score": score,
    }


def score_poses(poses: Sequence[Pose], dataset: KeypointDataset, test: PoseTest) -> dict[str, Any]:
    """Return the scores as result.json has them.

    OKS AP and AR where the joints have sigmas, against every annotation of the data set; with ground-truth
    boxes PCK at 0.1 of a box's longer side too, over the persons that have one. `NOT_FINITE` counts the
    poses of heatmaps that were not finite, where there are some.
    """
    skeleton = dataset.skeleton
    scores: dict[str, Any] = {"box_source": dataset.box_source}
    if broken := _not_finite(poses):
        scores[NOT_FINITE] = len(broken)
    if skeleton.sigmas is not None:
        found = results(poses, test, skeleton)
        scores |= oks_scores(dataset.pictures, dataset.annotations, found, skeleton.sigmas)
    if dataset.box_source == "ground-truth":
        count = PercentageOfCorrectKeypoints(len(skeleton.joints), PCK_THRESHOLD)
        count.update(
            np.stack([pose.person.joints for pose in poses]),
            np.stack([pose.joints for pose in poses]),
            np.stack([pose.person.box for pose in poses]),
        )
        scores["PCK"] = count.value()
        scores["PCK_by_joint"] = dict(zip(skeleton.joints, count.by_joint(), strict=True))
    return scores


@dataclass(frozen=True, eq=False)
class MeanPose:
    """The same pose in every box: `offsets` (K, 2) from its centre, in units of its longer side."""

    offsets: Floats

    @classmethod
    def fit(cls, persons: Sequence[Person]) -> "MeanPose":
        """Return the mean of each joint over the persons where it is labelled; the centre where nowhere."""
        joints = np.stack([person.joints for person in persons])
        boxes = np.stack([person.box for person in persons])
        centres, sides = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:].max(axis=1)
        labelled = joints[..., 2] > 0
        offsets = (joints[..., :2] - centres[:, None]) / sides[:, None, None] * labelled[..., None]
        return cls(offsets.sum(axis=0) / np.maximum(labelled.sum(axis=0), 1)[:, None])

    def poses(self, persons: Sequence[Person]) -> list[Pose]:
        """Return the pose in each person's box, every joint with score 1."""
        certain = np.ones(len(self.offsets))
        return [Pose(p, p.box[:2] + p.box[2:] / 2 + self.offsets * p.box[2:].max(), certain) for p in persons]
