"""Where the time of a training goes, and how fast it is."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from gsto_train.settings import TrainSettings

Part = Literal["preparation", "data", "step", "evaluation", "checkpoint"]
PARTS: tuple[Part, ...] = ("preparation", "data", "step", "evaluation", "checkpoint")

ADVICE: Mapping[Part, str] = {
    "preparation": "the backend placed the network, or compiled it, once",
    "data": "more train.threads, or data on a faster disk, may help",
    "step": "the network itself",
    "evaluation": "a larger train.evaluate_every scores less often",
    "checkpoint": "a larger train.checkpoint_every saves less often",
}
"""What is to be done where a part takes most."""


@dataclass(frozen=True)
class Pace:
    """How fast the last steps were.

    `images_per_second` counts all devices, `data_wait` is the share of time that nothing was loaded to
    train on.
    """

    images_per_second: float
    data_wait: float


class Stopwatch:
    """Seconds since `before`, and those of each part; what runs on a device is waited for in "step"."""

    def __init__(self, before: float = 0.0) -> None:
        self._before, self._began = before, time.monotonic()
        self.parts: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
        self._lap: tuple[float, float] = (0.0, 0.0)

    @property
    def seconds(self) -> float:
        """Seconds so far, with those before."""
        return self._before + time.monotonic() - self._began

    @contextmanager
    def measuring(self, part: Part) -> Iterator[None]:
        """Count the time of this block to a part."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.parts[part] += time.monotonic() - began

    def pace(self, images: int) -> Pace:
        """Return the pace since this was asked last, in which so many images were trained on."""
        data, step = self.parts["data"], self.parts["step"]
        waited, trained = data - self._lap[0], step - self._lap[1]
        self._lap = data, step
        whole = max(waited + trained, 1e-9)
        return Pace(images / whole, waited / whole)

    def summary(self, train: TrainSettings) -> str:
        """Return the share of each part, the slowest first, and what helps under these settings, in words."""
        whole = max(sum(self.parts.values()), 1e-9)
        ordered = sorted(self.parts.items(), key=lambda part: -part[1])
        shares = ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in ordered)
        return f"slowest part: {ordered[0][0]} ({shares}); {_advice(ordered[0][0], train)}"


def _advice(part: Part, train: TrainSettings) -> str:
    only_at_the_end = {"evaluation": train.evaluate_every == 0, "checkpoint": train.checkpoint_every == 0}
    return "it was done at the end alone" if only_at_the_end.get(part) else ADVICE[part]
