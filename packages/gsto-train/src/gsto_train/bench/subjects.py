"""Who is measured: installed backends at their speeds, and inference engines on the exported graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from numpy.typing import NDArray

import gsto_spec
from gsto_spec import Graph
from gsto_spec.backend import Backend, Predictor, Speed, Trainer, Training, backend, backends, resolve_device
from gsto_train.absence import Absent
from gsto_train.bench.engines import ENGINES, Place, engine
from gsto_train.errors import InputError, nearest
from gsto_train.run.environment import describe_environment

Weights = Mapping[str, NDArray[Any]]

PLAIN = "plain"
SPEEDS: tuple[str, ...] = get_args(Speed)
EXPORTS = (PLAIN, "optimized")
YARDSTICK = "torch-plain"
"""The subject that all others are told in multiples of, where it runs: the networks as they were released."""


@dataclass(frozen=True)
class Subject:
    """`MAKER-MANNER`: a backend at one of `SPEEDS`, or an engine on one of `EXPORTS`."""

    maker: str
    manner: str

    @property
    def name(self) -> str:
        """How it is called in tables and by `--only`."""
        return f"{self.maker}-{self.manner}"

    @property
    def is_engine(self) -> bool:
        """Whether it takes an exported graph."""
        return self.maker in ENGINES

    def predictor(self, graph: Graph, weights: Weights, place: Place) -> Predictor:
        """Make what predicts. Raises `Absent`, or whatever the subject fails with."""
        if self.is_engine:
            if self.manner != PLAIN:
                graph, weights = gsto_spec.optimize(graph, weights)
            return engine(self.maker, graph, weights, place)
        found, speed = self._backend()
        return found.predictor(graph, weights, device=place.device, precision=place.precision, speed=speed)

    def trainer(self, graph: Graph, weights: Weights, training: Training, place: Place) -> Trainer:
        """Make what trains. Raises `Absent`, or whatever the subject fails with."""
        if self.is_engine:
            raise Absent("does not train")
        found, speed = self._backend()
        return found.trainer(
            graph, weights, training, device=place.device, precision=place.precision, speed=speed
        )

    def _backend(self) -> tuple[Backend, Speed]:
        found = backend(self.maker)
        speed = next((each for each in found.speeds if each == self.manner), None)
        if speed is None:
            raise Absent(f"its backend's speeds are {', '.join(found.speeds)}")
        return found, speed

    def environment(self) -> dict[str, object]:
        """Return what it computes with, ready for JSON; of an engine its version is in the packages."""
        return {} if self.is_engine else describe_environment(backend(self.maker))

    def device(self, place: Place) -> str:
        """Return the device that it computes on."""
        if self.is_engine:
            return "cpu" if place.device == "auto" else place.device
        found: Backend = backend(self.maker)
        return resolve_device(found, place.device, place.precision)


def known_subjects() -> tuple[Subject, ...]:
    """Return every subject of what is installed, and the engines, which may not be; the yardstick first."""
    found = [Subject(maker, manner) for maker in backends() for manner in SPEEDS]
    found += [Subject(maker, manner) for maker in ENGINES for manner in EXPORTS]
    return tuple(sorted(found, key=lambda subject: (subject.is_engine, subject.maker != _released())))


def _released() -> str:
    return YARDSTICK.rpartition("-")[0]


def chosen_subjects(names: Sequence[str]) -> tuple[Subject, ...]:
    """Return the subjects of these names, without any all known ones; raises `InputError`.

    `module:attribute-plain` is a backend of one's own.
    """
    known = {subject.name: subject for subject in known_subjects()}
    return tuple(_chosen(name, known) for name in names) if names else tuple(known.values())


def _chosen(name: str, known: Mapping[str, Subject]) -> Subject:
    maker, _, manner = name.rpartition("-")
    if ":" in maker and manner in SPEEDS:
        return Subject(maker, manner)
    if name not in known:
        listed = ", ".join(known)
        raise InputError(f"--only: expected one of {listed}, found {name!r}{nearest(name, known)}")
    return known[name]
