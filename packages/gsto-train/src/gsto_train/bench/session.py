"""One run of the command: which cases and subjects, in which order, and what came of them."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gsto_spec.locate import locate
from gsto_train import benchmarks
from gsto_train.bench import machine
from gsto_train.bench.cases import DEFAULT_BATCH, DEFAULT_SIZE, Case, Job, Size, growing
from gsto_train.bench.ceilings import Ceilings, Probe, ceilings, probes
from gsto_train.bench.engines import Place
from gsto_train.bench.material import write_cityscapes, write_coco
from gsto_train.bench.results import Measurements, rounds
from gsto_train.bench.rounds import Measured, measure
from gsto_train.bench.subjects import PLAIN, YARDSTICK, chosen_subjects
from gsto_train.bench.tasks import PERSONS, READERS, STREETS, Order
from gsto_train.data.cityscapes import Cityscapes
from gsto_train.errors import InputError, nearest
from gsto_train.resolve import title
from gsto_train.settings import resolve

ARCHITECTURE = "gsto-hrnet-w18-small-v2"
WRITTEN_STREETS = 3
WRITTEN_PERSONS = 24  # More than the reader of keypoints keeps in memory.

Note = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to measure; None takes the job's default.

    `data`: a folder of Cityscapes instead of drawn scenes.
    """

    job: Job
    architectures: tuple[str, ...]
    size: Size | None
    batch: int | None
    precisions: tuple[str, ...]
    device: str
    threads: int | None
    only: tuple[str, ...]
    rounds: int
    repeats: int | None
    ceilings: bool
    data: Path | None = None

    def check(self) -> None:
        """Raise `InputError` for what the job does not look at."""
        unused = {
            "--data": self.job != "data" and self.data,
            **{
                option: self.job == "data" and value
                for option, value in (
                    ("--architecture", self.architectures), ("--precision", self.precisions),
                    ("--batch", self.batch), ("--threads", self.threads),
                )
            },
        }  # fmt: skip
        for option, given in unused.items():
            if given:
                raise InputError(f"{option}: {self.job} does not look at it; leave it out")

    @property
    def place(self) -> Place:
        """Device and threads; the precision is the case's."""
        available = machine.processors()
        if self.threads is not None and self.threads > available:
            raise InputError(f"--threads: expected at most the {available} processors that there are, "
                             f"found {self.threads}")  # fmt: skip
        return Place(self.device, "", self.threads or available)

    @property
    def settings(self) -> dict[str, object]:
        """What results repeat of it: all but the folder, which means nothing elsewhere."""
        return {**asdict(self), "data": "a folder" if self.data else "drawn"}

    def cases(self) -> list[Case]:
        """Return every architecture at every precision. Raises what a wrong architecture raises."""
        if self.job == "data":
            return [_crops(name, self.size) for name in ((STREETS,) if self.data else (STREETS, PERSONS))]
        size, batch = self.size or DEFAULT_SIZE[self.job], self.batch or DEFAULT_BATCH[self.job]
        networks = {name: locate(name).to_json() for name in self.architectures or (ARCHITECTURE,)}
        return [
            Case(self.job, title(name), graph, *size, batch, precision)
            for name, graph in networks.items()
            for precision in self.precisions or ("float32",)
        ]


def _crops(benchmark: str, size: Size | None) -> Case:
    own = resolve(benchmarks.load(benchmark).values).data.crop
    return Case("data", benchmark, "", *(size or own), 1)


def run(request: Request, note: Note) -> Measurements:
    """Measure what is requested. Raises `InputError`, or what a wrong architecture raises."""
    request.check()
    cases, place, described = request.cases(), request.place, machine.describe()
    found = Measurements(request.settings, place.threads, described, ())
    match request.job:
        case "data":
            return replace(found, threads=1, measured=_data(request, cases, note))
        case "growth":
            return _growth(request, cases, place, found, note)
        case _:
            return _networks(request, cases, place, found, note)


def _networks(
    request: Request, cases: list[Case], place: Place, found: Measurements, note: Note
) -> Measurements:
    subjects = [subject.name for subject in chosen_subjects(request.only)]
    orders = [_order(case, name, place) for case in cases for name in subjects]
    probed = _probes(request, cases, place, subjects)
    measured = measure([*orders, *probed], rounds=request.rounds, runs=request.repeats, note=note)
    main, others = measured[: len(orders)], measured[len(orders) :]
    return replace(found, measured=main, limits=_limits(list(zip(probed.values(), others, strict=True))))


def _order(case: Case, subject: str, place: Place) -> Order:
    return Order(case, subject, replace(place, precision=case.precision))


def _probes(
    request: Request, cases: Sequence[Case], place: Place, subjects: Sequence[str]
) -> dict[Order, tuple[str, Probe]]:
    """What measures the ceilings of each precision: the first backend, fast where it is a subject."""
    plain = [name for name in subjects if name.endswith(f"-{PLAIN}")]
    prober = YARDSTICK if YARDSTICK in subjects else next(iter(plain), None)
    # Plain frameworks clear new memory for every map, and that would be taken for what the memory can do.
    quick = f"{(prober or '').rpartition('-')[0]}-fast"
    prober = quick if quick in subjects else prober
    if prober is None or not request.ceilings or request.job == "evaluation":
        return {}
    device = request.device if request.device != "auto" else ("cuda" if machine.card() else "cpu")
    first = {case.precision: case for case in reversed(cases)}
    return {
        _order(probe, prober, place): (precision, name)
        for precision, case in first.items()
        for name, probe in probes(case, device).items()
    }


def _limits(probed: Sequence[tuple[tuple[str, Probe], Measured]]) -> dict[str, Ceilings]:
    precisions = dict.fromkeys(precision for (precision, _), _ in probed)
    return {
        wanted: ceilings({
            name: (each.order.case, rounds(each))
            for (precision, name), each in probed if precision == wanted and each.ran
        })
        for wanted in precisions
    }  # fmt: skip


def _growth(
    request: Request, cases: list[Case], place: Place, found: Measurements, note: Note
) -> Measurements:
    """Subjects one after another: a process for every size of all of them would not fit into memory.

    Memory is measured by processes of their own, since what keeps freed memory is as large as chance has it.
    """
    if len(cases) > 1:
        raise InputError("growth: expected one architecture and one precision, found several")
    by_size, by_batch = growing(cases[0])
    measured: list[Measured] = []
    for subject in chosen_subjects(request.only):
        orders = [_order(case, subject.name, place) for case in dict.fromkeys([*by_size, *by_batch])]
        timed = measure(orders, rounds=request.rounds, runs=request.repeats, note=note)
        lean = measure([replace(order, gives_back=True) for order in orders], rounds=1, runs=1, note=note)
        measured += [
            each.with_memory_of(other) if each.ran and other.ran else each
            for each, other in zip(timed, lean, strict=True)
        ]
    return replace(found, measured=measured, groups={"size": by_size, "batch": by_batch})


def _data(request: Request, cases: list[Case], note: Note) -> list[Measured]:
    readers, place = _readers(request.only), Place("cpu", "float32", 1)
    with _pictures(request.data, note) as folders:
        orders = [
            Order(case, name, place, str(folders[case.architecture])) for case in cases for name in readers
        ]
        return measure(orders, rounds=request.rounds, runs=request.repeats or 1, note=note)


def _readers(only: Sequence[str]) -> tuple[str, ...]:
    known = tuple(READERS)
    for name in only:
        if name not in known:
            raise InputError(
                f"--only: expected one of {', '.join(known)}, found {name!r}{nearest(name, known)}"
            )
    return tuple(only) or known


@contextmanager
def _pictures(folder: Path | None, note: Note) -> Iterator[dict[str, Path]]:
    """Yield where the pictures of each benchmark are."""
    if folder is not None:
        Cityscapes(folder, "train")  # Else every process would say what is wrong with it.
        yield {STREETS: folder}
        return
    with tempfile.TemporaryDirectory(prefix="gsto-bench-") as temporary:
        folders = {name: Path(temporary) / name for name in (STREETS, PERSONS)}
        note(f"drawing {WRITTEN_STREETS} pictures of Cityscapes' size and {WRITTEN_PERSONS} of COCO's")
        write_cityscapes(folders[STREETS], WRITTEN_STREETS)
        write_coco(folders[PERSONS], WRITTEN_PERSONS)
        yield folders
