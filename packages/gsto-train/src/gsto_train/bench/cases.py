"""What is measured: a job on a network at a size, a batch and a precision."""

import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

from gsto_train.errors import InputError

Job = Literal["inference", "step", "data", "evaluation", "growth"]
JOBS: tuple[Job, ...] = get_args(Job)

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Case:
    """One thing that every subject does in its own way; `graph` is the network as JSON.

    Of `data` it is "", and `architecture` the benchmark whose crops are read.
    `height`, `width`: of the pictures, or of the crops. Cases that differ in precision alone have the same
    answer.
    """

    job: Job
    architecture: str
    graph: str
    height: int
    width: int
    batch: int
    precision: str = "float32"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, C, H, W of the network's input."""
        return (self.batch, 3, self.height, self.width)

    @property
    def pixels(self) -> int:
        """Pixels of the whole batch, which is what cost should be linear in."""
        return self.batch * self.height * self.width

    @property
    def images(self) -> int:
        """Pictures of what is timed: the batch; one where pictures are scored or read one by one."""
        return 1 if self.job in ("data", "evaluation") else self.batch

    @property
    def question(self) -> "Case":
        """The case without its precision: what the answers have in common."""
        return replace(self, precision="")

    def __str__(self) -> str:
        """The case in words."""
        shape = f"{self.batch} x {self.height}x{self.width}"
        return (
            f"{self.architecture}, {shape}, {self.precision}"
            if self.graph
            else f"{self.architecture}, {shape}"
        )


DEFAULT_SIZE: dict[Job, Size] = {
    "inference": (512, 1024), "step": (256, 512), "evaluation": (512, 1024), "growth": (512, 512),
}  # fmt: skip
DEFAULT_BATCH: dict[Job, int] = {"inference": 1, "step": 2, "evaluation": 1, "growth": 1}
"""Of what is not the benchmark's own, as the crops of `data` are."""

GROWTH_SIDES = (256, 384, 512, 768, 1024)
GROWTH_BATCHES = (1, 2, 4, 8)


def size(text: str) -> Size:
    """Return the (height, width) of `HxW`; raises `InputError`."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text)
    if found is not None:
        return int(found[1]), int(found[2])
    raise InputError(f"--size: expected HEIGHTxWIDTH in pixels, as in 512x1024, found {text!r}")


def growing(case: Case) -> tuple[list[Case], list[Case]]:
    """Return the case at growing sizes, squares, and at growing batches."""
    by_size = [replace(case, height=side, width=side) for side in GROWTH_SIDES]
    return by_size, [replace(case, batch=batch) for batch in GROWTH_BATCHES]
