"""Tensors in files: safetensors, saved models, torch's pickles, MATLAB's matrices."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray
from safetensors.numpy import save

from faults.network import tiny
from fuzz.mutations import json_bytes, mutated_bytes
from fuzz.reader import CANARY, Answer, Reader, refusing
from gsto_spec import Graph, initial_weights
from gsto_spec.weights import (
    CARD_FILE,
    GRAPH_FILE,
    WEIGHTS_FILE,
    load_directory,
    read_safetensors,
    save_directory,
)
from gsto_torch import read_checkpoint
from gsto_train.data.matlab import read_matrix

GRAPH = tiny(2)

State = dict[str, NDArray[np.float32]]


def readers() -> Iterator[Reader]:
    """Safetensors, saved models' folders, torch's files, MATLAB's files."""
    yield Reader("safetensors", 16, _safetensors(), _read_safetensors, names="file.safetensors")
    yield Reader("saved model", 8, _saved_models(), _read_saved_model, names="saved")
    yield Reader("torch .pth", 12, _pickles(), _read_pickle, names="file.pth")
    yield Reader("MATLAB .mat", 10, _matrices(), _read_matrix, names="file.mat")


def _read_safetensors(content: bytes) -> Answer:
    Path("file.safetensors").write_bytes(content)
    return refusing(
        lambda: (read_safetensors("file.safetensors"), read_checkpoint("file.safetensors", GRAPH))
    )


def _read_saved_model(files: dict[str, bytes]) -> Answer:
    Path("saved").mkdir()
    for name, content in files.items():
        (Path("saved") / name).write_bytes(content)
    return refusing(lambda: load_directory("saved"))


def _read_pickle(content: bytes) -> Answer:
    Path("file.pth").write_bytes(content)
    return refusing(lambda: read_checkpoint("file.pth", GRAPH))


def _read_matrix(content: bytes) -> Answer:
    Path("file.mat").write_bytes(content)
    return refusing(lambda: read_matrix(Path("file.mat"), "LabelMap"))


@st.composite
def _safetensors(draw: DrawFn) -> bytes:
    """A file whose header is changed as JSON, its length too, or whose bytes are."""
    data = save(dict(initial_weights(GRAPH)))
    length = int.from_bytes(data[:8], "little")
    if draw(st.integers(0, 3)) == 0:
        return draw(mutated_bytes([data]))
    header = draw(json_bytes([json.loads(data[8 : 8 + length])]))
    claimed = draw(st.sampled_from((len(header), len(header), len(header), 0, 1, 2**32, 2**60, 2**64 - 1)))
    return struct.pack("<Q", claimed) + header + data[8 + length :]


def _saved_models() -> SearchStrategy[dict[str, bytes]]:
    files = _saved(GRAPH)
    return st.fixed_dictionaries({
        GRAPH_FILE: _sometimes(files[GRAPH_FILE], json_bytes([json.loads(files[GRAPH_FILE])])),
        WEIGHTS_FILE: _sometimes(files[WEIGHTS_FILE], mutated_bytes([files[WEIGHTS_FILE]])),
        CARD_FILE: json_bytes([json.loads(files[CARD_FILE])]),
    })  # fmt: skip


def _sometimes(whole: bytes, changed: SearchStrategy[bytes]) -> SearchStrategy[bytes]:
    return st.one_of(st.just(whole), st.just(whole), changed)


def _saved(graph: Graph) -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        card = {
            "architecture": "tiny",
            "classes": ["a", "b"],
            "benchmark": "folder",
            "metrics": {"mean_iou": 0.5},
        }
        save_directory(folder, graph, initial_weights(graph), card)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


class _Runs:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def _hostile_objects() -> list[Any]:
    """What a file may hold beside a network's weights: calls, tensors that are larger than their file."""
    import os

    state = {name: torch.from_numpy(array.copy()) for name, array in initial_weights(GRAPH).items()}
    calls = [
        _Runs(os.system, f"touch {CANARY}"), _Runs(exec, f"open({CANARY!r}, 'w')"), _Runs(open, CANARY, "w"),
        _Runs(eval, f"open({CANARY!r}, 'w')"), _Runs(__import__, "evil"), _Runs(getattr, os, "getcwd"),
    ]  # fmt: skip
    shapes = [
        torch.zeros(1, dtype=kind).expand(10**12) for kind in (torch.float32, torch.bfloat16, torch.bool)
    ]
    knot: dict[str, Any] = {}
    knot["state_dict"] = knot
    deep: Any = state
    for _ in range(900):
        deep = {"model": deep}
    values: list[Any] = [
        state, {"state_dict": state, "epoch": 1}, {"model": {"state_dict": state}}, knot, deep, [],
        1, None, {},
        {1: state}, {"conv1.weight": 1}, {"a\x1b[31m\n\ud800": torch.zeros(1)}, torch.zeros(3),
        {"conv1.weight": torch.zeros(3).to_sparse()}, {"conv1.weight": torch.full((8, 3, 3, 3), torch.nan)},
        {**state, "conv1.weight": torch.zeros(1).expand(8, 3, 3, 3)},
        {**state, "x": torch.zeros(1, device="meta")},
        {**state, "conv1.weight": torch.quantize_per_tensor(torch.zeros(8, 3, 3, 3), 1.0, 0, torch.qint8)},
        {**state, "conv1.weight": torch.zeros(8, 3, 3, 3, dtype=torch.complex64)},
    ]  # fmt: skip
    values += [{**state, "conv1.weight": shape} for shape in shapes]
    return (
        values + calls + [{"state_dict": state, "hook": call} for call in calls] + [{"a": c} for c in calls]
    )


def _torch_files() -> list[bytes]:
    found = []
    for value in _hostile_objects():
        for zipped in (True, False):
            file = io.BytesIO()
            try:
                torch.save(value, file, _use_new_zipfile_serialization=zipped)
            except Exception:  # Not everything that is hostile can be written in both ways.
                continue
            found.append(file.getvalue())
        try:
            found += [pickle.dumps(value, protocol) for protocol in (2, 4)]
        except Exception:
            continue
    return [*found, *_archives(found[0])]


def _archives(whole: bytes) -> Iterator[bytes]:
    """A file unpacked and packed again: compressed, under names that lead elsewhere, twice the same."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    changes: tuple[tuple[int, str, int], ...] = (
        (zipfile.ZIP_DEFLATED, "", 1), (zipfile.ZIP_STORED, "../../", 1), (zipfile.ZIP_STORED, "/", 1),
    )  # fmt: skip
    for compression, before, times in changes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in entries * times:
                archive.writestr(before + name, content)
        yield file.getvalue()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**24))
    yield file.getvalue()


def _pickles() -> SearchStrategy[bytes]:
    files = _torch_files()
    return st.one_of(st.sampled_from(files), mutated_bytes(files))


def _matrices() -> SearchStrategy[bytes]:
    label = np.arange(12, dtype=np.uint16).reshape(3, 4)
    plain, squeezed = (_matlab(label, squeezed) for squeezed in (False, True))
    bomb = zlib.compress(struct.pack("<II", 14, 2**30) + bytes(2**28), 9)
    huge = plain[:128] + struct.pack("<II", 15, len(bomb)) + bomb
    files = [plain, squeezed]
    return st.one_of(mutated_bytes(files), mutated_bytes([plain]).map(_squeezed_again), st.just(huge))


def _squeezed_again(data: bytes) -> bytes:
    packed = zlib.compress(data[128:])
    return data[:128].ljust(128, b"\0") + struct.pack("<II", 15, len(packed)) + packed


def _matlab(values: NDArray[np.uint16], squeezed: bool) -> bytes:
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)

    parts = (
        element(6, struct.pack("<II", 11, 0)), element(5, struct.pack("<ii", *values.shape)),
        element(1, b"LabelMap"), element(4, values.tobytes(order="F")),
    )  # fmt: skip
    data = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + element(14, b"".join(parts))
    return _squeezed_again(data) if squeezed else data
