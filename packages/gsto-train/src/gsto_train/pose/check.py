"""A walk over a keypoint data set: what is missing or broken, and how often each joint is labelled."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gsto_train.data.findings import Finding
from gsto_train.pose.coco import CocoKeypoints
from gsto_train.pose.samples import KeypointDataset
from gsto_train.wording import counted


@dataclass
class KeypointReport:
    """What one part holds: pictures, boxes, and per joint the boxes with it labelled, and with it seen."""

    joints: tuple[str, ...]
    pictures: int
    boxes: int
    box_source: str
    labelled: NDArray[np.int64]
    visible: NDArray[np.int64]
    findings: list[Finding] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return the report as JSON has it."""
        counts = zip(self.joints, self.labelled.tolist(), self.visible.tolist(), strict=True)
        return {
            "pictures": self.pictures,
            "boxes": self.boxes,
            "box_source": self.box_source,
            "joints": {name: {"labelled": labelled, "visible": seen} for name, labelled, seen in counts},
            "findings": [finding.as_json() for finding in self.findings],
        }

    def lines(self) -> list[str]:
        """Return the counts for a person; of a detector's boxes, which know of no joints, their number."""
        box = f"{self.box_source} box"
        boxes = f"{counted(self.boxes, box, f'{box}es')} in {counted(self.pictures, 'picture')}"
        if not self.labelled.any():
            return [f"{boxes}, without a labelled joint"]
        width = max(map(len, self.joints))
        rows = zip(self.joints, self.labelled, self.visible, strict=True)
        return [
            boxes,
            *(f"  {name:{width}}  labelled in {labelled}, seen in {seen}" for name, labelled, seen in rows),
        ]


def check_keypoints(dataset: KeypointDataset) -> KeypointReport:
    """Report on a data set; of files, one opened with `skip_unreadable`, so that every picture is read."""
    joints = dataset.skeleton.joints
    states = np.array([person.joints[:, 2] for person in dataset.persons]).reshape(-1, len(joints))
    report = KeypointReport(
        joints,
        len(dataset.pictures),
        len(dataset.persons),
        dataset.box_source,
        np.asarray((states > 0).sum(0)),
        np.asarray((states > 1).sum(0)),
    )
    if isinstance(dataset, CocoKeypoints):
        report.findings.extend(dataset.findings)
    return report
