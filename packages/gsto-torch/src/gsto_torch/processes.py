"""The processes that train together, as torchrun starts them, and what they tell each other."""

from __future__ import annotations

import atexit
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gsto_spec.backend import BackendError

_SOURCE = re.compile(r"\[?\S*\.(?:cc|cpp|h|hpp):\d+\]?:? *")
"""Where in the source of torch's libraries something was found, which nobody can mend there."""

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun, or a launcher in its place, sets for every process."""


@dataclass(frozen=True)
class Processes:
    """This process's place among `count`; `local_index` is that among those of its machine.

    The group is joined when it is first needed, and left when the interpreter ends.
    """

    index: int = 0
    count: int = 1
    local_index: int = 0

    @staticmethod
    def of_environment(environment: Mapping[str, str] = os.environ) -> Processes:
        """Those of torchrun's variables; one process where there are none. Raises `BackendError`."""
        if not environment.keys() & {"RANK", "WORLD_SIZE"}:
            return Processes()
        if missing := [name for name in VARIABLES if name not in environment]:
            raise BackendError(
                f"{', '.join(missing)}: expected from torchrun beside {_listed(environment)}, found nothing"
            )
        index, count, local = (_number(environment, name) for name in VARIABLES[:3])
        if index >= count:
            raise BackendError(f"RANK: expected less than WORLD_SIZE, which is {count}, found {index}")
        return Processes(index, count, local)

    def join(self) -> None:
        """Be one of the group. Waits for the others."""
        if self.count > 1 and not dist.is_initialized():
            cuda = torch.cuda.is_available()
            if cuda:
                torch.cuda.set_device(self.local_index)
            # gloo beside nccl: what is asked on the host is answered without a wait for the device.
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
            atexit.register(_leave)

    def gathered(self, tensor: Tensor) -> Tensor:
        """Every process's tensor, all of one shape, under a new first axis."""
        if self.count == 1:
            return tensor[None]
        everyone = tensor.new_empty((self.count, *tensor.shape))
        dist.all_gather(list(everyone.unbind()), tensor.contiguous())
        return everyone

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum of every process's tensor."""
        if self.count > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def sum_of_arrays(self, array: NDArray[Any]) -> NDArray[Any]:
        """The sum of every process's array, in its own type; exact for integers."""
        if self.count == 1:
            return array
        wide = np.int64 if array.dtype.kind in "iub" else np.float64
        with self.together():
            self.join()
            total = self.summed(torch.from_numpy(np.array(array, wide)))
        return total.numpy().astype(array.dtype)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around what the processes do together: where one of them has died, the others say so and end.

        Raises `BackendError`.
        """
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            found = _SOURCE.sub("", str(error)).partition(". ")[0]
            raise BackendError(
                f"process {self.index} of {self.count}: expected the others, found one gone ({found}); what "
                "that one printed says why"
            ) from None

    def distributed(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the processes, if it has any and there are several."""
        if self.count == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        # Synchronised norms keep statistics alike without being copied; torch renamed the option.
        options = inspect.signature(DistributedDataParallel).parameters
        copied = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"
        chosen: dict[str, Any] = {copied: False, "gradient_as_bucket_view": True}
        return DistributedDataParallel(model, **chosen)

    @property
    def cuda(self) -> torch.device:
        """The card of this process."""
        return torch.device("cuda", self.local_index) if self.count > 1 else torch.device("cuda")


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _listed(environment: Mapping[str, str]) -> str:
    return ", ".join(name for name in VARIABLES if name in environment)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not text.isdecimal():
        raise BackendError(f"{name}: expected a whole number from torchrun, found {text}")
    return int(text)
