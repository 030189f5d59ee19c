"""Keypoints as a task: a heatmap for every joint of a person in a box."""

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from gsto_spec.backend import Predictor
from gsto_spec.graph import Graph
from gsto_spec.objective import Heatmap, Objective
from gsto_train.data.decoded import keep_in
from gsto_train.errors import InputError
from gsto_train.finite import told_of
from gsto_train.metrics.keypoints import COCO_NAMES
from gsto_train.pose.coco import CocoKeypoints, SkeletonChoice
from gsto_train.pose.evaluation import MeanPose, PoseTest, predict_poses, score_poses
from gsto_train.pose.figures import GeneratedFigures
from gsto_train.pose.loading import Cropping, PoseBatch, pose_batches
from gsto_train.pose.samples import KeypointDataset
from gsto_train.pose.targets import Codec
from gsto_train.pose.transform import CropAugmentation
from gsto_train.processes import ALONE, Processes
from gsto_train.report import CountReport, Report, Scores
from gsto_train.settings import PARTS, Part, Settings
from gsto_train.task import OnConfusion
from gsto_train.wording import counted

BASELINE = "mean pose"


@dataclass(frozen=True)
class Keypoints:
    """The squared error of heatmaps; scores by OKS and PCK, beside the mean pose of training."""

    settings: Settings
    training: KeypointDataset
    validation: KeypointDataset

    unit = "persons"
    label_unit = "joints"

    @classmethod
    def load(cls, settings: Settings) -> "Keypoints":
        """Return the task of the data that the settings name; raises `InputError`."""
        skip = settings.data.skip_unreadable
        task = cls(settings, *(open_part(settings, part, skip_unreadable=skip) for part in PARTS))
        found = task.validation.skeleton
        if found != task.training.skeleton:
            raise InputError(
                "setting 'data.val_annotations': expected the joints of 'data.train_annotations', found "
                f"{', '.join(found.joints)}; give files of the same joints"
            )
        _check_scorable(task.validation)
        return task

    @classmethod
    def to_score(cls, settings: Settings) -> "Keypoints":
        """Return the task without training persons, those to score in their place; raises `InputError`."""
        validation = open_part(settings, "val", skip_unreadable=settings.data.skip_unreadable)
        _check_scorable(validation)
        return cls(settings, validation, validation)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the joints."""
        return self.training.skeleton.joints

    @property
    def training_count(self) -> int:
        """Persons of an epoch."""
        return len(self.training.persons)

    @property
    def validation_count(self) -> int:
        """Boxes that are predicted."""
        return len(self.validation.persons)

    @property
    def cropping(self) -> Cropping:
        """How crops are cut."""
        return Cropping(self.settings.data.crop, self.settings.pose.box_scale)

    @property
    def augmentation(self) -> CropAugmentation:
        """What is drawn for a training crop."""
        pose = self.settings.pose
        return CropAugmentation(
            pose.rotation,
            pose.rotation_probability,
            pose.scale,
            self.settings.data.flip,
            pose.half_body_probability,
            pose.half_body_joints,
        )

    def protocol(self, graph: Graph) -> str:
        """Return the test procedure in words."""
        pose, shift = self.settings.pose, self.codec(graph).flip_shift
        moved = f"flip test (mirrored heatmaps moved by {shift} pixel{'s' * (shift != 1)})"
        decoding = "quarter-pixel refinement" if pose.decoding == "quarter" else "unbiased decoding"
        height, width = self.settings.data.crop
        return (
            f"{self.validation.box_source} boxes x {pose.box_scale:g}, crops {height}x{width}, "
            f"{moved if pose.flip_test else 'no flip'}, {decoding}, OKS-NMS {pose.nms:g}"
        )

    def codec(self, graph: Graph) -> Codec:
        """Return the heatmaps of a network; raises `InputError` where its outputs do not divide the crop."""
        crop, pose = self.settings.data.crop, self.settings.pose
        shapes = graph.check((1, 3, *crop))
        sizes = {name: shapes[node][2:] for name, node in graph.outputs.items()}
        first = next(iter(sizes.values()))
        stride = crop[0] // first[0]
        for name, (height, width) in sizes.items():
            if (height * stride, width * stride) != crop:
                raise InputError(
                    f"setting 'data.crop': {list(crop)} does not divide into the heatmaps of output "
                    f"{name!r}, {height}x{width} for it; give a multiple of the network's largest stride"
                )
        return Codec((first[0], first[1]), stride, pose.sigma, pose.targets)

    def test(self, graph: Graph) -> PoseTest:
        """Return the test procedure for a network."""
        pose = self.settings.pose
        return PoseTest(
            self.cropping, self.codec(graph), pose.decoding, pose.flip_test, pose.joint_threshold, pose.nms
        )

    def check(self, graph: Graph) -> None:
        """Raise `InputError` where weights do not fit the joints, or the crop not the network."""
        weights = self.settings.loss.joint_weights
        if weights is not None and len(weights) != len(self.labels):
            raise InputError(
                f"setting 'loss.joint_weights': expected {counted(len(self.labels), 'number')}, one per "
                f"joint, found {len(weights)}"
            )
        self.codec(graph)

    def objective(self, graph: Graph) -> Objective:
        """Return the squared error of every output's heatmaps."""
        loss = self.settings.loss
        return Objective(Heatmap(loss.joint_weights), asdict(loss.stage_weights))

    def batches(
        self, graph: Graph, *, start_step: int, total_steps: int, slots: range
    ) -> Generator[PoseBatch]:
        """Yield the crops `slots` of steps start_step .. total_steps - 1."""
        train = self.settings.train
        return pose_batches(
            self.training,
            self.cropping,
            self.codec(graph),
            self.augmentation,
            batch=train.batch,
            seed=train.seed,
            start_step=start_step,
            total_steps=total_steps,
            threads=train.threads,
            slots=slots,
        )

    def baselines(self, graph: Graph, report: Report) -> dict[str, Any]:
        """Score the mean pose of training; reads every picture in a file."""
        for dataset in (self.training, self.validation):
            if findings := _findings(dataset):
                bad = counted(len(findings), "bad entry", "bad entries")
                report.note(f"left out {bad}, the first: {findings[0]}")
        files = [data for data in (self.training, self.validation) if isinstance(data, CocoKeypoints)]
        total = sum(len({person.picture for person in each.persons}) for each in files)
        with report.counting("reading every picture", total) as count:
            for dataset in files:
                _read_all(dataset, self.settings.train.threads, count)
        poses = MeanPose.fit(self.training.persons).poses(self.validation.persons)
        return {BASELINE: score_poses(poses, self.validation, self.test(graph))}

    def are_baselines(self, found: Mapping[str, object]) -> bool:
        """Return whether `found` are scores of these joints."""
        scores = found.get(BASELINE)
        if set(found) != {BASELINE} or not isinstance(scores, dict):
            return False
        by_joint = scores.get("PCK_by_joint", dict.fromkeys(self.labels))
        return isinstance(by_joint, dict) and tuple(by_joint) == self.labels

    def evaluate(
        self,
        graph: Graph,
        predictor: Predictor,
        on_scored: Callable[[int], None],
        *,
        on_confusion: OnConfusion = lambda counts: None,
        processes: Processes = ALONE,
    ) -> dict[str, Any]:
        """Score the validation boxes by `protocol`; joints have no confusion."""
        train, test = self.settings.train, self.test(graph)
        poses = predict_poses(
            predictor,
            self.validation,
            test,
            batch=train.evaluation_batch,
            threads=train.threads,
            on_scored=on_scored,
            processes=processes,
        )
        return score_poses(poses, self.validation, test)

    def score(self, scores: Scores) -> float | None:
        """Return AP where there is one, else PCK."""
        found: float | None = scores.get(_headline(scores))
        return found

    def headline(self, scores: Scores) -> str:
        """Return AP where there is one, else PCK, in words."""
        name, value = _headline(scores), self.score(scores)
        return f"{name} {'-' if value is None else f'{value:.3f}'}{told_of(scores, self.unit)}"

    def facts(self) -> dict[str, Any]:
        """Return how many persons there are, where boxes come from, and the seed of generated figures."""
        data = self.settings.data
        return {
            "persons": {"training": self.training_count, "validation": self.validation_count},
            "left_out": {
                "training": len(_findings(self.training)), "validation": len(_findings(self.validation)),
            },
            "box_source": self.validation.box_source,
            "seeds": {"figures": data.figure_seed} if data.kind == "figures" else {},
        }  # fmt: skip

    def show(self, report: Report, title: str, columns: Mapping[str, Scores]) -> None:
        """Print the PCK of every joint, and the pooled scores."""
        by_joint = {name: {**scores, **scores.get("PCK_by_joint", {})} for name, scores in columns.items()}
        first = next(iter(columns.values()))
        pooled = [name for name in (*COCO_NAMES, "PCK") if name in first]
        joints = list(first.get("PCK_by_joint", {}))
        report.measures(title, "PCK by joint" if joints else "score", (joints, pooled), by_joint)
        for name, scores in columns.items():
            if told_of(scores, self.unit):
                report.note(f"warning: {name}: {self.headline(scores)}")


def open_part(settings: Settings, part: Part, *, skip_unreadable: bool) -> KeypointDataset:
    """Return what is trained on, or what is scored; with `skip_unreadable` without what is bad in a file.

    Raises `InputError`.
    """
    data, pose = settings.data, settings.pose
    keep_in(data.decoded)
    if data.kind == "figures":
        count = {"train": data.train_figures, "val": data.val_figures}[part]
        return GeneratedFigures(count, size=data.figure_size, seed=data.figure_seed, split=part)
    if data.folder is None:
        raise InputError("setting 'data.folder' is missing: give the folder of annotations with --data DIR")
    train = (data.train_annotations, data.train_pictures, None)
    val = (data.val_annotations, data.val_pictures, data.val_boxes)
    annotations, pictures, boxes = {"train": train, "val": val}[part]
    skeleton = SkeletonChoice(pose.pairs, pose.upper_joints, pose.oks_sigmas)
    return CocoKeypoints(
        data.folder, annotations, pictures, boxes=boxes, skeleton=skeleton, skip_unreadable=skip_unreadable
    )


def _check_scorable(validation: KeypointDataset) -> None:
    if validation.box_source == "detector" and validation.skeleton.sigmas is None:
        raise InputError(
            "setting 'pose.oks_sigmas' is missing: poses in a detector's boxes are scored by OKS; give a "
            "number per joint, or leave data.val_boxes out"
        )


def _findings(dataset: KeypointDataset) -> Sequence[str]:
    found = dataset.findings if isinstance(dataset, CocoKeypoints) else ()
    return [finding.text for finding in found]


def _read_all(dataset: CocoKeypoints, threads: int, count: CountReport) -> None:
    """Read the picture of every person once; raises `InputError` for the first that does not read."""
    first = {person.picture: person for person in dataset.persons}
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(dataset.image, first.values()):
            count.advance(1)


def _headline(scores: Scores) -> str:
    return "AP" if scores.get("AP") is not None else "PCK"
