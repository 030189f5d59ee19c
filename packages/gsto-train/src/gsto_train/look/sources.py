"""The pictures that a user names: files, folders and patterns; and a place for each in the output folder."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gsto_spec.errors import printable
from gsto_train.errors import InputError, nearest_path

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif")
"""Of the files that are taken for pictures in a folder; a file that is named is one whatever its ending."""

SUMMARY = "predictions.json"
"""What an output folder holds, by which one is known."""


@dataclass(frozen=True)
class Source:
    """A picture's file, and what it is called in the output: a path without ending that stays inside."""

    path: Path
    name: str


def find(arguments: Sequence[str]) -> list[Source]:
    """Return the pictures that files, folders (with all below) and patterns name, each once, in order.

    Names are relative to the folder, or to the part of a pattern without wildcards; a second picture of the
    same name gets a number. Folders that hold earlier predictions are left out. Raises `InputError` for an
    argument that names no picture.
    """
    found = dict[str, Path]()
    for argument in arguments:
        for path, name in _named(argument):
            found.setdefault(os.path.abspath(path), name)
    taken = set[str]()
    return [Source(Path(path), _free(name.with_suffix("").as_posix(), taken)) for path, name in found.items()]


def free_names(names: Iterable[str]) -> list[str]:
    """Return names that differ, capitals aside, from any names: those that are taken get a number."""
    taken = set[str]()
    return [_free(name, taken) for name in names]


def _named(argument: str) -> Iterator[tuple[Path, Path]]:
    path = Path(argument)
    if path.is_dir():
        yield from _below(path)
    elif path.is_file():
        yield path, Path(path.name)
    elif path.exists():
        raise InputError(
            f"{printable(argument)}: expected a picture's file or a folder, found a pipe or device; save the "
            "picture to a file"
        )
    elif glob.has_magic(argument):
        yield from _matching(argument)
    else:
        raise InputError(
            f"{printable(argument)}: no such picture or folder{nearest_path(path)}; check the path"
        )


def _below(folder: Path) -> Iterator[tuple[Path, Path]]:
    empty = True
    for place, folders, files in os.walk(folder):
        if SUMMARY in files:
            folders.clear()
            continue
        folders.sort()
        for name in sorted(files):
            path = Path(place, name)
            # A pipe would be waited for; a link that leads nowhere is named when it is read.
            if path.suffix.lower() in ENDINGS and (path.is_file() or not path.exists()):
                empty = False
                yield path, path.relative_to(folder)
    if empty:
        raise InputError(
            f"{printable(folder)}: expected a folder with pictures, found none ({', '.join(ENDINGS)}); give "
            "another"
        )


def _matching(pattern: str) -> Iterator[tuple[Path, Path]]:
    parts = Path(pattern).parts
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:first])
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    files = [path for path in matches if path.is_file()]
    if not files:
        raise InputError(f"{printable(pattern)}: expected pictures of such names, found none; check it")
    for path in files:
        inside = ".." not in path.relative_to(base).parts
        yield path, path.relative_to(base) if inside else Path(path.name)


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free.casefold())
    return free
