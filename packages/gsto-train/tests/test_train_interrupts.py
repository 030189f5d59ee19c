"""Signals that come while a framework has the process, in code that knows nothing of Python."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STUCK = """
import atexit, ctypes, os
from pathlib import Path
from linear_backend import LinearBackend, LinearTrainer, graph

class Trainer(LinearTrainer):
    def step(self, batch, learning_rate):
        Path("reached").touch()
        {step}
        return super().step(batch, learning_rate)

class Backend(LinearBackend):
    def trainer(self, graph, weights, terms, **how):
        return Trainer(graph, weights, terms)
"""

FOREVER = """
        mutex = ctypes.create_string_buffer(64)  # Zeros, which is a lock that nobody has.
        for _ in range(2):
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""
"""Waits for itself, where no signal wakes it."""

CRASHING = """
        import signal
        atexit.register(os.abort)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
"""
"""A framework that does not survive being cleared away in the middle of its work."""


@contextmanager
def training(step: str, plugin_folder: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A run, in a process of its own, in whose first step `step` is done."""
    (folder / "stuck.py").write_text(STUCK.format(step=step.strip()))
    given = ["--backend", "stuck:Backend", "--architecture", "linear_backend:graph", "--output", "run"]
    settings = [f"--set={text}" for text in ("data.crop=[16,16]", "data.train_scenes=4", "data.val_scenes=1")]
    process = subprocess.Popen(
        [sys.executable, "-m", "gsto_train", *given, *settings], cwd=folder, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(plugin_folder), str(folder)))},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    patience = threading.Timer(60, process.kill)
    patience.start()
    try:
        yield process
    finally:
        patience.cancel()
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_stops_at_once_what_never_comes_back_to_python(
    number: signal.Signals, status: int, plugin_folder: Path, tmp_path: Path
) -> None:
    with training(FOREVER, plugin_folder, tmp_path) as process:
        assert process.stderr is not None
        while process.poll() is None and not (tmp_path / "reached").exists():
            time.sleep(0.05)
        process.send_signal(number)
        told = next(line for line in process.stderr if "once more" in line)
        assert told == "finishing this step (once more: stop at once)\n"
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        assert process.returncode == status
    assert error == (
        "gsto-train: interrupted; go on with: gsto-train --backend stuck:Backend --output run --resume\n"
    )


def test_a_framework_that_is_cut_short_is_not_cleared_away(plugin_folder: Path, tmp_path: Path) -> None:
    with training(CRASHING, plugin_folder, tmp_path) as process:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 143, error
    assert error.splitlines()[-1].startswith("gsto-train: interrupted; go on with: ")
