"""Checkpoints: `read_checkpoint`, and the `state_dict` files, `.pth` and `.pt`, that torch's users exchange.

No code in a file is run.
"""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gsto_spec import Graph, WeightsError, checkpoint
from gsto_spec.checkpoint import LoadedWeights
from gsto_spec.checkpoint_report import shown
from gsto_spec.errors import listed
from gsto_spec.ops import BatchNorm

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""The entries that training scripts keep the weights under, beside the epoch, the optimiser, ..."""

SHARED = 4
"""How often a file's bytes may be used: tensors that are one and the same, as tied weights are."""

_NUMPY_FLOATS = (torch.float16, torch.float32, torch.float64)

# A foreign or truncated file makes torch's reader fail in whatever way its bytes lead to.
_READING_FAILURES = (
    RuntimeError, LookupError, ValueError, TypeError, AttributeError, EOFError, OSError, ArithmeticError,
    AssertionError, MemoryError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


def read_checkpoint(
    path: str | Path,
    graph: Graph,
    *,
    inplace_abn: bool | None = None,
    initialize: bool = False,
    seed: int = 0,
) -> LoadedWeights:
    """The weights of `graph` in a published checkpoint: canonical name -> float32 numpy, with `.report`.

    Reads `.safetensors`, saved directories and, under whatever other name, torch's `state_dict` files; see
    `gsto_spec.checkpoint.read_checkpoint` for what must match, `inplace_abn`, `initialize` and errors.
    """
    return checkpoint.read_checkpoint(
        path, graph, inplace_abn=inplace_abn, initialize=initialize, seed=seed, decode=StateDictFile().decode
    )


class StateDictFile:
    """A dict, name -> tensor, as `torch.save` writes it; a `gsto_spec.backend.TensorFile`."""

    def decode(self, data: bytes) -> tuple[dict[str, NDArray[Any]], list[str]]:
        """The tensors of a `state_dict`, alone or in a training script's wrapper; narrow floats widened.

        Raises `WeightsError` for other files, and for entries that are no dense tensors, all listed at once.
        """
        entries, notes = _unwrapped(_load(data))
        problems = [
            f"{_shown(name)} is {_described(value)}"
            for name, value in entries.items()
            if not (isinstance(name, str) and _dense(value))
        ]
        if problems:
            raise WeightsError(f"expected a dict of dense tensors by name, but {listed(problems)}", problems)
        _refuse_larger_than_stored(entries.values(), len(data))
        widened = [name for name, tensor in entries.items() if _narrow(tensor)]
        if widened:
            notes.append(f"widened {len(widened):,} tensors such as {widened[0]} to float32, which is exact")
        return {name: _array(tensor) for name, tensor in entries.items()}, notes

    def encode(self, graph: Graph, weights: Mapping[str, NDArray[Any]]) -> tuple[bytes, list[str]]:
        """The `state_dict` of the compiled graph, which loads strictly; batch counters are added as 0."""
        counters = {
            node.operands[-1]: f"{node.name}.num_batches_tracked"
            for node in graph.nodes if isinstance(node.op, BatchNorm)
        }  # fmt: skip
        state: dict[str, torch.Tensor] = {}
        for name in graph.parameters:
            state[name] = torch.from_numpy(np.array(weights[name], order="C"))
            if name in counters:
                state[counters[name]] = torch.tensor(0)
        file = io.BytesIO()
        torch.save(state, file)
        added = [f"added {len(counters):,} num_batches_tracked of 0, which torch expects"] if counters else []
        return file.getvalue(), added


def _load(data: bytes) -> object:
    try:
        _refuse_compressed(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign pickles, which fail below or are sound
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        found = "a pickle of other things than tensors, or none"
    except _READING_FAILURES as error:
        found = f"what torch cannot read ({type(error).__name__}: {str(error).partition('. ')[0]})"
    raise WeightsError(f"expected a torch state_dict file, found {found}")


def _refuse_compressed(data: bytes) -> None:
    """Torch stores without compression; a few bytes that unpack to gigabytes are somebody else's."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("a compressed archive")


def _refuse_larger_than_stored(tensors: Iterable[torch.Tensor], size: int) -> None:
    """A value that stands for 10^12 of them would be copied as often, where it is widened or compared."""
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if claimed > SHARED * size:
        raise WeightsError(
            f"expected tensors of what the file stores, {size:,} bytes, found {claimed:,} of them"
        )


def _unwrapped(loaded: object, depth: int = 3) -> tuple[dict[Any, Any], list[str]]:
    """The dict inside the wrappers and what lay beside it; `depth` ends a pickle that contains itself."""
    if not isinstance(loaded, dict):
        raise WeightsError(f"expected a dict of dense tensors by name, found {_described(loaded)}")
    wrapper = next((key for key in WRAPPERS if isinstance(loaded.get(key), dict)), None)
    if wrapper is None or not depth:
        return loaded, []
    entries, notes = _unwrapped(loaded[wrapper], depth - 1)
    others = [_shown(key) for key in loaded if key != wrapper]
    beside = f", and left out what lay beside it: {', '.join(others)}" if others else ""
    return entries, [f"took the entry {wrapper}{beside}", *notes]


def _shown(key: object) -> str:
    return shown(key) if isinstance(key, str) else f"an entry called by a {type(key).__name__}"


def _dense(value: object) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_nested)
    )


def _narrow(tensor: torch.Tensor) -> bool:
    """Whether numpy lacks this floating-point type, as it does bfloat16."""
    return tensor.is_floating_point() and tensor.dtype not in _NUMPY_FLOATS


def _described(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return f"of type {type(value).__name__}"
    kind = "quantized" if value.is_quantized else "nested" if value.is_nested else value.layout
    place = "" if value.device.type == "cpu" else f" on the device {value.device.type}"
    return f"a tensor of {value.dtype}, {kind}{place}"


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    wide = tensor.float() if _narrow(tensor) else tensor
    array: NDArray[Any] = wide.detach().resolve_conj().resolve_neg().numpy()
    return array
