"""One matrix of numbers from a MATLAB 5 file (.mat), as Pascal Context's labels come."""

import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsto_train.errors import InputError

_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_NUMERIC_CLASSES = range(6, 16)

LARGEST = 2**25
"""Bytes that a file may unpack to in all; a few kilobytes that become gigabytes are no label."""


def read_matrix(path: Path, name: str) -> NDArray[np.int64]:
    """Return the matrix of whole numbers called `name`, (rows, columns).

    Raises InputError where the file is none of MATLAB 5 to 7, or holds no such matrix.
    """
    try:
        found = dict(_variables(path.read_bytes()))
    except (OSError, struct.error, zlib.error, ValueError, KeyError, IndexError) as error:
        raise InputError(
            f"{path}: expected a MATLAB 5 file, found an error: {error}; save it anew with -v7, or restore it"
        ) from None
    if name not in found:
        held = ", ".join(found) or "none"
        raise InputError(f"{path}: expected a matrix {name!r}, found {held}; restore the file")
    return found[name]


def _variables(data: bytes) -> list[tuple[str, NDArray[np.int64]]]:
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise ValueError("it does not start as one")
    found, left = list[tuple[str, NDArray[np.int64]]](), LARGEST
    for kind, content in _elements(data[128:], order):
        if kind == _COMPRESSED:
            unpacked = _unpacked(content, left)
            left -= len(unpacked)
            kind, content = _first(1, unpacked, order)[0]
        if kind == _MATRIX and (matrix := _matrix(content, order)) is not None:
            found.append(matrix)
    return found


def _unpacked(content: bytes, most: int) -> bytes:
    stream = zlib.decompressobj()
    unpacked = stream.decompress(content, most + 1)
    if len(unpacked) > most:
        raise ValueError(f"it unpacks to more than {LARGEST} bytes")
    if not stream.eof:
        raise ValueError("it is cut short")
    return unpacked


def _first(count: int, data: bytes, order: str) -> list[tuple[int, bytes]]:
    return list(islice(_elements(data, order), count))


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield (type, content); an element of at most four bytes keeps its length beside its type."""
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:
            kind, length, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start = at + 8
            end = start + length + (-length % 8 if kind != _COMPRESSED else 0)
        if start + length > len(data):
            raise ValueError("it is cut short")
        yield kind, data[start : start + length]
        at = end


def _matrix(data: bytes, order: str) -> tuple[str, NDArray[np.int64]] | None:
    elements = _first(4, data, order)
    flags = struct.unpack_from(f"{order}I", elements[0][1])[0]
    if flags & 0xFF not in _NUMERIC_CLASSES:
        return None
    shape = struct.unpack(f"{order}{len(elements[1][1]) // 4}i", elements[1][1])
    kind, content = elements[3]
    values = np.frombuffer(content, f"{order}{_TYPES[kind]}")
    if values.dtype.kind == "f" and not (np.abs(values) < 2**53).all():
        raise ValueError("its values are no whole numbers")
    matrix = values.astype(np.int64).reshape(shape, order="F")
    return elements[2][1].decode("ascii"), matrix
