"""What a report shows of a network at work: samples, a confusion matrix, and gates."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gsto_spec.errors import printable
from gsto_train.errors import InputError
from gsto_train.look import drawing
from gsto_train.look.colours import heat
from gsto_train.look.drawing import Picture
from gsto_train.look.inputs import Seen, of_validation, spread
from gsto_train.look.network import Network
from gsto_train.look.observing import Observer
from gsto_train.look.predicting import Looker, Prediction, looker
from gsto_train.metrics import ConfusionMatrix
from gsto_train.metrics.keypoints import PercentageOfCorrectKeypoints
from gsto_train.pose.evaluation import PCK_THRESHOLD
from gsto_train.report import Report
from gsto_train.wording import counted

_WIDEST = 640
"""Pixels of a picture in a report."""


@dataclass(frozen=True)
class Shot:
    """A validation picture: as it is, with the truth and with what was found; files of images.

    `score` says in words how well truth and what was found agree; empty where there is no truth.
    """

    title: str
    picture: bytes
    truth: bytes | None
    found: bytes
    score: str


@dataclass(frozen=True)
class GateShot:
    """A gate's map as an image, its place in the network and its mean."""

    part: str
    name: str
    image: bytes
    mean: float


@dataclass(frozen=True)
class Evidence:
    """What was seen of a network; `pictures` were counted in `confusion`, of `total`."""

    network: Network
    shots: Sequence[Shot]
    gates: Sequence[GateShot]
    confusion: NDArray[np.int64] | None
    pictures: int
    total: int
    notes: Sequence[str] = field(default=())


def gather(network: Network, report: Report, *, samples: int, pictures: int) -> Evidence:
    """Predict `pictures` of the validation data, spread evenly, and show `samples` of them.

    Pictures that do not read are left out and noted. Raises `InputError` where there are no data.
    """
    total = len(of_validation(network.settings, 2**31))
    inputs = of_validation(network.settings, max(samples, 1 if network.poses else pictures))
    looks = looker(network, boxed=network.poses)
    shown = set(spread(len(inputs), samples))
    confusion = None if network.poses else ConfusionMatrix(len(network.labels))
    shots, notes, first = list[Shot](), list[str](), None
    with report.counting(
        f"predicting {counted(len(inputs), 'picture')} for the report", len(inputs)
    ) as count:
        for number, each in enumerate(inputs):
            try:
                seen = each.read()
                found = looks.predict(seen.picture, seen.boxes)
            except InputError as error:
                notes.append(str(error))
                continue
            finally:
                count.advance(1)
            if confusion is not None and (own := _confusion(network, seen, found)):
                confusion.merge(own)
            if number in shown:
                title = f"{each.title}, {printable(seen.file)}" if seen.file else each.title
                shots.append(_shot(title, network, looks, seen, found))
                first = first or seen
    gates = [] if first is None else _gates(network, looks, first)
    counts = None if confusion is None else confusion.counts
    return Evidence(network, shots, gates, counts, len(inputs) - len(notes), total, notes)


def _shot(title: str, network: Network, looks: Looker, seen: Seen, found: Prediction) -> Shot:
    truth = None if seen.truth is None else _drawn(network, looks, seen, seen.truth)
    drawn = _drawn(network, looks, seen, found)
    return Shot(title, _jpeg(seen.picture), truth, drawn, _agreement(network, seen, found))


def _agreement(network: Network, seen: Seen, found: Prediction) -> str:
    if confusion := _confusion(network, seen, found):
        accuracy = confusion.scores().pixel_accuracy
        return "" if math.isnan(accuracy) else f"pixel accuracy {accuracy:.3f}"
    if seen.truth is None or seen.truth.in_boxes is None or found.in_boxes is None or not seen.boxes:
        return ""
    count = PercentageOfCorrectKeypoints(len(network.labels), PCK_THRESHOLD)
    count.update(seen.truth.in_boxes, found.in_boxes[..., :2], np.stack(seen.boxes))
    share = count.value()
    return "" if share is None else f"PCK {share:.3f}"


def _confusion(network: Network, seen: Seen, found: Prediction) -> ConfusionMatrix | None:
    if seen.truth is None or seen.truth.classes is None or found.classes is None:
        return None
    confusion = ConfusionMatrix(len(network.labels))
    confusion.update(seen.truth.classes, found.classes)
    return confusion


def _drawn(network: Network, looks: Looker, seen: Seen, found: Prediction) -> bytes:
    if found.classes is None:
        return _jpeg(looks.draw(seen.picture, found, 1.0))
    step = max(1, -(-found.classes.shape[1] // _WIDEST))
    return drawing.index_png(found.classes[::step, ::step], (*network.palette, *_black(network)))


def _black(network: Network) -> list[tuple[int, int, int]]:
    """Return the rest of 256 colours, for what is ignored."""
    return [(0, 0, 0)] * (256 - len(network.palette))


def _gates(network: Network, looks: Looker, seen: Seen) -> list[GateShot]:
    observer = Observer(network, looks)
    if not observer.gates:
        return []
    observation = observer.observe(seen.picture, seen.boxes)
    if observation is None:
        return []
    found = []
    for gate in observer.gates:
        values = observation.maps[gate.node]
        where = f"stride {gate.source}" + (f" to {gate.target}" if gate.target else f", {gate.name}")
        image = drawing.png(heat(values, gate.least, 1.0))
        found.append(GateShot(gate.part, where, image, float(values.mean())))
    return found


def _jpeg(picture: Picture) -> bytes:
    height, width = picture.shape[:2]
    if width > _WIDEST:
        size = (_WIDEST, max(1, round(height * _WIDEST / width)))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
