"""Folders of runs that others hand over: configuration, checkpoints, journals, results, links and pipes."""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from faults.network import tiny
from fuzz.datasets import odd_files, put_odd_file, write_pictures
from fuzz.mutations import json_bytes, mutated_bytes
from fuzz.reader import Answer, Reader, command
from gsto_train.commands import evaluate, report, train
from gsto_train.run.checkpoint import BrokenCheckpoint, read
from gsto_train.run.runfolder import RunFolder

Files = Mapping[str, bytes | str]
"""What is changed in a run's folder: name -> content, or what stands there that is no file (`odd_files`)."""

RUN = "run"

STATE, DESCRIPTION, DIGESTS = "state.safetensors", "checkpoint.json", "SHA256SUMS"
JOURNALS = ("metrics.jsonl", "evaluations.jsonl", "timings.jsonl")
OBJECTS = (
    "config.json",
    "environment.json",
    "graph.json",
    "result.json",
    "baselines.json",
    "model/card.json",
)


def readers() -> Iterator[Reader]:
    """Checkpoints, journals, and whole folders given to gsto-report, gsto-eval and gsto-train --resume."""
    yield Reader("checkpoints", 8, _checkpoints(), _read_checkpoint)
    yield Reader("journals", 6, mutated_lines(), _read_journal)
    folders = _folders()
    yield Reader("gsto-report RUN", 6, folders, lambda files: _give(files, _report), most_bytes=2**29)
    yield Reader("gsto-eval RUN", 5, folders, lambda files: _give(files, _evaluate), most_bytes=2**29)
    yield Reader("--resume", 6, folders, lambda files: _give(files, _resume), most_bytes=2**29)


def _report() -> Answer:
    return command(report.main, [RUN, "--output", "report.html", "--samples", "0"])


def _evaluate() -> Answer:
    return command(evaluate.main, [RUN, "--output", "scored", "--data", "data"])


def _resume() -> Answer:
    return command(train.main, ["--backend", "torch", "--output", RUN, "--resume"])


def _give(files: Files, use: Callable[[], Answer]) -> Answer:
    """Lay a changed run beside its data, and give it to a command."""
    shutil.copytree(example(), ".", dirs_exist_ok=True)
    for name, content in files.items():
        _put(Path(RUN, name), content)
    return use()


def _put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    if path.is_dir():
        shutil.rmtree(path)
    if content == "away":
        path.unlink(missing_ok=True)
    elif content == "outside":
        path.unlink(missing_ok=True)
        path.symlink_to(Path("../../outside"))
    else:
        put_odd_file(path, content)


@cache
def example() -> Path:
    """A folder with a small run, made by training, and its data."""
    folder = Path(tempfile.mkdtemp(prefix="gsto-fuzz-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_pictures(folder / "data")
    lines = [f"{n}.png {n}_label.png\n" for n in (1, 2, 3)]
    (folder / "data/train.txt").write_text("".join(lines[:2]))
    (folder / "data/val.txt").write_text(lines[2])
    (folder / "data/classes.json").write_text('{"classes": ["a", "b", "c"]}')
    (folder / "tiny.json").write_text(tiny(3).to_json())
    settings = ("train.steps=4", "train.batch=2", "train.checkpoint_every=2", "train.evaluate_every=2",
                "data.crop=[16,16]", "train.log_every=1", "train.report=false")  # fmt: skip
    answer = command(train.main, [
        "--backend", "torch", "--benchmark", "folder", "--architecture", str(folder / "tiny.json"), "--data",
        str(folder / "data"), "--output", str(folder / RUN), *(p for s in settings for p in ("--set", s)),
    ])  # fmt: skip
    assert answer.accepted, answer.said
    return folder


def _folders() -> SearchStrategy[Files]:
    run = example() / RUN
    changes = {name: json_bytes([json.loads((run / name).read_bytes())]) for name in OBJECTS}
    changes |= {name: mutated_lines() for name in JOURNALS}
    changes |= {name: mutated_bytes([(run / name).read_bytes()]) for name in ("model/model.safetensors",)}
    one = st.sampled_from(sorted(changes)).flatmap(lambda name: changes[name].map(lambda new: {name: new}))
    names = (*OBJECTS, *JOURNALS, "checkpoints", "model", ".writable", ".config.json.partial", "report.html",
             ".metrics.jsonl.partial", ".environment.json.partial", "checkpoints/step-000004")  # fmt: skip
    places = st.one_of(odd_files(), st.sampled_from(("away", "outside", "outside")))
    odd = st.tuples(st.sampled_from(names), places).map(lambda pair: {pair[0]: pair[1]})
    configured = changes["config.json"].map(lambda new: {"config.json": new})
    unfinished = {"model": "away", "result.json": "away"}
    return st.one_of(configured, one, odd, st.one_of(one, odd).map(lambda files: {**unfinished, **files}))


def mutated_lines() -> SearchStrategy[bytes]:
    """Journals with lines of all kinds."""
    metrics = [
        {"step": n, "epoch": 0, "loss": 1.5, "loss_stage4": 1.0, "learning_rate": 0.01} for n in (1, 2)
    ]
    scores = {"step": 2, "mean_iou": 0.5, "pixel_accuracy": 0.5, "mean_accuracy": 0.5, "iou": {"a": 0.5}}
    return st.lists(json_bytes([*metrics, scores]), max_size=3).map(b"\n".join)


def _read_journal(content: bytes) -> Answer:
    Path(RUN).mkdir()
    Path(RUN, "metrics.jsonl").write_bytes(content)
    folder = RunFolder(Path(RUN))
    lines = folder.lines("metrics.jsonl")
    kept = folder.truncate("metrics.jsonl", 1)
    assert folder.lines("metrics.jsonl") == kept and len(kept) <= len(lines)
    return Answer(bool(lines), "" if lines else "\0no line reads")


def _checkpoints() -> SearchStrategy[Files]:
    whole = example() / RUN / "checkpoints" / "step-000004"
    state, description = (whole / STATE).read_bytes(), (whole / DESCRIPTION).read_bytes()
    changed = json_bytes([json.loads(description)])
    return st.one_of(
        st.builds(_digested, st.just(state), changed),
        st.builds(_digested, mutated_bytes([state]), st.just(description)),
        st.fixed_dictionaries(
            {STATE: st.just(state), DESCRIPTION: changed, DIGESTS: mutated_bytes([b"a  b\n"])}
        ),
    )


def _digested(state: bytes, description: bytes) -> Files:
    """A checkpoint whose digests are right, whatever is in it."""
    named = ((STATE, state), (DESCRIPTION, description))
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in named)
    return {STATE: state, DESCRIPTION: description, DIGESTS: sums.encode()}


def _read_checkpoint(files: Files) -> Answer:
    folder = Path("step-000004")
    folder.mkdir()
    for name, content in files.items():
        _put(folder / name, content)
    try:
        read(folder)
    except BrokenCheckpoint as broken:
        return Answer(False, f"\0{' '.join(str(broken).split())}")
    return Answer(True)
