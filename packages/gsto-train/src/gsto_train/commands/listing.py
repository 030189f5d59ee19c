"""What `gsto-train --list` shows: names that its options take, and every setting."""

import json
from collections.abc import Iterator, Mapping

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

import gsto_spec
from gsto_spec.backend import backends
from gsto_spec.errors import printable
from gsto_train import benchmarks
from gsto_train.output import standard_output
from gsto_train.schema import Description, Values, describe, in_words, read_beside
from gsto_train.settings import FROM_FILES, Settings, resolve

Entry = Mapping[str, str]
"""What is said of one name: texts by heading, which is empty where there is one text alone."""

Sections = Mapping[str, Mapping[str, Entry]]
"""Title -> name -> entry."""


def show(*, benchmark: str | None = None, as_json: bool) -> None:
    """Print benchmarks with what they record, architectures, installed backends and settings.

    With a `benchmark` it alone is listed, and settings with the values that it starts from, without those
    that its kind of data never reads. On a terminal texts are folded; elsewhere each has a line that begins
    with its name. Raises `InputError` for a benchmark that is none.
    """
    listed = tuple(map(benchmarks.load, benchmarks.names() if benchmark is None else (benchmark,)))
    given = listed[0].values if benchmark else {}
    out = Console(highlight=False)
    with standard_output():
        if as_json:
            click.echo(json.dumps(_table(listed, given), indent=1, ensure_ascii=False))
        elif out.is_terminal:
            _fold(out, _sections(listed, given))
        else:
            click.echo("\n".join(_lines(_sections(listed, given))))


def _table(listed: tuple[benchmarks.Benchmark, ...], given: Values) -> dict[str, dict[str, str]]:
    return {
        "benchmarks": {
            each.name: f"{each.record}; {each.record.source}; {each.record.command}" for each in listed
        },
        "architectures": dict.fromkeys(gsto_spec.architectures(), ""),
        "folders of data (--data DIR, or an environment variable)": {
            each.name: _variables(each) for each in listed if _needs_data(each)
        },
        "backends": dict.fromkeys(backends(), ""),
        "settings (--set KEY=VALUE)": {
            key: f"{each.expected}; {_start(key, each, given)}" for key, each in _described(given).items()
        },
    }


def _sections(listed: tuple[benchmarks.Benchmark, ...], given: Values) -> Sections:
    return {
        "benchmarks (--benchmark NAME)": {each.name: _benchmark(each) for each in listed},
        "architectures (--architecture NAME)": {name: {"": ""} for name in gsto_spec.architectures()},
        "backends (--backend NAME)": {name: {"": ""} for name in backends()},
        "settings (--set KEY=VALUE)": {
            key: {"": f"{each.meaning} [{each.expected}; {_start(key, each, given)}]"}
            for key, each in _described(given).items()
        },
    }


def _described(given: Values) -> dict[str, Description]:
    """Return every setting in words; beside a benchmark's values only those that its kind of data reads."""
    every = describe(Settings)
    kept = read_beside(resolve(given), "data.kind") if given else every.keys()
    return {key: each for key, each in every.items() if key in kept}


def _benchmark(benchmark: benchmarks.Benchmark) -> Entry:
    values, record = benchmark.values, benchmark.record
    length = next(each for each in ("epochs", "steps") if f"train.{each}" in values)
    told = {
        "trains": f"{values['architecture.name']}, {values[f'train.{length}']} {length} in batches of "
        f"{values['train.batch']} crops, data.crop = {in_words(values['data.crop'])}",
        "expected": record.scores,
        "conditions": record.holds_for,
        "source": record.source,
        "command": record.command,
        "data": _variables(benchmark) if _needs_data(benchmark) else "",
    }
    return {heading: text for heading, text in told.items() if text}


def _needs_data(benchmark: benchmarks.Benchmark) -> bool:
    return benchmark.values["data.kind"] in FROM_FILES


def _variables(benchmark: benchmarks.Benchmark) -> str:
    return " or ".join(benchmarks.data_variables(benchmark.name))


def _start(key: str, setting: Description, given: Values) -> str:
    if key in given:
        return f"here {in_words(given[key])}"
    return "no default" if setting.default is None else f"default {setting.default}"


def _lines(sections: Sections) -> Iterator[str]:
    """Each text in a line of its own, behind the name and heading that it belongs to."""
    for title, entries in sections.items():
        yield f"{title}:"
        names = max(map(len, entries), default=0)
        for name, entry in entries.items():
            headings = max(map(len, entry))
            for heading, text in entry.items():
                parts = (name.ljust(names), heading.ljust(headings), text)
                yield f"  {'  '.join(filter(None, parts))}".rstrip()


def _fold(out: Console, sections: Sections) -> None:
    """A block to each name, its texts folded to the terminal's width."""
    for title, entries in sections.items():
        out.print(Text(title, style="bold underline"))
        for name, entry in entries.items():
            out.print(Text(f"  {printable(name)}", style="bold"))
            block = Table.grid(padding=(0, 2))
            for heading, text in entry.items():
                block.add_row("", heading, Text(printable(text)))
            if any(entry.values()):
                out.print(block)
