"""A job: all that a run needs, resolved and checked before its network is built."""

import math
import os
import shlex
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

from gsto_spec import GraphError
from gsto_spec.backend import Backend, Training, backends
from gsto_spec.graph import Graph
from gsto_spec.objective import SGD, Adam, Poly, Steps
from gsto_spec.ops import BatchNorm
from gsto_spec.reference import require_spread
from gsto_train import benchmarks, resolve, schema
from gsto_train.benchmarks import Benchmark, Record
from gsto_train.errors import InputError
from gsto_train.files import replace as replace_file
from gsto_train.processes import Processes
from gsto_train.run import runfolder, tensorboard
from gsto_train.run.environment import describe_environment
from gsto_train.run.fine_tuning import FineTuning
from gsto_train.run.initialization import initial_weights
from gsto_train.run.runfolder import RunFolder
from gsto_train.settings import GENERATED, ArchitectureSettings, Settings, TrainSettings
from gsto_train.settings import resolve as resolve_settings
from gsto_train.task import Task, TrainingBatch


@dataclass(frozen=True)
class Request:
    """What a user asked for; `overrides` are flat settings on top of the benchmark's."""

    backend: str
    benchmark: str | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    output: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class Plan:
    """What is to be run, by names; `classes` are those that a run to go on with was begun with.

    `as_recorded`: these are the settings that the record is of, but for the seed.
    """

    benchmark: str
    record: Record
    settings: Settings
    classes: tuple[str, ...] | None = None
    as_recorded: bool = False


@dataclass(frozen=True)
class Job:
    """What is to be run, as things; `backend_name` is what the user called the backend."""

    plan: Plan
    backend_name: str
    backend: Backend
    graph: Graph
    task: Task
    folder: RunFolder
    resumed: bool
    processes: Processes

    @property
    def settings(self) -> Settings:
        """The run's settings."""
        return self.plan.settings

    @property
    def total_steps(self) -> int:
        """Steps of the whole run; an epoch that does not divide by the batch goes on into the next one."""
        train = self.settings.train
        return train.steps or math.ceil((train.epochs or 0) * self.task.training_count / train.batch)

    @property
    def schedule(self) -> Poly | Steps:
        """The learning rate by step."""
        train = self.settings.train
        if train.schedule == "poly":
            return Poly(train.learning_rate, train.power)
        return Steps(train.learning_rate, train.milestones, train.factor)

    @property
    def fine_tuning(self) -> FineTuning:
        """What is frozen, and what has a learning rate of its own."""
        return FineTuning.of(self.settings.train, self.graph)

    def training_terms(self) -> Training:
        """Return the objective and the optimiser, as a backend takes them."""
        train, tuning = self.settings.train, self.fine_tuning
        return Training(
            self.task.objective(self.graph),
            _optimizer(train),
            train.batch_norm_momentum,
            tuning.frozen,
            tuning.rate_factors,
            train.micro_batches,
            train.rematerialize,
            train.deterministic,
        )

    def batches(self, *, start_step: int, total_steps: int) -> Generator[TrainingBatch]:
        """Yield this process's share of the batches of steps start_step .. total_steps - 1."""
        slots = self.processes.share(self.settings.train.batch)
        return self.task.batches(self.graph, start_step=start_step, total_steps=total_steps, slots=slots)

    @property
    def resume_command(self) -> str:
        """The command that goes on with this run; where a launcher started it, what to start with that."""
        options = ["--backend", self.backend_name, "--output", str(self.folder.path), "--resume"]
        line = shlex.join([*_program(self.processes), *options])
        count = self.processes.count
        return line if count == 1 else f"the same launcher of {count} and {line}"


def prepare(request: Request) -> Job:
    """Resolve and check everything a run needs, then make (or open) its folder, which is to be released.

    Raises `InputError` or gsto_spec's error for the first thing that is wrong.
    """
    job = resolved(request)
    job = replace(job, folder=_folder(job, request))
    try:
        if not request.resume:
            with job.processes.together():
                _begin(job)
    except BaseException:
        job.folder.release()
        raise
    return job


def resolved(request: Request) -> Job:
    """Resolve and check everything a run needs but its folder, which may not be there; nothing is written.

    Raises as `prepare` does.
    """
    resolve.check_backend(request.backend)
    path = request.output
    if request.resume and path is None:
        path = runfolder.default_folder(_name(request, _new_plan(request)), resume=True)
    plan = _recorded_plan(path, request) if request.resume and path else _new_plan(request)
    _check_apart(path, plan.settings.data.decoded)
    task = resolve.load_task(plan.settings)
    _check_same_classes(plan, task.labels)
    graph = resolve.load_graph(_architecture(plan, path, request), len(task.labels))
    _check_graph(graph, plan.settings)
    task.check(graph)
    FineTuning.of(plan.settings.train, graph)
    backend = resolve.load_backend(request.backend)
    resolve.check_choices(backend, plan.settings.train.precision, plan.settings.train.device)
    if plan.settings.train.tensorboard:
        tensorboard.check_installed()
    processes = Processes.of(backend)
    _check_shares(plan.settings.train, processes)
    folder = RunFolder(path or runfolder.default_folder(_name(request, plan), resume=False))
    return Job(plan, request.backend, backend, graph, task, folder, request.resume, processes)


def _check_apart(run: Path | None, decoded: str | None) -> None:
    if run is not None and decoded is not None and Path(decoded).resolve().is_relative_to(run.resolve()):
        raise InputError(f"setting 'data.decoded': {decoded}: lies in the run's folder; give one beside it")


def _architecture(plan: Plan, path: Path | None, request: Request) -> ArchitectureSettings:
    """Return what names the network: of code that only files name, and nobody here, the graph that it left.

    Raises `InputError` where there is none: code is run that a command line or a benchmark of this package
    names, never what a file does.
    """
    named = plan.settings.architecture
    if named.name.endswith(".json") or ":" not in named.name or _may_run(named.name, request):
        return named
    left = path / runfolder.GRAPH if request.resume and path else None
    if left is None or not left.is_file():
        raise InputError(
            f"{left or request.benchmark}: expected a graph, found only the name of code that makes it, "
            f"{named.name!r}; to run that code, add --architecture {shlex.quote(named.name)}"
        )
    return replace(named, name=str(left), form=None)


def _may_run(code: str, request: Request) -> bool:
    """Return whether the command line names this code, or a benchmark of this package, extended or not."""
    return code == request.overrides.get("architecture.name") or code in {
        benchmarks.load(name).values.get("architecture.name") for name in benchmarks.names()
    }


def _begin(job: Job) -> None:
    """Check what a new run starts from, and describe it in its folder."""
    try:
        initial = initial_weights(job.settings, job.graph)
        if not job.processes.first:
            return
        if initial.source is not None:
            job.folder.write(runfolder.INITIALIZATION, initial.as_json())
        describe(job)
    except (OSError, ValueError):
        job.folder.discard()  # What is in it would stand in the way of a new try.
        raise


def _folder(job: Job, request: Request) -> RunFolder:
    """Make or open the folder in the first process, and tell the others where it is."""
    folder, processes = job.folder, job.processes
    with processes.together():
        if processes.first:
            folder = RunFolder.open(folder.path) if request.resume else RunFolder.create(folder.path)
    if processes.count == 1:
        return folder
    told = Path(os.fsdecode(processes.broadcast(os.fsencode(folder.path))))
    return folder if processes.first else RunFolder(told)


def _name(request: Request, plan: Plan) -> str:
    names = (plan.settings.architecture.name, request.backend)
    return "-".join((plan.benchmark, *map(resolve.part_of_path, names)))


def _new_plan(request: Request) -> Plan:
    benchmark = benchmarks.load(request.benchmark or benchmarks.DEFAULT)
    _check_takes_folder(benchmark, request.overrides)
    settings = resolve_settings(_absolute(benchmark.values), _absolute(request.overrides))
    return Plan(benchmark.name, benchmark.record, settings, as_recorded=_as_recorded(benchmark, settings))


def _check_takes_folder(benchmark: Benchmark, overrides: Mapping[str, object]) -> None:
    """Raise `InputError` for a folder of data where the benchmark draws its pictures."""
    kind = overrides.get("data.kind", benchmark.values.get("data.kind"))
    if overrides.get("data.folder", "none") != "none" and kind in GENERATED:
        raise InputError(
            f"--data: the benchmark {benchmark.name} draws its own pictures; add --benchmark folder "
            "(pictures of your own) or another that --list shows"
        )


def recorded_backend(path: Path) -> str:
    """Return the backend of the run in a folder; raises `InputError` where it names none that is installed.

    One of a user's own, which would run code, is not taken from a file.
    """
    name = RunFolder.existing(path).read(runfolder.CONFIG).get("backend")
    if name not in backends():
        config = path / runfolder.CONFIG
        raise InputError(f"{config}: expected a backend that is installed, found {name!r}; give --backend")
    return str(name)


def _as_recorded(benchmark: Benchmark, settings: Settings) -> bool:
    own = replace(benchmark, values=_absolute(benchmark.values))
    return benchmarks.changed(own, settings).keys() <= {"train.seed"}


def _recorded_plan(path: Path, request: Request) -> Plan:
    """Return the plan in a run's folder; what the request says again must be the same."""
    config = RunFolder.existing(path).read(runfolder.CONFIG)
    try:
        values = schema.flatten(_section(config, "settings"))
        plan = Plan(
            str(config["benchmark"]),
            schema.read(Record, _section(config, "record")),
            resolve_settings(values),
            _recorded_classes(config),
        )
    except (InputError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path / runfolder.CONFIG}: not a configuration that this version reads: {error}"
        ) from None
    named = Path(request.benchmark).stem if request.benchmark else plan.benchmark
    if named != plan.benchmark:
        raise InputError(
            f"--benchmark {named}: the run in {path} is one of {plan.benchmark}; leave it out, or start a "
            "new run with another --output"
        )
    settings = resolve_settings(values, _absolute(request.overrides))
    _check_same(path, plan.settings, settings, request.overrides)
    known = plan.benchmark in benchmarks.names()
    recorded = known and _as_recorded(benchmarks.load(plan.benchmark), settings)
    return replace(plan, settings=settings, as_recorded=recorded)


def _check_same(path: Path, before: Settings, now: Settings, asked: Mapping[str, object]) -> None:
    """Raise `InputError` for the first setting, those asked for first, that differs and must not."""
    old, new = schema.values_in_use(before), schema.values_in_use(now)
    for key in dict.fromkeys((*asked, *old, *new)):
        if old.get(key) != new.get(key) and not schema.is_free(Settings, key):
            raise InputError(
                f"setting {key!r} is {new.get(key)}, but the run in {path} was started with {old.get(key)}; "
                f"leave it out, or start a new run with another --output{_onward(path, key)}"
            )


def _onward(path: Path, key: str) -> str:
    """Return how a finished run is trained on, in words; nothing where another setting is to change."""
    model = path / runfolder.MODEL
    if key not in ("train.steps", "train.epochs") or not model.is_dir():
        return ""
    option = shlex.join(["--set", f"architecture.initialize_from={model}"])
    return f" and {option}, which goes on from the trained weights"


def _check_same_classes(plan: Plan, classes: tuple[str, ...]) -> None:
    before = plan.classes or classes
    if before != classes:
        changed = [pair for pair in zip_longest(before, classes) if pair[0] != pair[1]]
        raise InputError(
            f"the classes of the data are not those of the run: {changed[0][0]!r} is now {changed[0][1]!r}; "
            "restore classes.json, or start a new run with another --output"
        )


def _recorded_classes(config: Mapping[str, object]) -> tuple[str, ...] | None:
    classes = config.get("classes")
    if classes is None:
        return None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError("'classes' is no list of names")
    return tuple(classes)


def _section(config: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = config[name]
    if not isinstance(section, Mapping):
        raise InputError(f"{name!r} is no object")
    return section


def _absolute(values: Mapping[str, object]) -> dict[str, object]:
    """Return the settings with paths that hold from any folder, since a run may be resumed from another."""
    absolute = dict(values)
    name = values.get("architecture.name")
    for key in benchmarks.PLACES:
        path = values.get(key)
        if path == "":
            raise InputError(f"setting {key!r}: expected a path or none, found nothing")
        if isinstance(path, str) and path != "none":
            absolute[key] = os.path.abspath(path)
    if isinstance(name, str) and name.endswith(".json"):
        absolute["architecture.name"] = os.path.abspath(name)
    return absolute


def _check_graph(graph: Graph, settings: Settings) -> None:
    _check_spread(graph, settings)
    weighed = asdict(settings.loss.stage_weights)
    unknown = [name for name in graph.outputs if name not in weighed]
    if unknown:
        raise InputError(
            f"architecture {settings.architecture.name!r}: output {unknown[0]!r} has no loss weight; name "
            f"its outputs among {', '.join(weighed)}"
        )
    _check_learns(settings, [weighed[name] for name in graph.outputs])


def _check_spread(graph: Graph, settings: Settings) -> None:
    """Raise the graph's error for a crop that is too small, `InputError` for one value to normalise by."""
    train = settings.train
    shapes = graph.check((max(1, train.batch // train.micro_batches), 3, *settings.data.crop))
    try:
        for node in graph.order if not train.freeze else ():
            if isinstance(node.op, BatchNorm):
                require_spread(node.name, shapes[node.operands[0]])
    except GraphError as error:
        raise InputError(f"settings 'data.crop' and 'train.batch': too small: {error}") from None


def _check_learns(settings: Settings, of_outputs: Sequence[float]) -> None:
    weights = {
        "loss.stage_weights": of_outputs,
        "loss.class_weights": settings.loss.class_weights,
        "loss.joint_weights": settings.loss.joint_weights,
    }
    for key, found in weights.items():
        if found is not None and not any(found):
            raise InputError(f"setting {key!r}: expected one above 0, found none: nothing would be learnt")


def _optimizer(train: TrainSettings) -> SGD | Adam:
    if train.optimizer == "sgd":
        return SGD(train.momentum, train.weight_decay)
    return Adam(train.beta1, train.beta2, train.epsilon, train.weight_decay)


def _check_shares(train: TrainSettings, processes: Processes) -> None:
    """Raise `InputError` for a batch that leaves a process without samples or a part unequal."""
    if train.batch < processes.count:
        raise InputError(
            f"setting 'train.batch': expected at least one sample for each of {processes.count} processes, "
            f"found {train.batch}; raise it, or start fewer processes"
        )
    parts = train.micro_batches * processes.count
    if train.micro_batches > 1 and train.batch % parts:
        of = f" in each of {processes.count} processes" if processes.count > 1 else ""
        raise InputError(
            f"setting 'train.micro_batches': expected a number of equal parts of train.batch = {train.batch}"
            f"{of}, found {train.micro_batches}; give one that divides it"
        )


def _program(processes: Processes) -> list[str]:
    """Return how gsto-train is called where this run was started."""
    if processes.count > 1:
        return ["-m", "gsto_train"]
    if os.environ.get("NOX_CURRENT_SESSION") == "train":
        return ["nox", "-s", "train", "--"]
    return ["gsto-train"]


def describe(job: Job, note: Callable[[str], None] = lambda text: None) -> None:
    """Write what the run is into its folder, its configuration last, which makes it a run.

    A resumed run keeps the environments it went through; `note` hears of those that do not read. Raises
    OSError.
    """
    config = {
        "benchmark": job.plan.benchmark,
        "backend": job.backend.name,
        "record": asdict(job.plan.record),
        "settings": schema.nest(schema.values_in_use(job.settings)),
        "classes": list(job.task.labels),
    }
    environment = describe_environment(job.backend)
    if job.resumed and (before := _environment_before(job, note)) is not None:
        earlier = before.pop("earlier", [])
        environment["earlier"] = [*(earlier if isinstance(earlier, list) else []), before]
    job.folder.write(runfolder.ENVIRONMENT, environment)
    replace_file(job.folder.path / runfolder.GRAPH, (job.graph.to_json(indent=1) + "\n").encode())
    job.folder.write(runfolder.CONFIG, config)


def _environment_before(job: Job, note: Callable[[str], None]) -> dict[str, object] | None:
    if not (job.folder.path / runfolder.ENVIRONMENT).exists():
        return None
    try:
        return job.folder.read(runfolder.ENVIRONMENT)
    except InputError as error:
        note(f"warning: {error}; it is written again")
        return None
