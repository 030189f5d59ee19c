"""Sizes as expressions: composed windows against direct arithmetic, and equality of triples."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsto_spec.sizes import Size, concrete, feature_shape, is_feature, show, window_size

Window = tuple[int, int, int, int]

WINDOWS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 6), st.integers(1, 3)), max_size=5
)


def places(size: int, window: Window) -> int:
    """How many places a window has, counted one by one; negative where the window is longer by strides."""
    kernel, stride, padding, dilation = window
    room = size + padding - dilation * (kernel - 1)
    return sum(1 for start in range(max(room, 0)) if start % stride == 0)


def composed(windows: list[Window]) -> Size:
    size = Size("H")
    for window in windows:
        size = size.window(*window)
    return size


@given(WINDOWS, st.integers(1, 200))
def test_composed_windows_equal_direct_arithmetic(windows: list[Window], height: int) -> None:
    wanted = height
    for kernel, stride, padding, dilation in windows:
        wanted = math.floor((wanted + padding - dilation * (kernel - 1) - 1) / stride) + 1
    assert composed(windows).at({"H": height}) == wanted


@given(WINDOWS, st.integers(1, 60))
def test_a_window_that_fits_is_counted_place_by_place(windows: list[Window], height: int) -> None:
    size: int = height
    for count, window in enumerate(windows, start=1):
        kernel, _, padding, dilation = window
        if size + padding < dilation * (kernel - 1) + 1:
            assert composed(windows[:count]).at({"H": height}) <= 0
            return
        size = places(size, window)
    assert composed(windows).at({"H": height}) == size


@given(WINDOWS, WINDOWS)
def test_sizes_are_equal_exactly_when_they_are_for_every_input(
    first: list[Window], second: list[Window]
) -> None:
    left, right = composed(first), composed(second)
    period = left.stride * right.stride
    same = all(left.at({"H": n}) == right.at({"H": n}) for n in range(2 * period))
    assert (left == right) == same


@given(WINDOWS)
def test_a_size_is_in_its_one_normal_form(windows: list[Window]) -> None:
    size = composed(windows)
    assert 0 <= size.offset < size.stride


def test_two_roads_to_one_size_meet_and_near_misses_do_not() -> None:
    height = Size("H")
    twice = height.window(3, 2, 2, 1).window(3, 2, 2, 1)
    assert twice == height.window(1, 4, 0, 1) == Size("H", 3, 4, 0)
    assert height.window(2, 2, 0, 1) != height.window(3, 2, 2, 1)
    assert height.window(3, 1, 2, 1) == height
    assert height != Size("W")


@given(st.integers(1, 50), st.integers(1, 5), st.integers(1, 4), st.integers(0, 6), st.integers(1, 3))
def test_a_fixed_size_takes_windows_as_an_expression_does(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    wanted = Size("H").window(kernel, stride, padding, dilation).at({"H": size})
    assert window_size(size, kernel, stride, padding, dilation) == wanted


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (Size("H"), "H"),
        (Size("H", 3, 4), "(H+3)//4"),
        (Size("W", 0, 2, -1), "W//2-1"),
        (Size("H", 0, 1, 2), "H+2"),
    ],
)
def test_a_size_reads_as_people_write_it(size: Size, text: str) -> None:
    assert str(size) == text


def test_a_shape_is_shown_and_made_concrete() -> None:
    shape = feature_shape(18, Size("H", 3, 4), 5)
    assert show(shape) == "N x 18 x (H+3)//4 x 5"
    assert show(()) == "scalar"
    assert concrete(shape, {"N": 2, "H": 9, "W": 1}) == (2, 18, 3, 5)
    assert is_feature(shape)
    assert not is_feature((4, 3, 3, 3))
