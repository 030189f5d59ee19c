from functools import cache
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsto_spec import Graph, build
from gsto_train.errors import InputError
from gsto_train.run.fine_tuning import FineTuning
from gsto_train.schema import assignment
from gsto_train.settings import resolve


@cache
def mini() -> Graph:
    return build("gsto-hrnet-w16-mini", classes=3)


def tuning(*assignments: str) -> FineTuning:
    values: dict[str, object] = {
        "architecture.name": "gsto-hrnet-w16-mini", "data.kind": "scenes", "data.crop": [64, 64],
        "train.steps": 1, "train.batch": 1, "train.learning_rate": 0.1,
    }  # fmt: skip
    return FineTuning.of(resolve(values, dict(map(assignment, assignments))).train, mini())


def test_without_settings_everything_learns_at_one_rate() -> None:
    assert (tuning().frozen, tuning().rate_factors, str(tuning())) == (frozenset(), {}, "")


def test_a_frozen_part_is_everything_learnt_under_its_path() -> None:
    found = tuning('train.freeze=["conv1", "stage2"]')
    expected = {name for name in mini().trainable if name.startswith(("conv1.", "stage2."))}
    assert found.frozen == expected
    assert str(found) == f"{len(expected)} of {len(mini().trainable)} learnt tensors frozen"


@given(st.data())
def test_a_prefix_is_a_whole_path(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*mini().trainable]))
    parts = name.split(".")
    prefix = ".".join(parts[: data.draw(st.integers(1, len(parts)))])
    for held in (frozen := tuning(f'train.freeze=["{prefix}"]').frozen):
        assert held.split(".")[: prefix.count(".") + 1] == prefix.split(".")
    assert name in frozen


def test_of_several_factors_the_longest_path_counts_in_any_order() -> None:
    entries = ["last_layer=10", "last_layer.3=2.5"]
    for given_ in (entries, entries[::-1]):
        factors = tuning(f"train.rate_factors={given_}").rate_factors
        assert set(factors) == {name for name in mini().trainable if name.startswith("last_layer.")}
        assert {factors[name] for name in factors if name.startswith("last_layer.3.")} == {2.5}
        assert {factors[name] for name in factors if not name.startswith("last_layer.3.")} == {10.0}


def test_what_is_frozen_has_no_rate() -> None:
    found = tuning('train.freeze=["last_layer.0"]', 'train.rate_factors=["last_layer=10"]')
    assert found.frozen.isdisjoint(found.rate_factors)
    assert "last_layer.3.weight" in found.rate_factors


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (['train.freeze=["stge2"]'], r"'train\.freeze': .* found 'stge2' \(nearest: stage2\)"),
        (['train.freeze=["stage"]'], r"'train\.freeze': .* found 'stage' \(nearest: stage"),
        (['train.freeze=["bn1.running_mean"]'], r"found 'bn1\.running_mean'"),
        (['train.rate_factors=["last_laye=10"]'], r"found 'last_laye' \(nearest: last_layer\)"),
        (['train.rate_factors=["last_layer"]'], r"expected path=factor .*found 'last_layer'"),
        (['train.rate_factors=["last_layer=0"]'], r"above 0.*goes into train\.freeze"),
        (['train.rate_factors=["last_layer=nan"]'], r"expected path=factor"),
        (['train.rate_factors=["last_layer=inf"]'], r"expected path=factor"),
        (['train.rate_factors=["last_layer=2", " last_layer =3"]'], r"one factor for 'last_layer', found 2"),
        (
            ['train.freeze=["last_layer"]', 'train.rate_factors=["last_layer.0=2"]'],
            r"all of 'last_layer\.0' is frozen",
        ),
    ],
)
def test_a_path_or_a_factor_that_means_nothing_is_refused(assignments: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=expected) as error:
        tuning(*assignments)
    assert "\n" not in str(error.value)


def test_freezing_everything_is_refused() -> None:
    roots = sorted({name.partition(".")[0] for name in mini().trainable})
    with pytest.raises(InputError, match="leaves nothing to learn"):
        tuning(f"train.freeze={roots}")


def test_a_run_says_what_is_frozen_and_its_backend_is_told(command: Any, linear: ModuleType) -> None:
    parts = ('train.freeze=["aside"]', 'train.rate_factors=["head=3"]')
    done = command("--architecture", "linear_backend:two_outputs", "--output", "run", settings=parts)
    assert done.status == 0, done.error
    assert (
        "; 2 of 4 learnt tensors frozen, 2 of 4 learnt tensors with a learning rate of their own; "
        in done.error
    )
    assert linear.events.training.frozen == {"aside.weight", "aside.bias"}
    assert linear.events.training.rate_factors == {"head.weight": 3.0, "head.bias": 3.0}


def test_a_run_with_an_unknown_part_makes_no_folder(command: Any) -> None:
    failed = command("--output", "run", settings=('train.freeze=["heed"]',))
    assert failed.status == 2
    assert "found 'heed' (nearest: head)" in failed.failure
    assert not (command.pictures.parent / "run").exists()
