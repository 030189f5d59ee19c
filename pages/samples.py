"""`python -m pages.samples KIND PATH ...`: small stand-ins for what the commands of a page are given."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import gsto_spec
import gsto_torch
from gsto_train.data.scenes import GeneratedScenes

_ENTRIES = {"train": 4, "val": 2}
_SIZE = (64, 96)


def pictures(folder: Path) -> None:
    """Three generated scenes as JPEGs."""
    folder.mkdir()
    for index, sample in enumerate(map(_scenes("train").__getitem__, range(3))):
        Image.fromarray(sample.image).save(folder / f"{index}.jpg")


def picture(path: Path) -> None:
    """One generated scene."""
    Image.fromarray(_scenes("train")[0].image).save(path)


def labelled(folder: Path) -> None:
    """A folder of pictures and labels, as the benchmark `folder` reads them."""
    folder.mkdir()
    for split, count in _ENTRIES.items():
        names = [(f"{split}{index}.png", f"{split}{index}_label.png") for index in range(count)]
        for (image, label), sample in zip(names, map(_scenes(split).__getitem__, range(count)), strict=True):
            Image.fromarray(sample.image).save(folder / image)
            Image.fromarray(sample.label).save(folder / label)
        lines = (f"{image} {label}\n" for image, label in names)
        (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "classes.json").write_text(json.dumps({"classes": _scenes("train").classes}), encoding="utf-8")


def saved(folder: Path) -> None:
    """A saved network of ten classes, untrained."""
    gsto_torch.save(gsto_torch.compile(gsto_spec.build("gsto-hrnet-w16-mini", classes=10)), folder)


def network(folder: Path) -> None:
    """A saved network of the catalogue, untrained."""
    gsto_torch.save(gsto_torch.compile(gsto_spec.build("gsto-hrnet-w18-small-v2")), folder)


def gsto(path: Path) -> None:
    """What GSTO's authors publish, in form: initial weights under the release's prefix."""
    _checkpoint(path, "gsto-hrnet-w18-small-v2", "model.", {})


def hrnet(path: Path) -> None:
    """What HRNet's training code leaves, in form."""
    _checkpoint(path, "hrnetv2-w18-small-v2", "model.", {})


def imagenet(path: Path) -> None:
    """What HRNet's authors publish for ImageNet, in form."""
    head = {"classifier.weight": (1000, 2048), "classifier.bias": (1000,)}
    drop = "last_layer"
    _checkpoint(path, "hrnetv2-w18-small-v2", "module.", head, drop)


def _checkpoint(
    path: Path, name: str, prefix: str, more: dict[str, tuple[int, ...]], drop: str = "-"
) -> None:
    import torch

    weights = gsto_spec.initial_weights(gsto_spec.build(name))
    kept = {key: array for key, array in weights.items() if not key.startswith(drop)}
    kept |= {key: np.zeros(shape, np.float32) for key, shape in more.items()}
    counts = {
        key.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
        for key in weights if key.endswith("running_mean") and not key.startswith(drop)
    }  # fmt: skip
    tensors = {key: torch.from_numpy(array) for key, array in kept.items()} | counts
    torch.save({prefix + key: tensor for key, tensor in tensors.items()}, path)


def _scenes(split: str) -> GeneratedScenes:
    return GeneratedScenes(4, size=_SIZE, seed=0, split="val" if split == "val" else "train")


KINDS: dict[str, Callable[[Path], None]] = {
    make.__name__: make for make in (pictures, picture, labelled, saved, network, gsto, hrnet, imagenet)
}

if __name__ == "__main__":
    for kind, path in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        KINDS[kind](Path(path))
