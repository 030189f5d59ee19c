"""Masks as COCO writes them: run lengths down the columns, plain or as its compressed text."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def decode(size: Sequence[int], counts: str | bytes | Sequence[int]) -> NDArray[np.bool]:
    """Return the mask of `size`, (height, width), whose runs down the columns are `counts`, off first.

    Raises ValueError where the text is cut short or the runs do not fill the mask.
    """
    height, width = size
    runs = run_lengths(counts) if isinstance(counts, str | bytes) else list(counts)
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"run lengths: expected {height} x {width} pixels in all, found {sum(runs)}")
    on = np.arange(len(runs)) % 2 == 1
    return np.repeat(on, runs).reshape(width, height).T


def run_lengths(text: str | bytes) -> list[int]:
    """Return the runs in COCO's compressed text.

    Each number is 5 bits a character from the lowest, the sixth bit saying that more follow, two's
    complement; from the fourth on, it is the difference to the number two before. Raises ValueError where the
    text ends within a number.
    """
    data = text.encode() if isinstance(text, str) else text
    runs, value, shift = list[int](), 0, 0
    for character in data:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            signed = value - (1 << shift) if bits & 16 else value
            runs.append(signed + runs[-2] if len(runs) > 2 else signed)
            value = shift = 0
    if shift:
        raise ValueError("run lengths: expected a whole number at the end, found it cut short")
    return runs
