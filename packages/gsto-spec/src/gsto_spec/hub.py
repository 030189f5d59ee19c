"""Where a saved model is: a directory here, or a repository of the Hugging Face Hub, `owner/name`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from gsto_spec.errors import WeightsError, nearest

_ID = re.compile(r"[a-z0-9][\w.-]*/[a-z0-9][\w.-]*", re.ASCII | re.IGNORECASE)
_FILES = (".safetensors", ".pth", ".pt", ".tar", ".npz", ".json", ".toml", ".onnx")
"""Endings that no repository has by which files are known here."""
_TOLD = 240
"""Letters of what the hub's library says."""


class HubError(WeightsError):
    """A model that is neither here nor to be had from the hub."""


def is_hub_id(name: str | Path) -> bool:
    """Whether a name may be asked of the hub: `owner/name`, not called like a file, no `owner` here."""
    if not isinstance(name, str) or _ID.fullmatch(name) is None or name.lower().endswith(_FILES):
        return False
    return not os.path.lexists(Path(name).parent)


def find(name: str | Path, files: Sequence[str], *, revision: str | None = None) -> Path:
    """A model's directory: `name` itself where there is such a directory, else a copy of the hub's `files`.

    Nothing is asked of the hub for a directory that is here, nor for what can only be a path. `revision` is a
    branch, tag or commit of the hub. The library huggingface_hub does the rest, with its own cache, token and
    environment variables (`HF_HUB_OFFLINE`, ...). Raises `HubError`, `TypeError` for what is no name.
    """
    given: object = name
    if not isinstance(given, str | os.PathLike):
        kind = type(given).__name__
        raise TypeError(f"name: expected a saved model's directory or owner/name, found {kind}")
    if not str(name):
        raise HubError("expected a saved model's directory or owner/name, found an empty name")
    place = Path(name)
    if os.path.isdir(place):
        return place
    if os.path.lexists(place):
        raise HubError(f"{name}: expected a saved model's directory, found something else")
    if not is_hub_id(name):
        raise HubError(f"{name}: no such directory{_beside(place)}")
    return _from_hub(str(name), files, revision)


def _beside(place: Path) -> str:
    try:
        return nearest(place.name, sorted(os.listdir(place.absolute().parent)))
    except (OSError, ValueError):
        return ""


def _from_hub(name: str, files: Sequence[str], revision: str | None) -> Path:
    try:
        library = import_module("huggingface_hub")
    except ImportError:
        raise HubError(
            f"{name}: no such directory here; to ask the hub for it, pip install huggingface_hub"
        ) from None
    try:
        return Path(library.snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except Exception as error:  # the library's own, and its network library's, which differ by version
        told = " ".join(str(error).split())[:_TOLD] or type(error).__name__
        raise HubError(f"{name}: no such directory here, and the hub says: {told}") from error
