"""From persons to batches: crops with their heatmaps for training, plain crops for a score."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_train.data.augment import normalize
from gsto_train.data.loader import (
    AUGMENTATION_STREAM,
    BATCHES_AHEAD,
    in_order,
    noting,
    sample_at,
    sample_positions,
)
from gsto_train.pose.samples import KeypointDataset, Person
from gsto_train.pose.targets import Codec
from gsto_train.pose.transform import (
    CropAugmentation,
    Floats,
    View,
    draw_view,
    inverse,
    matrix_of,
    move_joints,
    region_of,
    warp,
)


@dataclass(frozen=True)
class Cropping:
    """How a person's box becomes a crop (height, width): widened to its aspect, then by `box_scale`."""

    crop: tuple[int, int]
    box_scale: float = 1.25


@dataclass(frozen=True, eq=False)
class PoseBatch:
    """Crops (N, 3, H, W), heatmaps (N, K, h, w), visibilities (N, K); step and epoch as `LoadedBatch`'s."""

    image: NDArray[np.float32]
    heatmaps: NDArray[np.float32]
    visibility: NDArray[np.float32]
    names: tuple[str, ...]
    step: int
    epoch: int

    @property
    def inputs(self) -> dict[str, NDArray[Any]]:
        """What a trainer takes."""
        return {"image": self.image, "heatmaps": self.heatmaps, "visibility": self.visibility}


@dataclass(frozen=True, eq=False)
class Crops:
    """Persons, their crops (N, 3, H, W), and the maps (2, 3) from each crop back to its picture."""

    persons: tuple[Person, ...]
    image: NDArray[np.float32]
    back: tuple[Floats, ...]


def pose_batches(
    dataset: KeypointDataset,
    cropping: Cropping,
    codec: Codec,
    augmentation: CropAugmentation,
    *,
    batch: int,
    seed: int,
    start_step: int,
    total_steps: int,
    threads: int,
    slots: range | None = None,
) -> Generator[PoseBatch]:
    """Yield the samples `slots` (None: all) of the batches of steps start_step .. total_steps - 1.

    Each is a function of seed and step.
    """
    persons, slots = dataset.persons, slots or range(batch)

    def load(position: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], str]:
        epoch, index = sample_at(position, count=len(persons), seed=seed)
        generator = np.random.default_rng([seed, epoch, index, AUGMENTATION_STREAM])
        with noting(f"epoch {epoch}, sample {index}: {persons[index].name}"):
            image, joints = training_crop(dataset, persons[index], cropping, augmentation, generator)
            return image, *codec.encode(joints), persons[index].name

    positions = sample_positions(range(start_step, total_steps), batch, slots)
    ahead = BATCHES_AHEAD * len(slots)
    with closing(in_order(load, positions, threads=threads, ahead=ahead)) as loaded:
        for step in range(start_step, total_steps):
            images, heatmaps, visibilities, names = zip(*(next(loaded) for _ in slots), strict=True)
            yield PoseBatch(
                np.stack(images),
                np.stack(heatmaps),
                np.stack(visibilities),
                names,
                step,
                step * batch // len(persons),
            )


def training_crop(
    dataset: KeypointDataset,
    person: Person,
    cropping: Cropping,
    augmentation: CropAugmentation,
    generator: np.random.Generator,
) -> tuple[NDArray[np.float32], Floats]:
    """Return a random crop of a person, (3, H, W) normalised, and its joints there, (K, 3)."""
    image, crop = dataset.image(person), cropping.crop
    region = region_of(person.box, crop, cropping.box_scale)
    view = draw_view(region, person.joints, dataset.skeleton, crop, augmentation, generator)
    matrix = matrix_of(view, crop, image.shape[1])
    return normalize(warp(image, matrix, crop)), move_joints(person.joints, view, matrix, dataset.skeleton)


def evaluation_crops(
    dataset: KeypointDataset, cropping: Cropping, *, batch: int, threads: int, indices: range | None = None
) -> Generator[Crops]:
    """Yield every box of `indices` (None: all) once, in order, as it is: upright, not mirrored."""
    persons = dataset.persons
    indices = range(len(persons)) if indices is None else indices

    def load(index: int) -> tuple[Person, NDArray[np.float32], Floats]:
        person = persons[index]
        with noting(f"sample {index}: {person.name}"):
            image = dataset.image(person)
            region = region_of(person.box, cropping.crop, cropping.box_scale)
            matrix = matrix_of(View(region), cropping.crop, image.shape[1])
            return person, normalize(warp(image, matrix, cropping.crop)), inverse(matrix)

    waiting = list[tuple[Person, NDArray[np.float32], Floats]]()
    ahead = BATCHES_AHEAD * batch
    with closing(in_order(load, indices, threads=threads, ahead=ahead)) as loaded:
        for crop in loaded:
            waiting.append(crop)
            if len(waiting) == batch:
                yield _together(waiting)
                waiting.clear()
    if waiting:
        yield _together(waiting)


def _together(crops: Sequence[tuple[Person, NDArray[np.float32], Floats]]) -> Crops:
    persons, images, back = zip(*crops, strict=True)
    return Crops(persons, np.stack(images), back)
