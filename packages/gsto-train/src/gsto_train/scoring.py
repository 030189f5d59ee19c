"""Scores of a network that is trained already: a run, a saved model, or a published file of weights."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gsto_spec import Graph, GraphError
from gsto_spec.backend import Predictor, backends
from gsto_spec.locate import locate
from gsto_spec.weights import CARD_FILE
from gsto_train import benchmarks, cards, convert, resolve, schema
from gsto_train.convert import Model, Reading
from gsto_train.data import cityscapes
from gsto_train.errors import InputError
from gsto_train.files import write_json
from gsto_train.pose.evaluation import predict_poses, results, score_poses
from gsto_train.pose.task import Keypoints
from gsto_train.report import Report
from gsto_train.run import checkpoint, runfolder
from gsto_train.run.environment import describe_environment
from gsto_train.segmentation.task import Segmentation
from gsto_train.settings import KEYPOINTS, Settings
from gsto_train.settings import resolve as resolve_settings
from gsto_train.submission import RESULTS, check_free, new_folder, submission, write_results
from gsto_train.task import Task
from gsto_train.wording import counted, counted_units

_SCORES_DEPEND_ON = (
    "data.", "evaluation.", "pose.", "train.device", "train.precision", "train.evaluation_batch",
    "train.threads",
)  # fmt: skip


@dataclass(frozen=True)
class ScoringRequest:
    """What a user asked for; `graph` is that of a file of tensors, `reading` how the file is meant."""

    source: Path
    backend: str | None = None
    benchmark: str | None = None
    graph: Graph | None = None
    architecture: str | None = None
    reading: Reading | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    output: Path | None = None
    submit: Path | None = None


@dataclass(frozen=True)
class Subject:
    """A network to be scored, and what is known of where it comes from."""

    model: Model
    weights_from: str
    architecture: str
    benchmark: str | None = None
    backend: str | None = None
    values: Mapping[str, object] | None = None


def score(request: ScoringRequest, report: Report, stop: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Score, write what was asked for, and return what result.json holds; `stop` is called now and then.

    Raises `InputError` or gsto_spec's error for what is wrong with the input, `SubmissionError`, `OSError`.
    """
    _check_overrides(request.overrides)
    for folder, option in ((request.output, "--output"), (request.submit, "--submit")):
        if folder is not None:
            check_free(folder, option)
    subject = open_subject(request)
    benchmark, settings = _settings(request, subject)
    task = _task(settings)
    graph = subject.model.graph
    _check_fits(request.source, graph, task)
    name = request.backend or subject.backend
    if name is None:
        raise InputError(f"{request.source}: names no backend; give one with --backend, torch or jax")
    backend = resolve.load_backend(name)
    resolve.check_choices(backend, settings.train.precision, settings.train.device)
    if request.submit is not None:
        _check_submittable(task, settings)
    predictor = backend.predictor(
        graph, subject.model.weights, device=settings.train.device, precision=settings.train.precision
    )
    for note in subject.model.notes:
        report.note(note)
    began = time.monotonic()
    metrics = _scores(request, task, graph, CheckedPredictor(graph, predictor), report, stop)
    result = {
        "backend": backend.name,
        "architecture": subject.architecture,
        "weights": subject.weights_from,
        "benchmark": benchmark,
        "protocol": task.protocol(graph),
        "graph_digest": graph.digest,
        "metrics": metrics,
        **_facts(task),
        "precision": settings.train.precision,
        "device": settings.train.device,
        "seconds": time.monotonic() - began,
        "settings": schema.nest(_told(settings)),
        "environment": describe_environment(backend),
    }
    if request.output is not None:
        with new_folder(Path(os.path.abspath(request.output))) as folder:
            write_json(folder / runfolder.RESULT, result)
    task.show(report, f"{subject.architecture} on {benchmark}: {result['protocol']}", {"network": metrics})
    return result


class CheckedPredictor:
    """A predictor that says in one line where a size does not fit the network."""

    def __init__(self, graph: Graph, predictor: Predictor) -> None:
        self._graph, self._predictor = graph, predictor
        self._fitting: set[tuple[int, ...]] = set()

    def predict(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Predict as the predictor does; raises `InputError` for a size that does not fit."""
        if images.shape not in self._fitting:
            try:
                self._graph.check(images.shape)
            except GraphError as error:
                height, width = images.shape[2:]
                raise InputError(
                    f"{height}x{width} (height x width), which the test procedure makes of a picture, does "
                    f"not fit the architecture: {error}; change evaluation.scales or evaluation.window"
                ) from None
            self._fitting.add(images.shape)
        return self._predictor.predict(images)


def open_subject(request: ScoringRequest) -> Subject:
    """Return the network that `request.source` is or holds; raises `InputError` or gsto_spec's error."""
    source = convert.here(request.source)
    if runfolder.is_run(source):
        return _of_run(request)
    if source.is_dir() and not (source / "graph.json").exists():
        raise InputError(
            f"{source}: expected a run (with {runfolder.CONFIG}) or a saved model (with graph.json), found "
            f"neither{runfolder.belongs(source) or '; check the path'}"
        )
    model = _read_model(source, request.graph, request.reading)
    told = model.card.get("architecture")
    named = request.architecture or (told if isinstance(told, str) else str(request.source))
    return _as_told(Subject(model, str(request.source), named), source)


def _read_model(path: Path, graph: Graph | None = None, reading: Reading | None = None) -> Model:
    """Return the model there; what its card says of classes that the network has not goes into its notes."""
    model, card = convert.read_model(path, graph, reading), path / CARD_FILE
    cards.check_output(path, model.graph)
    cards.check_preprocessing(card, model.card)
    problems = cards.label_problems(model.graph, model.card)
    told = (f"warning: {card}: {each}; leaving the card's out" for each in problems)
    return replace(model, notes=(*model.notes, *told))


def _as_told(subject: Subject, source: Path) -> Subject:
    """Return a saved model with the backend and the settings that its card tells of.

    A backend of one's own, which would run code, is not taken from a file.
    """
    card = subject.model.card
    backend, benchmark, settings = (card.get(key) for key in ("backend", "benchmark", "settings"))
    known = backend if backend in backends() else None
    if not isinstance(settings, dict) or not isinstance(benchmark, str):
        return replace(subject, backend=known)
    try:
        values = schema.flatten(settings)
        resolve_settings(values)
    except (InputError, RecursionError) as error:
        note = f"warning: {source / CARD_FILE}: its settings are not those of this version ({error})"
        model = replace(subject.model, notes=(*subject.model.notes, note))
        return replace(subject, model=model, backend=known)
    return replace(subject, benchmark=benchmark, backend=known, values=values)


def _of_run(request: ScoringRequest) -> Subject:
    """Return a run's trained network; of one that has not ended yet, that of its newest whole checkpoint."""
    source = request.source
    if request.graph is not None or request.reading is not None:
        raise InputError(f"{source}: a run has its own network; leave --architecture and --inplace-abn out")
    folder = runfolder.RunFolder(source)
    config = folder.read(runfolder.CONFIG)
    settings, benchmark, backend = (config.get(key) for key in ("settings", "benchmark", "backend"))
    if not isinstance(settings, dict) or not isinstance(benchmark, str) or not isinstance(backend, str):
        raise InputError(
            f"{source / runfolder.CONFIG}: not a configuration that this version reads; restore it"
        )
    values = schema.flatten(settings)
    backend = None if ":" in backend else backend  # Which would run code.
    architecture = str(values.get("architecture.name"))
    if (source / runfolder.MODEL).is_dir():
        path = source / runfolder.MODEL
        return Subject(_read_model(path), str(path), architecture, benchmark, backend, values)
    notes = list[str]()
    saved = checkpoint.newest(folder.checkpoints, notes.append)
    if saved is None:
        raise InputError(f"{source}: this run has no whole checkpoint yet; train it first")
    graph = locate(str(source / runfolder.GRAPH))
    missing = [name for name in graph.parameters if name not in saved.state]
    if missing:
        raise InputError(f"{saved.path}: has no {missing[0]}, which {runfolder.GRAPH} asks for; restore both")
    weights = {name: saved.state[name] for name in graph.parameters}
    notes.append(f"the run has not ended; using its checkpoint of step {saved.progress.step}")
    model = Model(graph, weights, {}, tuple(notes))
    return Subject(model, str(saved.path), architecture, benchmark, backend, values)


def _check_overrides(overrides: Mapping[str, object]) -> None:
    for key in overrides:
        if not key.startswith(_SCORES_DEPEND_ON):
            raise InputError(
                f"setting {key!r} does not change how a network is scored; leave it out (data.*, "
                "evaluation.*, pose.*, train.device, .precision, .evaluation_batch and .threads do)"
            )


def _settings(request: ScoringRequest, subject: Subject) -> tuple[str, Settings]:
    if request.benchmark is None and subject.values is not None:
        return str(subject.benchmark), resolve_settings(subject.values, request.overrides)
    if request.benchmark is None:
        known = request.backend or subject.backend
        also = "" if known else ", and give a backend with --backend, torch or jax"
        raise InputError(
            f"{request.source}: says nothing of the data to score on; name the benchmark with --benchmark"
            f"{also}"
        )
    benchmark = benchmarks.load(request.benchmark)
    return benchmark.name, resolve_settings(benchmark.values, request.overrides)


def _told(settings: Settings) -> dict[str, object]:
    values = schema.values_in_use(settings)
    return {key: value for key, value in values.items() if key.startswith(_SCORES_DEPEND_ON)}


def _facts(task: Task) -> dict[str, Any]:
    """What result.json says of the data; training samples, which were not read, left out."""
    facts = task.facts()
    counts = (task.unit, "left_out")
    return {key: {"validation": fact["validation"]} if key in counts else fact for key, fact in facts.items()}


def _task(settings: Settings) -> Task:
    """Return the task without its training samples, which a score does not need."""
    if settings.data.kind in KEYPOINTS:
        return Keypoints.to_score(settings)
    validation = resolve.load_split(settings.data, "val")
    return Segmentation(settings, validation, validation)


def _check_fits(source: Path, graph: Graph, task: Task) -> None:
    if list(graph.inputs.values()) != [3]:
        raise InputError(f"{source}: expected a network with one input of 3 channels; give another")
    output, node = next(iter(graph.outputs.items()))
    channels = graph.shapes[node][1]
    if channels != len(task.labels):
        raise InputError(
            f"{source}: output {output!r} has {counted(channels, 'channel')}, expected one for each of the "
            f"{counted_units(len(task.labels), task.label_unit)} of the data; give the benchmark that it was "
            "trained for"
        )


def _check_submittable(task: Task, settings: Settings) -> None:
    if not isinstance(task, Segmentation):
        return
    if task.labels != cityscapes.TABLE.names:
        raise InputError(
            f"--submit writes Cityscapes' label ids or COCO's results; found data of kind "
            f"{settings.data.kind!r} with other classes; leave it out"
        )
    if settings.evaluation.resize_label:
        raise InputError(
            "--submit needs predictions of the pictures' size; set evaluation.resize_label to false"
        )


def _scores(
    request: ScoringRequest, task: Task, graph: Graph, predictor: Predictor, report: Report,
    stop: Callable[[], None],
) -> dict[str, Any]:  # fmt: skip
    what = f"scoring {counted_units(task.validation_count, task.unit)}"
    with report.counting(what, task.validation_count) as count:

        def seen(pictures: int) -> None:
            count.advance(pictures)
            stop()

        if request.submit is None:
            return task.evaluate(graph, predictor, seen)
        folder = Path(os.path.abspath(request.submit))
        if isinstance(task, Keypoints):
            metrics, told = _submit_poses(folder, task, graph, predictor, seen)
        elif isinstance(task, Segmentation):
            metrics, told = _submit_pictures(folder, task, graph, predictor, seen)
    report.note(f"{request.submit}: {told}, read again and checked")
    return metrics


def _submit_pictures(
    folder: Path, task: Segmentation, graph: Graph, predictor: Predictor, seen: Callable[[int], None]
) -> tuple[dict[str, Any], str]:
    with submission(folder) as files:
        metrics = task.evaluate(graph, predictor, seen, files.add)
    split = task.settings.data.val_split
    whole = cityscapes.SPLITS.get(split)
    short = f", of the {whole} that {split} has" if whole and whole != len(files) else ""
    return metrics, f"{counted(len(files), 'picture')} of label ids{short}"


def _submit_poses(
    folder: Path, task: Keypoints, graph: Graph, predictor: Predictor, seen: Callable[[int], None]
) -> tuple[dict[str, Any], str]:
    test, train = task.test(graph), task.settings.train
    poses = predict_poses(
        predictor, task.validation, test, batch=train.evaluation_batch, threads=train.threads, on_scored=seen
    )
    found = results(poses, test, task.validation.skeleton)
    write_results(folder, found, len(task.labels))
    return score_poses(poses, task.validation, test), f"{RESULTS} with {counted(len(found), 'pose')}"
