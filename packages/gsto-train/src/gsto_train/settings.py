"""Everything that can be set about a run; the same keys in benchmark files, in `--set` and in config.json."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

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
    initialize_from: file or saved model's folder with the weights to start from, such as ImageNet's; what it
        lacks is drawn from the seed; none: all is.
    """

    name: str
    form: Literal["release", "paper"] | None = None
    initialize_from: str | None = None


Part = Literal["train", "val"]
PARTS: tuple[Part, Part] = ("train", "val")
"""What a run trains on, and what it is scored on."""

OFFICIAL = ("cityscapes", "lip", "pascal-context")
"""Kinds of data in the folders of a published data set."""

SEGMENTATION_FILES = ("list", *OFFICIAL)
"""Kinds of data with one label picture per picture, in files."""

KEYPOINTS = ("figures", "keypoints")
"""Kinds of data with the joints of persons or other things; every other kind has labelled pixels."""

FROM_FILES = (*SEGMENTATION_FILES, "keypoints")
"""Kinds of data that lie in a folder."""


@dataclass(frozen=True)
class DataSettings:
    """The pictures and how training crops are cut from them.

    kind: "scenes" are generated; "list" reads list files of "image label" lines; "cityscapes", "lip" and
        "pascal-context" read these data sets as they are handed out; "keypoints" reads files of joints in
        COCO's format; "figures" are generated ones.
    folder: where the lists lie and what their paths are relative to; the data set's own folder.
    train_list, val_list: file names in the folder.
    train_split, val_split: a split of the data set ("train", "trainval", "val", "test"), or a list file of it
        (.lst or .txt), as HRNet's training code has them.
    context_classes: Pascal Context with background ignored (59) or as a class (60).
    classes: names in the order of the label values; none: those of classes.json in the folder.
    ignore_label: the value in the label files that counts nowhere, beside 255; none: that of classes.json.
    skip_unreadable: leave out pictures that are missing or do not read, and say how many, before anything
        else; false: the first one is an error.
    scene_size: height and width of generated pictures; train_scenes, val_scenes: how many of them.
    scene_seed: the seed they are drawn from.
    input_size: height and width that a training picture is resized to first, whatever its aspect; none: as
        it is.
    crop: height and width of a training crop.
    train_annotations, val_annotations: files in COCO's keypoint format, in the folder; train_pictures,
        val_pictures: folders in it that the file names of the pictures are relative to.
    val_boxes: a detector's file of boxes to find joints in, in the folder; none: the annotations' own boxes.
    figure_size: height and width of generated pictures; train_figures, val_figures: how many of them;
        figure_seed: the seed they are drawn from.
    base_size: long side of a picture at scale 1; none: as it is.
    scales: one is drawn for each crop.
    flip: mirror half of the crops; flip_pairs: classes that swap when mirrored (left arm, right arm).
    """

    kind: Literal["scenes", "list", "cityscapes", "lip", "pascal-context", "figures", "keypoints"]
    crop: tuple[int, int] = setting(at_least=1, at_most=LARGEST_SIDE)
    folder: str | None = setting(None, only=("kind", *FROM_FILES), free=True)
    train_list: str = setting("train.txt", only=("kind", "list"))
    val_list: str = setting("val.txt", only=("kind", "list"))
    train_split: str = setting("train", only=("kind", *OFFICIAL))
    val_split: str = setting("val", only=("kind", *OFFICIAL))
    context_classes: Literal[59, 60] = setting(59, only=("kind", "pascal-context"))
    classes: tuple[str, ...] | None = setting(None, only=("kind", "list"))
    ignore_label: int | None = setting(None, at_least=0, at_most=255, only=("kind", "list"))
    skip_unreadable: bool = setting(False, only=("kind", *FROM_FILES))
    scene_size: tuple[int, int] = setting(
        (128, 256), at_least=16, at_most=LARGEST_SIDE, only=("kind", "scenes")
    )
    train_scenes: int = setting(400, at_least=1, at_most=10**7, only=("kind", "scenes"))
    val_scenes: int = setting(50, at_least=1, at_most=10**7, only=("kind", "scenes"))
    scene_seed: int = setting(0, at_least=0, only=("kind", "scenes"))
    input_size: tuple[int, int] | None = setting(
        None, at_least=1, at_most=LARGEST_SIDE, only=("kind", *SEGMENTATION_FILES)
    )
    train_annotations: str = setting(
        "annotations/person_keypoints_train2017.json", only=("kind", "keypoints")
    )
    val_annotations: str = setting("annotations/person_keypoints_val2017.json", only=("kind", "keypoints"))
    train_pictures: str = setting("images/train2017", only=("kind", "keypoints"))
    val_pictures: str = setting("images/val2017", only=("kind", "keypoints"))
    val_boxes: str | None = setting(None, only=("kind", "keypoints"))
    figure_size: tuple[int, int] = setting(
        (128, 96), at_least=16, at_most=LARGEST_SIDE, only=("kind", "figures")
    )
    train_figures: int = setting(1000, at_least=1, at_most=10**7, only=("kind", "figures"))
    val_figures: int = setting(100, at_least=1, at_most=10**7, only=("kind", "figures"))
    figure_seed: int = setting(0, at_least=0, only=("kind", "figures"))
    base_size: int | None = setting(None, at_least=1, at_most=LARGEST_SIDE, never=("kind", *KEYPOINTS))
    scales: tuple[float, ...] = setting((1.0,), above=0, at_most=64, never=("kind", *KEYPOINTS))
    flip: bool = True
    flip_pairs: tuple[tuple[int, int], ...] | None = setting(
        None, at_least=0, only=("flip", True), never=("kind", *KEYPOINTS)
    )


@dataclass(frozen=True)
class TrainSettings:
    """The training itself.

    steps or epochs: how long; exactly one of the two.
    batch: pictures per step, over all devices.
    learning_rate: at the first step; schedule "poly" multiplies it by (1 - t / total) ** power, "steps" by
        `factor` at each of `milestones` (fractions of the whole).
    optimizer: "sgd" with momentum, or "adam" with beta1, beta2 and epsilon.
    batch_norm_momentum: weight of the new batch in the running statistics; none: the graph's own.
    freeze: paths of modules, as in ["conv1", "stage2"], that stay as they are, their running statistics too.
    rate_factors: factors of the learning rate of modules, as in ["last_layer=10"].
    seed: of the initial weights, the order of the pictures and their crops.
    precision: of the arithmetic; device: "auto" or one of the backend's.
    micro_batches: a step's batch is cut into so many parts, one after another through the network, to save
        memory; rematerialize: compute feature maps again in the backward pass, to save more.
    deterministic: the same arithmetic in the same order on the same device, however much slower.
    log_every, checkpoint_every, evaluate_every: in steps; the last two 0: only at the end.
    keep: the network left at the end: the "last" one, or the "best" of those scored.
    not_finite: a step whose loss or gradient is not finite is to "stop" the run, or to be left out ("skip")
        up to not_finite_limit times.
    tensorboard: write the losses for TensorBoard too; report: leave report.html at the end.
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
    freeze: tuple[str, ...] | None = None
    rate_factors: tuple[str, ...] | None = None
    seed: int = setting(0, at_least=0)
    precision: str = "float32"
    device: str = setting("auto", free=True)
    micro_batches: int = setting(1, at_least=1, at_most=65536)
    rematerialize: bool = setting(False, free=True)
    deterministic: bool = setting(False, free=True)
    log_every: int = setting(10, at_least=1, free=True)
    checkpoint_every: int = setting(500, at_least=0, free=True)
    evaluate_every: int = setting(0, at_least=0, free=True)
    keep: Literal["last", "best"] = setting("last", free=True)
    not_finite: Literal["stop", "skip"] = setting("stop", free=True)
    not_finite_limit: int = setting(10, at_least=0, only=("not_finite", "skip"), free=True)
    tensorboard: bool = setting(False, free=True)
    report: bool = setting(True, free=True)
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
    """Cross-entropy over the labelled pixels of a batch; for keypoints the squared error of heatmaps.

    class_weights: one per class; none: all 1.
    ohem: keep only the hard pixels: those whose true class has a probability below ohem_threshold, and at
        least about ohem_kept_per_image x batch of them.
    joint_weights: one per joint; none: all 1.
    """

    stage_weights: StageWeights
    class_weights: tuple[float, ...] | None = setting(None, at_least=0, never=("data.kind", *KEYPOINTS))
    ohem: bool = setting(False, never=("data.kind", *KEYPOINTS))
    joint_weights: tuple[float, ...] | None = setting(None, at_least=0, only=("data.kind", *KEYPOINTS))
    ohem_threshold: float = setting(0.9, above=0, at_most=1, only=("ohem", True))
    ohem_kept_per_image: float = setting(131072 / 3, above=0, at_most=LARGEST_AREA, only=("ohem", True))


def _pose(default: Any, **rule: Any) -> Any:
    """Declare a setting that only keypoints have."""
    return setting(default, only=("data.kind", *KEYPOINTS), **rule)


@dataclass(frozen=True)
class PoseSettings:
    """Keypoints: how crops are turned and joints encoded, and how joints are read and scored.

    box_scale: a box is widened to the crop's aspect, then by this factor.
    rotation: standard deviation in degrees, clipped to twice that; rotation_probability: of turning at all.
    scale: standard deviation of the crop's size around 1, clipped to one of them.
    half_body_probability: of showing the upper or lower half alone, where more than half_body_joints joints
        are labelled; upper_joints: numbers of the upper half's joints; none: those that their names tell.
    pairs: joints that swap when mirrored; none: those that their names tell (left_wrist, right_wrist).
    sigma: of the Gaussian at a joint, in pixels of the heatmap.
    targets: "quantized" centres Gaussians on a pixel as HRNet does, "exact" on the joint.
    decoding: "quarter" moves the largest pixel by a quarter towards its larger neighbour, "unbiased" fits a
        Gaussian (distribution-aware).
    flip_test: average with the mirrored crop's heatmaps.
    joint_threshold: a person's score is that of the box times the mean of the joints' above this.
    nms: of two poses in a picture as similar as this (OKS) the better stays.
    oks_sigmas: spread of the annotators per joint; none: COCO's where the joints are COCO's.
    """

    box_scale: float = _pose(1.25, above=0, at_most=100)
    rotation: float = _pose(45.0, at_least=0, at_most=90)
    rotation_probability: float = _pose(0.6, at_least=0, at_most=1)
    scale: float = _pose(0.35, at_least=0, below=1)
    half_body_probability: float = _pose(0.3, at_least=0, at_most=1)
    half_body_joints: int = _pose(8, at_least=0)
    upper_joints: tuple[int, ...] | None = _pose(None, at_least=0)
    pairs: tuple[tuple[int, int], ...] | None = _pose(None, at_least=0)
    sigma: float = _pose(2.0, above=0, at_most=100)
    targets: Literal["quantized", "exact"] = _pose("quantized")
    decoding: Literal["quarter", "unbiased"] = _pose("quarter")
    flip_test: bool = _pose(True)
    joint_threshold: float = _pose(0.2, at_least=0, at_most=1)
    nms: float = _pose(0.9, above=0, at_most=1)
    oks_sigmas: tuple[float, ...] | None = _pose(None, above=0, at_most=10)


def _segmentation(default: Any, **rule: Any) -> Any:
    """Declare a setting that keypoints do not have."""
    return setting(default, never=("data.kind", *KEYPOINTS), **rule)


@dataclass(frozen=True)
class EvaluationSettings:
    """The test procedure: how whole pictures of labelled pixels are predicted and scored.

    scales: a picture is predicted at each, and the scores are summed.
    base_size: long side of a picture at scale 1; none: as it is.
    size: height and width that a picture is resized to first, whatever its aspect; none: as it is;
        resize_label: score at that size, the label resized too; false: at the label's own.
    window: height and width of the windows that a picture is predicted in; none: whole; window_stride: from
        one to the next; none: a window; window_above: only scales above this are predicted in windows.
    flip: average with the mirrored picture (data.flip_pairs swap).
    aggregation: what is averaged and summed: "logits", softmax "probabilities", or "exponentials" of the
        logits, as HRNet's and GSTO's code does.
    absent_classes: those that occur neither in labels nor in predictions are "left out" of the means, or
        count as "zero", as in HRNet's code.
    """

    scales: tuple[float, ...] = _segmentation((1.0,), above=0, at_most=64)
    base_size: int | None = _segmentation(None, at_least=1, at_most=LARGEST_SIDE)
    size: tuple[int, int] | None = _segmentation(None, at_least=1, at_most=LARGEST_SIDE)
    resize_label: bool = _segmentation(False)
    window: tuple[int, int] | None = _segmentation(None, at_least=1, at_most=LARGEST_SIDE)
    window_stride: tuple[int, int] | None = _segmentation(None, at_least=1, at_most=LARGEST_SIDE)
    window_above: float = _segmentation(0.0, at_least=0, at_most=64)
    flip: bool = _segmentation(False)
    aggregation: Literal["logits", "probabilities", "exponentials"] = _segmentation("logits")
    absent_classes: Literal["left out", "zero"] = _segmentation("left out")


@dataclass(frozen=True)
class Settings:
    """A run's settings, complete."""

    architecture: ArchitectureSettings
    data: DataSettings
    train: TrainSettings
    loss: LossSettings
    pose: PoseSettings
    evaluation: EvaluationSettings


def resolve(base: Values, overrides: Values | None = None) -> Settings:
    """Return the settings of `base` (flat, dotted keys) with `overrides` on top; raises `InputError`."""
    settings = read(Settings, base, overrides)
    if (settings.train.steps is None) == (settings.train.epochs is None):
        raise InputError(
            "expected one of the settings 'train.steps' and 'train.epochs', found both or neither"
        )
    _check_rate_factors(settings.train.rate_factors or ())
    _check_sizes(settings.data)
    _check_evaluation(settings.evaluation)
    return settings


def rate_factor(entry: str) -> tuple[str, float]:
    """Return path and factor of `path=factor`, an entry of `train.rate_factors`; raises `InputError`."""
    path, _, number = entry.partition("=")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not path.strip() or not 0 < factor < math.inf:
        raise InputError(
            f"setting 'train.rate_factors': expected path=factor with a factor above 0, as in last_layer=10, "
            f"found {entry!r}; what is to stay as it is goes into train.freeze"
        )
    return path.strip(), factor


def _check_rate_factors(entries: tuple[str, ...]) -> None:
    """Raise `InputError` for an entry that does not read, and for a path with two factors."""
    for path, count in Counter(rate_factor(entry)[0] for entry in entries).items():
        if count > 1:
            raise InputError(
                f"setting 'train.rate_factors': expected one factor for {path!r}, found {count}; "
                "keep one of them"
            )


def _check_sizes(data: DataSettings) -> None:
    sizes = {"crop": data.crop, "scene_size": data.scene_size, "figure_size": data.figure_size}
    for key, (height, width) in sizes.items():
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


def _check_evaluation(evaluation: EvaluationSettings) -> None:
    """Raise `InputError` for a setting that has no effect without another, or leaves pixels out."""
    needs = (
        ("resize_label", evaluation.resize_label, "size"),
        ("window_stride", evaluation.window_stride, "window"),
        ("window_above", evaluation.window_above, "window"),
    )
    for key, given, other in needs:
        if given and getattr(evaluation, other) is None:
            raise InputError(
                f"setting 'evaluation.{key}' has no effect without 'evaluation.{other}'; remove it or give "
                f"evaluation.{other}"
            )
    if evaluation.size and evaluation.base_size:
        raise InputError(
            "expected one of 'evaluation.size' and 'evaluation.base_size', found both; remove one"
        )
    window, stride = evaluation.window, evaluation.window_stride
    if window and stride and (stride[0] > window[0] or stride[1] > window[1]):
        raise InputError(
            f"setting 'evaluation.window_stride': expected at most the window, {list(window)}, found "
            f"{list(stride)}, which leaves pixels out"
        )
    _check_largest(evaluation)


def _check_largest(evaluation: EvaluationSettings) -> None:
    sides = (evaluation.base_size or 0, *(evaluation.size or ()))
    if max(sides) * max(evaluation.scales) > LARGEST_SIDE:
        raise InputError(
            f"setting 'evaluation.scales': expected sides of at most {LARGEST_SIDE} pixels, found "
            f"{max(sides)} x {max(evaluation.scales):g}; lower one of the two"
        )
