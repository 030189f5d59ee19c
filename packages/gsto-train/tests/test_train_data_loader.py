import threading
import time
import tracemalloc
from collections.abc import Generator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsto_train.data.augment import Augmentation, augment, normalize
from gsto_train.data.loader import LoadedBatch, evaluation_batches, sample_at, training_batches
from gsto_train.data.samples import Palette, Sample

AUGMENTATION = Augmentation(crop=(8, 12), scales=(0.5, 1.0, 1.5))


class Pictures:
    """Small random pictures of given sizes; it notes what is read, and fails where told to."""

    classes = ("one", "two", "three")
    palette: Palette = ((0, 0, 0), (1, 1, 1), (2, 2, 2))

    def __init__(self, sizes: list[tuple[int, int]], broken: int | None = None) -> None:
        self.sizes, self.broken, self.read = sizes, broken, list[int]()

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        if index == self.broken:
            raise RuntimeError("this disk is full of holes")
        generator = np.random.default_rng(index)
        image = generator.integers(0, 256, (*self.sizes[index], 3), np.uint8)
        return Sample(image, generator.integers(0, 3, self.sizes[index], np.uint8), f"picture {index}")


def dataset(count: int = 7, **settings: int) -> Pictures:
    return Pictures([(10, 12)] * count, **settings)


def train(
    pictures: Pictures, start: int = 0, total: int = 6, threads: int = 2, seed: int = 5
) -> Generator[LoadedBatch]:
    return training_batches(
        pictures, AUGMENTATION, batch=3, seed=seed, start_step=start, total_steps=total, threads=threads
    )


def bytes_of(batches: list[LoadedBatch]) -> list[tuple[object, ...]]:
    return [(b.image.tobytes(), b.label.tobytes(), b.names, b.step, b.epoch) for b in batches]


def test_a_batch_is_ready_for_a_network() -> None:
    batch = next(train(dataset()))
    assert batch.image.shape == (3, 3, 8, 12) and batch.image.dtype == np.float32
    assert batch.label.shape == (3, 8, 12) and batch.label.dtype == np.int64
    assert len(batch.names) == 3 and (batch.step, batch.epoch) == (0, 0)


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_the_number_of_threads_does_not_matter(threads: int) -> None:
    expected = bytes_of(list(train(dataset(), threads=2)))
    assert bytes_of(list(train(dataset(), threads=threads))) == expected


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_starting_at_a_step_is_skipping_the_steps_before_it(start: int) -> None:
    assert bytes_of(list(train(dataset(), start=start))) == bytes_of(list(train(dataset())))[start:]


def test_a_run_may_end_where_it_starts() -> None:
    assert list(train(dataset(), start=6)) == []


def test_the_seed_changes_order_and_augmentation() -> None:
    first, second = (list(train(dataset(), seed=seed)) for seed in (5, 6))
    assert [b.names for b in first] != [b.names for b in second]
    assert bytes_of(list(train(dataset(), seed=5))) == bytes_of(first)


def test_a_sample_is_a_function_of_seed_epoch_and_index() -> None:
    """Not of the size of the data set, the batch, or the place in it."""
    pictures = dataset()
    for batch in train(pictures, total=8):
        for slot, name in enumerate(batch.names):
            epoch, index = sample_at(batch.step * 3 + slot, count=7, seed=5)
            sample = augment(pictures[index], AUGMENTATION, np.random.default_rng([5, epoch, index, 2]))
            assert name == f"picture {index}"
            assert np.array_equal(batch.image[slot], normalize(sample.image))
            assert np.array_equal(batch.label[slot], sample.label)


def test_a_picture_is_augmented_anew_in_every_epoch() -> None:
    batches = list(train(Pictures([(10, 12)] * 3), total=5))
    assert [batch.epoch for batch in batches] == [0, 1, 2, 3, 4]
    crops = {batch.image[batch.names.index("picture 1")].tobytes() for batch in batches}
    assert len(crops) > 1


@given(st.integers(1, 20), st.integers(0, 2**40), st.integers(0, 50))
def test_every_epoch_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    places = [sample_at(epoch * count + place, count=count, seed=seed) for place in range(count)]
    assert {found for found, _ in places} == {epoch}
    assert sorted(index for _, index in places) == list(range(count))


def test_epochs_have_orders_of_their_own() -> None:
    orders = {tuple(sample_at(e * 30 + p, count=30, seed=0)[1] for p in range(30)) for e in range(10)}
    assert len(orders) == 10


def test_an_epoch_that_does_not_divide_by_the_batch_continues_into_the_next() -> None:
    names = [name for batch in train(dataset(7), total=7) for name in batch.names]
    assert [batch.epoch for batch in train(dataset(7), total=7)] == [0, 0, 0, 1, 1, 2, 2]
    for epoch in range(3):
        assert sorted(names[7 * epoch : 7 * epoch + 7]) == [f"picture {index}" for index in range(7)]


def test_loading_runs_at_most_two_batches_ahead() -> None:
    pictures = dataset()
    batches = train(pictures, total=50)
    for taken in range(1, 5):
        next(batches)
        assert 3 * taken <= len(pictures.read) <= 3 * taken + 2 * 3
    batches.close()


def test_closing_early_ends_the_threads() -> None:
    before = threading.active_count()
    pictures = dataset()
    batches = train(pictures, total=1000)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before
    assert len(pictures.read) < 15


def test_closing_early_drops_what_is_not_begun() -> None:
    closing = threading.Event()

    class Slow(Pictures):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            if len(self.read) > 3:
                closing.wait()
                time.sleep(0.2)
            return sample

    pictures = Slow([(10, 12)] * 7)
    batches = train(pictures, total=1000, threads=1)
    next(batches)
    closing.set()
    batches.close()
    assert len(pictures.read) <= 4


def test_an_error_reaches_the_consumer_with_the_sample_that_made_it() -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="this disk is full of holes") as caught:
        list(train(dataset(broken=4)))
    assert caught.value.__notes__ == ["while loading epoch 0, sample 4"]
    assert threading.active_count() == before


def test_an_error_of_augmentation_names_the_picture() -> None:
    class Misshapen(Pictures):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return Sample(sample.image[..., :0], sample.label, sample.name) if index == 2 else sample

    with pytest.raises(Exception) as caught:
        list(train(Misshapen([(10, 12)] * 7)))
    assert "sample 2: picture 2" in caught.value.__notes__[0]


def test_batches_before_a_broken_sample_still_come() -> None:
    whole = bytes_of(list(train(dataset())))
    position = next(p for p in range(7) if sample_at(p, count=7, seed=5)[1] == 4)
    batches = train(dataset(broken=4), threads=8)
    assert bytes_of([next(batches) for _ in range(position // 3)]) == whole[: position // 3]
    with pytest.raises(RuntimeError):
        next(batches)


@given(st.lists(st.sampled_from([(4, 5), (4, 6)]), max_size=12), st.integers(1, 5), st.integers(1, 3))
def test_evaluation_reads_every_picture_once_in_order(
    sizes: list[tuple[int, int]], batch: int, threads: int
) -> None:
    pictures = Pictures(sizes)
    batches = list(evaluation_batches(pictures, batch=batch, threads=threads))
    assert [name for b in batches for name in b.names] == [f"picture {i}" for i in range(len(sizes))]
    assert [b.step for b in batches] == list(range(len(batches)))
    assert all(len(b.names) <= batch for b in batches)
    for b, following in pairwise(batches):
        assert len(b.names) == batch or b.label.shape[1:] != following.label.shape[1:]


def test_evaluation_gives_whole_pictures_unchanged() -> None:
    pictures = Pictures([(4, 5), (4, 5), (6, 3)])
    batches = list(evaluation_batches(pictures, batch=2, threads=2))
    assert [b.image.shape for b in batches] == [(2, 3, 4, 5), (1, 3, 6, 3)]
    assert np.array_equal(batches[1].image[0], normalize(pictures[2].image))
    assert np.array_equal(batches[1].label[0], pictures[2].label)
    assert batches[1].label.dtype == np.int64


def test_evaluation_does_not_hold_the_whole_data_set() -> None:
    pictures = Pictures([(100, 100)] * 60)
    tracemalloc.start()
    for _ in evaluation_batches(pictures, batch=2, threads=1):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 * 100 * 100 * 3 * 4


def test_an_error_in_evaluation_tells_which_sample() -> None:
    with pytest.raises(RuntimeError) as caught:
        list(evaluation_batches(dataset(broken=5), batch=2, threads=2))
    assert caught.value.__notes__ == ["while loading sample 5"]
