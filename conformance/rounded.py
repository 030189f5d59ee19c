"""The oracle in precisions of two bytes: the output of every op rounded, as `gsto_spec.precision` has it.

Two bytes a value are held as float32 numbers that have no more digits than they could.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.arithmetic import PLAIN, Arithmetic
from conformance.losses import Loss
from conformance.oracle import OracleBackend
from gsto_spec.backend import Batch, resolve_device
from gsto_spec.graph import Node
from gsto_spec.objective import Objective
from gsto_spec.ops import Add, BatchNorm, Concat, Conv2d, MaxPool, Op, Relu, Resize, Slice
from gsto_spec.precision import LOW

Array = NDArray[Any]
Arrays = dict[str, Array]

EXACT = (Relu, Concat, Slice, MaxPool)
"""Ops whose results are values of their operands."""


@dataclass(frozen=True)
class Format:
    """A floating-point type: bits of its significand, the hidden one among them, and its extremes."""

    bits: int
    largest: float
    smallest_normal: float

    @property
    def unit_roundoff(self) -> float:
        """Half the distance from 1 to the next number."""
        return 2.0**-self.bits

    def rounded(self, x: Array) -> Array:
        """To nearest, ties to even, as float32."""
        spacing = self._spacing(x)
        return self._finite(np.rint(np.asarray(x, np.float64) / spacing) * spacing)

    def rounded_at_random(self, x: Array, generator: np.random.Generator) -> Array:
        """To the next number above or below, each as often as it is near: on average, x."""
        spacing = self._spacing(x)
        up = generator.random(np.shape(x))
        return self._finite(np.floor(np.asarray(x, np.float64) / spacing + up) * spacing)

    def _spacing(self, x: Array) -> Array:
        exponent = np.frexp(np.asarray(x, np.float64))[1]
        _, smallest = np.frexp(self.smallest_normal)
        return np.asarray(np.ldexp(1.0, np.maximum(exponent, smallest) - self.bits))

    def _finite(self, x: Array) -> Array:
        return np.where(np.abs(x) > self.largest, np.copysign(np.inf, x), x).astype(np.float32)


FORMATS = {
    "bfloat16": Format(8, float(np.ldexp(2 - 2.0**-7, 127)), 2.0**-126),
    "float16": Format(11, 65504.0, 2.0**-14),
}


class RoundedOracle(OracleBackend):
    """The oracle in one precision of two bytes; with a `generator` it rounds up and down at random."""

    name = "rounded oracle"
    precisions: tuple[str, ...] = LOW

    def __init__(
        self, precision: str = "bfloat16", generator: np.random.Generator | None = None,
        sums: Arithmetic = PLAIN,
    ) -> None:  # fmt: skip
        super().__init__(sums)
        self.precisions = (precision,)
        self.format, self.generator = FORMATS[precision], generator

    def _resolve(self, device: str, precision: str) -> np.dtype[Any]:
        resolve_device(self, device, precision)
        return np.dtype(np.float32)

    def kept(self, x: Array) -> Array:
        """A feature map as it is stored."""
        return self._short(x, self.format)

    def kept_gradient(self, x: Array) -> Array:
        """A feature map's gradient as it is stored: scaled as the loss is, so that none is too small."""
        return self._short(x, replace(self.format, largest=np.inf, smallest_normal=2.0**-126))

    def _short(self, x: Array, form: Format) -> Array:
        if self.generator is None:
            return form.rounded(x)
        return form.rounded_at_random(x, self.generator)

    def image(self, images: Array, dtype: np.dtype[Any]) -> Array:
        return self.kept(images)

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        if isinstance(node.op, Add):
            return self._added(operands)
        result = super().forward(node, self._read(node, operands), training)
        return result if isinstance(node.op, EXACT) else self.kept(result)

    def _added(self, operands: Sequence[Array]) -> Array:
        total = operands[0]
        for operand in operands[1:]:
            total = self.kept(total + operand)
        return total

    def _read(self, node: Node, operands: Sequence[Array]) -> list[Array]:
        return read(node.op, operands, self.format)

    def backward(
        self, node: Node, operands: Sequence[Array], result: Array, upper: Array
    ) -> Sequence[Array | None]:
        found = super().backward(node, self._read(node, operands), result, upper)
        return self._gradients(node, found)

    def backward_frozen(self, op: BatchNorm, operands: Sequence[Array], upper: Array) -> list[Array | None]:
        first, *others = super().backward_frozen(op, operands, upper)
        assert first is not None
        return [self.kept_gradient(first), *others]

    def _gradients(self, node: Node, found: Sequence[Array | None]) -> list[Array | None]:
        """Those of a batch norm's own tensors are of four bytes; of a convolution's they were of two."""
        stays = range(1, len(found)) if isinstance(node.op, BatchNorm) else ()
        return [
            part if part is None or place in stays else self.kept_gradient(part)
            for place, part in enumerate(found)
        ]

    def losses(
        self, objective: Objective, outputs: Arrays, magnitudes: Arrays, batch: Batch
    ) -> dict[str, tuple[Loss, float]]:
        found = super().losses(objective, outputs, magnitudes, batch)
        return {name: (self._loss(loss), weight) for name, (loss, weight) in found.items()}

    def _loss(self, loss: Loss) -> Loss:
        return replace(loss, gradient=self.kept_gradient(loss.gradient))


def read(op: Op, operands: Sequence[Array], form: Format) -> list[Array]:
    """What an op computes from: a convolution from weights of the short type."""
    if not isinstance(op, Conv2d):
        return list(operands)
    return [operands[0], *(form.rounded(weight) for weight in operands[1:])]


def roundings(op: Op, operands: int) -> int:
    """How often an op with so many operands may round to the short type."""
    if isinstance(op, EXACT) or (isinstance(op, Resize) and op.method == "nearest"):
        return 0
    if isinstance(op, Add):
        return operands - 1
    return 2 if isinstance(op, Conv2d) and operands == 3 else 1
