"""`state_dict` files, the `.pth` and `.pt` that torch's users exchange; no code in them is run."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gsto_spec import Graph, WeightsError
from gsto_spec.ops import BatchNorm

WRAPPER = "state_dict"
"""The entry that training scripts keep the weights under, beside the epoch, the optimiser, ..."""

_NUMPY_FLOATS = (torch.float16, torch.float32, torch.float64)

# A foreign or truncated file makes torch's reader fail in whatever way its bytes lead to.
_READING_FAILURES = (
    RuntimeError, LookupError, ValueError, TypeError, AttributeError, EOFError, OSError, ArithmeticError,
    AssertionError, MemoryError, struct.error,
)  # fmt: skip


class StateDictFile:
    """A dict, name -> tensor, as `torch.save` writes it; a `gsto_spec.backend.TensorFile`."""

    def decode(self, data: bytes) -> tuple[dict[str, NDArray[Any]], list[str]]:
        """The tensors of a `state_dict`, alone or under that name; narrow floats widened to float32.

        Raises `WeightsError` for other files, and for entries that are no dense tensors, all listed at once.
        """
        entries, notes = _unwrapped(_load(data))
        problems = [f"{name} is {_described(value)}" for name, value in entries.items() if not _dense(value)]
        if problems:
            raise WeightsError(f"expected a dict of dense tensors by name, but {'; '.join(problems)}")
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign pickles, which fail below or are sound
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        found = "a pickle of other things than tensors, or none"
    except _READING_FAILURES as error:
        found = f"what torch cannot read ({type(error).__name__}: {str(error).partition('. ')[0]})"
    raise WeightsError(f"expected a torch state_dict file, found {found}")


def _unwrapped(loaded: object) -> tuple[dict[str, Any], list[str]]:
    if not isinstance(loaded, dict):
        raise WeightsError(f"expected a dict of dense tensors by name, found {_described(loaded)}")
    entries, notes = loaded, list[str]()
    if isinstance(loaded.get(WRAPPER), dict):
        entries = loaded[WRAPPER]
        others = [str(key) for key in loaded if key != WRAPPER]
        beside = f", and left out what lay beside it: {', '.join(others)}" if others else ""
        notes.append(f"took the entry {WRAPPER}{beside}")
    return {str(name): value for name, value in entries.items()}, notes


def _dense(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized


def _narrow(tensor: torch.Tensor) -> bool:
    """Whether numpy lacks this floating-point type, as it does bfloat16."""
    return tensor.is_floating_point() and tensor.dtype not in _NUMPY_FLOATS


def _described(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return f"of type {type(value).__name__}"
    return f"a tensor of {value.dtype}, {'quantized' if value.is_quantized else value.layout}"


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    wide = tensor.float() if _narrow(tensor) else tensor
    array: NDArray[Any] = wide.detach().numpy()
    return array
