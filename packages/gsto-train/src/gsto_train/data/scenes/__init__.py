"""Street scenes drawn on the fly: the data set that needs no data.

`layout` decides what stands where, `buildings`, `vehicles` and `street` draw one thing each on a `canvas`
(which part of which thing is visible at each pixel), and `painting` turns the canvas into a picture.
Picture and label come from the same map of parts, so a label is exactly what is visible.
"""

from gsto_train.data.scenes.dataset import GeneratedScenes

__all__ = ["GeneratedScenes"]
