"""What is looked at: a user's pictures with boxes and truth, or samples of the run's own data."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from gsto_spec.errors import printable
from gsto_train import resolve
from gsto_train.data.classes import read_classes
from gsto_train.data.pictures import check_size, read_image, read_label
from gsto_train.data.samples import Dataset
from gsto_train.errors import InputError
from gsto_train.look.boxes import Boxes as BoxFile
from gsto_train.look.drawing import Picture
from gsto_train.look.network import Network
from gsto_train.look.predicting import Boxes, Prediction
from gsto_train.look.sources import Source, free_names
from gsto_train.pose.samples import KeypointDataset, Person
from gsto_train.pose.task import open_part
from gsto_train.settings import Settings


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture that was read, the boxes to find joints in, and the truth where it is known.

    `problem` says why there is no truth where one was asked for; `file` names that of a sample which has one.
    """

    picture: Picture
    boxes: Boxes = None
    truth: Prediction | None = None
    problem: str | None = None
    file: str = ""


@dataclass(frozen=True, eq=False)
class Input:
    """A picture to be read: what a person calls it, and its place in the output without ending.

    `read` raises `InputError` where the picture or what belongs to it does not read.
    """

    title: str
    name: str
    read: Callable[[], Seen]


def of_files(
    sources: Sequence[Source], network: Network, boxes: BoxFile | None, truth: Path | None
) -> list[Input]:
    """Return a user's pictures; `truth` is a label of the only one, or a folder of labels named like them."""
    if truth is not None and network.poses:
        raise InputError("--truth: expected a network that finds classes, found one of joints; leave it out")
    if truth is not None and not truth.is_dir() and len(sources) != 1:
        raise InputError(
            f"--truth {truth}: expected a folder, with a label for each of the {len(sources)} pictures"
        )
    truths = None if truth is None else Truths(truth, len(network.labels), _ignore_label(network, truth))
    return [
        Input(printable(source.path), printable(source.name), partial(_read, source, boxes, truths))
        for source in sources
    ]


def of_validation(settings: Settings, count: int) -> list[Input]:
    """Return `count` pictures spread evenly over the data that the network is scored on; raises InputError.

    All where there are fewer.
    """
    if settings.data.kind in ("figures", "keypoints"):
        return _of_persons(open_part(settings, "val", skip_unreadable=False), count)
    dataset = resolve.load_split(settings.data, "val")
    return [
        Input(f"validation picture {index}", f"sample-{index:04d}", partial(_sample, dataset, index))
        for index in spread(len(dataset), count)
    ]


def spread(total: int, count: int) -> list[int]:
    """Return at most `count` of the numbers below `total`, evenly spread, the first among them."""
    return [number * total // min(count, total) for number in range(min(count, total))]


@dataclass(frozen=True)
class Truths:
    """A label, or a folder of labels, of so many classes."""

    place: Path
    classes: int
    ignore_label: int | None

    def of(self, source: Source, size: tuple[int, int]) -> Prediction:
        """Return the truth of a picture of `size` (height, width); raises `InputError`."""
        path = self.place / f"{source.name}.png" if self.place.is_dir() else self.place
        label = read_label(path, classes=self.classes, ignore_label=self.ignore_label)
        check_size(path, label, source.path, size)
        return Prediction(classes=label)


def _read(source: Source, boxes: BoxFile | None, truths: Truths | None) -> Seen:
    picture = read_image(source.path)
    height, width = picture.shape[:2]
    found = None if boxes is None else boxes.of(source.path, (height, width))
    if truths is None:
        return Seen(picture, found)
    try:
        return Seen(picture, found, truths.of(source, (height, width)))
    except InputError as error:
        return Seen(picture, found, problem=str(error))


def _ignore_label(network: Network, truth: Path) -> int | None:
    """Return the label that counts nowhere: the run's, that of its data, or of the truth's classes.json."""
    data = network.settings.data
    if data.ignore_label is not None:
        return data.ignore_label
    folder = truth if truth.is_dir() else truth.parent
    own = [Path(data.folder)] if data.kind == "list" and data.folder is not None else []
    for place in (*own, folder, folder.absolute().parent):
        with suppress(InputError, OSError):
            label = read_classes(place).ignore_label
            if label is not None and label >= len(network.labels):
                return label
    return None


def _sample(dataset: Dataset, index: int) -> Seen:
    sample = dataset[index]
    path = Path(sample.name)
    return Seen(sample.image, None, Prediction(classes=sample.label), file=path.name if path.suffix else "")


def _of_persons(dataset: KeypointDataset, count: int) -> list[Input]:
    together = defaultdict[int, list[Person]](list)
    for person in dataset.persons:
        together[person.picture].append(person)
    groups = list(together.values())
    chosen = [groups[index] for index in spread(len(groups), count)]
    names = free_names(f"sample-{group[0].picture:04d}" for group in chosen)
    return [
        Input(f"validation picture {group[0].picture}", name, partial(_persons, dataset, group))
        for group, name in zip(chosen, names, strict=True)
    ]


def _persons(dataset: KeypointDataset, persons: Sequence[Person]) -> Seen:
    boxes = [np.array([*person.box, person.score]) for person in persons]
    labelled = [person for person in persons if person.joints[:, 2].any()]
    joints = len(dataset.skeleton.joints)
    truth = Prediction(
        poses=np.array([[*person.joints] for person in labelled]).reshape(-1, joints, 3),
        scores=np.ones(len(labelled)),
        in_boxes=np.array([person.joints for person in persons]),
    )
    return Seen(dataset.image(persons[0]), boxes, truth)
