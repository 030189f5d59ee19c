"""Scores, streamed over pictures and merged over processes."""

from gsto_train.metrics.segmentation import ConfusionMatrix, SegmentationScores

__all__ = ["ConfusionMatrix", "SegmentationScores"]
