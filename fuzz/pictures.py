"""Pictures and labels: cut off, claiming sizes that they do not have, in modes and formats of all kinds."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image, ImageOps

from fuzz.mutations import mutated_bytes
from fuzz.reader import Answer, Reader, refusing
from gsto_train.data.pictures import MOST_PIXELS, read_image, read_label

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "JPEG2000")

_BYTES_PER_PIXEL = 12
"""While a picture of a palette becomes an array: indices, two of Pillow's pictures of 4 and the array's 3."""


def readers() -> Iterator[Reader]:
    """Pictures and labels."""
    cases = _cases()
    most = _BYTES_PER_PIXEL * MOST_PIXELS
    yield Reader(
        "pictures", 16, cases, lambda data: _read(data, _as_image), names="file.png", most_bytes=most
    )
    yield Reader("labels", 10, cases, lambda data: _read(data, _as_label), names="file.png", most_bytes=most)


def _read(data: bytes, read: Any) -> Answer:
    Path("file.png").write_bytes(data)
    return refusing(lambda: read(Path("file.png")))


def _as_image(path: Path) -> None:
    image = read_image(path)
    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture)
        assert image.shape == (upright.height, upright.width, 3) and image.dtype == np.uint8
        if picture.mode == "RGB":
            assert np.array_equal(image, np.asarray(upright)), "differs from what Pillow reads"


def _as_label(path: Path) -> None:
    label = read_label(path, classes=19, ignore_label=None)
    assert label.ndim == 2 and label.dtype == np.uint8


def _cases() -> SearchStrategy[bytes]:
    files = list(encoded_pictures())
    return st.one_of(mutated_bytes(files), st.sampled_from([*files, *_bombs()]))


def encoded_pictures() -> Iterator[bytes]:
    """Small pictures in every mode and format that Pillow writes."""
    values = np.random.default_rng(0).integers(0, 19, (6, 9), np.uint8)
    for mode in _MODES:
        for kind in _FORMATS:
            file = io.BytesIO()
            try:
                picture = Image.fromarray(values).convert(mode)
                picture.save(file, kind, exif=_exif(kind))
            except (OSError, ValueError, KeyError, TypeError):
                continue
            yield file.getvalue()


def _exif(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes() if kind in ("PNG", "JPEG", "WEBP") else b""


def _bombs() -> Iterator[bytes]:
    """PNGs of few bytes that claim to be huge; some of them hold it."""
    for side, depth, colour in ((30_000, 8, 2), (2**31 - 1, 16, 6), (13_000, 8, 2), (0, 8, 2), (1, 3, 9)):
        yield _png(side, side, depth, colour, b"")
    yield _png(4_000, 4_000, 1, 0, zlib.compress(bytes(4_000 * 501), 9))
    text = zlib.compress(bytes(2**27), 9)
    yield _png(1, 1, 8, 0, zlib.compress(b"\0\0"), _chunk(b"zTXt", b"note\0\0" + text))
    yield _png(1, 1, 8, 0, zlib.compress(b"\0\0"), _chunk(b"iCCP", b"name\0\0" + text))


def _png(width: int, height: int, depth: int, colour: int, data: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
