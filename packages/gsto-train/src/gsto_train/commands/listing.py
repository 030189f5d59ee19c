"""What `gsto-train --list` shows: names that its options take, and every setting."""

import json
from collections.abc import Iterator, Mapping

import click

import gsto_spec
from gsto_spec.backend import backends
from gsto_train import benchmarks
from gsto_train.output import standard_output
from gsto_train.schema import describe
from gsto_train.settings import FROM_FILES, Settings


def show(*, as_json: bool) -> None:
    """Print benchmarks with what they record, architectures, installed backends and settings."""
    listed = _listed()
    with standard_output():
        click.echo(json.dumps(listed, indent=1, ensure_ascii=False) if as_json else "\n".join(_lines(listed)))


def _lines(listed: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for title, entries in listed.items():
        yield f"{title}:"
        yield from (f"  {name}  {text}".rstrip() for name, text in entries.items())


def _listed() -> dict[str, dict[str, str]]:
    return {
        "benchmarks": {name: _recorded(name) for name in benchmarks.names()},
        "architectures": dict.fromkeys(gsto_spec.architectures(), ""),
        "folders of data (--data DIR, or an environment variable)": {
            name: " or ".join(benchmarks.data_variables(name))
            for name in benchmarks.names()
            if benchmarks.load(name).values["data.kind"] in FROM_FILES
        },
        "backends": dict.fromkeys(backends(), ""),
        "settings (--set KEY=VALUE)": {
            key: expected if default is ... else f"{expected}; default {json.dumps(default)}"
            for key, (expected, default) in describe(Settings).items()
        },
    }


def _recorded(name: str) -> str:
    record = benchmarks.load(name).record
    return f"{record}; {record.source}; {record.command}"
