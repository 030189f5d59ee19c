"""A run's result in brief, as it is kept in benchmarks/results/: one small JSON file a run."""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from gsto_train import benchmarks, resolve, schema
from gsto_train.errors import InputError
from gsto_train.files import write_json
from gsto_train.run import runfolder
from gsto_train.settings import Settings
from gsto_train.settings import resolve as resolve_settings

FOLDER = Path(str(files("gsto_train.benchmarks"))) / "results"
"""Where results are filed unless another folder is given."""

_APART = ("architecture.name", "train.seed")
"""Settings that a filed run tells by fields of their own."""


@dataclass(frozen=True)
class FiledRun:
    """One run, or one scoring of a trained network, in brief.

    data: name of its folder, none where the data are generated. changed: settings that are not the
    benchmark's, but for seed, network and paths. weights: what was scored, or the file that training started
    from. metrics, baselines: as result.json has them. steps, batch, seed: none of a scoring. environment:
    versions, processors and device. date: the day (UTC) that result.json was written.
    """

    benchmark: str
    architecture: str
    backend: str
    command: str
    data: str | None
    changed: Mapping[str, object]
    weights: str | None
    protocol: str
    metrics: Mapping[str, Any]
    baselines: Mapping[str, Mapping[str, Any]]
    steps: int | None
    batch: int | None
    seed: int | None
    precision: str
    seconds: float
    environment: Mapping[str, object]
    graph_digest: str
    date: str

    @property
    def is_scoring(self) -> bool:
        """Whether nothing was trained: a network of before was scored."""
        return self.steps is None

    @property
    def file_name(self) -> str:
        """What its file is called."""
        place = f"on-{self.data}" if self.is_scoring else f"seed{self.seed}"
        return (
            "-".join((self.benchmark, resolve.part_of_path(self.architecture), self.backend, place)) + ".json"
        )


def of_folder(path: Path) -> FiledRun:
    """Return what a run's folder, or gsto-eval's --output, holds; raises `InputError`."""
    result = _read(path / runfolder.RESULT)
    scored = "settings" in result
    try:
        if not scored:
            told = _read(path / runfolder.CONFIG)["settings"]
            return _brief(path, result, resolve_settings(schema.flatten(told)), scored)
        # A scoring tells the settings that a score depends on.
        own = benchmarks.load(result["benchmark"]).values
        return _brief(path, result, resolve_settings(own, schema.flatten(result["settings"])), scored)
    except KeyError as error:
        raise InputError(f"{path / runfolder.RESULT}: has no {error}; give the folder of a run") from None


def file(run: FiledRun, folder: Path = FOLDER, *, replace: bool = False) -> Path:
    """Write a run's file and return its path; raises `InputError` where it is filed already."""
    path = folder / run.file_name
    if path.exists() and not replace:
        raise InputError(f"{path}: is there already; add --replace to put this run in its place")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, dataclasses.asdict(run))
    return path


def filed(folder: Path = FOLDER) -> tuple[FiledRun, ...]:
    """Return every run in a folder, by name; raises `InputError` for a file that is not one.

    Measured speeds, which lie beside them as speed-*.json, are no runs.
    """
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("speed-"))
    return tuple(map(_parsed, paths))


def _parsed(path: Path) -> FiledRun:
    values, known = _read(path), {field.name for field in dataclasses.fields(FiledRun)}
    if set(values) != known:
        wrong = ", ".join(sorted(set(values) ^ known))
        raise InputError(f"{path}: expected the keys of a filed run, found {wrong} missing or unknown")
    return FiledRun(**values)


def _brief(path: Path, result: Mapping[str, Any], settings: Settings, scored: bool) -> FiledRun:
    changed = _changed(result["benchmark"], settings)
    weights = settings.architecture.initialize_from
    if scored:
        weights = path_name(result["weights"].removesuffix(f"/{runfolder.MODEL}"))
    seed = None if scored else settings.train.seed
    data = path_name(settings.data.folder)
    return FiledRun(
        benchmark=result["benchmark"],
        architecture=result["architecture"],
        backend=result["backend"],
        command=_command(result, changed, seed, data, weights, scored),
        data=data,
        changed=changed,
        weights=path_name(weights),
        protocol=result["protocol"],
        metrics=result["metrics"],
        baselines=result.get("baselines", {}),
        steps=result.get("steps"),
        batch=result.get("batch"),
        seed=seed,
        precision=result["precision"],
        seconds=round(result["seconds"], 1),
        environment=_environment(result),
        graph_digest=result["graph_digest"],
        date=datetime.fromtimestamp((path / runfolder.RESULT).stat().st_mtime, UTC).date().isoformat(),
    )


def path_name(path: str | None) -> str | None:
    """Return the last part of a path."""
    return None if path is None else Path(path).name


def _changed(benchmark: str, settings: Settings) -> dict[str, object]:
    """Return the settings that are not the benchmark's and that a result depends on."""
    changed = benchmarks.changed(benchmarks.load(benchmark), settings)
    told = {key: value for key, value in changed.items() if key not in _APART}
    return dict(json.loads(json.dumps(told)))  # As a file has it.


def _command(
    result: Mapping[str, Any], changed: Mapping[str, object], seed: int | None, data: str | None,
    weights: str | None, scored: bool,
) -> str:  # fmt: skip
    """Return what repeats the run, as typed; folders and files by the last part of their paths."""
    start = ["gsto-eval", str(weights)] if scored else ["gsto-train"]
    own = benchmarks.load(result["benchmark"]).values["architecture.name"]
    network = ["--architecture", result["architecture"]]
    settings = dict(changed)
    if not scored:
        settings |= {} if weights is None else {"architecture.initialize_from": path_name(weights)}
        settings["train.seed"] = seed
    words = [
        *start, "--backend", result["backend"], "--benchmark", result["benchmark"],
        *([] if scored or own == result["architecture"] else network),
        *([] if data is None else ["--data", data]),
        *(word for key, value in settings.items() for word in ("--set", f"{key}={_typed(value)}")),
    ]  # fmt: skip
    return shlex.join(words)


def _typed(value: object) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def _environment(result: Mapping[str, Any]) -> dict[str, object]:
    whole = result["environment"]
    return {
        "python": whole["python"],
        "processors": whole["processors"],
        "threads": whole["thread_variables"].get("OMP_NUM_THREADS"),
        "device": result["device"] if result["device"] != "auto" else whole["backend"]["devices"][-1],
        "versions": whole["backend"]["versions"],
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the folder of a run that has ended") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected JSON, found an error: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected an object, found a {type(found).__name__}")
    return found
