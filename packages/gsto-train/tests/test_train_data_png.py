"""PNG pictures: read as Pillow reads them, and refused where it refuses them."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gsto_train.data.pictures import read_image
from gsto_train.errors import InputError

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def noise(size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def encoded(pixels: NDArray[np.uint8], **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png", **options)
    return stream.getvalue()


def read(content: bytes) -> NDArray[np.uint8]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        path.write_bytes(content)
        return read_image(path)


def read_by_pillow(content: bytes) -> NDArray[np.uint8] | None:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            return np.array(picture.convert("RGB"))
    except Exception:
        return None


@given(sizes, seeds, st.integers(0, 9))
def test_pixels_are_those_that_were_written(size: tuple[int, int], seed: int, level: int) -> None:
    pixels = noise(size, seed)
    assert np.array_equal(read(encoded(pixels, compress_level=level)), pixels)


@given(sizes, seeds, st.integers(0, 10**9), st.sampled_from(["cut", "flip"]))
def test_broken_files_are_those_of_pillow(size: tuple[int, int], seed: int, where: int, how: str) -> None:
    content = bytearray(encoded(noise(size, seed)))
    if how == "cut":
        del content[where % len(content) :]
    else:
        content[where // 8 % len(content)] ^= 1 << where % 8
    expected = read_by_pillow(bytes(content))
    if expected is None:
        with pytest.raises(InputError, match=r"picture\.png: this picture does not decode"):
            read(bytes(content))
    else:
        assert np.array_equal(read(bytes(content)), expected)


def test_a_png_is_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = noise((3, 5), 0)
    assert np.array_equal(read(encoded(pixels, exif=exif)), np.rot90(pixels, -1))


def test_texts_and_gamma_change_no_pixel() -> None:
    told = PngInfo()
    told.add_text("Author", "nobody")
    told.add(b"gAMA", (22000).to_bytes(4))
    pixels = noise((4, 6), 1)
    assert np.array_equal(read(encoded(pixels, pnginfo=told)), pixels)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_other_kinds_of_png_are_read_as_rgb(mode: str) -> None:
    picture = Image.fromarray(noise((4, 6), 2)).convert(mode)
    stream = io.BytesIO()
    picture.save(stream, "png")
    assert np.array_equal(read(stream.getvalue()), np.array(picture.convert("RGB")))


def test_a_colour_made_transparent_stays_as_it_is() -> None:
    pixels = noise((4, 6), 3)
    assert np.array_equal(read(encoded(pixels, transparency=tuple(pixels[0, 0].tolist()))), pixels)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pictures_of_values_whose_white_is_not_known_are_refused(kind: type, tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 6), kind)).save(tmp_path / "grey.tif")
    with pytest.raises(InputError, match=r"grey\.tif: .*expected 8 or 16 bits a channel, found mode [IF]: "):
        read_image(tmp_path / "grey.tif")


def test_the_high_byte_of_16_bits_is_read(tmp_path: Path) -> None:
    grey = noise((4, 6), 2)[..., 0].astype(np.uint16)
    for ending in ("png", "tif"):
        Image.fromarray(grey << 8).save(tmp_path / f"grey.{ending}")
        assert np.array_equal(read_image(tmp_path / f"grey.{ending}")[..., 0], grey)
