"""Scores, streamed over pictures and merged over processes."""

from gsto_train.metrics.cityscapes import CityscapesCounts, CityscapesScores
from gsto_train.metrics.segmentation import ConfusionMatrix, SegmentationScores

__all__ = ["CityscapesCounts", "CityscapesScores", "ConfusionMatrix", "SegmentationScores"]
