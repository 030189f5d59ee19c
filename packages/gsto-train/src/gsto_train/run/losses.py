"""What steps return, read only when somebody looks, since reading waits for the device."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import SupportsFloat

from gsto_train.settings import TrainSettings
from gsto_train.wording import counted


@dataclass(frozen=True)
class Taken:
    """A step that was taken, its losses perhaps still on the device; `number` counts from 1."""

    number: int
    epoch: int
    learning_rate: float
    losses: Mapping[str, SupportsFloat]


class NotFinite(Exception):
    """What is not finite, and in which step."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"{what} at step {step} is not finite")
        self.step = step


class Losses:
    """The losses of the steps since somebody looked last, and how many steps were left out so far."""

    def __init__(self, train: TrainSettings, skipped: int, note: Callable[[str], None]) -> None:
        self._limit = {"stop": 0, "skip": train.not_finite_limit}[train.not_finite]
        self._note = note
        self._in_a_row = 0
        self._unread: list[Taken] = []
        self.skipped = skipped

    def add(self, step: Taken) -> None:
        """Take in a step, without waiting for it."""
        self._unread.append(step)

    def read(self) -> dict[str, float | None]:
        """Wait for the device, check every step since the last time, and return the losses of the last one.

        None stands for a loss that is not finite. Raises `NotFinite` for a step that was not, unless such
        steps are to be left out and are no more than allowed.
        """
        unread, self._unread = self._unread, []
        losses: dict[str, float] = {}
        for step in unread:
            losses = {name: float(value) for name, value in step.losses.items()}
            finite = losses.pop("finite")
            if not finite or not all(map(math.isfinite, losses.values())):
                self._leave_out(_not_finite(losses, step.number))
            else:
                self._in_a_row = 0
        return {name: value if math.isfinite(value) else None for name, value in losses.items()}

    def tell_end(self, steps: int) -> None:
        """Say it where the last of a run's `steps` were left out, as far as this session took them."""
        if self._in_a_row:
            were = "was" if self.skipped == 1 else "were"
            self._note(
                f"warning: {self.skipped} of {counted(steps, 'step')} {were} not finite and left out, the "
                f"last {self._in_a_row} of them in a row: the network is that of step "
                f"{steps - self._in_a_row}"
            )

    def _leave_out(self, bad: NotFinite) -> None:
        if self.skipped >= self._limit:
            raise bad
        self.skipped += 1
        self._in_a_row += 1
        self._note(f"warning: {bad}; the step is left out, {self.skipped} of at most {self._limit}")


def _not_finite(losses: Mapping[str, float], step: int) -> NotFinite:
    loss = losses["loss"]
    return NotFinite("a gradient" if math.isfinite(loss) else f"loss {loss}", step)
