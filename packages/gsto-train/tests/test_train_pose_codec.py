"""Encode and decode, mirror and mirror back: identities, to the precision that each of them states."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsto_train.pose.decoding import decode, merge_flipped, unflip
from gsto_train.pose.skeleton import COCO, Skeleton
from gsto_train.pose.targets import Codec

HEIGHT, WIDTH = 24, 20


def codec(targets: str = "quantized", stride: int = 4, sigma: float = 2.0) -> Codec:
    assert targets in ("quantized", "exact")
    return Codec((HEIGHT, WIDTH), stride, sigma, "exact" if targets == "exact" else "quantized")


def joint(x: float, y: float, visible: float = 2) -> np.ndarray:
    return np.array([[x, y, visible]])


inside = st.tuples(st.floats(24, 4 * WIDTH - 28), st.floats(24, 4 * HEIGHT - 28))
anywhere = st.tuples(st.floats(0, 4 * WIDTH - 3), st.floats(0, 4 * HEIGHT - 3))


@given(anywhere)
def test_a_quantized_target_is_decoded_within_half_a_stride(place: tuple[float, float]) -> None:
    heatmaps, visible = codec().encode(joint(*place))
    (decoded,), scores = decode(heatmaps[None], codec())
    assert visible.tolist() == [1]
    assert scores[0, 0] == pytest.approx(1)
    # A quarter pixel more where the border hides a neighbour's equal.
    assert np.abs(decoded[0] - place).max() <= 2 + 1e-9


@given(inside)
def test_an_exact_target_is_decoded_exactly_by_the_fitted_gaussian(place: tuple[float, float]) -> None:
    heatmaps, _ = codec("exact").encode(joint(*place))
    (decoded,), _ = decode(heatmaps[None], codec("exact"), "unbiased")
    assert np.abs(decoded[0] - place).max() < 0.05


@given(inside)
def test_a_quarter_step_takes_an_exact_target_to_within_a_quarter_of_a_stride(
    place: tuple[float, float],
) -> None:
    heatmaps, _ = codec("exact").encode(joint(*place))
    (decoded,), _ = decode(heatmaps[None], codec("exact"), "quarter")
    assert np.abs(decoded[0] - place).max() <= 1 + 1e-6


def test_a_quarter_step_goes_towards_the_larger_neighbour() -> None:
    heatmap = np.zeros((1, 1, HEIGHT, WIDTH))
    heatmap[0, 0, 10, 8], heatmap[0, 0, 10, 9], heatmap[0, 0, 9, 8] = 1.0, 0.5, 0.25
    (decoded,), _ = decode(heatmap, codec())
    assert decoded[0].tolist() == [4 * 8.25, 4 * 9.75]
    (decoded,), _ = decode(np.zeros((1, 1, HEIGHT, WIDTH)), codec())
    assert decoded[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("x", "moved"), [(1, 1.0), (2, 2.25), (WIDTH - 2, WIDTH - 2.25), (WIDTH - 1, WIDTH - 1.0)]
)
def test_the_outermost_pixels_are_not_refined_as_in_hrnet(x: int, moved: float) -> None:
    heatmap = np.zeros((1, 1, HEIGHT, WIDTH))
    heatmap[0, 0, 10, x] = 1.0
    heatmap[0, 0, 10, min(x + 1, WIDTH - 1) if x < WIDTH / 2 else x - 1] = 0.5
    heatmap[0, 0, 10, x] = 1.0
    (decoded,), _ = decode(heatmap, codec())
    assert decoded[0, 0] == 4 * moved


def test_a_target_is_an_unnormalised_gaussian_cut_at_three_sigma() -> None:
    heatmaps, _ = codec().encode(joint(4 * 9 + 1.9, 4 * 12 - 2))
    (map_,) = heatmaps
    assert map_[12, 9] == 1.0
    assert map_[12, 11] == pytest.approx(np.exp(-0.5))
    assert map_[13, 10] == pytest.approx(np.exp(-2 / 8))
    assert map_[12, 15] > 0 and map_[12, 16] == 0 and map_[18, 9] > 0 and map_[19, 9] == 0


@pytest.mark.parametrize(
    ("x", "visible"),
    [(-4 * 6 - 2, 1), (-4 * 7 - 2, 0), (4 * (WIDTH + 5) + 1.9, 1), (4 * (WIDTH + 6), 0)],
)
def test_a_joint_counts_while_a_part_of_its_gaussian_is_inside(x: float, visible: int) -> None:
    heatmaps, found = codec().encode(joint(x, 40))
    assert found.tolist() == [visible]
    assert (heatmaps.max() > 0) == bool(visible)


def test_an_unlabelled_joint_has_no_target() -> None:
    heatmaps, visible = codec().encode(joint(40, 40, visible=0))
    assert visible.tolist() == [0] and not heatmaps.any()


@given(st.integers(0, 4 * WIDTH - 1), st.integers(8, 4 * HEIGHT - 8), st.sampled_from([2, 4, 8]))
def test_the_shift_of_the_flip_test_is_exactly_the_codecs_bias(x: int, y: int, stride: int) -> None:
    """Mirror a joint, encode it, mirror the heatmap back: one shift to the right it is the joint's own."""
    chosen = codec(stride=stride)
    x, y = x % (WIDTH * stride), y % (HEIGHT * stride - 8) + 4
    own, _ = chosen.encode(joint(x, y))
    mirrored, _ = chosen.encode(joint(WIDTH * stride - 1 - x, y))
    back = unflip(mirrored[None], (0,), chosen.flip_shift)
    assert chosen.flip_shift == 1
    np.testing.assert_array_equal(back[0, :, :, 1:], own[:, :, 1:])
    if 2 <= x < WIDTH * stride - stride:
        unshifted = unflip(mirrored[None], (0,), 0)
        assert (unshifted[0] != own).any()


def test_a_heatmap_as_fine_as_the_picture_needs_no_shift() -> None:
    assert codec(stride=1).flip_shift == 0


@given(st.integers(0, 2**32 - 1))
def test_mirroring_twice_is_the_identity(seed: int) -> None:
    heatmaps = np.random.default_rng(seed).random((2, 17, 6, 5), np.float32)
    np.testing.assert_array_equal(unflip(unflip(heatmaps, COCO.mirrored, 0), COCO.mirrored, 0), heatmaps)
    assert [COCO.mirrored[i] for i in COCO.mirrored] == list(range(17))


def test_a_flip_test_is_the_mean_of_both_views() -> None:
    pair = Skeleton.of(("left_hand", "right_hand"))
    heatmaps = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    merged = merge_flipped(heatmaps, np.zeros_like(heatmaps), pair.mirrored, 1)
    np.testing.assert_array_equal(merged, heatmaps / 2)
    merged = merge_flipped(np.zeros_like(heatmaps), heatmaps, pair.mirrored, 1)
    np.testing.assert_array_equal(merged[0, 0], np.array([[8, 8, 7], [11, 11, 10]]) / 2)
