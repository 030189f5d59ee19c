"""Everything that can be set about a run; the same keys in benchmark files, in `--set` and in config.json."""

import math
from collections import Counter
from dataclasses import MISSING, dataclass
from typing import Any, Literal

from gsto_spec.objective import STAGE_WEIGHTS
from gsto_train.errors import InputError
from gsto_train.schema import Values, read, setting

LARGEST_SIDE, LARGEST_AREA = 65536, 2**28
"""Of a picture or crop, in pixels: far past what trains, and short of what overflows."""


@dataclass(frozen=True)
class ArchitectureSettings:
    """The network."""

    name: str = setting(
        "a catalogue name, the folder of a saved model or run, a graph's JSON file, or module:attribute (a "
        "graph, a variant, or a function of the number of classes that returns one)"
    )
    form: Literal["release", "paper"] | None = setting(
        '"release": what the published checkpoints mean, "paper": its equations; none: the variant\'s own',
        None,
    )
    initialize_from: str | None = setting(
        "file or saved model's folder with the weights to start from, such as ImageNet's; what it lacks is "
        "drawn from the seed; none: all is",
        None,
    )


DATA_VARIABLE = "GSTO_DATA_"
"""What the environment variables begin with that name folders of data."""

Part = Literal["train", "val"]
PARTS: tuple[Part, Part] = ("train", "val")
"""What a run trains on, and what it is scored on."""

OFFICIAL = ("cityscapes", "lip", "pascal-context")
"""Kinds of data in the folders of a published data set."""

SEGMENTATION_FILES = ("list", *OFFICIAL)
"""Kinds of data with one label picture per picture, in files."""

KEYPOINTS = ("figures", "keypoints")
"""Kinds of data with the joints of persons or other things; every other kind has labelled pixels."""

GENERATED = ("scenes", "figures")
"""Kinds of data that are drawn."""

FROM_FILES = (*SEGMENTATION_FILES, "keypoints")
"""Kinds of data that lie in a folder."""


def _side(meaning: str, default: Any = MISSING, **rule: Any) -> Any:
    """Declare a setting in pixels."""
    return setting(meaning, default, at_least=1, at_most=LARGEST_SIDE, **rule)


def _generated(meaning: str, default: Any, kind: str, **rule: Any) -> Any:
    """Declare a setting that only pictures of a generated kind have."""
    return setting(meaning, default, only=("kind", kind), **rule)


def _annotated(meaning: str, default: Any) -> Any:
    """Declare a setting that only files of keypoints have."""
    return setting(meaning, default, only=("kind", "keypoints"))


@dataclass(frozen=True)
class DataSettings:
    """The pictures and how training crops are cut from them."""

    kind: Literal["scenes", "list", "cityscapes", "lip", "pascal-context", "figures", "keypoints"] = setting(
        '"scenes" and "figures" are generated; "list" reads list files of "image label" lines; "cityscapes", '
        '"lip" and "pascal-context" read these data sets as they are handed out; "keypoints" reads files of '
        "joints in COCO's format"
    )
    crop: tuple[int, int] = _side("height and width of a training crop")
    folder: str | None = setting(
        "where the lists lie and what their paths are relative to; the data set's own folder",
        None, only=("kind", *FROM_FILES), free=True,
    )  # fmt: skip
    train_list: str = setting("file in the folder: what to train on", "train.txt", only=("kind", "list"))
    val_list: str = setting("file in the folder: what to score on", "val.txt", only=("kind", "list"))
    train_split: str = setting(
        'what to train on: a split of the data set ("train", "trainval", "val", "test"), or a list file of '
        "it (.lst or .txt), as HRNet's training code has them",
        "train", only=("kind", *OFFICIAL),
    )  # fmt: skip
    val_split: str = setting("what to score on, likewise", "val", only=("kind", *OFFICIAL))
    context_classes: Literal[59, 60] = setting(
        "Pascal Context with background ignored (59) or as a class (60)", 59, only=("kind", "pascal-context")
    )
    classes: tuple[str, ...] | None = setting(
        "names in the order of the label values; none: those of classes.json in the folder",
        None, only=("kind", "list"),
    )  # fmt: skip
    ignore_label: int | None = setting(
        "value in the label files that counts nowhere, beside 255; none: that of classes.json",
        None, at_least=0, at_most=255, only=("kind", "list"),
    )  # fmt: skip
    skip_unreadable: bool = setting(
        "leave out pictures that are missing or do not read, and say how many, before anything else; false: "
        "the first one is an error",
        False, only=("kind", *FROM_FILES),
    )  # fmt: skip
    decoded: str | None = setting(
        "folder to keep decoded pictures and labels in, and to read them from afterwards; none: they are "
        "decoded whenever they are read",
        None, only=("kind", *FROM_FILES), free=True,
    )  # fmt: skip
    scene_size: tuple[int, int] = _generated(
        "height and width of generated scenes", (128, 256), "scenes", at_least=16, at_most=LARGEST_SIDE
    )
    train_scenes: int = _generated("how many to train on", 400, "scenes", at_least=1, at_most=10**7)
    val_scenes: int = _generated("how many to score on", 50, "scenes", at_least=1, at_most=10**7)
    scene_seed: int = _generated("seed that scenes are drawn from", 0, "scenes", at_least=0)
    input_size: tuple[int, int] | None = _side(
        "height and width that a training picture is resized to first, whatever its aspect; none: as it is",
        None, only=("kind", *SEGMENTATION_FILES),
    )  # fmt: skip
    train_annotations: str = _annotated(
        "file in COCO's keypoint format, in the folder: what to train on",
        "annotations/person_keypoints_train2017.json",
    )
    val_annotations: str = _annotated(
        "file in COCO's keypoint format, in the folder: what to score on",
        "annotations/person_keypoints_val2017.json",
    )
    train_pictures: str = _annotated(
        "folder in it that the file names of the training pictures are relative to", "images/train2017"
    )
    val_pictures: str = _annotated(
        "folder in it that the file names of the scored pictures are relative to", "images/val2017"
    )
    val_boxes: str | None = _annotated(
        "a detector's file of boxes to find joints in, in the folder; none: the annotations' own boxes", None
    )
    figure_size: tuple[int, int] = _generated(
        "height and width of generated figures", (128, 96), "figures", at_least=16, at_most=LARGEST_SIDE
    )
    train_figures: int = _generated("how many to train on", 1000, "figures", at_least=1, at_most=10**7)
    val_figures: int = _generated("how many to score on", 100, "figures", at_least=1, at_most=10**7)
    figure_seed: int = _generated("seed that figures are drawn from", 0, "figures", at_least=0)
    base_size: int | None = _side(
        "long side of a picture at scale 1; none: as it is", None, never=("kind", *KEYPOINTS)
    )
    scales: tuple[float, ...] = setting(
        "one is drawn for each crop", (1.0,), above=0, at_most=64, never=("kind", *KEYPOINTS)
    )
    flip: bool = setting("mirror half of the crops", True)
    flip_pairs: tuple[tuple[int, int], ...] | None = setting(
        "classes that swap when mirrored (left arm, right arm)",
        None, at_least=0, only=("flip", True), never=("kind", *KEYPOINTS),
    )  # fmt: skip


def _poly(meaning: str, default: Any, **rule: Any) -> Any:
    return setting(meaning, default, only=("schedule", "poly"), **rule)


def _stepped(meaning: str, default: Any, **rule: Any) -> Any:
    return setting(meaning, default, only=("schedule", "steps"), **rule)


def _adam(meaning: str, default: Any, **rule: Any) -> Any:
    return setting(meaning, default, only=("optimizer", "adam"), **rule)


@dataclass(frozen=True)
class TrainSettings:
    """The training itself."""

    batch: int = setting("pictures per step, over all devices", at_least=1, at_most=65536)
    learning_rate: float = setting("at the first step; the schedule lowers it", above=0)
    steps: int | None = setting("how long; or else epochs", None, at_least=1, instead_of="epochs")
    epochs: int | None = setting("how long; or else steps", None, at_least=1, instead_of="steps")
    schedule: Literal["poly", "steps"] = setting(
        '"poly" multiplies the learning rate by (1 - t / total) ** power, "steps" by factor at each of '
        "milestones",
        "poly",
    )
    power: float = _poly("of the schedule poly", 0.9, above=0)
    milestones: tuple[float, ...] = _stepped("fractions of the whole", (0.8, 0.95), above=0, at_most=1)
    factor: float = _stepped("of the learning rate at each of milestones", 0.1, above=0, at_most=1)
    optimizer: Literal["sgd", "adam"] = setting(
        '"sgd" with momentum, or "adam" with beta1, beta2 and epsilon', "sgd"
    )
    momentum: float = setting("of sgd", 0.9, at_least=0, at_most=1, only=("optimizer", "sgd"))
    beta1: float = _adam("decay of Adam's mean of gradients", 0.9, at_least=0, below=1)
    beta2: float = _adam("decay of Adam's mean of squared gradients", 0.999, at_least=0, below=1)
    epsilon: float = _adam("added to the root of Adam's second mean", 1e-8, above=0)
    weight_decay: float = setting("factor of the weights in their gradient", 5e-4, at_least=0, at_most=1e6)
    batch_norm_momentum: float | None = setting(
        "weight of the new batch in the running statistics; none: the graph's own", None, above=0, at_most=1
    )
    freeze: tuple[str, ...] | None = setting(
        'paths of modules, as in ["conv1", "stage2"], that stay as they are, their running statistics too',
        None,
    )
    rate_factors: tuple[str, ...] | None = setting(
        'factors of the learning rate of modules, as in ["last_layer=10"]', None
    )
    seed: int = setting("of the initial weights, the order of the pictures and their crops", 0, at_least=0)
    precision: str = setting("of the arithmetic", "float32")
    device: str = setting('"auto" or one of the backend\'s', "auto", free=True)
    micro_batches: int = setting(
        "a step's batch is cut into so many parts, one after another through the network, to save memory",
        1, at_least=1, at_most=65536,
    )  # fmt: skip
    rematerialize: bool = setting(
        "compute feature maps again in the backward pass, to save more", False, free=True
    )
    deterministic: bool = setting(
        "the same arithmetic in the same order on the same device, however much slower", False, free=True
    )
    log_every: int = setting("steps from one line of metrics.jsonl to the next", 10, at_least=1, free=True)
    checkpoint_every: int = setting("in steps; 0: only at the end", 500, at_least=0, free=True)
    evaluate_every: int = setting("in steps; 0: only at the end", 0, at_least=0, free=True)
    keep: Literal["last", "best"] = setting(
        'the network left at the end: the "last" one, or the "best" of those scored', "last", free=True
    )
    not_finite: Literal["stop", "skip"] = setting(
        'a step whose loss or gradient is not finite is to "stop" the run, or to be left out ("skip")',
        "stop", free=True,
    )  # fmt: skip
    not_finite_limit: int = setting(
        "how many may be left out", 10, at_least=0, only=("not_finite", "skip"), free=True
    )
    tensorboard: bool = setting("write the losses for TensorBoard too", False, free=True)
    report: bool = setting("leave report.html at the end", True, free=True)
    evaluation_batch: int = setting("pictures predicted at once", 4, at_least=1, at_most=65536, free=True)
    threads: int = setting("that load pictures", 2, at_least=1, at_most=1024, free=True)


def _stage(name: str) -> Any:
    return setting(f"factor of the loss of {name}'s output (section 3.2.2)", STAGE_WEIGHTS[name], at_least=0)


@dataclass(frozen=True)
class StageWeights:
    """The factor of each supervised stage's loss (section 3.2.2)."""

    stage1: float = _stage("stage1")
    stage2: float = _stage("stage2")
    stage3: float = _stage("stage3")
    stage4: float = _stage("stage4")


def _segmentation(meaning: str, default: Any, **rule: Any) -> Any:
    """Declare a setting that keypoints do not have."""
    return setting(meaning, default, never=("data.kind", *KEYPOINTS), **rule)


def _pose(meaning: str, default: Any, **rule: Any) -> Any:
    """Declare a setting that only keypoints have."""
    return setting(meaning, default, only=("data.kind", *KEYPOINTS), **rule)


@dataclass(frozen=True)
class LossSettings:
    """Cross-entropy over the labelled pixels of a batch; for keypoints the squared error of heatmaps."""

    stage_weights: StageWeights
    class_weights: tuple[float, ...] | None = _segmentation("one per class; none: all 1", None, at_least=0)
    ohem: bool = _segmentation("keep only the hard pixels of the loss", False)
    joint_weights: tuple[float, ...] | None = _pose("one per joint; none: all 1", None, at_least=0)
    ohem_threshold: float = setting(
        "hard are pixels whose true class has a probability below this",
        0.9, above=0, at_most=1, only=("ohem", True),
    )  # fmt: skip
    ohem_kept_per_image: float = setting(
        "at least about so many pixels x batch are kept, hard or not",
        131072 / 3, above=0, at_most=LARGEST_AREA, only=("ohem", True),
    )  # fmt: skip


@dataclass(frozen=True)
class PoseSettings:
    """Keypoints: how crops are turned and joints encoded, and how joints are read and scored."""

    box_scale: float = _pose(
        "a box is widened to the crop's aspect, then by this factor", 1.25, above=0, at_most=100
    )
    rotation: float = _pose(
        "standard deviation in degrees, clipped to twice that", 45.0, at_least=0, at_most=90
    )
    rotation_probability: float = _pose("of turning at all", 0.6, at_least=0, at_most=1)
    scale: float = _pose(
        "standard deviation of the crop's size around 1, clipped to one of them", 0.35, at_least=0, below=1
    )
    half_body_probability: float = _pose(
        "of showing the upper or lower half alone, where more than half_body_joints joints are labelled",
        0.3, at_least=0, at_most=1,
    )  # fmt: skip
    half_body_joints: int = _pose("see half_body_probability", 8, at_least=0)
    upper_joints: tuple[int, ...] | None = _pose(
        "numbers of the upper half's joints; none: those that their names tell", None, at_least=0
    )
    pairs: tuple[tuple[int, int], ...] | None = _pose(
        "joints that swap when mirrored; none: those that their names tell (left_wrist, right_wrist)",
        None, at_least=0,
    )  # fmt: skip
    sigma: float = _pose("of the Gaussian at a joint, in pixels of the heatmap", 2.0, above=0, at_most=100)
    targets: Literal["quantized", "exact"] = _pose(
        '"quantized" centres Gaussians on a pixel as HRNet does, "exact" on the joint', "quantized"
    )
    decoding: Literal["quarter", "unbiased"] = _pose(
        '"quarter" moves the largest pixel by a quarter towards its larger neighbour, "unbiased" fits a '
        "Gaussian (distribution-aware)",
        "quarter",
    )
    flip_test: bool = _pose("average with the mirrored crop's heatmaps", True)
    joint_threshold: float = _pose(
        "a person's score is that of the box times the mean of the joints' above this",
        0.2, at_least=0, at_most=1,
    )  # fmt: skip
    nms: float = _pose(
        "of two poses in a picture as similar as this (OKS) the better stays", 0.9, above=0, at_most=1
    )
    oks_sigmas: tuple[float, ...] | None = _pose(
        "spread of the annotators per joint; none: COCO's where the joints are COCO's",
        None, above=0, at_most=10,
    )  # fmt: skip


@dataclass(frozen=True)
class EvaluationSettings:
    """The test procedure: how whole pictures of labelled pixels are predicted and scored."""

    scales: tuple[float, ...] = _segmentation(
        "a picture is predicted at each, and the scores are summed", (1.0,), above=0, at_most=64
    )
    base_size: int | None = _segmentation(
        "long side of a picture at scale 1; none: as it is", None, at_least=1, at_most=LARGEST_SIDE
    )
    size: tuple[int, int] | None = _segmentation(
        "height and width that a picture is resized to first, whatever its aspect; none: as it is",
        None, at_least=1, at_most=LARGEST_SIDE,
    )  # fmt: skip
    resize_label: bool = _segmentation(
        "score at that size, the label resized too; false: at the label's own", False
    )
    window: tuple[int, int] | None = _segmentation(
        "height and width of the windows that a picture is predicted in; none: whole",
        None, at_least=1, at_most=LARGEST_SIDE,
    )  # fmt: skip
    window_stride: tuple[int, int] | None = _segmentation(
        "from one window to the next; none: a window", None, at_least=1, at_most=LARGEST_SIDE
    )
    window_above: float = _segmentation(
        "only scales above this are predicted in windows", 0.0, at_least=0, at_most=64
    )
    flip: bool = _segmentation("average with the mirrored picture (data.flip_pairs swap)", False)
    aggregation: Literal["logits", "probabilities", "exponentials"] = _segmentation(
        'what is averaged and summed: "logits", softmax "probabilities", or "exponentials" of the logits, as '
        "HRNet's and GSTO's code does",
        "logits",
    )
    absent_classes: Literal["left out", "zero"] = _segmentation(
        'classes that occur neither in labels nor in predictions are "left out" of the means, or count as '
        '"zero", as in HRNet\'s code',
        "left out",
    )


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
