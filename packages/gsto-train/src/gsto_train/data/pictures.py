"""Reading one picture or one label from a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from gsto_train.data import png
from gsto_train.data.decoded import kept
from gsto_train.data.samples import IGNORE_LABEL
from gsto_train.errors import InputError

MOST_PIXELS = 2**27
"""Of a picture; a few kilobytes can say to be any size, and a pixel takes up to twelve bytes on the way."""

_LABEL_MODES = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L")


def read_image(path: Path, *, upright_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read a picture as (H, W, 3) RGB, turned upright as its EXIF orientation says; grey becomes RGB.

    With `upright_size` (height, width) it is turned only where it has that size then. Of 16-bit grey the high
    byte is kept. Raises InputError where the file does not decode to its end, and for values that say nothing
    of what is white: fractions, and 32 bits. As `decoded.kept` has it.
    """
    return kept(path, f"picture {upright_size}", lambda: _decoded_image(path, upright_size), _is_picture)


def _is_picture(array: NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3


def _decoded_image(path: Path, upright_size: tuple[int, int] | None) -> NDArray[np.uint8]:
    with _decoding(path):
        plain = png.decode_plain(path.read_bytes()) if path.suffix.lower() == ".png" else None
        if plain is not None:
            return plain
        picture = _opened(path)
        upright = ImageOps.exif_transpose(picture)
        if upright_size is not None and upright.size != upright_size[::-1]:
            upright = picture
        if picture.mode == "F" or (picture.mode == "I" and picture.format != "PNG"):
            raise ValueError(f"expected 8 or 16 bits a channel, found mode {picture.mode}: save it as such")
        if upright.mode.startswith("I"):
            upright = Image.fromarray((np.asarray(upright) >> 8).clip(0, 255).astype(np.uint8))
        return np.array(upright.convert("RGB"))


def read_label(path: Path, *, classes: int, ignore_label: int | None) -> NDArray[np.uint8]:
    """Read a one-channel picture of class indices (grey or palette, 8 or 16 bits) as (H, W) uint8.

    `ignore_label` and 255 become 255. Raises InputError where the file does not decode, has several
    channels, or holds another value.
    """
    values = read_values(path)
    ignored = (values == IGNORE_LABEL) | (values == ignore_label)
    check_values(
        path, values, ignored | ((values >= 0) & (values < classes)), _allowed(classes, ignore_label)
    )
    return np.where(ignored, IGNORE_LABEL, values).astype(np.uint8)


def read_values(path: Path) -> NDArray[np.integer]:
    """Read a one-channel picture (grey or palette, 8 or 16 bits) as the (H, W) numbers that it stores.

    Raises InputError where the file does not decode or has several channels. As `decoded.kept` has it.
    """
    return kept(path, "values", lambda: _decoded_values(path), _are_values)


def _are_values(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "iu" and array.ndim == 2


def _decoded_values(path: Path) -> NDArray[np.integer]:
    with _decoding(path):
        picture = _opened(path)
    if picture.mode not in _LABEL_MODES:
        raise InputError(
            f"{path}: expected a label of one channel (class indices), found mode {picture.mode} "
            f"with {len(picture.getbands())} channels; save indices, not colours"
        )
    values = np.asarray(picture)
    return values.astype(np.uint8) if picture.mode == "1" else values


def check_values(path: Path, values: NDArray[np.integer], allowed: NDArray[np.bool], expected: str) -> None:
    """Raise InputError with the first value that is not `allowed`, its place, and what was `expected`."""
    if not allowed.all():
        raise InputError(f"{path}: {_first_wrong(values, ~allowed)}; expected {expected}")


def check_size(path: Path, label: NDArray[np.uint8], picture: Path, size: tuple[int, ...]) -> None:
    """Raise InputError where the label at `path` has another (height, width) than its picture."""
    if label.shape != size:
        raise InputError(
            f"{path}: this label is {label.shape[1]}x{label.shape[0]}, its picture {picture} is "
            f"{size[1]}x{size[0]} (width x height, upright); expected the same size"
        )


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        if picture.width * picture.height > MOST_PIXELS:
            found = f"it says to be {picture.width}x{picture.height}"
            raise ValueError(f"expected at most {MOST_PIXELS} pixels, {found}: cut it into parts")
        picture.load()
        return picture


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    try:
        yield
    # Pillow's decoders raise nearly every type there is on broken files.
    except Exception as error:
        raise InputError(
            f"{path}: this picture does not decode ({_reason(error, path)}); replace or remove it"
        ) from error


def _reason(error: Exception, path: Path) -> str:
    """Return what a decoder says, without the path that the line begins with."""
    if isinstance(error, UnidentifiedImageError):
        return "no format of pictures that is known here"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).replace(str(path), path.name).replace("\n", " ")


def _first_wrong(values: NDArray[np.integer], wrong: NDArray[np.bool]) -> str:
    row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
    value, pixels = values[row, column], int(wrong.sum())
    return f"label value {value} out of range at row {row}, column {column} ({pixels} such pixels)"


def _allowed(classes: int, ignore_label: int | None) -> str:
    own = "" if ignore_label in (None, IGNORE_LABEL) else f"{ignore_label} or "
    return f"0..{classes - 1}, or {own}{IGNORE_LABEL} for ignore; mend the label or the list of classes"
