"""The same arithmetic in the same order, step for step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

from gsto_spec.backend import BackendError


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Inside, torch takes deterministic kernels alone, and cuDNN is not tried out for the fastest.

    torch keeps this choice for the whole process: other threads that compute meanwhile share it. What it
    does not reach: another card, torch, cuDNN, number of threads or of processes adds in another order. On
    CUDA resizing, pooling and losses become several times slower, and cuBLAS needs CUBLAS_WORKSPACE_CONFIG,
    set here unless it is set, before the process first multiplies matrices there.

    Raises `BackendError` where torch has no deterministic kernel.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filling: Any = torch.utils.deterministic  # which has no types
    benchmark, fill = torch.backends.cudnn.benchmark, filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # Filling costs time and shows mistakes in programs, which are none of this choice's.
    torch.backends.cudnn.benchmark = filling.fill_uninitialized_memory = False
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        raise BackendError(f"deterministic: expected a deterministic kernel, found {error}") from None
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark, filling.fill_uninitialized_memory = benchmark, fill
