"""Predictions as test servers take them: a PNG of label ids per picture (Cityscapes), or COCO's results."""

import hashlib
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gsto_train.data.cityscapes import CLASSES, label_ids
from gsto_train.errors import InputError
from gsto_train.files import whole_folder, write_synced
from gsto_train.wording import counted

_PICTURE = re.compile(r"([^_]+_\d{6}_\d{6})_leftImg8bit\.\w+")
_SUFFIX = "_pred_labelIds.png"

RESULTS = "keypoints_results.json"
"""What a submission of poses is called."""


class SubmissionError(Exception):
    """What was written is not what the test server takes; nothing of it is left."""


class Submission:
    """A folder of label-id pictures under way: CITY_SEQUENCE_FRAME_pred_labelIds.png, 8-bit grey."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, tuple[tuple[int, ...], str]] = {}

    def __len__(self) -> int:
        """Return the number of pictures written so far."""
        return len(self._written)

    def add(self, name: str, classes: NDArray[np.integer]) -> None:
        """Write the (H, W) train ids, 0..18, of the picture called `name`.

        Raises InputError where that is no name of Cityscapes' or was written before, and OSError.
        """
        file_name = _file_name(name)
        if file_name in self._written:
            raise InputError(f"{name}: a second prediction of this picture; the list names it twice, mend it")
        ids = label_ids(classes)
        picture = io.BytesIO()
        Image.fromarray(ids).save(picture, "PNG")
        write_synced(self._folder / file_name, picture.getvalue())
        self._written[file_name] = (ids.shape, _digest(ids))

    def check(self) -> None:
        """Read every file again; raises `SubmissionError` for the first that is not what it should be."""
        found = sorted(path.name for path in self._folder.iterdir())
        if found != sorted(self._written):
            odd = sorted(set(found) ^ set(self._written))
            raise SubmissionError(f"{odd[0]}: expected exactly the {counted(len(self), 'file')} written")
        for file_name, (shape, digest) in self._written.items():
            _check_picture(self._folder / file_name, shape, digest)


@contextmanager
def submission(folder: Path) -> Iterator[Submission]:
    """Yield a submission to be filled; at the end it is checked and put at `folder`, or nothing is.

    Raises `InputError` where something is at `folder` already, `SubmissionError`, and OSError.
    """
    check_free(folder, "--submit")
    with new_folder(folder) as temporary:
        under_way = Submission(temporary)
        yield under_way
        under_way.check()


def write_results(folder: Path, results: Sequence[Mapping[str, Any]], joints: int) -> None:
    """Write `folder`/keypoints_results.json: poses in COCO's format of results, read again and checked.

    Raises `InputError` where something is at `folder` already, `SubmissionError` for a pose that is not
    `joints` x (x, y, score) or not finite, and OSError.
    """
    check_free(folder, "--submit")
    with new_folder(folder) as temporary:
        path = temporary / RESULTS
        write_synced(path, json.dumps(results).encode())
        again = json.loads(path.read_bytes())
        if again != list(results):
            raise SubmissionError(f"{RESULTS}: is not what was predicted")
        for number, pose in enumerate(again):
            _check_pose(number, pose, joints)


def new_folder(folder: Path) -> AbstractContextManager[Path]:
    """Return `whole_folder` of a folder that a user asked for; what it lies in is made too."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return whole_folder(folder)


def check_free(folder: Path, option: str) -> None:
    """Raise `InputError` where there is something at `folder` that would be overwritten."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        found = "a folder that holds files" if folder.is_dir() else "a file"
        raise InputError(f"{option} {folder}: expected a new or empty folder, found {found}; give another")


def _file_name(name: str) -> str:
    match = _PICTURE.fullmatch(Path(name).name)
    if match is None:
        raise InputError(
            f"{name}: expected a picture called CITY_000000_000019_leftImg8bit.png, by which the test server "
            "finds its prediction; rename it"
        )
    return match[1] + _SUFFIX


def _check_pose(number: int, pose: Mapping[str, Any], joints: int) -> None:
    if type(pose.get("image_id")) is not int or pose.get("category_id") != 1:
        raise SubmissionError(f"{RESULTS}: pose {number} has no whole image_id or another category_id than 1")
    keypoints = pose.get("keypoints", ())
    if len(keypoints) != 3 * joints:
        raise SubmissionError(
            f"{RESULTS}: pose {number}: expected {3 * joints} numbers, found {len(keypoints)}"
        )
    if not all(math.isfinite(value) for value in (*keypoints, pose.get("score", math.nan))):
        raise SubmissionError(f"{RESULTS}: pose {number} holds numbers that are not finite")


def _check_picture(path: Path, shape: tuple[int, ...], digest: str) -> None:
    try:
        with Image.open(path) as picture:
            mode, ids = picture.mode, np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise SubmissionError(f"{path.name}: does not read again: {error}") from None
    if mode != "L" or ids.shape != shape:
        raise SubmissionError(f"{path.name}: expected 8-bit grey of {shape}, found {mode} of {ids.shape}")
    if not np.isin(ids, [each.id for each in CLASSES]).all():
        raise SubmissionError(f"{path.name}: holds other values than the 19 label ids that are scored")
    if _digest(ids) != digest:
        raise SubmissionError(f"{path.name}: is not what was predicted")


def _digest(ids: NDArray[np.uint8]) -> str:
    return hashlib.sha256(ids.tobytes()).hexdigest()
