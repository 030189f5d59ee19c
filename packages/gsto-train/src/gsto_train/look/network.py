"""A trained network opened to be looked at: its task, its labels and their colours, its predictors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gsto_spec.backend import Backend, Predictor
from gsto_spec.graph import Graph
from gsto_train import benchmarks, cards, resolve
from gsto_train.data import cityscapes, lip, pascal_context
from gsto_train.data.classes import class_names, read_classes
from gsto_train.data.palette import default_palette
from gsto_train.data.samples import Palette
from gsto_train.data.scenes import GeneratedScenes
from gsto_train.errors import InputError
from gsto_train.pose.skeleton import COCO_JOINTS
from gsto_train.run import runfolder
from gsto_train.scoring import CheckedPredictor, ScoringRequest, Subject, open_subject
from gsto_train.settings import KEYPOINTS, DataSettings, Settings
from gsto_train.settings import resolve as resolve_settings

UNKNOWN = "folder"
"""The benchmark whose test procedure, whole pictures as they are, is taken where nothing says another."""


@dataclass(frozen=True)
class Network:
    """A network with what is known of it; `labels` are classes, or joints where it finds `poses`."""

    source: Path
    title: str
    graph: Graph
    weights: Mapping[str, NDArray[Any]] = field(repr=False)
    backend: Backend
    settings: Settings
    benchmark: str
    labels: tuple[str, ...]
    palette: Palette
    notes: tuple[str, ...] = ()

    @property
    def poses(self) -> bool:
        """Whether it finds joints."""
        return self.settings.data.kind in KEYPOINTS

    def predictor(self, graph: Graph | None = None) -> Predictor:
        """Return a predictor, of a part of the network where `graph` is one (`gsto_spec.features`).

        It raises `InputError` for a size that does not fit.
        """
        graph, train = graph or self.graph, self.settings.train
        weights = {name: self.weights[name] for name in graph.parameters}
        predictor = self.backend.predictor(graph, weights, device=train.device, precision=train.precision)
        return CheckedPredictor(graph, predictor)


def open_network(request: ScoringRequest) -> Network:
    """Return the network that `request.source` is or holds; raises `InputError` or gsto_spec's error."""
    subject = open_subject(request)
    benchmark, settings, notes = _settings(request, subject)
    name = request.backend or subject.backend
    if name is None:
        raise InputError(f"{request.source}: names no backend; give one with --backend, torch or jax")
    backend = resolve.load_backend(name)
    resolve.check_choices(backend, settings.train.precision, settings.train.device)
    graph = subject.model.graph
    if list(graph.inputs.values()) != [3]:
        raise InputError(f"{request.source}: expected a network with one input of 3 channels; give another")
    labels = _labels(request.source, subject, settings, _channels(graph))
    return Network(
        source=request.source,
        title=resolve.title(subject.architecture),
        graph=graph,
        weights=subject.model.weights,
        backend=backend,
        settings=settings,
        benchmark=benchmark,
        labels=labels,
        palette=_colours(len(labels), cards.palette_of(subject.model.card), _palette(settings.data)),
        notes=(*subject.model.notes, *notes),
    )


def _settings(request: ScoringRequest, subject: Subject) -> tuple[str, Settings, tuple[str, ...]]:
    """Return a benchmark, its settings and what to say: those asked for, the run's, or the card's."""
    if request.benchmark is None and subject.values is not None:
        return str(subject.benchmark), resolve_settings(subject.values, request.overrides), ()
    recorded, notes = subject.model.card.get("benchmark"), tuple[str, ...]()
    known = recorded if recorded in benchmarks.names() else None
    if request.benchmark is None and known is None:
        notes = (
            f"{request.source} says nothing of its test procedure: whole pictures as they are, a class for "
            "every pixel; --benchmark names another",
        )
    benchmark = benchmarks.load(request.benchmark or known or UNKNOWN)
    return benchmark.name, resolve_settings(benchmark.values, request.overrides), notes


def _channels(graph: Graph) -> int:
    channels = graph.shapes[next(iter(graph.outputs.values()))][1]
    assert isinstance(channels, int)
    return channels


def _labels(source: Path, subject: Subject, settings: Settings, channels: int) -> tuple[str, ...]:
    """Return a name for each channel: the card's, the run's, the data set's; numbers where none fits."""
    told = [cards.names_of(subject.model.card)]
    if runfolder.is_run(source):
        told.append(cards.names_of(runfolder.RunFolder(source).read(runfolder.CONFIG)))
    fitting = (names for names in (*told, _names(settings.data)) if names and len(names) == channels)
    return next(fitting, None) or class_names(channels)


def _names(data: DataSettings) -> tuple[str, ...]:
    match data.kind:
        case "cityscapes":
            return cityscapes.TABLE.names
        case "lip":
            return lip.TABLE.names
        case "pascal-context":
            return pascal_context.CLASSES[-data.context_classes :]
        case "figures" | "keypoints":
            return COCO_JOINTS
        case "scenes":
            return GeneratedScenes(1).classes
        case "list":
            return data.classes or ()


def _colours(classes: int, *told: Palette | None) -> Palette:
    """Return the first colours that are as many as the classes; those of this package where none are."""
    fitting = (palette for palette in told if palette is not None and len(palette) == classes)
    return next(fitting, default_palette(classes))


def _palette(data: DataSettings) -> Palette | None:
    """Return the colours of the data set's own, as far as they are known without its pictures."""
    match data.kind:
        case "cityscapes":
            return cityscapes.TABLE.palette
        case "scenes":
            return GeneratedScenes(1).palette
        case "list" if data.folder is not None:
            try:
                return read_classes(data.folder).palette
            except InputError:
                return None
        case _:
            return None
