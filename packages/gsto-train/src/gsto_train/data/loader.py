"""From step to batch: a pure map, computed ahead of time by a few threads.

Sample number n of a run (n = step * batch + slot) is picture `permutation(seed, epoch)[n % count]` of
epoch n // count; an epoch that does not divide by the batch continues into the next one. Its augmentation
is drawn from (seed, epoch, index). So nothing depends on the number of threads, and a run resumes at any
step without loader state.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from gsto_train.data.augment import Augmentation, augment, normalize
from gsto_train.data.samples import Dataset, Sample

T = TypeVar("T")

# The last word of every seed: never 0, because numpy pads a seed with zeros and [1, 2] is [1, 2, 0].
_ORDER_STREAM = 1
AUGMENTATION_STREAM = 2

BATCHES_AHEAD = 2

PATIENCE = 1.0
"""Seconds between looks at the threads while a sample is waited for."""


class LoaderError(RuntimeError):
    """The threads that load samples cannot go on; not the data's fault."""


@dataclass(frozen=True, eq=False)
class LoadedBatch:
    """Pictures ready for a network.

    `image` is (N, 3, H, W) normalised float32, `label` (N, H, W) int64 with 255 for ignore, `names` the
    samples' names, `step` the training step (or the batch's number), `epoch` that of the first sample.
    """

    image: NDArray[np.float32]
    label: NDArray[np.int64]
    names: tuple[str, ...]
    step: int
    epoch: int

    @property
    def inputs(self) -> dict[str, NDArray[Any]]:
        """What a trainer takes."""
        return {"image": self.image, "label": self.label}


def sample_at(position: int, *, count: int, seed: int) -> tuple[int, int]:
    """Return (epoch, index) of sample number `position` of a run over `count` pictures."""
    epoch, place = divmod(position, count)
    return epoch, int(_permutation(count, seed, epoch)[place])


def training_batches(
    dataset: Dataset,
    augmentation: Augmentation,
    *,
    batch: int,
    seed: int,
    start_step: int,
    total_steps: int,
    threads: int,
    slots: range | None = None,
) -> Generator[LoadedBatch]:
    """Yield the batches of steps start_step .. total_steps - 1, in order, loading two batches ahead.

    Of each batch only the samples `slots` are loaded (None: all): those of one process of several. What a
    sample raises reaches the consumer when its batch is due, with a note that tells which sample. Raises
    `LoaderError` where the threads end. Closing the iterator ends them.
    """
    slots = slots or range(batch)

    def load(position: int) -> _Loaded:
        epoch, index = sample_at(position, count=len(dataset), seed=seed)
        generator = np.random.default_rng([seed, epoch, index, AUGMENTATION_STREAM])
        with noting(f"epoch {epoch}, sample {index}"):
            sample = dataset[index]
        with noting(f"epoch {epoch}, sample {index}: {sample.name}"):
            return _Loaded.of(augment(sample, augmentation, generator))

    positions = sample_positions(range(start_step, total_steps), batch, slots)
    with closing(in_order(load, positions, threads=threads, ahead=BATCHES_AHEAD * len(slots))) as loaded:
        for step in range(start_step, total_steps):
            group = [next(loaded) for _ in slots]
            yield _stack(group, step, step * batch // len(dataset))


def sample_positions(steps: range, batch: int, slots: range) -> Iterator[int]:
    """Yield the numbers of the samples `slots` of every step's batch."""
    return (step * batch + slot for step in steps for slot in slots)


def evaluation_batches(
    dataset: Dataset, *, batch: int, threads: int, indices: range | None = None
) -> Generator[LoadedBatch]:
    """Yield every whole picture of `indices` (None: all) once, in order.

    A batch holds up to `batch` neighbours of one size.
    """

    def load(index: int) -> _Loaded:
        with noting(f"sample {index}"):
            return _Loaded.of(dataset[index])

    step, group = 0, list[_Loaded]()
    positions = range(len(dataset)) if indices is None else indices
    with closing(in_order(load, positions, threads=threads, ahead=BATCHES_AHEAD * batch)) as loaded:
        for sample in loaded:
            if group and (len(group) == batch or sample.label.shape != group[0].label.shape):
                yield _stack(group, step, 0)
                step, group = step + 1, []
            group.append(sample)
    if group:
        yield _stack(group, step, 0)


@dataclass(frozen=True, eq=False)
class _Loaded:
    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    name: str

    @classmethod
    def of(cls, sample: Sample) -> "_Loaded":
        return cls(normalize(sample.image), sample.label, sample.name)


def _stack(group: Sequence[_Loaded], step: int, epoch: int) -> LoadedBatch:
    return LoadedBatch(
        image=np.stack([sample.image for sample in group]),
        label=np.stack([sample.label for sample in group]).astype(np.int64),
        names=tuple(sample.name for sample in group),
        step=step,
        epoch=epoch,
    )


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch, _ORDER_STREAM]).permutation(count)


def in_order(load: Callable[[int], T], positions: Iterable[int], *, threads: int, ahead: int) -> Generator[T]:
    """Yield load(position) for every position in order, with at most `ahead` of them under way.

    Raises `LoaderError` where a thread cannot be started or has ended.
    """
    workers = list[threading.Thread]()
    started = partial(_note_worker, workers)
    with _one_thread_per_call(), ThreadPoolExecutor(threads, "gsto-loader", started) as pool:
        pending = deque[Future[T]]()
        try:
            for position in positions:
                pending.append(_submit(pool, load, position))
                if len(pending) == ahead:
                    yield _result(pending.popleft(), workers)
            while pending:
                yield _result(pending.popleft(), workers)
        finally:
            pool.shutdown(wait=_all_alive(workers), cancel_futures=True)


def _note_worker(workers: list[threading.Thread]) -> None:
    workers.append(threading.current_thread())


def _all_alive(workers: Sequence[threading.Thread]) -> bool:
    return all(worker.is_alive() for worker in workers)


def _submit(pool: ThreadPoolExecutor, load: Callable[[int], T], position: int) -> Future[T]:
    try:
        return pool.submit(load, position)
    except RuntimeError as error:  # No more threads may be started, or the pool is broken.
        raise LoaderError(f"no thread to load samples with: {error}; give a smaller train.threads") from error


def _result(future: Future[T], workers: Sequence[threading.Thread]) -> T:
    """Wait for a sample, but not for a thread that is no more."""
    while not wait([future], PATIENCE).done:
        if not _all_alive(workers):
            raise LoaderError("a thread that loads samples has ended; its sample will never come")
    error = future.exception()
    if error is not None and not isinstance(error, Exception):  # SystemExit and the like end a thread.
        told = "; ".join([repr(error), *getattr(error, "__notes__", ())])
        raise LoaderError(f"a thread that loads samples was ended: {told}") from error
    return future.result()


@contextmanager
def _one_thread_per_call() -> Iterator[None]:
    """Keep cv2 from starting threads of its own inside each of ours."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


@contextmanager
def noting(which: str) -> Iterator[None]:
    """Note on what is raised inside which sample was being loaded."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"while loading {which}")
        raise
