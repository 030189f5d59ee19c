"""docs/results.md: the paper's tables beside what was measured here, and every filed run."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from gsto_train import benchmarks, resolve
from gsto_train.report import duration
from gsto_train.results.filing import FiledRun
from gsto_train.results.paper import Recipe, Row, Table, tables

_HEAD = """\
# Results: the paper's tables, and what was measured here

Made by `python -m gsto_train.results page`; a test fails where this page is stale. *Here* is what runs that
are filed in this repository measured; a row without one says "not run here". What a network costs is in
[tables.md](tables.md).

A row's *options* go after

<!-- not run: needs the paper's data sets -->
```sh
gsto-train --backend torch --data DIR --set architecture.initialize_from=IMAGENET.pth
```

(or `--backend jax`), DIR being the data set and IMAGENET.pth ImageNet weights, which the paper starts from.
Scores are in percent, as printed; `-` is what the paper does not print, and in the last two columns other
methods.
"""

_RUNS = """\
## Runs

Every run that is filed. ± is the standard deviation over seeds, their values behind it. Answers that need no
network stand in brackets. `python -m gsto_train.results file RUN` files a run.
"""

NOT_RUN = "not run here"
_SCORES = {"mean_iou": "mean IoU", "pixel_accuracy": "pixel accuracy", "AP": "AP", "PCK": "PCK"}


def markdown(runs: Sequence[FiledRun]) -> str:
    """Return the whole page."""
    parts = [_HEAD, *(_section(table, runs) for table in tables()), _RUNS, *_groups(runs), _every(runs)]
    return "\n".join(parts)


def options(recipe: Recipe) -> str:
    """Return what a recipe adds to the command."""
    own = benchmarks.load(recipe.benchmark).values["architecture.name"]
    network = [] if own == recipe.architecture else [f"--architecture {recipe.architecture}"]
    settings = [f"--set {key}={_typed(value)}" for key, value in recipe.settings.items()]
    return " ".join([f"--benchmark {recipe.benchmark}", *network, *settings])


def _typed(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _section(table: Table, runs: Iterable[FiledRun]) -> str:
    measured = {"AP": "AP here", "mean_iou": "mIoU here", None: "here"}[table.metric]
    head = ("row of the table", *table.columns, measured, "options")
    rows = [_cells(table, row, runs) for row in table.rows]
    notes = [f"- {note}" for note in (*([table.server] if table.server else []), *table.notes)]
    after = f"\n{chr(10).join(notes)}\n" if notes else ""
    return f"## Table {table.number}: {table.title}\n\n{_table([head, *rows])}\n{after}"


def _cells(table: Table, row: Row, runs: Iterable[FiledRun]) -> tuple[str, ...]:
    scores = [score or "-" for score in row.scores]
    if row.recipe is None:
        return (row.label, *scores, "-", "-")
    return (row.label, *scores, _here(table, row.recipe, runs), f"`{options(row.recipe)}`")


def _here(table: Table, recipe: Recipe, runs: Iterable[FiledRun]) -> str:
    found = [run for run in runs if _is_of(run, recipe)]
    if not found:
        return NOT_RUN
    if table.metric is None:
        return "trained here, not scored by the server"
    return _spread([100 * run.metrics[table.metric] for run in found], 1)


def _is_of(run: FiledRun, recipe: Recipe) -> bool:
    asked = (recipe.benchmark, recipe.architecture, dict(recipe.settings))
    return not run.is_scoring and (run.benchmark, run.architecture, dict(run.changed)) == asked


def _spread(values: Sequence[float], digits: int) -> str:
    told = ", ".join(f"{value:.{digits}f}" for value in values)
    if len(values) == 1:
        return told
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f} ({told})"


def _groups(runs: Iterable[FiledRun]) -> list[str]:
    """Return a section for the runs that differ in network, backend and seed alone."""
    groups = defaultdict[tuple[str, str, str], list[FiledRun]](list)
    for run in runs:
        where = f", scored on {run.data}" if run.is_scoring else ""
        groups[run.benchmark + where, run.protocol, _told(run.changed)].append(run)
    return [_group(*key, members) for key, members in groups.items()]


def _told(changed: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={_typed(value)}" for key, value in changed.items())


def _group(title: str, protocol: str, changed: str, runs: Sequence[FiledRun]) -> str:
    names = [name for name in _SCORES if any(run.metrics.get(name) is not None for run in runs)]
    head = ("network", "backend", "seeds", *(_SCORES[name] for name in names), "steps", "time", "date")
    by_network = defaultdict[tuple[str, str], list[FiledRun]](list)
    for run in runs:
        by_network[run.architecture, run.backend].append(run)
    rows = [_network_row(names, members) for members in by_network.values()]
    own = benchmarks.load(runs[0].benchmark).record.conditions
    of_the_record = own and not changed and not runs[0].is_scoring
    lines = [
        f"- Test procedure: {protocol}.",
        *([f"- Settings that are not the benchmark's: {changed}."] if changed else []),
        *([f"- {own}."] if of_the_record else []),
        *_differences(names[0], by_network),
        f"- The first of them: `{runs[0].command}`; {_machine(runs[0])}.",
    ]
    return f"### {title}\n\n{_table([head, *rows])}\n\n{chr(10).join(lines)}\n"


def _network_row(names: Sequence[str], runs: Sequence[FiledRun]) -> tuple[str, ...]:
    first = runs[0]
    steps = "-" if first.is_scoring else f"{first.steps} of {first.batch}"
    seconds = statistics.fmean(run.seconds for run in runs)
    days = [run.date for run in runs]
    day = min(days) if len(set(days)) == 1 else f"{min(days)} to {max(days)}"
    return (
        resolve.title(first.architecture), first.backend,
        "-" if first.is_scoring else ", ".join(str(run.seed) for run in runs),
        *(_score(name, runs) for name in names), steps, duration(seconds), day,
    )  # fmt: skip


def _score(name: str, runs: Sequence[FiledRun]) -> str:
    values = [run.metrics[name] for run in runs if run.metrics.get(name) is not None]
    if not values:
        return "-"
    baselines = {
        label: scores[name] for label, scores in runs[0].baselines.items() if scores.get(name) is not None
    }
    beside = ", ".join(f"{label} {value:.3f}" for label, value in baselines.items())
    return f"{_spread(values, 3)}{f' [{beside}]' if beside else ''}"


def _differences(name: str, by_network: Mapping[tuple[str, str], Sequence[FiledRun]]) -> list[str]:
    """Return, for two networks with several seeds in common, the mean of their differences seed by seed."""
    if len(by_network) != 2:
        return []
    first, second = ({run.seed: run.metrics[name] for run in runs} for runs in by_network.values())
    seeds = sorted(seed for seed in first.keys() & second.keys() if seed is not None)
    if len(seeds) < 2:
        return []
    networks = [resolve.title(architecture) for architecture, _ in by_network]
    differences = [first[seed] - second[seed] for seed in seeds]
    return [
        f"- {_SCORES[name]}, {networks[0]} less {networks[1]}, seed by seed: {_spread(differences, 3)}; "
        f"standard error of the mean {statistics.stdev(differences) / len(seeds) ** 0.5:.3f}; ahead in "
        f"{sum(each > 0 for each in differences)} of {len(seeds)} seeds."
    ]


def _machine(run: FiledRun) -> str:
    environment, versions = run.environment, run.environment["versions"]
    assert isinstance(versions, Mapping)
    threads = f", {environment['threads']} of its threads" if environment["threads"] else ""
    found = versions.get(run.backend, "")
    return (
        f"{run.backend} {found} on {environment['device']}, a machine of {environment['processors']} "
        f"processors{threads}"
    )


def _every(runs: Sequence[FiledRun]) -> str:
    counts = defaultdict[str, int](int)
    for run in runs:
        counts[run.benchmark] += not run.is_scoring
    head = ("benchmark", "what its record says", "runs filed", "command")
    rows = [
        (name, str(record), str(counts[name]), f"`{record.command}`")
        for name in benchmarks.names()
        for record in (benchmarks.load(name).record,)
    ]
    return f"## Every benchmark\n\n{_table([head, *rows])}\n"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
