from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsto_train import benchmarks
from gsto_train.errors import InputError
from gsto_train.schema import assignment, describe, flatten, is_free, nest, values_in_use
from gsto_train.settings import Settings, resolve

VALUES: dict[str, object] = {
    "architecture.name": "gsto-hrnet-w18-small-v2",
    "data.kind": "list",
    "data.crop": [192, 256],
    "train.epochs": 80,
    "train.batch": 4,
    "train.learning_rate": 0.02,
    "train.momentum": 0.9,
    "train.batch_norm_momentum": 0.1,
}


def refused(*assignments: str) -> str:
    with pytest.raises(InputError) as error:
        resolve(VALUES, dict(map(assignment, assignments)))
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("train.lerning_rate=3", "'train.lerning_rate' (nearest: train.learning_rate)"),
        ("learning_rate=3", "'learning_rate' (nearest: train.learning_rate)"),
        ("evaluation.scale=2", "'evaluation.scale' (nearest: evaluation.scales)"),
        ("data.learning_rate=3", "'data.learning_rate' (nearest: train.learning_rate)"),
        ("pose.scales=2", "'pose.scales' (nearest: pose.scale)"),
        ("train=3", "'train' is a section"),
        (
            "train.batch=eight",
            "'train.batch': expected a whole number, at least 1 and at most 65536, found \"eight\"",
        ),
        (
            "train.batch=true",
            "'train.batch': expected a whole number, at least 1 and at most 65536, found true",
        ),
        (
            "train.batch=2.5",
            "'train.batch': expected a whole number, at least 1 and at most 65536, found 2.5",
        ),
        ("train.batch=0", "'train.batch': expected a whole number, at least 1 and at most 65536, found 0"),
        ("train.learning_rate=0", "'train.learning_rate': expected a number, above 0, found 0"),
        ("train.learning_rate=inf", "'train.learning_rate': expected a number, above 0, found Infinity"),
        ("train.momentum=1.5", "expected a number, at least 0 and at most 1, found 1.5"),
        ("train.optimizer=adan", 'expected one of sgd, adam, found "adan" (nearest: adam)'),
        (
            "architecture.form=papr",
            'expected one of release, paper or none, found "papr" (nearest: paper)',
        ),
        (
            "data.crop=[8]",
            "'data.crop': expected a list of 2 whole numbers, at least 1 and at most 65536, found [8]",
        ),
        (
            "data.crop=[8, 0]",
            "'data.crop': expected a list of 2 whole numbers, at least 1 and at most 65536, found [8, 0]",
        ),
        ("data.scales=[]", "'data.scales': expected a list of numbers, above 0 and at most 64, found []"),
        ("data.flip=1", "'data.flip': expected true or false, found 1"),
        ("data.flip_pairs=[[1,2,3]]", "expected a list of lists of 2 whole numbers, at least 0 or none"),
        ("data.folder=3", "'data.folder': expected a text or none, found 3"),
        ("train.power=none", "'train.power': expected a number, above 0, found \"none\""),
        (
            "loss.stage_weights.stage4=-1",
            "'loss.stage_weights.stage4': expected a number, at least 0, found -1",
        ),
        ("steps", "expected key=value"),
    ],
)
def test_a_wrong_setting_is_refused_with_key_expected_and_found(given: str, expected: str) -> None:
    assert expected in refused(given)


@pytest.mark.parametrize(
    ("given", "owner"),
    [
        ("train.beta1=0.5", 'train.optimizer = "adam"'),
        ("train.milestones=[0.5]", 'train.schedule = "steps"'),
        ("data.scene_size=[32,32]", 'data.kind = "scenes"'),
        ("loss.ohem_threshold=0.5", "loss.ohem = true"),
    ],
)
def test_a_setting_without_effect_is_refused(given: str, owner: str) -> None:
    message = refused(given)
    assert f"setting '{given.partition('=')[0]}' has no effect: it belongs to {owner}" in message


def test_choosing_another_optimizer_drops_what_the_benchmark_says_of_its_own() -> None:
    assert "train.momentum" in values_in_use(resolve(VALUES))
    assert "train.momentum" not in values_in_use(resolve(VALUES, {"train.optimizer": "adam"}))
    assert "'train.momentum' has no effect" in refused("train.optimizer=adam", "train.momentum=0.5")


def test_steps_replace_the_epochs_of_a_benchmark_and_epochs_the_steps() -> None:
    by_steps = resolve(VALUES, {"train.steps": 7}).train
    assert (by_steps.steps, by_steps.epochs) == (7, None)
    in_steps = {("train.steps" if key == "train.epochs" else key): value for key, value in VALUES.items()}
    by_epochs = resolve(in_steps, {"train.epochs": 2}).train
    assert (by_epochs.steps, by_epochs.epochs) == (None, 2)
    assert "'train.steps' and 'train.epochs'" in refused("train.steps=7", "train.epochs=2")


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(InputError, match=r"'train\.batch' is missing: expected a whole number"):
        resolve({key: value for key, value in VALUES.items() if key != "train.batch"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k=3", 3),
        ("k=.5", 0.5),
        ("k=1e-3", 1e-3),
        ("k=[1, 2]", [1, 2]),
        ("k=false", False),
        ("k='3'", "3"),
        ("k=hrnetv2-w18", "hrnetv2-w18"),
        ("k=a=b", "a=b"),
        (" k = 3 ", 3),
        ("k=1\nl=2", "1\nl=2"),
    ],
)
def test_an_assignment_is_toml_where_it_parses_and_text_elsewhere(text: str, value: object) -> None:
    assert assignment(text) == ("k", value)


def test_none_takes_the_value_away_where_a_setting_may_be_missing() -> None:
    assert VALUES["train.batch_norm_momentum"] is not None
    assert resolve(VALUES, {"train.batch_norm_momentum": "none"}).train.batch_norm_momentum is None


SECTIONS = st.dictionaries(st.sampled_from("abc"), st.integers(), min_size=1)
TABLES = st.dictionaries(
    st.sampled_from("abc"), st.integers() | SECTIONS | st.builds(lambda x: {"d": x}, SECTIONS)
)


@given(TABLES)
def test_nesting_undoes_flattening(table: dict[str, object]) -> None:
    assert nest(flatten(table)) == table


@pytest.mark.parametrize("name", benchmarks.names())
def test_resolved_settings_resolve_to_themselves(name: str) -> None:
    resolved = resolve(benchmarks.load(name).values)
    assert resolve(flatten(nest(values_in_use(resolved)))) == resolved


def test_every_benchmark_has_a_record_that_can_be_typed() -> None:
    assert benchmarks.names()[0] == "scenes"
    assert {"camvid", "folder"} <= set(benchmarks.names())
    for name in benchmarks.names():
        record = benchmarks.load(name).record
        assert record.source
        assert record.command.startswith("gsto-train --backend ")
        assert (f"--benchmark {name}" in record.command) == (name != benchmarks.DEFAULT)


def test_a_benchmark_of_ones_own_is_a_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = '[record]\nsource = "me"\ncommand = "-"\n[architecture]\nname = "x"\n'
    text += '[data]\nkind = "list"\ncrop = [8, 8]\n'
    path.write_text(text + "[train]\nsteps = 3\nbatch = 1\nlearning_rate = 0.1\n")
    mine = benchmarks.load(str(path))
    assert (mine.name, resolve(mine.values).train.steps) == ("mine", 3)
    path.write_text(text + "[train]\nsteps = 3\nbatch = 1\nlearning_rat = 0.1\n")
    with pytest.raises(InputError, match=r"mine\.toml: unknown setting 'train\.learning_rat' \(nearest: "):
        benchmarks.load(str(path))
    path.write_text(text + "[train]\nsteps = 3\nbatch = 1\nlearning_rate = 0.1\nbeta1 = 0.5\n")
    with pytest.raises(InputError, match=r"mine\.toml: setting 'train\.beta1' has no effect"):
        benchmarks.load(str(path))
    path.write_text("[record\n")
    with pytest.raises(InputError, match=r"mine\.toml: expected TOML"):
        benchmarks.load(str(path))
    with pytest.raises(InputError, match=r"cannot read this benchmark: .*\(nearest: mine\.toml\)"):
        benchmarks.load(str(tmp_path / "mime.toml"))


def test_an_unknown_benchmark_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"unknown benchmark 'camvd' \(nearest: camvid\)"):
        benchmarks.load("camvd")


def test_only_what_no_step_depends_on_may_change_when_a_run_resumes() -> None:
    free = {key for key in describe(Settings) if is_free(Settings, key)}
    assert free == {
        "data.folder",
        "data.decoded",
        "train.device",
        "train.log_every",
        "train.checkpoint_every",
        "train.evaluate_every",
        "train.evaluation_batch",
        "train.threads",
        "train.tensorboard",
        "train.report",
        "train.rematerialize",
        "train.deterministic",
        "train.keep",
        "train.not_finite",
        "train.not_finite_limit",
    }
