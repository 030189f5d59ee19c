import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gsto_train import benchmarks
from gsto_train.resolve import load_datasets, part_of_path, title
from gsto_train.settings import resolve


def settings(name: str, **data: object) -> Any:
    overrides = {f"data.{key}": value for key, value in data.items()}
    return resolve(benchmarks.load(name).values, overrides).data


def test_generated_pictures_to_score_on_are_not_those_to_train_on() -> None:
    data = settings("scenes", train_scenes=3, val_scenes=2, scene_size=[32, 48])
    training, validation = load_datasets(data)
    assert (len(training), len(validation)) == (3, 2)
    assert training[0].image.shape == (32, 48, 3)
    assert all((training[i].image != validation[j].image).any() for i in range(3) for j in range(2))
    other, _ = load_datasets(settings("scenes", train_scenes=3, scene_size=[32, 48], scene_seed=1))
    assert (other[0].image != training[0].image).any()


def test_listed_pictures_have_the_names_and_the_ignored_value_of_the_settings(pictures: Path) -> None:
    data = settings("folder", folder=str(pictures), train_list="val.txt", val_list="train.txt")
    training, validation = load_datasets(data)
    assert (len(training), len(validation)) == (2, 4)
    assert training.classes == ("red", "green", "blue")
    (pictures / "classes.json").write_text(json.dumps({"classes": ["other"]}))
    data = settings("folder", folder=str(pictures), classes=["r", "g", "b"], ignore_label=9)
    training, _ = load_datasets(data)
    assert training.classes == ("r", "g", "b")
    assert set(np.unique(training[0].label)) == {0, 1, 2, 255}


@pytest.mark.parametrize(
    ("given", "told", "in_paths"),
    [
        ("gsto-hrnet-w18", "gsto-hrnet-w18", "gsto-hrnet-w18"),
        ("graphs/mine.json", "mine", "mine"),
        ("mine:network", "mine:network", "mine-network"),
        ("package.module:Class.variant", "package.module:Class.variant", "module-Class.variant"),
    ],
)
def test_an_architecture_is_told_as_it_was_given(given: str, told: str, in_paths: str) -> None:
    assert (title(given), part_of_path(given)) == (told, in_paths)
