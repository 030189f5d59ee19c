"""TensorBoard, on request: the numbers of metrics.jsonl, timings.jsonl and evaluations.jsonl as curves."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gsto_train.errors import InputError


class Board:
    """Writes numbers by name and step; one that was given no folder writes nothing."""

    def __init__(self, folder: Path | None = None, step: int = 0) -> None:
        """Begin after `step`: what an interrupted run wrote past it is hidden.

        Raises `InputError` where tensorboardX is not installed.
        """
        self._writer: Any = None
        if folder is not None:
            self._writer = _summary_writer()(str(folder), purge_step=step + 1 if step else None)

    def add(self, step: int, group: str, numbers: Mapping[str, object]) -> None:
        """Add every number of `numbers`; what is none is left out. A disk that fails costs curves alone."""
        if self._writer is None:
            return
        with suppress(OSError):
            for name, value in numbers.items():
                if isinstance(value, int | float) and name != "step":
                    self._writer.add_scalar(f"{group}/{name}", value, step)
            self._writer.flush()


def check_installed() -> None:
    """Raise `InputError`, with the command that installs it, unless tensorboardX is there."""
    _summary_writer()


def _summary_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise InputError(
            "setting 'train.tensorboard' needs tensorboardX, which is not installed: "
            "pip install 'gsto-train[tensorboard]', or set it to false"
        ) from None
    return SummaryWriter
