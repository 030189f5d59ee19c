from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gsto_train.data.augment import SCALES, Augmentation, augment, normalize, resize
from gsto_train.data.samples import Sample

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def gradient_sample(height: int, width: int) -> Sample:
    """A picture whose red is its row and green its column, with labels that say the same."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    image = np.stack([rows, columns, np.full_like(rows, 7)], axis=-1)
    return Sample(image, (rows + columns) % 9, "gradient")


def drawn(sample: Sample, seed: int = 0, **settings: Any) -> Sample:
    return augment(sample, Augmentation(**settings), np.random.default_rng(seed))


def plain(crop: tuple[int, int]) -> dict[str, Any]:
    return {"crop": crop, "scales": (1.0,), "flip": False}


def test_the_scales_are_the_protocols() -> None:
    assert len(SCALES) == 17
    np.testing.assert_allclose(SCALES, np.arange(5, 22) / 10)


@given(sizes, sizes, st.none() | st.integers(1, 60), seeds)
def test_a_crop_has_exactly_its_size(
    size: tuple[int, int], crop: tuple[int, int], base_size: int | None, seed: int
) -> None:
    result = drawn(gradient_sample(*size), seed, crop=crop, base_size=base_size)
    assert result.image.shape == (*crop, 3)
    assert result.label.shape == crop
    assert result.image.flags.c_contiguous and result.label.flags.c_contiguous
    assert result.name == "gradient"


@given(sizes, sizes, seeds)
def test_at_scale_one_a_crop_is_a_part_of_the_picture(
    size: tuple[int, int], crop: tuple[int, int], seed: int
) -> None:
    sample = gradient_sample(*size)
    result = drawn(sample, seed, **plain(crop))
    height, width = min(size[0], crop[0]), min(size[1], crop[1])
    top, left = result.image[0, 0, 0], result.image[0, 0, 1]
    expected = sample.label[top : top + height, left : left + width]
    assert np.array_equal(result.label[:height, :width], expected)
    expected = sample.image[top : top + height, left : left + width]
    assert np.array_equal(result.image[:height, :width], expected)


def test_padding_is_right_and_bottom_black_and_ignored() -> None:
    sample = gradient_sample(4, 5)
    result = drawn(sample, **plain((6, 8)))
    assert np.array_equal(result.image[:4, :5], sample.image)
    assert (result.image[4:] == 0).all() and (result.image[:, 5:] == 0).all()
    assert (result.label[4:] == 255).all() and (result.label[:, 5:] == 255).all()


def test_every_place_of_the_crop_occurs() -> None:
    crops = [drawn(gradient_sample(6, 7), seed, **plain((4, 4))).image for seed in range(300)]
    corners = {tuple(crop[0, 0, :2].tolist()) for crop in crops}
    assert corners == {(row, column) for row in range(3) for column in range(4)}


@pytest.mark.parametrize(
    ("size", "base_size", "scale", "expected"),
    [
        ((30, 40), None, 0.5, (15, 20)),
        ((31, 41), None, 0.5, (16, 21)),
        ((30, 40), 50, 1.0, (38, 50)),
        ((40, 30), 50, 1.0, (50, 38)),
        ((30, 40), 25, 1.5, (29, 38)),
        ((30, 30), 25, 0.5, (13, 13)),
    ],
)
def test_the_picture_is_resized_to_its_long_side(
    size: tuple[int, int], base_size: int | None, scale: float, expected: tuple[int, int]
) -> None:
    sample = Sample(np.full((*size, 3), 200, np.uint8), np.zeros(size, np.uint8), "plain")
    result = drawn(sample, crop=(64, 64), base_size=base_size, scales=(scale,), flip=False)
    valid = result.label != 255
    assert (valid.any(axis=1).sum(), valid.any(axis=0).sum()) == expected
    assert (result.image[valid] == 200).all()


def test_images_are_resized_bilinearly_and_labels_by_nearest() -> None:
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 1] = 100
    sample = Sample(image, np.array([[3, 8]], np.uint8), "edge")
    result = drawn(sample, crop=(2, 4), scales=(2.0,), flip=False)
    assert result.image[0, :, 0].tolist() == [0, 25, 75, 100]
    assert result.label.tolist() == [[3, 3, 8, 8]] * 2


@given(sizes, st.integers(1, 60))
def test_resized_labels_are_those_of_floor(size: tuple[int, int], base_size: int) -> None:
    sample = gradient_sample(*size)
    result = drawn(sample, crop=(60, 60), base_size=base_size, scales=(1.0,), flip=False)
    valid = result.label != 255
    height, width = valid.any(axis=1).sum(), valid.any(axis=0).sum()
    rows = [i * size[0] // height for i in range(height)]
    columns = [j * size[1] // width for j in range(width)]
    assert np.array_equal(result.label[:height, :width], sample.label[np.ix_(rows, columns)])


@given(
    st.tuples(st.integers(1, 70), st.integers(1, 90)),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.sampled_from((*SCALES, 0.31, 3.7)),
    seeds,
)
def test_a_crop_is_that_of_the_whole_picture_resized_to_one_grey_level(
    size: tuple[int, int], crop: tuple[int, int], scale: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (*size, 3), np.uint8)
    sample = Sample(image, generator.integers(0, 9, size, np.uint8), "noise")
    cut = drawn(sample, seed, crop=crop, scales=(scale,))
    whole, label, top, left, mirrored = resized_then_placed(sample, seed, crop, scale)
    expected = np.zeros((*crop, 3), int), np.full(crop, 255)
    for array, source in zip(expected, (whole, label), strict=True):
        shown = source[top : top + crop[0], left : left + crop[1]]
        array[: shown.shape[0], : shown.shape[1]] = shown
    step = -1 if mirrored else 1
    assert np.abs(cut.image - expected[0][:, ::step]).max() <= 1
    assert np.array_equal(cut.label, expected[1][:, ::step])


def resized_then_placed(
    sample: Sample, seed: int, crop: tuple[int, int], scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int, int, bool]:
    """The whole picture and label at their size, and where the crop is: the four draws made anew."""
    generator = np.random.default_rng(seed)
    generator.integers(1)
    size = tuple(max(1, int(side * scale + 0.5)) for side in sample.label.shape)
    top, left = (int(generator.integers(max(0, a - b) + 1)) for a, b in zip(size, crop, strict=True))
    return *resize(sample, (size[0], size[1])), top, left, bool(generator.random() < 0.5)


def test_all_scales_are_drawn_alike() -> None:
    sample = Sample(np.zeros((10, 10, 3), np.uint8), np.zeros((10, 10), np.uint8), "plain")
    sides = [int((drawn(sample, seed, crop=(21, 21)).label != 255).any(axis=0).sum()) for seed in range(1000)]
    values, counts = np.unique(sides, return_counts=True)
    assert values.tolist() == list(range(5, 22))
    assert counts.min() > 30 and counts.max() < 95


def test_half_of_the_crops_are_mirrored() -> None:
    sample = gradient_sample(3, 4)
    flipped = 0
    for seed in range(400):
        result = drawn(sample, seed, crop=(3, 4), scales=(1.0,), flip=True)
        mirrored = result.image[0, 0, 1] == 3
        expected = sample.image[:, ::-1] if mirrored else sample.image
        assert np.array_equal(result.image, expected)
        assert np.array_equal(result.label, sample.label[:, ::-1] if mirrored else sample.label)
        flipped += mirrored
    assert 150 < flipped < 250


def test_padding_is_mirrored_too_because_the_flip_is_last() -> None:
    edges = set()
    for seed in range(40):
        result = drawn(gradient_sample(3, 4), seed, crop=(3, 6), scales=(1.0,), flip=True)
        edges.add((bool(result.label[0, 0] == 255), bool(result.label[0, -1] == 255)))
    assert edges == {(True, False), (False, True)}


@given(seeds)
def test_mirrored_crops_swap_the_classes_of_a_pair(seed: int) -> None:
    sample = gradient_sample(5, 5)
    pairs = ((0, 8), (2, 5))
    without = drawn(sample, seed, crop=(5, 5), scales=(1.0,), flip=True)
    swapped = drawn(sample, seed, crop=(5, 5), scales=(1.0,), flip=True, flip_pairs=pairs)
    mirrored = bool(swapped.image[0, 0, 1] == 4)
    names = {0: 8, 8: 0, 2: 5, 5: 2}
    expected = np.array([names.get(value, value) for value in range(9)])[without.label]
    assert np.array_equal(swapped.label, expected if mirrored else without.label)
    assert np.array_equal(swapped.image, without.image)


def test_turning_the_flip_off_leaves_scale_and_place_as_they_were() -> None:
    sample = gradient_sample(30, 30)
    for seed in range(20):
        still = drawn(sample, seed, crop=(8, 8), flip=False).image
        either = drawn(sample, seed, crop=(8, 8), flip=True).image
        assert np.array_equal(still, either) or np.array_equal(still, either[:, ::-1])


def test_normalisation_is_imagenets() -> None:
    image: NDArray[np.uint8] = np.arange(256 * 3).reshape(16, 16, 3).astype(np.uint8)
    expected = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    normalized = normalize(image)
    assert normalized.shape == (3, 16, 16) and normalized.dtype == np.float32
    assert normalized.flags.c_contiguous
    np.testing.assert_array_equal(normalized, expected.transpose(2, 0, 1).astype(np.float32))
