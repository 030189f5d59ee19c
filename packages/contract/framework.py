"""What tests need of a framework beyond the backend: compiled modules and losses, as numpy."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from numpy.typing import NDArray

from gsto_spec.backend import Speed
from gsto_spec.objective import Objective

Array = NDArray[Any]
Arrays = dict[str, Array]


class Framework(Protocol):
    """A module `NAME_framework` in the tests folder of the backend NAME.

    All arrays are numpy, N x C x H x W, and are computed in their own type.
    """

    SPEEDS: tuple[Speed, ...]
    """Those at which whole networks are tested: where compiling takes seconds, the default alone."""
    EXAMPLES: int
    """How many examples are drawn where each may be compiled."""

    def float64(self) -> AbstractContextManager[Any]:
        """Inside, there are models in float64."""
        ...

    def dtype(self, name: str) -> Any:
        """The type of that name, as `compile` and `load` take it."""
        ...

    def compute(self, model: Any, *images: Array) -> Arrays:
        """A compiled graph's outputs, in the mode that it is in."""
        ...

    def slopes(self, model: Any, images: Sequence[Array], factors: Arrays) -> tuple[Arrays, list[Array]]:
        """A compiled graph's outputs, and the gradients, by input, of their sum weighted by `factors`."""
        ...

    def losses(self, objective: Objective, outputs: Arrays, batch: Arrays) -> tuple[Arrays, Arrays]:
        """`loss` and `loss_<output>` as the backend computes them, and the gradients of `loss` by output."""
        ...

    def assign(self, model: Any, name: str, value: float) -> None:
        """Fill a tensor of a compiled graph, by its canonical name."""
        ...
