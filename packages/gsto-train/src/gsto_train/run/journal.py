"""Files of JSON lines that a run adds to while it goes, on disks that may fail for a while."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from gsto_train.files import append_synced, told


class Journal:
    """Adds lines to a file; those that the disk does not take wait, in order, for the next attempt.

    A line that was cut off by a full disk is written anew as a whole, so the file only ever holds whole
    lines and perhaps the beginning of one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size if path.exists() else 0
        self._waiting = b""

    def add(self, record: Mapping[str, object]) -> None:
        """Add one line, to be written by the next `flush`."""
        self._waiting += (json.dumps(record, allow_nan=False) + "\n").encode()

    def flush(self) -> None:
        """Bring every line that waits to the disk; raises OSError, naming the file: then they wait on."""
        if self._waiting:
            self._size = append_synced(self._path, self._waiting, self._size)
            self._waiting = b""


class RunLog:
    """The journals of a run; a disk that takes no line is told once, and no reason to stop.

    `names` are those of all files that lines are added to: their sizes count from now, while the folder is
    there.
    """

    def __init__(self, folder: Path, names: Iterable[str], note: Callable[[str], None]) -> None:
        self._note = note
        self._journals = {name: Journal(folder / name) for name in names}
        self._failed = False

    def append(self, name: str, record: Mapping[str, object]) -> None:
        """Add a line to a file of the folder, on the disk if it takes it."""
        self._journals[name].add(record)
        try:
            self.flush()
        except OSError as error:
            if not self._failed:
                self._note(f"warning: {told(error)}; training goes on, what cannot be written waits")
            self._failed = True

    def flush(self) -> None:
        """Bring every line to the disk, before any checkpoint that follows; raises OSError."""
        for journal in self._journals.values():
            journal.flush()
        self._failed = False
