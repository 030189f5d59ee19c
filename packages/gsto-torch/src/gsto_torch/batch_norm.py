"""Batch norms beside torch's own: with a biased running variance, and over several processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gsto_torch.processes import Processes


class BiasedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm whose running variance divides by n, where torch's divides by n - 1."""

    def forward(self, input: Tensor) -> Tensor:
        """N x C x h x w, as `nn.BatchNorm2d`."""
        if not self.training:
            return super().forward(input)
        with torch.no_grad():
            variance, mean = torch.var_mean(_widened(input), dim=(0, 2, 3), correction=0)
            _take_in(self, mean, variance)
        return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm whose statistics, while training, are those of every process's values together.

    On CPU and CUDA alike, where torch's own refuses the CPU. Shares may be of any size, of none too; one
    value per channel in all of them together is for the caller to refuse. The running variance is divided
    by n - 1 or, if not `unbiased`, by n. Made by `synchronize`.
    """

    processes: Processes = Processes()
    unbiased: bool = True

    def forward(self, input: Tensor) -> Tensor:
        """N x C x h x w, as `nn.BatchNorm2d`."""
        if not self.training:
            return super().forward(input)
        result: Tensor
        result, mean, variance, count = _Normalize.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.eps, self.processes
        )
        with torch.no_grad():
            _take_in(self, mean, variance * (count / (count - 1)) if self.unbiased else variance)
        return result


def synchronize(model: nn.Module, processes: Processes) -> None:
    """Replace every batch norm of the model by a synchronised one of the same tensors and hooks."""
    for norm in batch_norms(model):
        unbiased = not isinstance(norm, BiasedBatchNorm2d)
        # Changed where it stands: names, tensors, hooks and whoever holds the module stay.
        norm.__class__ = SyncedBatchNorm2d
        assert isinstance(norm, SyncedBatchNorm2d)
        norm.processes, norm.unbiased = processes, unbiased


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """Those of a model, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@contextmanager
def statistics_left_alone(norms: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, these batch norms keep copies of their running statistics, which are dropped at the end."""
    kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)


def _take_in(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.momentum is not None
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance, norm.momentum)


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.element_size() < 4 else x


def _across(values: Tensor) -> Tensor:
    return values[:, None, None]


class _Normalize(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) weight + bias, over the values of all processes.

    Each process's mean and sum of squares about it are merged by Chan, Golub and LeVeque 1979, so that the
    variance is never a difference of large numbers. Also returns mean, variance and number of values.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float, processes: Processes
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _merged(processes.gathered(_moments(_widened(input))))
        inverse = torch.rsqrt(variance + eps)
        result = torch.addcmul(_across(bias), _widened(input) - _across(mean), _across(weight * inverse))
        ctx.processes = processes
        ctx.save_for_backward(input, weight, mean, inverse, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return result.to(input.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, inverse, count = ctx.saved_tensors
        normalized = (_widened(input) - _across(mean)).mul_(_across(inverse))
        gradient = _widened(gradients[0])
        own = torch.stack([gradient.sum((0, 2, 3)), (gradient * normalized).sum((0, 2, 3))])
        mean_gradient, mean_product = ctx.processes.summed(own) / count
        moved = gradient - _across(mean_gradient) - normalized.mul_(_across(mean_product))
        # Weight and bias belong to every process: their gradients are summed with all other parameters'.
        return moved.mul_(_across(weight * inverse)).to(input.dtype), own[1], own[0], None, None


def _moments(x: Tensor) -> Tensor:
    """3 x C: the number of values, their mean (0 of none), and the sum of squares about it."""
    count = x.numel() // x.shape[1]
    mean = x.sum((0, 2, 3)) / max(count, 1)
    squares = torch.square(x - _across(mean)).sum((0, 2, 3))
    return torch.stack([torch.full_like(mean, count), mean, squares])


def _merged(moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance (biased) and number of values together, of what P processes have: P x 3 x C."""
    counts, means, squares = moments.unbind(1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    between = counts * torch.square(means - mean)
    return mean, (squares + between).sum(0) / count, count


class RunningStatistics:
    """Those of a model's batch norms, laid in one tensor: copied, and put back, as one."""

    def __init__(self, norms: Iterable[nn.BatchNorm2d]) -> None:
        owned = [(norm, name) for norm in norms for name in ("running_mean", "running_var")]
        parts = [getattr(norm, name) for norm, name in owned]
        self.values = torch.cat(parts) if parts else torch.empty(0)
        pieces = torch.split(self.values, [len(part) for part in parts])
        for (norm, name), part in zip(owned, pieces, strict=True):
            # `data`: as tensors apart, lest what one norm writes seem to change what another has saved.
            setattr(norm, name, part.data)

    def copy(self) -> Tensor:
        """Their values as they are."""
        return self.values.clone()

    def keep_where(self, finite: Tensor, before: Tensor) -> None:
        """Put a `copy` back where not `finite`; does not wait for the device."""
        if len(self.values):
            self.values.copy_(torch.where(finite, self.values, before))
