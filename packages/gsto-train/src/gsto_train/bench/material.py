"""What subjects compute on: weights, pictures and labels, functions of a seed."""

import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gsto_spec import Graph, initial_weights
from gsto_spec.objective import STAGE_WEIGHTS, CrossEntropy, Objective
from gsto_spec.ops import BatchNorm, Conv2d
from gsto_train.data.cityscapes import CLASSES, LABELS, PICTURES, label_ids
from gsto_train.data.palette import default_palette
from gsto_train.data.samples import IGNORE_LABEL, Palette, Sample
from gsto_train.data.scenes import GeneratedScenes
from gsto_train.pose.skeleton import COCO_JOINTS
from gsto_train.segmentation.evaluation import align_corners

Arrays = dict[str, NDArray[Any]]

CITYSCAPES_SIZE = (1024, 2048)
COCO_SIZE = (480, 640)
COCO_PICTURES, COCO_ANNOTATIONS = "images/train2017", "annotations"

_SOFTNESS = 0.8
"""Standard deviation of a lens, in pixels, under which drawn PNGs are as large as Cityscapes' own, 2.3 MB."""


def live_weights(graph: Graph, seed: int = 0) -> Arrays:
    """Return weights under which feature maps keep a size of about one, as they do in trained networks.

    Initial ones rest on batch norms that see the batch; by their running statistics maps would fade to
    denormal numbers, on which processors are slow, or to zeros, on which they are fast.
    """
    weights: Arrays = dict(initial_weights(graph, seed))
    for node in graph.order:
        leaves = [name for name in node.operands[1:] if name in weights]
        if isinstance(node.op, Conv2d) and leaves:
            fan_in = math.prod(weights[leaves[0]].shape[1:])
            weights[leaves[0]] = _normal(graph, leaves[0], seed) / np.float32(math.sqrt(fan_in))
        elif isinstance(node.op, BatchNorm):
            scale, shift, mean, _ = node.operands[1:]
            weights[scale] = np.full_like(weights[scale], 0.5)
            weights |= {name: _normal(graph, name, seed) * np.float32(0.1) for name in (shift, mean)}
    return weights


def _normal(graph: Graph, name: str, seed: int) -> NDArray[np.float32]:
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return generator.standard_normal(graph.parameters[name], dtype=np.float32)


def images(shape: Sequence[int], seed: int = 0) -> NDArray[np.float32]:
    """Return normalised pictures, (N, 3, H, W)."""
    return np.random.default_rng(seed).standard_normal(tuple(shape), dtype=np.float32)


def batch(graph: Graph, shape: tuple[int, int, int, int], seed: int = 0) -> Arrays:
    """Return pictures and a class for each of their pixels."""
    number, _, height, width = shape
    label = np.random.default_rng(seed).integers(0, classes(graph), (number, height, width))
    return {"image": images(shape, seed), "label": label}


def classes(graph: Graph) -> int:
    """Return the number of classes of the first output."""
    return int(graph.shapes[next(iter(graph.outputs.values()))][1])  # type: ignore[arg-type]


def objective(graph: Graph) -> Objective:
    """Return the cross-entropy of every output, weighted as in section 3.2.2."""
    weights = {name: STAGE_WEIGHTS.get(name, 1.0) for name in graph.outputs}
    return Objective(CrossEntropy(IGNORE_LABEL), weights, align_corners(graph))


class Pictures:
    """Drawn street scenes, held in memory, under as many classes as a network has."""

    def __init__(self, count: int, size: tuple[int, int], classes: int) -> None:
        scenes = GeneratedScenes(count, size=size)
        self._samples = [scenes[index] for index in range(count)]
        self.classes = tuple(map(str, range(classes)))
        self.palette: Palette = default_palette(classes)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        """Return a picture; its classes are counted anew where the network has fewer."""
        sample = self._samples[index]
        valid = sample.label != IGNORE_LABEL
        label = np.where(valid, sample.label % len(self.classes), sample.label)
        return Sample(sample.image, label.astype(np.uint8), sample.name)


def write_cityscapes(root: Path, count: int, size: tuple[int, int] = CITYSCAPES_SIZE) -> None:
    """Write scenes as PNGs in the layout of Cityscapes' training split, soft as photographs are."""
    scenes = GeneratedScenes(count, size=size)
    for folder in (PICTURES, LABELS):
        (root / folder / "train" / "scenes").mkdir(parents=True)
    for index in range(count):
        stem, sample = f"scenes_{index:06}_000019", scenes[index]
        valid = sample.label < len(CLASSES)
        ids = np.where(valid, label_ids(np.where(valid, sample.label, 0)), IGNORE_LABEL).astype(np.uint8)
        image = cv2.GaussianBlur(sample.image, (0, 0), _SOFTNESS)
        Image.fromarray(image).save(root / PICTURES / "train" / "scenes" / f"{stem}_{PICTURES}.png")
        Image.fromarray(ids).save(root / LABELS / "train" / "scenes" / f"{stem}_{LABELS}_labelIds.png")


def write_coco(root: Path, count: int, size: tuple[int, int] = COCO_SIZE, seed: int = 0) -> None:
    """Write scenes as JPEGs in the layout of COCO's training split, each with the keypoints of one."""
    scenes, generator = GeneratedScenes(count, size=size), np.random.default_rng(seed)
    for folder in (COCO_PICTURES, COCO_ANNOTATIONS):
        (root / folder).mkdir(parents=True)
    pictures, persons = [], []
    for index in range(count):
        name = f"{index:012}.jpg"
        Image.fromarray(scenes[index].image).save(root / COCO_PICTURES / name, quality=95)
        pictures.append({"id": index, "file_name": name, "height": size[0], "width": size[1]})
        persons.append(_person(index, size, generator))
    category = {"id": 1, "name": "person", "keypoints": list(COCO_JOINTS)}
    table = {"images": pictures, "annotations": persons, "categories": [category]}
    (root / COCO_ANNOTATIONS / "person_keypoints_train2017.json").write_text(json.dumps(table))


def _person(picture: int, size: tuple[int, int], generator: np.random.Generator) -> dict[str, Any]:
    """Return an annotation: joints anywhere in a box of a quarter to three quarters of a side."""
    whole = np.array(size[::-1])
    extent = whole * generator.uniform(0.25, 0.75, 2)
    corner = (whole - extent) * generator.random(2)
    places = corner + extent * generator.random((len(COCO_JOINTS), 2))
    joints = np.concatenate([places, np.full((len(COCO_JOINTS), 1), 2)], axis=1)
    return {
        "id": picture, "image_id": picture, "category_id": 1, "iscrowd": 0, "num_keypoints": len(joints),
        "bbox": [*corner.tolist(), *extent.tolist()], "area": float(extent.prod()),
        "keypoints": joints.ravel().tolist(),
    }  # fmt: skip
