"""The data set of generated street scenes."""

import zlib

import numpy as np

from gsto_train.data.samples import Palette, Sample
from gsto_train.data.scenes.canvas import Canvas, Class
from gsto_train.data.scenes.layout import draw_scene, random_camera
from gsto_train.data.scenes.painting import labels, paint

_SCENE_STREAM = 3

_PALETTE: Palette = (
    (96, 158, 206), (124, 92, 84), (92, 88, 108), (214, 156, 186), (84, 140, 62),
    (196, 158, 116), (34, 62, 166), (222, 50, 68), (168, 172, 178), (246, 204, 46),
)  # fmt: skip


class GeneratedScenes:
    """`count` street scenes of `size` (height, width), drawn when asked for and never stored.

    Ten classes with a long tail; cameras, light, weather and colours vary, and classes share their
    colours, so that shape, texture and place tell them apart. Scene i is a function of (seed, split, i)
    alone: `count` and threads do not matter, and splits are disjoint streams. Boxes on the pavement and
    the bonnet of the camera's own car are labelled 255, ignore.
    """

    def __init__(
        self, count: int, *, size: tuple[int, int] = (128, 256), seed: int = 0, split: str = "train"
    ) -> None:
        self._count = count
        self._size = size
        self._seed = seed
        self._split = split

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices."""
        return tuple(kind.name.lower() for kind in Class if kind is not Class.VOID)

    @property
    def palette(self) -> Palette:
        """One RGB colour per class."""
        return _PALETTE

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self._count

    def __getitem__(self, index: int) -> Sample:
        """Draw scene `index`; raises IndexError outside 0..count - 1."""
        if not 0 <= index < self._count:
            raise IndexError(f"scene {index} of {self._split}: there are {self._count}")
        split = zlib.crc32(self._split.encode())
        generator = np.random.default_rng([self._seed, split, index, _SCENE_STREAM])
        canvas = Canvas(random_camera(self._size, generator))
        draw_scene(canvas, generator)
        view = canvas.view()
        return Sample(paint(view, generator), labels(view), f"scene {index} of {self._split}")
