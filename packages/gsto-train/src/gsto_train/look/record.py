"""What a run's folder says of it: configuration, environment, curves, scores."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsto_train import benchmarks, resolve, schema
from gsto_train.errors import InputError, nearest_path
from gsto_train.look.sources import printable
from gsto_train.run import runfolder
from gsto_train.run.runfolder import RunFolder
from gsto_train.settings import resolve as resolve_settings

Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Record:
    """A run as its folder tells it; `result` is empty for one that has not ended."""

    path: Path
    title: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    result: Mapping[str, Any]
    metrics: Lines
    evaluations: Lines

    @property
    def name(self) -> str:
        """The folder's own name."""
        return printable(self.path.absolute().name)

    @property
    def settings(self) -> dict[str, object]:
        """Dotted key -> value."""
        return schema.flatten(self.config.get("settings", {}))

    @property
    def scores(self) -> Mapping[str, Any]:
        """The scores at the end, or the last there are."""
        found = self.result.get("metrics") or (self.evaluations[-1] if self.evaluations else {})
        return found if isinstance(found, Mapping) else {}

    @property
    def command(self) -> str:
        """The command that trains such a run again; a benchmark that is not to be had is left out of it."""
        base = self._benchmark
        benchmark = [] if base is None else ["--benchmark", str(self.config.get("benchmark"))]
        words = ["gsto-train", "--backend", str(self.config.get("backend")), *benchmark]
        for key, value in self.settings.items():
            if base is None or key not in base or base[key] != value:
                words += ["--set", f"{key}={_typed(value)}"]
        return shlex.join(words)

    @property
    def _benchmark(self) -> dict[str, object] | None:
        """The settings of the run's benchmark, as JSON has them; None for one of a file of the user's own."""
        name = self.config.get("benchmark")
        if name not in benchmarks.names():
            return None
        values = schema.values_in_use(resolve_settings(benchmarks.load(str(name)).values))
        return dict(json.loads(json.dumps(values)))


def read_record(path: Path) -> Record:
    """Read a run's folder; raises `InputError` where it is none."""
    if not (path / runfolder.CONFIG).is_file():
        found = f"no such folder{nearest_path(path)}" if not path.exists() else f"no {runfolder.CONFIG} in it"
        raise InputError(f"{printable(path)}: expected the folder of a run, found {found}; check the path")
    folder = RunFolder(path)
    config = folder.read(runfolder.CONFIG)
    if not isinstance(config.get("settings"), dict):
        raise InputError(
            f"{path / runfolder.CONFIG}: not a configuration that this version reads; restore it"
        )
    architecture = schema.flatten(_mapping(config["settings"])).get("architecture.name")
    return Record(
        path=path,
        title=resolve.title(str(architecture)),
        config=config,
        environment=_optional(folder, runfolder.ENVIRONMENT),
        result=_optional(folder, runfolder.RESULT),
        metrics=folder.lines(runfolder.METRICS),
        evaluations=folder.lines(runfolder.EVALUATIONS),
    )


def _optional(folder: RunFolder, name: str) -> Mapping[str, Any]:
    return folder.read(name) if (folder.path / name).is_file() else {}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _typed(value: object) -> str:
    """Return a setting's value as `--set` reads it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
