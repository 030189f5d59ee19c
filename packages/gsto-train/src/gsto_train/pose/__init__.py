"""Keypoints: data, crops, heatmaps, decoding, and the scores of poses."""
