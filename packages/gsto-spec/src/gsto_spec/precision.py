"""Which op computes in which type at a given precision: one table for every backend.

At `bfloat16` and `float16` weights, statistics, slots, losses and the update stay in float32. A feature map
is stored in the low type; an op that computes in float32 widens what it reads and rounds its result once.
Products of convolutions are of low-type factors and summed in float32. An output of the graph is handed out
in float32. Source: statistics, gates, resizing and losses are where HRNets lost accuracy in half
precision (mmsegmentation#1584).
"""

from __future__ import annotations

from typing import Literal, assert_never

from gsto_spec.ops import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv2d,
    Input,
    MaxPool,
    Mul,
    Op,
    Parameter,
    Relu,
    Resize,
    Sigmoid,
    Slice,
    Softmax,
)

Precision = Literal["float32", "tf32", "float64", "bfloat16", "float16"]
Type = Literal["float32", "float64", "bfloat16", "float16"]

LOW: tuple[Precision, ...] = ("bfloat16", "float16")
"""Precisions whose feature maps take two bytes a value."""


def stored_in(precision: Precision) -> Type:
    """The type of a feature map between two ops."""
    return "float32" if precision == "tf32" else precision


def computes_in(op: Op, precision: Precision) -> Type:
    """The type that an op's arithmetic is done in."""
    if precision not in LOW:
        return stored_in(precision)
    match op:
        case BatchNorm() | Mul() | Sigmoid() | Softmax() | Resize() | AvgPool() | AdaptiveAvgPool():
            return "float32"
        case Conv2d() | Add() | Relu() | MaxPool() | Concat() | Slice() | Input() | Parameter():
            return stored_in(precision)
        case unknown:
            assert_never(unknown)
