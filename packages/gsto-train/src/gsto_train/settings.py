"""Everything that can be set about a run; the same keys in benchmark files, in `--set` and in config.json."""

from dataclasses import dataclass
from typing import Literal

from gsto_spec.objective import STAGE_WEIGHTS
from gsto_train.errors import InputError
from gsto_train.schema import Values, read, setting

LARGEST_SIDE, LARGEST_AREA = 65536, 2**28
"""Of a picture or crop, in pixels: far past what trains, and short of what overflows."""


@dataclass(frozen=True)
class ArchitectureSettings:
    """The network.

    name: a catalogue name, a graph's JSON file, or module:attribute (a graph, a variant, or a function of
        the number of classes that returns one).
    form: "release" (what the published checkpoints mean) or "paper" (its equations); none: the variant's own.
    """

    name: str
    form: Literal["release", "paper"] | None = None


@dataclass(frozen=True)
class DataSettings:
    """The pictures and how training crops are cut from them.

    kind: "scenes" are generated; "list" reads list files of "image label" lines.
    folder: where the lists lie and what their paths are relative to.
    train_list, val_list: file names in the folder.
    classes: names in the order of the label values; none: those of classes.json in the folder.
    ignore_label: the value in the label files that counts nowhere, beside 255; none: that of classes.json.
    scene_size: height and width of generated pictures; train_scenes, val_scenes: how many of them.
    scene_seed: the seed they are drawn from.
    crop: height and width of a training crop.
    base_size: long side of a picture at scale 1; none: as it is.
    scales: one is drawn for each crop.
    flip: mirror half of the crops; flip_pairs: classes that swap when mirrored (left arm, right arm).
    """

    kind: Literal["scenes", "list"]
    crop: tuple[int, int] = setting(at_least=1, at_most=LARGEST_SIDE)
    folder: str | None = setting(None, only=("kind", "list"), free=True)
    train_list: str = setting("train.txt", only=("kind", "list"))
    val_list: str = setting("val.txt", only=("kind", "list"))
    classes: tuple[str, ...] | None = setting(None, only=("kind", "list"))
    ignore_label: int | None = setting(None, at_least=0, at_most=255, only=("kind", "list"))
    scene_size: tuple[int, int] = setting(
        (128, 256), at_least=16, at_most=LARGEST_SIDE, only=("kind", "scenes")
    )
    train_scenes: int = setting(400, at_least=1, at_most=10**7, only=("kind", "scenes"))
    val_scenes: int = setting(50, at_least=1, at_most=10**7, only=("kind", "scenes"))
    scene_seed: int = setting(0, at_least=0, only=("kind", "scenes"))
    base_size: int | None = setting(None, at_least=1, at_most=LARGEST_SIDE)
    scales: tuple[float, ...] = setting((1.0,), above=0, at_most=64)
    flip: bool = True
    flip_pairs: tuple[tuple[int, int], ...] | None = setting(None, at_least=0, only=("flip", True))


@dataclass(frozen=True)
class TrainSettings:
    """The training itself.

    steps or epochs: how long; exactly one of the two.
    batch: pictures per step, over all devices.
    learning_rate: at the first step; schedule "poly" multiplies it by (1 - t / total) ** power, "steps" by
        `factor` at each of `milestones` (fractions of the whole).
    optimizer: "sgd" with momentum, or "adam" with beta1, beta2 and epsilon.
    batch_norm_momentum: weight of the new batch in the running statistics; none: the graph's own.
    seed: of the initial weights, the order of the pictures and their crops.
    precision: of the arithmetic; device: "auto" or one of the backend's.
    log_every, checkpoint_every, evaluate_every: in steps; the last two 0: only at the end.
    evaluation_batch: pictures predicted at once; threads: that load pictures.
    """

    batch: int = setting(at_least=1, at_most=65536)
    learning_rate: float = setting(above=0)
    steps: int | None = setting(None, at_least=1, instead_of="epochs")
    epochs: int | None = setting(None, at_least=1, instead_of="steps")
    schedule: Literal["poly", "steps"] = "poly"
    power: float = setting(0.9, above=0, only=("schedule", "poly"))
    milestones: tuple[float, ...] = setting((0.8, 0.95), above=0, at_most=1, only=("schedule", "steps"))
    factor: float = setting(0.1, above=0, at_most=1, only=("schedule", "steps"))
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = setting(0.9, at_least=0, at_most=1, only=("optimizer", "sgd"))
    beta1: float = setting(0.9, at_least=0, below=1, only=("optimizer", "adam"))
    beta2: float = setting(0.999, at_least=0, below=1, only=("optimizer", "adam"))
    epsilon: float = setting(1e-8, above=0, only=("optimizer", "adam"))
    weight_decay: float = setting(5e-4, at_least=0, at_most=1e6)
    batch_norm_momentum: float | None = setting(None, above=0, at_most=1)
    seed: int = setting(0, at_least=0)
    precision: str = "float32"
    device: str = setting("auto", free=True)
    log_every: int = setting(10, at_least=1, free=True)
    checkpoint_every: int = setting(500, at_least=0, free=True)
    evaluate_every: int = setting(0, at_least=0, free=True)
    evaluation_batch: int = setting(4, at_least=1, at_most=65536, free=True)
    threads: int = setting(2, at_least=1, at_most=1024, free=True)


@dataclass(frozen=True)
class StageWeights:
    """The factor of each supervised stage's loss (section 3.2.2)."""

    stage1: float = setting(STAGE_WEIGHTS["stage1"], at_least=0)
    stage2: float = setting(STAGE_WEIGHTS["stage2"], at_least=0)
    stage3: float = setting(STAGE_WEIGHTS["stage3"], at_least=0)
    stage4: float = setting(STAGE_WEIGHTS["stage4"], at_least=0)


@dataclass(frozen=True)
class LossSettings:
    """Cross-entropy over the labelled pixels of a batch.

    class_weights: one per class; none: all 1.
    ohem: keep only the hard pixels: those whose true class has a probability below ohem_threshold, and at
        least about ohem_kept_per_image x batch of them.
    """

    stage_weights: StageWeights
    class_weights: tuple[float, ...] | None = setting(None, at_least=0)
    ohem: bool = False
    ohem_threshold: float = setting(0.9, above=0, at_most=1, only=("ohem", True))
    ohem_kept_per_image: float = setting(131072 / 3, above=0, at_most=LARGEST_AREA, only=("ohem", True))


@dataclass(frozen=True)
class Settings:
    """A run's settings, complete."""

    architecture: ArchitectureSettings
    data: DataSettings
    train: TrainSettings
    loss: LossSettings


def resolve(base: Values, overrides: Values | None = None) -> Settings:
    """Return the settings of `base` (flat, dotted keys) with `overrides` on top; raises `InputError`."""
    settings = read(Settings, base, overrides)
    if (settings.train.steps is None) == (settings.train.epochs is None):
        raise InputError(
            "expected one of the settings 'train.steps' and 'train.epochs', found both or neither"
        )
    _check_sizes(settings.data)
    return settings


def _check_sizes(data: DataSettings) -> None:
    for key, (height, width) in (("crop", data.crop), ("scene_size", data.scene_size)):
        if height * width > LARGEST_AREA:
            raise InputError(
                f"setting 'data.{key}': expected at most {LARGEST_AREA} pixels in all, "
                f"found {height} x {width}"
            )
    if data.base_size is not None and data.base_size * max(data.scales) > LARGEST_SIDE:
        raise InputError(
            f"setting 'data.base_size': expected at most {LARGEST_SIDE} pixels at the largest of "
            f"'data.scales', found {data.base_size} x {max(data.scales):g}; lower one of the two"
        )
