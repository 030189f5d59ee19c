"""Each benchmark says what section 4.3 and HRNet's training code do, and can be run as it says."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from gsto_train import benchmarks
from gsto_train.errors import InputError
from gsto_train.resolve import load_graph
from gsto_train.settings import resolve

CLASSES = {"cityscapes": 19, "lip": 20, "pascal-context-59": 59, "pascal-context-60": 60}
PUBLISHED = tuple(name for name in benchmarks.names() if name.startswith(("cityscapes", "lip", "pascal")))
PROTOCOLS = {  # crop, base size, number of scales, epochs, batch, learning rate, weight decay
    "cityscapes": ((512, 1024), 2048, 17, 600, 12, 0.01, 5e-4),
    "lip": ((473, 473), 473, 12, 150, 40, 0.007, 5e-4),
    "pascal-context": ((480, 480), 520, 17, 280, 16, 0.004, 1e-4),
}
SCORES = {
    "cityscapes": 0.821,
    "cityscapes-hrnetv2": 0.802,
    "cityscapes-w18-small": 0.773,
    "cityscapes-w18-small-hrnetv2": 0.759,
    "cityscapes-test": 0.824,
    "lip": 0.5737,
    "lip-hrnetv2": 0.559,
    "pascal-context-59": 0.543,
    "pascal-context-59-hrnetv2": 0.540,
    "pascal-context-60": 0.485,
    "pascal-context-60-hrnetv2": 0.483,
}


def loaded(name: str) -> Any:
    return resolve(benchmarks.load(name).values)


def classes(name: str) -> int:
    return next(count for family, count in CLASSES.items() if name.startswith(family))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_recipe_is_the_papers(name: str) -> None:
    settings = loaded(name)
    data, train = settings.data, settings.train
    found = (
        data.crop, data.base_size, len(data.scales), train.epochs, train.batch, train.learning_rate,
        train.weight_decay,
    )  # fmt: skip
    assert found == next(protocol for family, protocol in PROTOCOLS.items() if name.startswith(family))
    assert data.scales == pytest.approx([0.5 + k / 10 for k in range(len(data.scales))])
    assert (train.optimizer, train.momentum, train.schedule, train.power) == ("sgd", 0.9, "poly", 0.9)
    assert train.batch_norm_momentum is None and data.flip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_record_is_what_was_published(name: str) -> None:
    record = benchmarks.load(name).record
    assert record.mean_iou == SCORES[name]
    assert "table" in record.source and record.conditions and record.hardware
    assert shlex.split(record.command)[3:5] == ["--benchmark", name]
    assert "from ImageNet weights" in record.conditions
    assert "architecture.initialize_from=" in record.command


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_network_fits_the_crops_and_classes(name: str) -> None:
    settings = loaded(name)
    graph = load_graph(settings.architecture, classes(name))
    shapes = graph.check((settings.train.batch, 3, *settings.data.crop))
    assert {shapes[node][1] for node in graph.outputs.values()} == {classes(name)}
    baseline = name.endswith("hrnetv2")
    assert settings.architecture.name.startswith("hrnetv2-" if baseline else "gsto-hrnet-")
    assert len(graph.outputs) == (1 if baseline else 3)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.endswith("-hrnetv2")])
def test_a_baseline_differs_in_its_network_alone(name: str) -> None:
    own, other = loaded(name), loaded(name.removesuffix("-hrnetv2"))
    for section in ("data", "train", "loss", "evaluation"):
        assert getattr(own, section) == getattr(other, section)
    assert own.architecture.name == other.architecture.name.removeprefix("gsto-").replace(
        "hrnet-", "hrnetv2-"
    )


def test_what_each_data_set_has_of_its_own() -> None:
    cityscapes, lip, context = loaded("cityscapes"), loaded("lip"), loaded("pascal-context-60")
    assert len(cityscapes.loss.class_weights) == 19 and cityscapes.loss.class_weights[:2] == (0.8373, 0.918)
    assert not cityscapes.loss.ohem and cityscapes.evaluation.scales == (1.0,)
    assert lip.data.flip_pairs == ((14, 15), (16, 17), (18, 19)) and lip.data.input_size == (473, 473)
    assert lip.loss.class_weights is None and lip.evaluation.size == (473, 473)
    assert (context.data.context_classes, loaded("pascal-context-59").data.context_classes) == (60, 59)
    assert context.evaluation.window_stride == (320, 320) and context.evaluation.flip


def test_the_test_servers_rows_use_val_and_hard_pixels() -> None:
    settings = loaded("cityscapes-test")
    assert settings.data.train_split == "trainval"
    assert settings.loss.ohem and settings.loss.ohem_threshold == 0.9
    assert settings.loss.ohem_kept_per_image * 3 == pytest.approx(131072)
    assert settings.evaluation.scales == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    assert settings.evaluation.window == (1024, 2048) and settings.evaluation.window_above == 1.0


OWN = '[record]\nsource = "me"\ncommand = "-"\n'


def test_a_benchmark_extends_another_and_keeps_its_own_record(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "cityscapes"\n{OWN}[train]\nbatch = 4\n')
    mine = benchmarks.load(str(path))
    assert mine.record.source == "me" and mine.record.mean_iou is None
    assert dict(mine.values) == {**benchmarks.load("cityscapes").values, "train.batch": 4}
    (tmp_path / "other.toml").write_text(f'extends = "mine.toml"\n{OWN}[train]\nbatch = 5\n')
    assert resolve(benchmarks.load(str(tmp_path / "other.toml")).values).train.batch == 5


@pytest.mark.parametrize(
    ("extends", "told"),
    [
        ('"citiscapes"', "unknown benchmark 'citiscapes' (nearest: cityscapes)"),
        ('"mine.toml"', "'extends': expected the name of another benchmark, found "),
        ("3", "'extends': expected the name of another benchmark, found 3"),
    ],
)
def test_a_benchmark_that_extends_nothing_known_is_refused(tmp_path: Path, extends: str, told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"extends = {extends}\n{OWN}")
    with pytest.raises(InputError) as error:
        benchmarks.load(str(path))
    assert told in str(error.value)
