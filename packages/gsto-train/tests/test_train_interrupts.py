"""Signals that come while a framework has the process, in code that knows nothing of Python."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
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

SLOW = """
        import time
        time.sleep(0.1)
"""

UNENDING = """
import os, time
from concurrent.futures import ThreadPoolExecutor
from gsto_train.interrupts import Interrupts

with Interrupts().installed(lambda status: print("interrupted", flush=True)), ThreadPoolExecutor(1) as pool:
    pool.submit(os.read, os.pipe()[0], 1)
    print("reached", flush=True)
    time.sleep(60)
"""
"""A thread waits for what does not come, as for a disk that is gone, and its pool waits for it."""


@contextmanager
def training(
    step: str, plugin_folder: Path, folder: Path, under: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A run, in a process of its own or `under` another command, in whose first step `step` is done."""
    (folder / "stuck.py").write_text(STUCK.format(step=step.strip()))
    given = ["--backend", "stuck:Backend", "--architecture", "linear_backend:graph", "--output", "run"]
    settings = [f"--set={text}" for text in ("data.crop=[16,16]", "data.train_scenes=4", "data.val_scenes=1")]
    process = subprocess.Popen(
        [*under, sys.executable, "-m", "gsto_train", *given, *settings], cwd=folder, text=True,
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
        reached(process, tmp_path)
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


def reached(process: subprocess.Popen[str], folder: Path) -> None:
    while process.poll() is None and not (folder / "reached").exists():
        time.sleep(0.05)


def test_a_second_signal_ends_what_waits_for_a_thread_that_does_not_end() -> None:
    with subprocess.Popen([sys.executable, "-c", UNENDING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "reached\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=60)
    assert (process.returncode, told) == (143, "interrupted\n")


HEARING = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Begins a command that hears SIGHUP, which those who run the tests may have been told to ignore."""


def test_a_terminal_that_is_closed_lets_the_run_save(plugin_folder: Path, tmp_path: Path) -> None:
    with training(SLOW, plugin_folder, tmp_path, (sys.executable, "-c", HEARING)) as process:
        reached(process, tmp_path)
        process.send_signal(signal.SIGHUP)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 129
    assert error.splitlines()[-1].startswith("gsto-train: interrupted; go on with: ")
    assert list((tmp_path / "run/checkpoints").iterdir())


def test_nohup_is_honoured(plugin_folder: Path, tmp_path: Path) -> None:
    deaf = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    with training(SLOW, plugin_folder, tmp_path, deaf) as process:
        reached(process, tmp_path)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143


def test_a_reader_of_standard_error_that_ends_first_costs_nothing(
    plugin_folder: Path, tmp_path: Path
) -> None:
    with training(SLOW, plugin_folder, tmp_path) as process:
        reached(process, tmp_path)
        assert process.stderr is not None
        process.stderr.close()  # As Ctrl-C closes it that ends `tee`.
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        process.stderr = None
    assert list((tmp_path / "run/checkpoints").iterdir())
