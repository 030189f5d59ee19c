"""torch for the tests of every backend; see `contract.framework`."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from numpy.typing import NDArray

import gsto_torch
from gsto_spec.backend import Speed
from gsto_spec.objective import Objective
from gsto_torch.losses import objective_losses

Array = NDArray[Any]
Arrays = dict[str, Array]

SPEEDS: tuple[Speed, ...] = ("plain", "fast")
EXAMPLES = 40


def float64() -> AbstractContextManager[None]:
    return nullcontext()


def dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name)
    return found


def compute(model: gsto_torch.CompiledGraph, *images: Array) -> Arrays:
    with torch.no_grad():
        return {name: output.numpy() for name, output in model(*map(torch.from_numpy, images)).items()}


def slopes(
    model: gsto_torch.CompiledGraph, images: Sequence[Array], factors: Arrays
) -> tuple[Arrays, list[Array]]:
    leaves = [torch.tensor(image, requires_grad=True) for image in images]
    outputs = model(*leaves)
    total = sum((output * torch.from_numpy(factors[name])).sum() for name, output in outputs.items())
    gradients = torch.autograd.grad(total, leaves)
    return {name: output.detach().numpy() for name, output in outputs.items()}, [g.numpy() for g in gradients]


def losses(objective: Objective, outputs: Arrays, batch: Arrays) -> tuple[Arrays, Arrays]:
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in outputs.items()}
    found = objective_losses(
        objective, leaves, {name: torch.from_numpy(array) for name, array in batch.items()}
    )
    gradients = torch.autograd.grad(found["loss"], list(leaves.values()))
    values = {name: loss.detach().numpy() for name, loss in found.items()}
    return values, {name: gradient.numpy() for name, gradient in zip(leaves, gradients, strict=True)}


def assign(model: gsto_torch.CompiledGraph, name: str, value: float) -> None:
    with torch.no_grad():
        model.state_dict(keep_vars=True)[name].fill_(value)
