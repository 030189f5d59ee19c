"""Test procedures: windows, scales and mirrored pictures, against the definition and their symmetries."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gsto_spec.reference import resize_bilinear
from gsto_train.segmentation.procedures import WHOLE, Aggregation, Procedure, class_planes, largest, starts

Floats = NDArray[np.floating[Any]]

SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 24)
AGGREGATIONS: tuple[Aggregation, ...] = ("logits", "probabilities", "exponentials")
aggregations = st.sampled_from(AGGREGATIONS)
BLACK = -np.array([0.485, 0.456, 0.406]) / np.array([0.229, 0.224, 0.225])


class Network:
    """A predictor that is a function, and remembers the pictures it was given."""

    def __init__(self, function: Callable[[Floats], Floats]) -> None:
        self._function = function
        self.seen: list[Floats] = []

    def predict(self, images: Floats) -> dict[str, Floats]:
        self.seen.append(images)
        return {"stage4": self._function(images), "stage3": np.zeros((1, 1, 1, 1))}


def pixelwise(seed: int, classes: int = 4, stride: int = 1) -> Callable[[Floats], Floats]:
    """A convolution of 1x1."""
    weight = np.random.default_rng(seed).standard_normal((classes, 3))
    return lambda images: np.einsum("kc,nchw->nkhw", weight, images[:, :, ::stride, ::stride])


def lopsided(seed: int, stride: int = 4) -> Callable[[Floats], Floats]:
    """A network that no symmetry holds for: it looks at its left neighbour, and at where it is."""
    linear = pixelwise(seed)

    def function(images: Floats) -> Floats:
        shifted = np.roll(images, 1, axis=3) * np.linspace(0, 1, images.shape[3])
        return linear(shifted)[:, :, ::stride, ::stride] + linear(images)[:, :, ::stride, ::stride]

    return function


def pictures(seed: int, height: int, width: int, count: int = 2) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, 3, height, width))


def scores(
    network: Network, images: Floats, procedure: Procedure, size: tuple[int, int] | None = None,
    align_corners: bool = False,
) -> Floats:  # fmt: skip
    size = size or (images.shape[2], images.shape[3])
    return np.stack([*class_planes(network, images, procedure, size, align_corners=align_corners)], axis=1)


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def by_hand(
    function: Callable[[Floats], Floats], images: Floats, procedure: Procedure, scale: float,
    align_corners: bool,
) -> Floats:  # fmt: skip
    """The scores of one scale, as the definition says, with every array in full."""
    height, width = images.shape[2:]
    tall, wide = int(height * scale + 0.5), int(width * scale + 0.5)
    if procedure.size is not None:
        tall, wide = (int(side * scale + 0.5) for side in procedure.size)
    scaled = np.stack(
        [
            cv2.resize(image.transpose(1, 2, 0), (wide, tall), interpolation=cv2.INTER_LINEAR)
            for image in images
        ]
    ).transpose(0, 3, 1, 2)
    window = procedure.window if procedure.window and scale > procedure.window_above else (tall, wide)
    step = procedure.stride or window
    padded = np.zeros((len(images), 3, max(tall, window[0]), max(wide, window[1])))
    padded += BLACK[:, None, None]
    padded[:, :, :tall, :wide] = scaled
    total, count = np.zeros((len(images), 4, *padded.shape[2:])), np.zeros(padded.shape[2:])
    tops = range(0, padded.shape[2] - window[0] + step[0], step[0])
    lefts = range(0, padded.shape[3] - window[1] + step[1], step[1])
    for first_row in tops:
        for first_column in lefts:
            top = min(first_row, padded.shape[2] - window[0])
            left = min(first_column, padded.shape[3] - window[1])
            place = np.s_[top : top + window[0], left : left + window[1]]
            cut = padded[:, :, *place]
            logits = [resize_bilinear(function(cut), window, align_corners)]
            if procedure.flip:
                other = resize_bilinear(function(cut[..., ::-1]), window, align_corners)[..., ::-1]
                order = [0, 1, 2, 3]
                for one, two in procedure.flip_pairs:
                    order[one], order[two] = two, one
                logits.append(other[:, order])
            if procedure.aggregation == "probabilities":
                total[:, :, *place] += np.mean([softmax(each) for each in logits], axis=0)
            else:
                mean = np.mean(logits, axis=0)
                total[:, :, *place] += np.exp(mean) if procedure.aggregation == "exponentials" else mean
            count[place] += 1
    return np.asarray((total / count)[:, :, :tall, :wide])


@given(
    st.tuples(st.integers(4, 20), st.integers(4, 20)),
    st.lists(st.sampled_from([0.5, 0.75, 1.0, 1.25, 1.75]), min_size=1, max_size=3),
    st.none() | st.tuples(st.integers(3, 16), st.integers(3, 16)),
    st.floats(0.3, 1.0),
    st.sampled_from([0.0, 1.0]),
    st.booleans(),
    aggregations,
    st.booleans(),
    SEEDS,
)
@settings(max_examples=150, deadline=None)
def test_scores_are_those_of_the_definition(
    size: tuple[int, int],
    scales: list[float],
    window: tuple[int, int] | None,
    part: float,
    above: float,
    flip: bool,
    aggregation: Aggregation,
    corners: bool,
    seed: int,
) -> None:
    stride = (max(1, int(window[0] * part)), max(1, int(window[1] * part))) if window else None
    procedure = Procedure(
        scales=tuple(scales), window=window, stride=stride, window_above=above if window else 0.0,
        flip=flip, flip_pairs=((1, 2),), aggregation=aggregation,
    )  # fmt: skip
    images, function = pictures(seed, *size), lopsided(seed, stride=1)
    found = scores(Network(function), images, procedure, align_corners=corners)
    expected = sum(
        resize_bilinear(by_hand(function, images, procedure, scale, corners), size, corners)
        for scale in scales
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@given(SIDES, SIDES, SEEDS, st.booleans())
def test_by_default_the_logits_are_resized_once(height: int, width: int, seed: int, corners: bool) -> None:
    images, function = pictures(seed, height, width), lopsided(seed)
    found = scores(Network(function), images, WHOLE, (17, 9), corners)
    np.testing.assert_allclose(found, resize_bilinear(function(images), (17, 9), corners), atol=1e-12)


@given(SIDES, SIDES, st.integers(1, 9), st.integers(1, 9), st.data(), aggregations, SEEDS)
@settings(max_examples=100)
def test_windows_of_a_pixelwise_network_give_what_the_whole_picture_does(
    height: int, width: int, tall: int, wide: int, data: Any, aggregation: Aggregation, seed: int
) -> None:
    stride = data.draw(st.tuples(st.integers(1, tall), st.integers(1, wide)))
    images, function = pictures(seed, height, width), pixelwise(seed)
    windows = Procedure(window=(tall, wide), stride=stride, aggregation=aggregation)
    whole = scores(Network(function), images, Procedure(aggregation=aggregation))
    np.testing.assert_allclose(scores(Network(function), images, windows), whole, rtol=1e-12, atol=1e-12)


@given(SIDES, SIDES, aggregations, SEEDS)
def test_mirroring_changes_nothing_for_a_symmetric_network(
    height: int, width: int, aggregation: Aggregation, seed: int
) -> None:
    images, function = pictures(seed, height, width), pixelwise(seed)
    plain, flipped = (
        scores(Network(function), images, Procedure(flip=flip, aggregation=aggregation))
        for flip in (False, True)
    )
    np.testing.assert_allclose(flipped, plain, rtol=1e-12)


@given(SIDES, SIDES, aggregations, SEEDS)
def test_a_mirrored_picture_scores_the_mirror_image_with_sides_swapped(
    height: int, width: int, aggregation: Aggregation, seed: int
) -> None:
    procedure = Procedure(flip=True, flip_pairs=((1, 3),), aggregation=aggregation)
    images, function = pictures(seed, height, width), lopsided(seed)
    found = scores(Network(function), images, procedure)
    mirrored = scores(Network(function), np.ascontiguousarray(images[..., ::-1]), procedure)
    np.testing.assert_allclose(mirrored[:, [0, 3, 2, 1], :, ::-1], found, rtol=1e-9, atol=1e-9)


@given(SIDES, SIDES, aggregations, SEEDS)
def test_every_aggregation_of_one_whole_scale_has_the_same_classes(
    height: int, width: int, aggregation: Aggregation, seed: int
) -> None:
    images, function = pictures(seed, height, width), lopsided(seed)
    found, plain = (
        largest(iter(scores(Network(function), images, procedure).swapaxes(0, 1)))
        for procedure in (Procedure(aggregation=aggregation), WHOLE)
    )
    np.testing.assert_array_equal(found, plain)


@given(SEEDS, st.permutations([0.5, 1.0, 1.5]))
def test_the_order_of_scales_does_not_matter(seed: int, order: list[float]) -> None:
    images, function = pictures(seed, 12, 10), lopsided(seed)
    found, expected = (
        scores(Network(function), images, Procedure(scales=scales, aggregation="probabilities"))
        for scales in (tuple(order), (0.5, 1.0, 1.5))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_probabilities_and_exponentials_weigh_scales_differently() -> None:
    """A scale with large logits decides among exponentials; probabilities are one vote each."""

    def sure_when_small(images: Floats) -> Floats:
        small = images.shape[3] < 8
        logits = (10.0, 9.0) if small else (0.0, 2.0)
        return np.broadcast_to(np.array(logits)[:, None, None], (1, 2, *images.shape[2:])).copy()

    def answer(aggregation: Aggregation) -> int:
        procedure = Procedure(scales=(0.5, 1.0), aggregation=aggregation)
        planes = class_planes(
            Network(sure_when_small), np.zeros((1, 3, 8, 8)), procedure, (8, 8), align_corners=False
        )
        return int(largest(planes)[0, 0, 0])

    assert answer("exponentials") == 0
    assert answer("probabilities") == 1


def test_large_logits_stay_finite() -> None:
    images = np.zeros((1, 3, 4, 4), np.float32)

    def large(images: Floats) -> Floats:
        return np.full((1, 2, 4, 4), 300, np.float32) + np.array([0, 1], np.float32)[:, None, None]

    for aggregation in AGGREGATIONS:
        found = scores(Network(large), images, Procedure(flip=True, aggregation=aggregation))
        assert np.isfinite(found).all()
        assert (found[:, 1] > found[:, 0]).all()


@pytest.mark.parametrize(
    ("length", "window", "stride", "expected"),
    [
        (10, 10, 3, [0]),
        (11, 10, 3, [0, 1]),
        (16, 10, 6, [0, 6]),
        (17, 10, 6, [0, 6, 7]),
        (2560, 2048, 2048, [0, 512]),
    ],
)
def test_the_last_window_is_moved_back_inside(
    length: int, window: int, stride: int, expected: list[int]
) -> None:
    assert starts(length, window, stride) == expected


@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_windows_cover_a_picture_once_begun_nowhere_twice(length: int, window: int, data: Any) -> None:
    length = max(length, window)
    found = starts(length, window, data.draw(st.integers(1, window)))
    covered = {index for start in found for index in range(start, start + window)}
    assert covered == set(range(length))
    assert found == sorted(set(found))


def shapes(procedure: Procedure, height: int, width: int) -> list[tuple[int, ...]]:
    network = Network(pixelwise(0))
    scores(network, pictures(0, height, width, 1), procedure)
    seen = [images.shape[2:] for images in network.seen]
    assert set(seen) == set(procedure.inputs((height, width)))
    return seen


def test_cityscapes_multi_scale_predicts_large_scales_in_windows() -> None:
    """The test server's procedure at 1/32 of the size: up to 1 whole, larger scales in windows."""
    procedure = Procedure(
        scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), base_size=64, window=(32, 64), window_above=1.0, flip=True
    )
    sizes = [(16, 32), (24, 48), (32, 64), *[(32, 64)] * 4 * 3]
    assert shapes(procedure, 32, 64) == [size for size in sizes for _ in range(2)]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (40, 52, [(48, 48)] * 2),
        (52, 40, [(48, 48)] * 2),
        (52, 52, [(48, 48)] * 4),
        (20, 26, [(48, 48)] * 2),
    ],
)
def test_pascal_context_is_padded_with_black_to_windows_of_the_crop(
    height: int, width: int, expected: list[tuple[int, int]]
) -> None:
    procedure = Procedure(base_size=52, window=(48, 48), stride=(32, 32))
    assert shapes(procedure, height, width) == expected
    network = Network(pixelwise(0))
    scores(network, pictures(0, 20, 26, 1), procedure)
    np.testing.assert_allclose(network.seen[0][0, :, 45, 3], BLACK, rtol=1e-6)


def test_lip_is_resized_whatever_its_aspect_and_scored_at_its_own_size() -> None:
    procedure = Procedure(size=(47, 47))
    network = Network(pixelwise(0))
    images = pictures(0, 20, 60, 1)
    assert scores(network, images, procedure).shape == (1, 4, 20, 60)
    assert network.seen[0].shape == (1, 3, 47, 47)
    expected = cv2.resize(images[0].transpose(1, 2, 0), (47, 47), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(network.seen[0][0], expected.transpose(2, 0, 1))


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([0.5, 1.0, 1.75]), st.integers(1, 200))
def test_the_long_side_is_the_base_size_times_the_scale(
    height: int, width: int, scale: float, base: int
) -> None:
    size = Procedure(base_size=base).scaled((height, width), scale)
    assert max(size) == max(1, int(base * scale + 0.5))
    assert size[0] == size[1] or (size[0] > size[1]) == (height > width)
    assert min(size) == max(1, int(min(height, width) * max(size) / max(height, width) + 0.5))


@pytest.mark.parametrize(
    ("procedure", "protocol"),
    [
        (WHOLE, "whole pictures, one scale, no flip; logits resized bilinearly to the label"),
        (
            Procedure(
                scales=(0.5, 1.25), base_size=2048, window=(1024, 2048), window_above=1.0, flip=True,
                aggregation="exponentials",
            ),
            "whole pictures up to scale 1, above windows of 1024x2048 at strides of 1024x2048 (the last "
            "moved back inside, smaller pictures padded with black), scales 0.5, 1.25 of a long side of "
            "2048, averaged with the mirrored picture; exponentials of the logits, windows averaged, "
            "scales summed, resized bilinearly to the label",
        ),
        (
            Procedure(size=(473, 473), flip=True, flip_pairs=((14, 15),), aggregation="probabilities"),
            "pictures resized to 473x473; whole pictures, one scale, averaged with the mirrored picture "
            "(classes 14 and 15 swapped); softmax probabilities resized bilinearly to the label",
        ),
    ],
)  # fmt: skip
def test_the_protocol_says_what_is_done(procedure: Procedure, protocol: str) -> None:
    assert procedure.protocol == protocol


def test_a_large_picture_is_scored_without_an_array_of_classes_by_pixels() -> None:
    """19 classes of 512x1024 in float32 are 40 MB; the planes of one class are 2 MB each."""
    images = np.zeros((1, 3, 512, 1024), np.float32)
    logits = np.random.default_rng(0).standard_normal((1, 19, 128, 256)).astype(np.float32)
    procedure = Procedure(flip=True, aggregation="probabilities")
    tracemalloc.start()
    try:
        planes = class_planes(Network(lambda _: logits), images, procedure, (512, 1024), align_corners=False)
        largest(planes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 19 * 512 * 1024 * 4 * 0.9


@given(SEEDS, st.booleans())
def test_exponentials_of_logits_past_what_float64_holds_are_scaled_by_one_factor_a_picture(
    seed: int, flip: bool
) -> None:
    """A barely trained network's logits may be thousands; taking off a constant changes no answer."""
    images, weak = pictures(seed, 12, 10), lopsided(seed)
    shift = np.array([5000.0, 690.0])[:, None, None, None]

    def strong(images: Floats) -> Floats:
        return np.asarray(weak(images) + shift)

    procedure = Procedure(
        scales=(0.5, 1.0), window=(6, 6), window_above=0.6, flip=flip, aggregation="exponentials"
    )
    plain, found = (scores(Network(function), images, procedure) for function in (weak, strong))
    assert np.isfinite(found).all() and (found > 0).all()
    # A number near 5000 is known to 5e-13, and a dozen of them are rounded on the way to a score.
    ratio = found / plain
    np.testing.assert_allclose(ratio, ratio[:, :1, :1, :1] * np.ones_like(ratio), rtol=1e-11)
