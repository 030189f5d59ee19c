"""What goes wrong while training, and that it costs nothing that had been saved."""

import builtins
import ctypes
import errno
import importlib.util
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gsto_train.data.loader import LoadedBatch, LoaderError, in_order, training_batches
from gsto_train.errors import InputError
from gsto_train.run.job import Request, prepare
from gsto_train.run.journal import RunLog

SHORT = ("train.steps=6", "train.log_every=2", "train.checkpoint_every=2", "train.evaluate_every=4",
         "train.threads=1")  # fmt: skip

VARYING = ("seconds", "seconds_by_part", "environment")
"""What differs between two runs that are the same."""


def outcome(run: str) -> dict[str, Any]:
    """What a run leaves, but for times and environments."""
    result = json.loads(Path(run, "result.json").read_text())
    (last,) = Path(run, "checkpoints").glob("step-000006")
    files = ("metrics.jsonl", "evaluations.jsonl", "model/model.safetensors", "graph.json")
    return {
        "result": {key: value for key, value in result.items() if key not in VARYING},
        "state": (last / "state.safetensors").read_bytes(),
        **{name: Path(run, name).read_bytes() for name in files},
    }


def go_on(command: Any, run: str) -> Any:
    """Resume, or where nothing was begun run the same command again."""
    if Path(run, "config.json").exists():
        return command("--output", run, "--resume", new=False)
    return command("--output", run, settings=SHORT)


class Disk:
    """Counts what writes to the disk and lets calls `fails` of them fail."""

    def __init__(self) -> None:
        self.calls, self.fails = 0, range(0)

    @contextmanager
    def installed(self, fails: range) -> Iterator[None]:
        self.calls, self.fails = 0, fails
        with pytest.MonkeyPatch.context() as patch:
            for name in ("fsync", "replace", "rename", "mkdir"):
                patch.setattr(os, name, self._failing(getattr(os, name)))
            patch.setattr("gsto_train.files.open", self._failing(builtins.open), raising=False)
            yield

    def _failing(self, working: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls - 1 in self.fails:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return working(*arguments, **options)

        return call


@pytest.fixture
def disk(command: Any) -> Disk:
    """The disk, after an undisturbed run in `whole` whose calls it counted."""
    found = Disk()
    with found.installed(range(0)):
        assert command("--output", "whole", settings=SHORT).status == 0
    return found


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_write_that_fails_costs_nothing_wherever_it_is(
    command: Any, disk: Disk, data: st.DataObject
) -> None:
    """Every place in turn is tried by `python -m faults`."""
    if "calls" not in vars(command):
        command.calls = disk.calls
    first = data.draw(st.integers(0, command.calls - 1))
    lasting = data.draw(st.booleans())
    shutil.rmtree("run", ignore_errors=True)
    with disk.installed(range(first, 10**9 if lasting else first + 1)):
        failed = command("--output", "run", settings=SHORT)
    assert failed.status in (0, 1, 2)
    if lasting and failed.status == 0:  # The report alone, which comes last, can be missing.
        assert "no report.html" in failed.error
    if failed.status:
        assert "run" in failed.failure
        assert go_on(command, "run").status == 0
    assert outcome("run") == outcome("whole")


def kill_at(call: int, disk: Disk, command: Any) -> None:
    """Run until some write, and end there as SIGKILL ends a process: nothing is cleaned up."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        with disk.installed(range(0)):
            for name in ("fsync", "rename"):
                working = getattr(os, name)
                setattr(os, name, lambda *a, w=working: os._exit(9) if disk.calls >= call else w(*a))
            try:
                command("--output", "run", settings=SHORT)
            finally:
                os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, 9)


# Where JAX is loaded by another test it warns of forks; the child computes nothing with it.
@pytest.mark.filterwarnings("ignore:os.fork")
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_run_killed_while_it_writes_resumes_to_the_same_bits(
    command: Any, disk: Disk, data: st.DataObject
) -> None:
    if "calls" not in vars(command):
        command.calls = disk.calls
    shutil.rmtree("run", ignore_errors=True)
    kill_at(data.draw(st.integers(0, command.calls - 1)), disk, command)
    assert go_on(command, "run").status == 0
    assert outcome("run") == outcome("whole")


def test_a_folder_that_vanishes_and_comes_back_costs_nothing(
    command: Any, disk: Disk, linear: ModuleType
) -> None:
    away: list[bool] = []

    def unplug(step: int) -> None:
        if step == 3:
            os.rename("run", "elsewhere")
            away.append(True)
        if step == 5:
            os.rename("elsewhere", "run")

    linear.events.before_step = unplug
    done = command("--output", "run", settings=SHORT)
    assert done.status == 0, done.error
    assert away
    assert "warning: " in done.error
    assert "step 4 is not saved" in done.error
    assert outcome("run") == outcome("whole")


def test_lines_of_an_earlier_session_outlast_a_folder_that_vanishes(tmp_path: Path) -> None:
    folder, said = tmp_path / "run", list[str]()
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    log = RunLog(folder, ("metrics.jsonl",), said.append)
    folder.rename(tmp_path / "elsewhere")
    for step in (2, 3):
        log.append("metrics.jsonl", {"step": step})
    assert len(said) == 1
    (tmp_path / "elsewhere").rename(folder)
    log.append("metrics.jsonl", {"step": 4})
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_a_folder_that_is_gone_at_the_end_is_told_and_what_was_saved_serves(
    command: Any, disk: Disk, linear: ModuleType
) -> None:
    linear.events.before_step = lambda step: os.rename("run", "elsewhere") if step == 3 else None
    failed = command("--output", "run", settings=SHORT)
    assert failed.status == 1
    assert "No such file or directory" in failed.failure
    assert failed.failure.endswith("go on with: gsto-train --backend linear --output run --resume")
    assert not Path("run").exists()
    os.rename("elsewhere", "run")
    linear.events.before_step = lambda step: None
    resumed = command("--output", "run", "--resume", new=False)
    assert "going on from step 2 of 6" in resumed.error
    assert outcome("run") == outcome("whole")


def test_a_run_under_way_is_not_gone_on_with_by_another(command: Any, disk: Disk, linear: ModuleType) -> None:
    refused = []

    def resume(step: int) -> None:
        if step == 3:
            with pytest.raises(InputError, match=r"^run: another process trains in this output folder"):
                prepare(Request("linear", output=Path("run"), resume=True))
            refused.append(step)

    linear.events.before_step = resume
    assert command("--output", "run", settings=SHORT).status == 0
    assert refused
    assert outcome("run") == outcome("whole")
    assert command("--output", "run", "--resume", new=False).status == 0


def test_a_disk_too_full_for_the_model_is_told_by_the_models_name(
    command: Any, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("gsto_train.run.keeping.save_pretrained", full)
        failed = command("--output", "run", settings=SHORT)
    assert failed.status == 1
    assert failed.failure.startswith(f"gsto-train: run/model: {os.strerror(errno.ENOSPC)}; mend that")
    assert not Path("run/model").exists()
    assert command("--output", "run", "--resume", new=False).status == 0
    assert outcome("run") == outcome("whole")


def with_nan_in(name: str, monkeypatch: pytest.MonkeyPatch, linear: ModuleType) -> None:
    """Plant a value that is not finite in a training picture, from the fourth step on."""
    planted: list[bool] = []
    linear.events.before_step = lambda step: planted.append(True) if step >= 4 else None

    def batches(*arguments: Any, **options: Any) -> Iterator[LoadedBatch]:
        with closing(training_batches(*arguments, **options)) as loaded:
            for batch in loaded:
                image = batch.image.copy()
                image[[bool(planted) and each.endswith(name) for each in batch.names], :, ::2] = np.nan
                yield replace(batch, image=image)

    monkeypatch.setattr("gsto_train.segmentation.task.training_batches", batches)


SINGLE = ("train.steps=20", "train.batch=1", "train.log_every=1", "data.crop=[24,32]", "data.scales=[1]")
"""A picture a step, as it is."""


def test_a_value_that_is_not_finite_stops_the_run_with_its_pictures_name(
    command: Any, linear: ModuleType, monkeypatch: pytest.MonkeyPatch, pictures: Path
) -> None:
    """Also where the losses are looked at later: each step has two of the four pictures."""
    recipe = (*SINGLE, "train.batch=2", "train.log_every=7", "train.checkpoint_every=3")
    with monkeypatch.context() as patch:
        with_nan_in("2.png", patch, linear)
        failed = command("--output", "run", settings=recipe)
    assert failed.status == 1
    assert "is not finite, the first that is not finite is image; on " in failed.failure
    assert f"on {pictures / '2.png'} (image holds nan), beside {pictures}" in failed.failure
    assert failed.failure.endswith("--output run --resume --set train.not_finite=skip")
    linear.events.before_step = lambda step: None
    command("--output", "whole", settings=recipe)
    assert command("--output", "run", "--resume", new=False).status == 0
    left, right = (Path(run, "model/model.safetensors").read_bytes() for run in ("run", "whole"))
    assert left == right


def test_steps_that_are_not_finite_are_left_out_and_counted_where_asked(
    command: Any, linear: ModuleType, monkeypatch: pytest.MonkeyPatch, read_lines: Any
) -> None:
    with_nan_in("2.png", monkeypatch, linear)
    done = command("--output", "run", settings=(*SINGLE, "train.not_finite=skip"))
    assert done.status == 0, done.error
    skipped = json.loads(Path("run/result.json").read_text())["skipped_steps"]
    assert skipped > 1
    assert f"the step is left out, {skipped} of at most 10" in done.error
    losses = [line["loss"] for line in read_lines(Path("run/metrics.jsonl"))]
    assert losses.count(None) == skipped


def test_too_many_steps_that_are_not_finite_stop_the_run_and_those_before_count_on(
    command: Any, linear: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip = ("train.not_finite=skip", "train.not_finite_limit=1", "train.checkpoint_every=1")
    with monkeypatch.context() as patch:
        with_nan_in("2.png", patch, linear)
        failed = command("--output", "run", settings=(*SINGLE, *skip))
    assert failed.status == 1
    assert "2.png" in failed.failure
    assert "train.not_finite_limit of 1 such steps is reached" in failed.failure
    assert failed.failure.endswith("--output run --resume --set train.not_finite_limit=3")
    linear.events.before_step = lambda step: None
    again = command("--output", "run", "--resume", new=False)
    assert again.status == 0
    assert json.loads(Path("run/result.json").read_text())["skipped_steps"] == 1


def test_a_run_whose_last_steps_were_all_left_out_says_so(
    command: Any, linear: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_nan_in(".png", monkeypatch, linear)
    skip = ("train.not_finite=skip", "train.not_finite_limit=20")
    done = command("--output", "run", settings=(*SINGLE, *skip))
    assert done.status == 0, done.error
    skipped = json.loads(Path("run/result.json").read_text())["skipped_steps"]
    assert skipped > 1
    assert (
        f"warning: {skipped} of 20 steps were not finite and left out, the last {skipped} of them in a row: "
        f"the network is that of step {20 - skipped}" in done.error
    )


def test_a_changed_number_of_threads_is_said(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAR_THREADS", "1")
    command("--output", "run", settings=SHORT)
    same = command("--output", "run", "--resume", new=False)
    assert "rounding" not in same.error
    monkeypatch.setenv("LINEAR_THREADS", "4")
    changed = command("--output", "run", "--resume", new=False)
    assert changed.status == 0
    assert (
        "the result will differ by rounding from an undisturbed run: "
        "backend.versions.threads was 1 and is 4" in changed.error
    )


def test_what_a_run_is_stays_as_it_was_where_it_cannot_go_on(command: Any, pictures: Path) -> None:
    command("--output", "run", settings=SHORT)
    before = Path("run/config.json").read_bytes(), Path("run/environment.json").read_bytes()
    lines = (pictures / "train.txt").read_text().splitlines()
    (pictures / "train.txt").write_text("\n".join(lines[1:]))
    refused = command("--output", "run", "--resume", "--set", "train.threads=2", new=False)
    assert refused.status == 2
    assert "the number of training pictures was 4 and is 3" in refused.failure
    assert before == (Path("run/config.json").read_bytes(), Path("run/environment.json").read_bytes())


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "graph.json is missing; it is written again"),
        (lambda path: path.write_text("{"), "graph.json does not read"),
        (lambda path: path.write_text(path.read_text().replace("[\n    2", "[\n    3")), "graph.json"),
    ],
)
def test_a_runs_graph_that_is_missing_or_changed_is_said(command: Any, damage: Any, told: str) -> None:
    command("--output", "run", settings=SHORT)
    path = Path("run/graph.json")
    before = path.read_text()
    damage(path)
    network = ("--architecture", "linear_backend:graph")
    resumed = command("--output", "run", "--resume", *network, new=False)
    assert resumed.status == 0
    if path.read_text() == before:
        assert told in resumed.error
    assert path.read_text() == before


def test_a_run_killed_before_its_configuration_was_written_is_begun_again(command: Any) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    for name in ("environment.json", ".config.json.partial", "graph.json"):
        Path("run", name).write_text("{")
    assert command("--output", "run", settings=SHORT).status == 0


def test_the_way_on_is_named_as_the_run_was_started(
    command: Any, linear: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear.events.before_step = lambda step: signal.raise_signal(signal.SIGTERM) if step == 3 else None
    monkeypatch.setenv("NOX_CURRENT_SESSION", "train")
    stopped = command("--output", "run", settings=SHORT)
    assert stopped.status == 143
    assert stopped.failure.endswith("go on with: nox -s train -- --backend linear --output run --resume")


def test_where_the_time_went_is_told_and_kept_apart_from_the_metrics(command: Any, read_lines: Any) -> None:
    done = command("--output", "run", settings=SHORT)
    assert "slowest part: " in done.out
    once = command(
        "--output", "once", settings=(*SHORT, "train.evaluate_every=0", "train.checkpoint_every=0")
    )
    assert "train.evaluate_every" not in once.out
    assert "train.checkpoint_every" not in once.out
    timings = read_lines(Path("run/timings.jsonl"))
    assert [line["step"] for line in timings] == [1, 2, 4, 6]
    for line in timings:
        assert list(line) == ["step", "seconds", "images_per_second", "data_wait"]
        assert line["images_per_second"] > 0
        assert 0 <= line["data_wait"] <= 1
    parts = json.loads(Path("run/result.json").read_text())["seconds_by_part"]
    assert set(parts) == {"preparation", "data", "step", "evaluation", "checkpoint"}
    assert all(seconds > 0 for seconds in parts.values())


def test_tensorboard_is_written_on_request_or_what_it_needs_is_told(command: Any) -> None:
    done = command("--output", "run", settings=("train.tensorboard=true", *SHORT))
    if importlib.util.find_spec("tensorboardX") is None:
        assert done.status == 2
        assert "pip install 'gsto-train[tensorboard]'" in done.failure
        assert not Path("run").exists()
    else:
        assert done.status == 0
        assert any(Path("run/tensorboard").glob("events*"))


def test_what_a_step_takes_is_said_before_it_with_advice_where_it_will_not_fit(
    command: Any, monkeypatch: pytest.MonkeyPatch, linear: ModuleType
) -> None:
    done = command("--output", "run", settings=SHORT)
    assert "MiB for a step of 4 crops, by the graph, " in done.error
    assert "will not fit" not in done.error
    free = {"cpu": 20000}
    monkeypatch.setattr(linear.LinearBackend, "free_memory", lambda self, device: free[device], raising=False)
    analysis = {"peak": 3 * 2**30}
    trainer = linear.LinearTrainer
    monkeypatch.setattr(trainer, "memory_analysis", lambda self, shape: analysis, raising=False)
    tight = command("--output", "tight", settings=SHORT)
    assert tight.status == 0
    assert "warning: that will not fit" in tight.error
    assert any(line.startswith("  train.") for line in tight.error.splitlines())
    compiled = "memory: 3.00 GiB for a step on each device, by the compiler"
    assert f"compiling a step, which may take minutes\n{compiled}\n" in tight.error
    assert "compiling" not in done.error


def test_what_a_backend_takes_to_get_ready_is_a_part_of_its_own(
    command: Any, monkeypatch: pytest.MonkeyPatch, linear: ModuleType
) -> None:
    def compiling(self: object, shape: tuple[int, ...]) -> dict[str, int]:
        now = time.monotonic
        monkeypatch.setattr("gsto_train.stopwatch.time.monotonic", lambda: now() + 1000)
        return {"peak": 1}

    monkeypatch.setattr(linear.LinearTrainer, "memory_analysis", compiling, raising=False)
    done = command("--output", "run", settings=SHORT)
    assert "slowest part: preparation (preparation 100%, " in done.out


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (("train.micro_batches=3",), "train.micro_batches"),
        (("train.batch=1", "train.micro_batches=2"), "micro"),
    ],
)
def test_parts_that_do_not_divide_a_batch_are_refused(
    command: Any, settings: tuple[str, ...], key: str
) -> None:
    refused = command("--output", "run", settings=settings)
    assert refused.status == 2
    assert key in refused.failure
    assert not Path("run").exists()


def test_what_saves_memory_reaches_the_backend(command: Any, linear: ModuleType) -> None:
    command("--output", "run", settings=(*SHORT, "train.micro_batches=2", "train.rematerialize=true",
                                         "train.deterministic=true"))  # fmt: skip
    terms = linear.events.training
    assert (terms.micro_batches, terms.rematerialize, terms.deterministic) == (2, True, True)


def end_thread(position: int) -> int:
    """End the thread that loads, as an error in foreign code may."""
    if position == 3:
        raise SystemExit(1)
    return position


def test_a_thread_that_is_ended_while_it_loads_is_an_error_and_no_exit() -> None:
    with pytest.raises(LoaderError, match="a thread that loads samples was ended: SystemExit"):
        list(in_order(end_thread, range(6), threads=2, ahead=2))


def test_a_thread_that_is_no_more_is_an_error_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread is ended between two samples, where nothing but Python's own loop is running."""
    monkeypatch.setattr("gsto_train.data.loader.PATIENCE", 0.05)
    monkeypatch.setattr("logging.Logger.critical", lambda *arguments, **options: None)
    loaded = in_order(lambda position: position, iter(range(100)), threads=1, ahead=1)
    assert next(loaded) == 0
    (worker,) = [each for each in threading.enumerate() if each.name.startswith("gsto-loader")]
    ended = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(worker.ident or 0), ctypes.py_object(SystemExit)
    )
    assert ended == 1
    with pytest.raises(LoaderError, match="a thread that loads samples"):
        list(loaded)


def test_threads_that_cannot_be_started_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    with pytest.raises(LoaderError, match=r"can't start new thread; give a smaller train\.threads"):
        list(in_order(end_thread, range(2), threads=1, ahead=1))
