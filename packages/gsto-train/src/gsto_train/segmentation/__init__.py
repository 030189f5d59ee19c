"""Semantic segmentation as a task: test procedures, evaluation, and answers that need no network."""
