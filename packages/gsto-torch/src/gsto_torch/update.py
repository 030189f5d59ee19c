"""How a trainer's weights change: the optimiser, its slots, the loss scale of float16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gsto_spec.backend import LOSS_SCALE, OPTIMIZER_PREFIX
from gsto_spec.objective import SGD, Adam

Arrays = dict[str, NDArray[Any]]

_SLOTS = {"momentum_buffer": "momentum", "exp_avg": "first", "exp_avg_sq": "second"}
"""torch's names of optimiser slots, and gsto-spec's."""


class Update:
    """An optimiser of named parameters; `rate_factors` multiply the learning rate of those they name."""

    def __init__(
        self, optimizer: SGD | Adam, parameters: Mapping[str, nn.Parameter], rate_factors: Mapping[str, float]
    ) -> None:
        self.parameters = parameters
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in parameters.items():
            groups.setdefault(rate_factors.get(name, 1.0), []).append(parameter)
        self.optimizer = _optimizer(
            optimizer, [{"params": group, "rate_factor": factor} for factor, group in groups.items()]
        )
        self.load({})

    def step(self, learning_rate: float, finite: Tensor, loss_scale: Tensor | None = None) -> None:
        """Update by the gradients over `loss_scale`; where not `finite`, nothing. Waits for no device."""
        if not self.parameters:
            return
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate_factor"]
        # As torch.amp.GradScaler does: fused optimisers read these on the device.
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.grad_scale = loss_scale  # type: ignore[attr-defined]
        self.optimizer.step()
        self._stepped.logical_or_(finite)

    def state(self) -> Arrays:
        """The slots (`optimizer/momentum/NAME`, ...), copied to numpy; none before the first update."""
        state: Arrays = {}
        if not bool(self._stepped):
            return state
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                if key == "step":
                    state[f"{OPTIMIZER_PREFIX}step"] = np.asarray(int(value))
                else:
                    state[f"{OPTIMIZER_PREFIX}{_SLOTS[key]}/{name}"] = value.cpu().numpy().copy()
        return state

    def load(self, slots: Mapping[str, NDArray[Any]]) -> None:
        """Go on from slots, under their names without the prefix; afresh where there are none."""
        some = next(iter(self.parameters.values()), torch.empty(0))
        self._stepped = torch.full((), bool(slots), device=some.device)
        for name, parameter in self.parameters.items():
            # Of nought from the beginning: torch's fused SGD would make its first buffers of whatever
            # lies in memory where the first step is not finite.
            self.optimizer.state[parameter] = {
                key: _slot(key, name, parameter, slots) for key in _keys(self.optimizer)
            }


def _keys(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    if isinstance(optimizer, torch.optim.Adam):
        return ("step", "exp_avg", "exp_avg_sq")
    return ("momentum_buffer",) if optimizer.defaults["momentum"] else ()


def _slot(key: str, name: str, parameter: nn.Parameter, slots: Mapping[str, NDArray[Any]]) -> Tensor:
    stored = "step" if key == "step" else f"{_SLOTS[key]}/{name}"
    start = torch.zeros((), device=parameter.device) if key == "step" else torch.zeros_like(parameter)
    start.requires_grad_(False)
    return start.copy_(torch.from_numpy(np.array(slots[stored]))) if stored in slots else start


def _optimizer(optimizer: SGD | Adam, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    groups = groups or [{"params": [torch.zeros(())], "rate_factor": 1.0}]
    match optimizer:
        case SGD():
            return torch.optim.SGD(
                groups, lr=0.0, momentum=optimizer.momentum, weight_decay=optimizer.weight_decay, fused=True
            )
        case Adam():
            return torch.optim.Adam(
                groups, lr=0.0, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.epsilon,
                weight_decay=optimizer.weight_decay, fused=True,
            )  # fmt: skip
        case unknown:
            assert_never(unknown)


def all_finite(loss: Tensor, gradients: list[Tensor]) -> Tensor:
    """Whether a loss and every gradient are finite; on their device."""
    if not gradients:
        return loss.isfinite()
    found, one = (make((), dtype=torch.float32, device=loss.device) for make in (torch.zeros, torch.ones))
    # What torch.amp.GradScaler asks: one pass over them all, a tenth of what norm by norm takes.
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, one)
    return loss.isfinite() & (found == 0)


class LossScale:
    """What the loss of a float16 trainer is multiplied by, as `torch.amp.GradScaler` does it.

    Half of it after gradients that overflowed, twice after `PERIOD` good steps; from 1 to 2^64.
    """

    START = 2.0**16
    PERIOD = 2000

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.factor: Tensor
        self.steps: Tensor
        self.load({})

    def take_in(self, finite: Tensor) -> None:
        """A step's gradients were finite, or not."""
        steps = torch.where(finite, self.steps + 1, 0)
        grown = torch.where(steps == self.PERIOD, 2 * self.factor, self.factor)
        self.factor = torch.where(finite, grown, self.factor / 2).clamp(1.0, 2.0**64)
        self.steps = torch.where(steps == self.PERIOD, 0, steps)

    def state(self) -> Arrays:
        """The factor, and the good steps since it changed."""
        return {
            name: value.cpu().numpy()
            for name, value in zip(LOSS_SCALE, (self.factor, self.steps), strict=True)
        }

    def load(self, slots: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a `state` under names without the prefix; afresh where it has none."""
        factor, steps = (slots.get(name.removeprefix(OPTIMIZER_PREFIX)) for name in LOSS_SCALE)
        start = self.START if factor is None else float(factor)
        self.factor = torch.tensor(start, dtype=torch.float32, device=self.device)
        self.steps = torch.tensor(0 if steps is None else int(steps), device=self.device)
