"""Command lines: every option of every command, with values that fit, that do not, and that attack."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import click
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from faults.network import tiny
from fuzz.mutations import NUMBERS, TEXTS
from fuzz.reader import Answer, Reader, command
from fuzz.runs import example
from gsto_spec import cli
from gsto_train.commands import bench, convert, data, evaluate, predict, report, train

MAINS: dict[str, Callable[..., object]] = {
    "gsto-spec": cli.main, "gsto-train": train.main, "gsto-eval": evaluate.main, "gsto-predict": predict.main,
    "gsto-convert": convert.main, "gsto-data": data.main, "gsto-report": report.main,
    "gsto-bench": bench.main,
}  # fmt: skip

_GROUPS: dict[str, click.Command] = {
    "gsto-spec": cli.main, "gsto-train": train.command, "gsto-eval": evaluate.command,
    "gsto-predict": predict.command, "gsto-convert": convert.command, "gsto-data": data.command,
    "gsto-report": report.command, "gsto-bench": bench.command,
}  # fmt: skip

_FITTING = (
    "run", "run/model", "run/model/model.safetensors", "tiny.json", "data", "data/1.png", "new", "new.json",
    "new.svg", "new.onnx", "new.html", "new.pth", "own.toml", "folder", "scenes", "torch", "jax", "cpu",
    "32x48",
    "float32", "float64", "1", "2", "0", "3", "release", "paper", "gsto-hrnet-w18-small-v2", "train.steps=1",
    "data.crop=[16,16]", "train.learning_rate=1e30", "train.seed=99999999999999999999", "data.folder=data",
    "-", "--", "boxes.json", "check", "list", "run/../data",
)  # fmt: skip


def readers() -> Iterator[Reader]:
    """Every command."""
    example()
    yield Reader("command lines", 40, _lines(), _run, most_bytes=2**30)


@st.composite
def _lines(draw: DrawFn) -> list[str]:
    """A command's name and arguments: mostly options that it has, and values that some option takes."""
    name = draw(st.sampled_from(sorted(MAINS)))
    main, words = _GROUPS[name], [name]
    if isinstance(main, click.Group):
        chosen = draw(st.sampled_from(sorted(main.commands)))
        words.append(chosen)
        main = main.commands[chosen]
    for parameter in main.params:
        wanted = isinstance(parameter, click.Argument) or draw(st.integers(0, 4)) == 0
        for _ in range(draw(st.integers(0, 2)) if parameter.nargs == -1 else int(wanted)):
            words += _given(draw, parameter)
    if draw(st.integers(0, 3)) == 0:
        words.insert(draw(st.integers(1, len(words))), draw(_WORDS))
    return words


def _given(draw: DrawFn, parameter: click.Parameter) -> list[str]:
    option = [draw(st.sampled_from(parameter.opts))] if isinstance(parameter, click.Option) else []
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return option
    if isinstance(parameter.type, click.Choice):
        return [*option, str(draw(st.sampled_from(list(parameter.type.choices))))]
    return [*option, draw(_WORDS)]


_OUTSIDE = ("/", "..", "~", "a/..", "evil:network")
"""What a command line itself names may lie anywhere, and its code is run; here neither is wanted."""

_ODD = st.one_of(
    st.sampled_from([text for text in TEXTS if "\0" not in text and not text.startswith(_OUTSIDE)]),
    st.sampled_from(NUMBERS).map(str), st.text(st.characters(exclude_characters="\0/~."), max_size=9),
)  # fmt: skip
_FIT = st.sampled_from(_FITTING)
_WORDS = st.one_of(_FIT, _FIT, _FIT, _ODD)


def _run(words: Sequence[str]) -> Answer:
    """Run a command on a small run and its data; nothing is trained or measured for long."""
    shutil.copytree(example(), ".", dirs_exist_ok=True)
    Path("tiny.json").write_text(tiny(3).to_json())
    Path("own.toml").write_text('extends = "folder"\n[record]\nsource = "own"\ncommand = "none"\n')
    Path("boxes.json").write_text(json.dumps([{"image_id": 1, "bbox": [1, 1, 9, 9], "score": 0.5}]))
    with (
        patch("gsto_train.run.loop.run", lambda *_: {}),
        patch("gsto_train.bench.session.run", _nothing_measured),
    ):
        return command(MAINS[words[0]], words[1:])


def _nothing_measured(*_: object) -> object:
    raise click.UsageError("nothing is measured here")
