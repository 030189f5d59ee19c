"""Backends that get other attentions and dilated networks wrong: pooling, gates per channel, dilation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from conformance.mutants.broken import Array, Misreads, Mutant
from gsto_spec.graph import Node
from gsto_spec.ops import AdaptiveAvgPool, Conv2d, Mul, Op


class MaximumForMean(Mutant):
    """Squeezes by the maximum where the mean is meant: CBAM's two pools confused."""

    def forward(self, node: Node, operands: Sequence[Array], training: bool) -> Array:
        result = super().forward(node, operands, training)
        if isinstance(node.op, AdaptiveAvgPool) and result.shape[2:] == (1, 1):
            return np.asarray(operands[0].max(axis=(2, 3), keepdims=True))
        return result


class ChannelGateShared(Misreads):
    """One gate for all channels where each has its own: a reduction over the wrong axis."""

    def seen(self, op: Op, operands: Sequence[Array]) -> list[Array]:
        return [_shared(part) for part in operands] if isinstance(op, Mul) else list(operands)


def _shared(x: Array) -> Array:
    per_channel = x.ndim == 4 and x.shape[2:] == (1, 1)
    return np.broadcast_to(x.mean(axis=1, keepdims=True), x.shape) if per_channel else x


class DilationForgotten(Misreads):
    """Dilated kernels close up and keep their size: a backbone built without its dilation."""

    def meant(self, op: Op, operands: Sequence[Array]) -> Op:
        if not isinstance(op, Conv2d):
            return op
        reach = [
            (dilation - 1) * (kernel - 1)
            for dilation, kernel in zip(op.dilation, operands[1].shape[2:], strict=True)
        ]
        top, bottom, left, right = op.padding
        less = (top - reach[0] // 2, bottom - (reach[0] + 1) // 2, left - reach[1] // 2,
                right - (reach[1] + 1) // 2)  # fmt: skip
        return replace(op, dilation=(1, 1), padding=less) if min(less) >= 0 else op
