"""What a run's folder says of it: configuration, environment, curves, scores."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec.errors import printable
from gsto_train import benchmarks, resolve, schema
from gsto_train.errors import InputError
from gsto_train.run import runfolder
from gsto_train.run.runfolder import RunFolder
from gsto_train.settings import resolve as resolve_settings
from gsto_train.wording import counted

Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Record:
    """A run as its folder tells it; `result` is empty for one that has not ended.

    `damage` are the files that do not read, a line each, whose contents are left out.
    """

    path: Path
    title: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    result: Mapping[str, Any]
    metrics: Lines
    evaluations: Lines
    damage: Sequence[str] = ()

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
        return {key: value for key, value in _mapping(found).items() if key != runfolder.CONFUSION}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes or joints."""
        found = self.config.get("classes")
        return tuple(map(str, found)) if isinstance(found, list) else ()

    @property
    def confusion(self) -> NDArray[np.int64] | None:
        """The pixels behind the scores, (K, K), rows the truth; None where the run kept none."""
        step = _mapping(self.result.get("model")).get("step")
        lines = [line for line in self.evaluations if step is None or line["step"] == step]
        counts = lines[-1].get(runfolder.CONFUSION) if lines else None
        try:
            found = np.array(counts, np.int64)
        except (TypeError, ValueError, OverflowError):
            return None
        return found if found.shape == (len(self.classes),) * 2 and found.min(initial=0) >= 0 else None

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
    if not runfolder.is_run(path):
        mend = runfolder.belongs(path) or "; check the path"
        found = runfolder.instead_of_run(path)
        raise InputError(f"{path}: expected the folder of a run, found {found}{mend}")
    folder = RunFolder(path)
    config = folder.read(runfolder.CONFIG)
    if not isinstance(config.get("settings"), dict):
        raise InputError(
            f"{path / runfolder.CONFIG}: not a configuration that this version reads; restore it"
        )
    architecture = schema.flatten(_mapping(config["settings"])).get("architecture.name")
    damage = list[str]()
    ended = (path / runfolder.RESULT).exists()
    return Record(
        path=path,
        title=resolve.title(str(architecture)),
        config=config,
        environment=_object(folder, runfolder.ENVIRONMENT, damage),
        result=_object(folder, runfolder.RESULT, damage) if ended else {},
        metrics=_lines(folder, runfolder.METRICS, ended, damage),
        evaluations=_lines(folder, runfolder.EVALUATIONS, ended, damage),
        damage=damage,
    )


def has_network(run: Path) -> bool:
    """Return whether a run's folder holds a trained network or a checkpoint, whole or not."""
    return (run / runfolder.MODEL).exists() or any(RunFolder(run).checkpoints.glob("step-*"))


def _object(folder: RunFolder, name: str, damage: list[str]) -> Mapping[str, Any]:
    try:
        return folder.read(name)
    except InputError as error:
        damage.append(printable(error))
        return {}


def _lines(folder: RunFolder, name: str, ended: bool, damage: list[str]) -> Lines:
    """Return the lines that read; the last one of a run that goes on may be under way."""
    path = folder.path / name
    if not path.exists():
        if ended:
            damage.append(f"{printable(path)}: no such file, though the run has ended")
        return []
    found = folder.lines(name)
    written = folder.text(name).splitlines(keepends=True)
    under_way = not ended and bool(written) and not written[-1].endswith("\n")
    broken = len(written) - len(found)
    if broken > under_way:
        damage.append(f"{printable(path)}: {broken} of {counted(len(written), 'line')} cannot be read")
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _typed(value: object) -> str:
    """Return a setting's value as `--set` reads it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
