"""A network on pictures: what a score would be made from, for one picture at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gsto_spec.backend import Predictor
from gsto_train.data.augment import normalize
from gsto_train.look import drawing
from gsto_train.look.boxes import OnePicture
from gsto_train.look.drawing import Picture
from gsto_train.look.network import Network
from gsto_train.pose.evaluation import predict_heatmaps, predict_poses, results
from gsto_train.pose.loading import evaluation_crops
from gsto_train.pose.skeleton import Skeleton
from gsto_train.pose.task import Keypoints
from gsto_train.segmentation.evaluation import Evaluation, align_corners
from gsto_train.segmentation.procedures import Procedure, class_planes, largest

Boxes = Sequence[NDArray[np.float64]] | None
"""Boxes (x, y, width, height, score) of a picture; None: the whole picture is one."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was found in a picture: `classes` (H, W), or `poses` (P, K, 3: x, y, score) and their `scores`.

    `in_boxes` (B, K, 3) has a pose for every box, those that are too like a better one among them.
    """

    classes: NDArray[np.uint8] | None = None
    poses: NDArray[np.float64] | None = None
    scores: NDArray[np.float64] | None = None
    in_boxes: NDArray[np.float64] | None = None


class Looker(Protocol):
    """A network that looks at one picture."""

    protocol: str

    def predict(self, picture: Picture, boxes: Boxes = None) -> Prediction:
        """Return what the network finds by its test procedure."""

    def pass_through(self, predictor: Predictor, picture: Picture, boxes: Boxes = None) -> None:
        """Hand `predictor` what the network gets of a picture, once: one scale, whole, not mirrored."""

    def draw(self, picture: Picture, prediction: Prediction, opacity: float) -> Picture:
        """Return the picture with what was found drawn on it."""


def looker(network: Network, *, boxed: bool = False) -> Looker:
    """Return what looks at pictures with a network; persons are in boxes of somebody's where `boxed`.

    Raises `InputError` where the network does not go with its settings.
    """
    return _Poses(network, boxed) if network.poses else _Classes(network)


class _Classes:
    """A class for every pixel, as `gsto_train.segmentation.evaluation` takes it before it is scored."""

    def __init__(self, network: Network) -> None:
        settings = network.settings
        self._network, self._predictor = network, network.predictor()
        self._procedure = Evaluation.of(settings.evaluation, settings.data).procedure
        self._align_corners = align_corners(network.graph)
        self.protocol = self._procedure.protocol

    def predict(self, picture: Picture, boxes: Boxes = None) -> Prediction:
        return Prediction(classes=self._largest(self._predictor, picture, self._procedure))

    def pass_through(self, predictor: Predictor, picture: Picture, boxes: Boxes = None) -> None:
        once = replace(self._procedure, scales=(1.0,), window=None, stride=None, window_above=0.0, flip=False)
        self._largest(predictor, picture, once)

    def draw(self, picture: Picture, prediction: Prediction, opacity: float) -> Picture:
        assert prediction.classes is not None
        return drawing.overlay(picture, prediction.classes, self._network.palette, opacity)

    def _largest(self, predictor: Predictor, picture: Picture, procedure: Procedure) -> NDArray[np.uint8]:
        height, width = picture.shape[:2]
        planes = class_planes(
            predictor, normalize(picture)[None], procedure, (height, width), align_corners=self._align_corners
        )
        return np.asarray(largest(planes)[0])


class _Poses:
    """Joints in boxes, as `gsto_train.pose` finds them before they are scored."""

    def __init__(self, network: Network, boxed: bool) -> None:
        pose = network.settings.pose
        self._network, self._predictor = network, network.predictor()
        self._skeleton = Skeleton.of(
            network.labels, pairs=pose.pairs, upper=pose.upper_joints, sigmas=pose.oks_sigmas
        )
        none = self._one(np.zeros((1, 1, 3), np.uint8), [] if boxed else None)
        task = Keypoints(network.settings, none, none)
        self._test, self.protocol = task.test(network.graph), task.protocol(network.graph)

    def predict(self, picture: Picture, boxes: Boxes = None) -> Prediction:
        one = self._one(picture, boxes)
        if not one.persons:
            none = np.zeros((0, len(self._network.labels), 3))
            return Prediction(poses=none, scores=np.zeros(0), in_boxes=none)
        batch = self._network.settings.train.evaluation_batch
        poses = predict_poses(self._predictor, one, self._test, batch=batch, threads=1)
        kept = results(poses, self._test, self._skeleton)
        joints = [np.reshape(each["keypoints"], (-1, 3)) for each in kept]
        return Prediction(
            poses=np.stack(joints),
            scores=np.array([each["score"] for each in kept]),
            in_boxes=np.stack([np.column_stack([pose.joints, pose.scores]) for pose in poses]),
        )

    def pass_through(self, predictor: Predictor, picture: Picture, boxes: Boxes = None) -> None:
        one, once = self._one(picture, boxes), replace(self._test, flip=False)
        if one.persons:
            crops = next(evaluation_crops(one, self._test.cropping, batch=1, threads=1))
            predict_heatmaps(predictor, crops.image, once, self._skeleton)

    def draw(self, picture: Picture, prediction: Prediction, opacity: float) -> Picture:
        assert prediction.poses is not None
        least = self._network.settings.pose.joint_threshold
        return drawing.skeletons(picture, list(prediction.poses), self._network.labels, least)

    def _one(self, picture: Picture, boxes: Boxes) -> OnePicture:
        return OnePicture(self._skeleton, picture, boxes, 1, "the picture")


def told(network: Network, prediction: Prediction) -> Mapping[str, Any]:
    """Return a prediction in numbers, ready for JSON: the share of each class, or the poses."""
    if prediction.classes is not None:
        counts = np.bincount(prediction.classes.ravel(), minlength=len(network.labels))
        shares = counts / prediction.classes.size
        return {"shares": {n: float(share) for n, share in zip(network.labels, shares, strict=True) if share}}
    assert prediction.poses is not None and prediction.scores is not None
    return {
        "poses": [
            {"score": float(score), "keypoints": pose.ravel().tolist()}
            for pose, score in zip(prediction.poses, prediction.scores, strict=True)
        ]
    }
