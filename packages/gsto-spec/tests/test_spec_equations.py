"""Equations 1 to 6 one by one, then the paper's GFM and GTM, against numbers worked out by hand.

The feature of the equations is F = (F_1, F_2) on a grid of 2 x 2:

    F_1 = | 1  2 |    F_2 = |  0  1 |
          | 3  4 |          | -1  2 |
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import exp
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from gsto_spec import GraphBuilder, evaluate
from gsto_spec.blocks import (
    Fusion,
    Resampling,
    Transition,
    gate,
    predictor,
    project,
    scale_transfer,
    supervised_gate,
)
from gsto_spec.forms import PAPER, Transfer

Array = NDArray[np.float64]

F = np.array([[[1, 2], [3, 4]], [[0, 1], [-1, 2]]], np.float64)

# Without eps, the norm that the paper form puts after equation 1 can be set to the identity exactly.
EPS = 2.0**-20


def sigma(x: float) -> float:
    return 1 / (1 + exp(-x))


SIGMA = np.vectorize(sigma)


def transfer() -> Transfer:
    assert PAPER.transfer is not None
    return PAPER.transfer


def identity_norm(name: str, channels: int) -> dict[str, Array]:
    ones, zeros = np.ones(channels), np.zeros(channels)
    return {f"{name}.weight": ones, f"{name}.bias": zeros, f"{name}.running_mean": zeros,
            f"{name}.running_var": ones - EPS}  # fmt: skip


def column(*values: float) -> Array:
    """The weight of a 1x1 convolution to one channel."""
    return np.array(values, np.float64).reshape(1, -1, 1, 1)


def matrix(*rows: tuple[float, ...]) -> Array:
    """The weight of a 1x1 convolution, a row per output channel."""
    return np.concatenate([column(*row) for row in rows])


def value(build: GraphBuilder, node: str, weights: Mapping[str, Any], **inputs: Array) -> Array:
    batch = {name: array[None] for name, array in inputs.items()}
    result: Array = evaluate(build.graph({"y": node}), weights, batch)["y"][0]
    return result


def test_equation_1_projects_the_channels() -> None:
    build = GraphBuilder()
    plain = replace(transfer(), projection_norm=False)
    projected = project(build, "st", build.input("f", 2), 3, plain, relu=False)
    omega = matrix((1, 2), (-1, 3), (0.5, 0))
    assert value(build, projected, {"st.0.weight": omega}, f=F).tolist() == [
        [[1 + 0, 2 + 2], [3 - 2, 4 + 4]],
        [[-1 + 0, -2 + 3], [-3 - 3, -4 + 6]],
        [[0.5, 1], [1.5, 2]],
    ]


def test_equation_1_is_followed_by_the_chosen_norm_and_no_bias() -> None:
    build = GraphBuilder(eps=EPS)
    projected = project(build, "st", build.input("f", 2), 1, transfer(), relu=False)
    weights = {"st.0.weight": column(1, 2), **identity_norm("st.1", 1)}
    assert set(build.graph({"y": projected}).parameters) == set(weights)
    weights |= {
        "st.1.weight": np.array([3.0]),
        "st.1.bias": np.array([-1.0]),
        "st.1.running_mean": np.array([4.0]),
    }
    weights["st.1.running_var"] = np.array([4.0 - EPS])
    # Omega F is |1 4; 1 8|, less the mean 4, over the deviation 2, times 3, less 1.
    assert value(build, projected, weights, f=F).tolist() == [[[-5.5, -1], [-5.5, 5]]]


def test_equation_2_down_averages_onto_the_targets_grid() -> None:
    build = GraphBuilder()
    feature = build.input("f", 2)
    target = build.avg_pool(feature, 2, 2)
    down = scale_transfer(build, feature, target, "st/down", transfer().down, Resampling())
    assert value(build, down, {}, f=F).ravel().tolist() == [(1 + 2 + 3 + 4) / 4, (0 + 1 - 1 + 2) / 4]


def test_equation_2_down_meets_an_odd_grid() -> None:
    build = GraphBuilder()
    feature = build.input("f", 1)
    target = build.conv2d("half", feature, 1, kernel=3, stride=2)  # HRNet's grid: ceil(5 / 2) = 3
    down = scale_transfer(build, feature, target, "st/down", transfer().down, Resampling())
    row = np.array([[[1, 2, 4, 8, 16]]], np.float64)
    weights = {"half.weight": np.zeros((1, 1, 3, 3))}
    assert_allclose(value(build, down, weights, f=row).ravel(), [(1 + 2) / 2, (2 + 4 + 8) / 3, (8 + 16) / 2])


def test_equation_2_up_interpolates_bilinearly() -> None:
    build = GraphBuilder()
    wide = build.input("wide", 1)
    half = build.avg_pool(wide, 2, 2)
    up = scale_transfer(build, half, wide, "st/up", transfer().up, Resampling())
    row = np.array([[[0, 0, 4, 4], [0, 0, 4, 4]]], np.float64)
    # The halves are 0 and 4, a quarter and three quarters of the way between their centres.
    assert value(build, up, {}, wide=row).tolist() == [[[0, 1, 3, 4], [0, 1, 3, 4]]]


def test_equation_3_multiplies_every_channel_by_the_gate() -> None:
    build = GraphBuilder()
    gated = build.mul(build.input("g", 1), build.input("f", 2))
    g = np.array([[[0.5, 1], [0.25, 0]]])
    assert value(build, gated, {}, g=g, f=F).tolist() == [[[0.5, 2], [0.75, 0]], [[0, 1], [-0.25, 0]]]


def test_equation_4_is_the_unsupervised_gate() -> None:
    build = GraphBuilder()
    g = gate(build, "att", build.input("f", 2), PAPER)
    # Rho F = F_1 - F_2.
    found = value(build, g, {"att.0.weight": column(1, -1)}, f=F)
    assert_allclose(found, [[[sigma(1), sigma(1)], [sigma(4), sigma(2)]]], rtol=1e-15)


def test_equation_5_is_the_predictor() -> None:
    build = GraphBuilder()
    p = predictor(build, "last_layer_stage2", build.input("f", 2), 3, hidden=PAPER.predictor_hidden)
    omega = matrix((1, 2), (-1, 3), (0.5, 0))
    assert value(build, p, {"last_layer_stage2.0.weight": omega}, f=F).tolist() == [
        [[1, 4], [1, 8]],
        [[-1, 1], [-6, 2]],
        [[0.5, 1], [1.5, 2]],
    ]


def test_equation_6_is_the_supervised_gate() -> None:
    build = GraphBuilder()
    g = supervised_gate(build, "att2.2", build.input("p", 3), 1, PAPER)
    probabilities = np.array([[[1, 4], [1, 8]], [[-1, 1], [-6, 2]], [[0.5, 1], [1.5, 2]]])
    # Theta P = P_1 + 2 P_3.
    found = value(build, g, {"att2.2.0.0.weight": column(1, 0, 2)}, p=probabilities)
    assert_allclose(found, [[[sigma(2), sigma(6)], [sigma(4), sigma(12)]]], rtol=1e-15)


HIGH = np.array([[[1, -8], [0, 2]]], np.float64)
LOW = np.array([[[3, 3], [3, 3]], [[1, 1], [1, 1]]], np.float64)
"""Averaged to the single cell (3, 1): the lower branch of two channels."""


def fusion(target: int) -> Array:
    """GFM of the paper over a branch of one channel on 2 x 2 and one of two channels on 1 x 1."""
    build = GraphBuilder(eps=EPS)
    branches = [build.input("high", 1), build.avg_pool(build.input("low", 2), 2, 2)]
    fused = Fusion(partial(gate, form=PAPER), PAPER, Resampling()).build(build, "stage2.0", branches, 2)
    path = "stage2.0"
    weights = {
        f"{path}.att_layers.0.1.0.weight": column(1, -1),
        f"{path}.fuse_layers.0.1.0.weight": column(2, -1),
        **identity_norm(f"{path}.fuse_layers.0.1.1", 1),
        f"{path}.att_layers.1.0.0.weight": column(0.5),
        f"{path}.fuse_layers.1.0.0.weight": matrix((1,), (-2,)),
        **identity_norm(f"{path}.fuse_layers.1.0.1", 2),
    }
    return value(build, fused[target], weights, high=HIGH, low=LOW)


def test_gfm_upwards_by_hand() -> None:
    # g = sigma(3 - 1), the source becomes g (3, 1), its projection 2 * 3 g - g = 5 g, up-sampled to all of
    # 2 x 2 and added to the branch itself, which no gate touches; relu.
    g = sigma(2)
    assert_allclose(fusion(0), [[[1 + 5 * g, 0], [5 * g, 2 + 5 * g]]], rtol=1e-14)


def test_gfm_downwards_by_hand() -> None:
    # g = sigma(F / 2) pixel by pixel; gated and projected before the average is taken; relu after the sum.
    gated = 1 * sigma(0.5) - 8 * sigma(-4) + 0 * sigma(0) + 2 * sigma(1)
    assert_allclose(fusion(1).ravel(), [3 + gated / 4, max(1 - 2 * gated / 4, 0)], rtol=1e-14)


def transition_weights(path: str, gate_path: str, gate_weight: Array) -> dict[str, Array]:
    return {
        gate_path: gate_weight,
        f"{path}.0.weight": matrix((1, 1), (-1, 0)),
        **identity_norm(f"{path}.1", 2),
    }


UNITED_HIGH = np.array([[[1, 0], [2, -1]]], np.float64)
UNITED_LOW = np.full((1, 2, 2), 3.0)


def new_branch(build: GraphBuilder, transition: Transition) -> str:
    branches = [build.input("high", 1), build.avg_pool(build.input("low", 1), 2, 2)]
    made = transition.build(build, branches, (1, 1, 2))
    assert made[:2] == branches
    return made[2]


def test_unsupervised_gtm_by_hand() -> None:
    build = GraphBuilder(eps=EPS)
    end = new_branch(build, Transition(2, PAPER, Resampling(), partial(gate, form=PAPER)))
    weights = transition_weights("transition2.2.0", "att2.2.0.0.weight", column(1, 1))
    # United: |1 0; 2 -1| and 3 everywhere, so that rho U = |4 3; 5 2|. Projected: g (U_1 + U_2), which is
    # g |4 3; 5 2|, and -g U_1 = g |-1 0; -2 1|, of which relu keeps the last; then the average.
    wanted = [(4 * sigma(4) + 3 * sigma(3) + 5 * sigma(5) + 2 * sigma(2)) / 4, sigma(2) / 4]
    found = value(build, end, weights, high=UNITED_HIGH, low=UNITED_LOW)
    assert found.shape == (2, 1, 1)
    assert_allclose(found.ravel(), wanted, rtol=1e-14)


def test_supervised_gtm_by_hand() -> None:
    build = GraphBuilder(eps=EPS)
    logits = build.input("logits", 2)
    end = new_branch(build, Transition(2, PAPER, Resampling(), logits=logits))
    weights = transition_weights("transition2.2.0", "att2.2.0.0.weight", column(2, 1))
    given = np.array([[[1, 0], [0, -1]], [[0, 1], [2, 0]]], np.float64)
    # Theta P = |2 1; 2 -2| gates the united feature of the test above.
    g = SIGMA([[2, 1], [2, -2]])
    wanted = [(g * [[4, 3], [5, 2]]).mean(), np.maximum(g * [[-1, 0], [-2, 1]], 0).mean()]
    found = value(build, end, weights, logits=given, high=UNITED_HIGH, low=UNITED_LOW)
    assert_allclose(found.ravel(), wanted, rtol=1e-14)


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (6, 9)])
def test_the_new_branch_has_half_of_the_lowest_rounded_up(size: tuple[int, int]) -> None:
    build = GraphBuilder()
    image = build.input("image", 2)
    branches = [image, build.avg_pool(image, 1, 2)]
    transition = Transition(2, PAPER, Resampling(), partial(gate, form=PAPER))
    end = transition.build(build, branches, (2, 2, 4))[2]
    shapes = build.graph({"y": end}).check((1, 2, *size))
    half = [-(-n // 2) for n in size]
    assert list(shapes[end]) == [1, 4, *(-(-n // 2) for n in half)]
