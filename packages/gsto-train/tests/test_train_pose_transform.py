import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsto_train.errors import InputError
from gsto_train.pose.skeleton import COCO, COCO_SIGMAS, Skeleton
from gsto_train.pose.transform import (
    CropAugmentation,
    Region,
    View,
    clip_box,
    draw_view,
    half_body,
    inverse,
    matrix_of,
    move,
    move_joints,
    region_of,
    warp,
)

CROP = (96, 72)
UPRIGHT = CropAugmentation(rotation=0, scale=0, flip=False, half_body_probability=0)

views = st.builds(
    View,
    st.builds(
        lambda x, y, width: Region((x, y), (width, width * 4 / 3)),
        st.floats(-50, 300), st.floats(-50, 300), st.floats(20, 400),
    ),
    st.floats(-90, 90),
    st.booleans(),
)  # fmt: skip


def person(labelled: int = 17) -> np.ndarray:
    generator = np.random.default_rng(3)
    joints = np.concatenate([generator.uniform(20, 90, (17, 2)), np.full((17, 1), 2.0)], axis=1)
    joints[labelled:] = 0
    return joints


def test_a_box_is_clipped_as_hrnet_cleans_it() -> None:
    assert clip_box(np.array([-5.0, 2, 40, 30]), (100, 30)).tolist() == [0, 2, 29, 29]  # type: ignore[union-attr]
    assert clip_box(np.array([10.0, 10, 8, 6]), (100, 100)).tolist() == [10, 10, 7, 5]  # type: ignore[union-attr]
    assert clip_box(np.array([10.0, 10, 1, 6]), (100, 100)) is None
    assert clip_box(np.array([120.0, 10, 20, 6]), (100, 100)) is None


@pytest.mark.parametrize(
    ("box", "size"),
    [((10, 20, 60, 20), (75, 100)), ((10, 20, 20, 40), (37.5, 50)), ((0, 0, 3, 4), (3.75, 5))],
)
def test_a_box_is_widened_to_the_crops_aspect_and_by_a_quarter(
    box: tuple[float, ...], size: tuple[float, float]
) -> None:
    region = region_of(np.array(box, float), CROP)
    assert region.size == pytest.approx(size)
    assert region.centre == (box[0] + box[2] / 2, box[1] + box[3] / 2)
    assert region.area == pytest.approx(size[0] * size[1])


@given(views, st.integers(1, 400))
def test_the_map_back_undoes_the_map(view: View, width: int) -> None:
    points = np.random.default_rng(0).uniform(-100, 500, (5, 2))
    matrix = matrix_of(view, CROP, width)
    assert np.allclose(move(move(points, matrix), inverse(matrix)), points, atol=1e-6)


@given(views, st.integers(1, 400))
def test_the_centre_stays_central_and_the_width_fills_the_crop(view: View, width: int) -> None:
    matrix = matrix_of(view, CROP, width)
    assert np.allclose(move(np.array(view.region.centre), matrix), [36, 48], atol=1e-6)
    ends = np.array([view.region.centre]) + np.array([[-0.5, 0], [0.5, 0]]) * view.region.size[0]
    assert np.linalg.norm(np.diff(move(ends, matrix), axis=0)) == pytest.approx(72)


@given(views, st.integers(10, 300))
def test_a_mirrored_view_is_the_view_of_the_mirrored_picture(view: View, width: int) -> None:
    mirrored = View(view.region, view.turn, mirrored=True)
    x, y = view.region.centre
    other = View(Region((width - 1 - x, y), view.region.size), view.turn)
    points = np.random.default_rng(1).uniform(0, 300, (5, 2))
    reflected = points * [-1, 1] + [width - 1, 0]
    assert np.allclose(
        move(points, matrix_of(mirrored, CROP, width)), move(reflected, matrix_of(other, CROP, width))
    )


def test_a_mirrored_crop_and_its_joints_mirrored_back_are_the_crop() -> None:
    """With an even crop around a half pixel, mirrors of picture and crop fall on each other."""
    image = np.random.default_rng(2).integers(0, 255, (96, 72, 3), np.uint8)
    joints = person()
    straight = View(Region((36, 48), (72, 96)))
    turned = View(Region((36, 48), (72, 96)), mirrored=True)
    plain, mirror = (matrix_of(view, CROP, 72) for view in (straight, turned))
    crop, flipped = warp(image, plain, CROP), warp(image, mirror, CROP)
    np.testing.assert_array_equal(crop, image)
    # The centre of a picture 72 wide is 35.5, and HRNet's crop puts 36 there: one pixel apart.
    np.testing.assert_array_equal(flipped[:, 1:], crop[:, ::-1][:, :-1])
    there = move_joints(joints, turned, mirror, COCO)
    back = there[list(COCO.mirrored)] * [-1, 1, 1] + [72, 0, 0]
    assert np.allclose(back, joints)


def test_what_lies_under_a_joint_moves_with_it() -> None:
    image = np.zeros((200, 160, 3), np.uint8)
    cv2.circle(image, (100, 60), 6, (255, 0, 0), -1)
    for turn in (0.0, 40.0, -75.0):
        for mirrored in (False, True):
            view = View(Region((80, 90), (120, 160)), turn, mirrored)
            matrix = matrix_of(view, CROP, 160)
            x, y = move(np.array([100.0, 60.0]), matrix)
            crop = warp(image, matrix, CROP)[..., 0]
            assert crop[round(y), round(x)] == 255
            rows, columns = np.nonzero(crop > 127)
            assert np.allclose([columns.mean(), rows.mean()], [x, y], atol=0.3)


def test_outside_of_the_picture_a_crop_is_black() -> None:
    crop = warp(
        np.full((40, 40, 3), 200, np.uint8), matrix_of(View(Region((0, 0), (72, 96))), CROP, 40), CROP
    )
    assert crop[60, 50].tolist() == [200, 200, 200] and not crop[:40, :30].any()


def test_nothing_drawn_is_the_box_itself() -> None:
    region = Region((10, 20), (30, 40))
    for seed in range(20):
        view = draw_view(region, person(), COCO, CROP, UPRIGHT, np.random.default_rng(seed))
        assert view == View(region)


def draws(augmentation: CropAugmentation, labelled: int = 17, count: int = 2000) -> list[View]:
    generator = np.random.default_rng(0)
    region, joints = Region((55, 55), (72, 96)), person(labelled)
    return [draw_view(region, joints, COCO, CROP, augmentation, generator) for _ in range(count)]


def test_what_is_drawn_is_distributed_as_in_hrnets_code() -> None:
    found = draws(CropAugmentation(half_body_probability=0))
    turns = np.array([view.turn for view in found])
    factors = np.array([view.region.size[0] / 72 for view in found])
    assert np.mean(turns != 0) == pytest.approx(0.6, abs=0.04)
    assert np.std(turns[turns != 0]) == pytest.approx(45 * 0.96, abs=3)
    assert np.abs(turns).max() == 90
    assert (factors.min(), factors.max()) == pytest.approx((0.65, 1.35))
    assert np.mean(factors == factors.max()) == pytest.approx(0.16, abs=0.04)
    assert np.mean([view.mirrored for view in found]) == pytest.approx(0.5, abs=0.04)


def test_half_a_body_is_shown_where_more_than_eight_joints_are_labelled() -> None:
    augmentation = CropAugmentation(rotation=0, scale=0, flip=False)
    centres = [view.region.centre for view in draws(augmentation)]
    upper, lower = person()[:11, :2].mean(axis=0), person()[11:, :2].mean(axis=0)
    assert np.mean([centre == (55, 55) for centre in centres]) == pytest.approx(0.7, abs=0.04)
    assert np.mean([np.allclose(centre, upper) for centre in centres]) == pytest.approx(0.3 * 0.69, abs=0.03)
    assert np.mean([np.allclose(centre, lower) for centre in centres]) == pytest.approx(0.3 * 0.31, abs=0.03)
    assert all(view.region.centre == (55, 55) for view in draws(augmentation, labelled=8, count=200))


def test_the_region_of_half_a_body_is_its_extent_half_as_large_again() -> None:
    joints = np.zeros((17, 3))
    joints[5:8] = [[10, 20, 2], [40, 20, 1], [10, 80, 2]]
    region = half_body(joints, COCO, CROP, prefer_upper=True)
    assert region is not None
    assert region.centre == pytest.approx((20, 40))
    assert region.size == pytest.approx((45 * 1.5, 60 * 1.5))
    assert half_body(joints, COCO, CROP, prefer_upper=False) == region
    joints[6:8] = 0
    assert half_body(joints, COCO, CROP, prefer_upper=True) is None


def test_a_setting_changes_its_own_draw_alone() -> None:
    plain = draws(CropAugmentation(), count=50)
    still = draws(CropAugmentation(rotation=0, flip=False), count=50)
    assert [view.region for view in plain] == [view.region for view in still]


def test_the_names_of_joints_tell_pairs_and_halves() -> None:
    assert COCO.pairs == tuple((i, i + 1) for i in range(1, 17, 2))
    assert COCO.upper == tuple(range(11))
    assert COCO.sigmas == COCO_SIGMAS
    mouse = Skeleton.of(["snout", "leftear", "rightear", "tailbase"])
    assert (mouse.pairs, mouse.sigmas, mouse.mirrored) == (((1, 2),), None, (0, 2, 1, 3))
    lsp = Skeleton.of(["right_ankle", "neck", "left_ankle"])
    assert (lsp.pairs, lsp.upper) == (((2, 0),), (1,))


def test_numbers_that_are_no_joints_are_refused() -> None:
    with pytest.raises(InputError, match=r"'pose\.pairs': expected joint numbers of at most 1, found 2"):
        Skeleton.of(["a", "b"], pairs=((0, 2),))
    with pytest.raises(InputError, match=r"'pose\.pairs': expected each joint once, found \[0, 0\]"):
        Skeleton.of(["a", "b"], pairs=((0, 0),))
    with pytest.raises(InputError, match=r"'pose\.oks_sigmas': expected 2 numbers, one per joint, found 1"):
        Skeleton.of(["a", "b"], sigmas=(0.1,))
