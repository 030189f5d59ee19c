"""The table of precisions: a line for every op, and sums over feature maps in float32 where maps are low."""

from typing import Any, get_args

import pytest

from gsto_spec.ops import OPS, Op
from gsto_spec.precision import LOW, Precision, computes_in, stored_in

WINDOW = {"kernel": (2, 2), "stride": (1, 1)}
REQUIRED: dict[str, dict[str, Any]] = {
    "parameter": {"shape": (1,)},
    "slice": {"start": 0, "stop": 1},
    "avg_pool": WINDOW,
    "max_pool": WINDOW,
}
EVERY_OP: list[Op] = [op(**REQUIRED.get(kind, {})) for kind, op in OPS.items()]
WIDE = {"batch_norm", "mul", "sigmoid", "softmax", "resize", "avg_pool", "adaptive_avg_pool"}
"""Statistics, gates and resizing: where HRNets lost accuracy in half precision."""

each_op = pytest.mark.parametrize("op", EVERY_OP, ids=lambda op: op.kind)


@each_op
@pytest.mark.parametrize("precision", LOW)
def test_in_low_precisions_statistics_gates_and_resizing_are_wide(op: Op, precision: Precision) -> None:
    assert computes_in(op, precision) == ("float32" if op.kind in WIDE else precision)


@each_op
def test_in_other_precisions_an_op_computes_in_what_maps_are_stored_in(op: Op) -> None:
    others = {"float32": "float32", "tf32": "float32", "float64": "float64"}
    assert {
        precision: computes_in(op, precision) for precision in get_args(Precision) if precision not in LOW
    } == (others)


def test_a_map_is_stored_in_two_bytes_where_the_precision_is_low() -> None:
    assert {precision: stored_in(precision) for precision in get_args(Precision)} == {
        "float32": "float32", "tf32": "float32", "float64": "float64",
        "bfloat16": "bfloat16", "float16": "float16",
    }  # fmt: skip


def test_what_is_no_op_has_no_line() -> None:
    unknown: Any = object()
    with pytest.raises(AssertionError):
        computes_in(unknown, "bfloat16")
