import json
from pathlib import Path
from typing import Any

import numpy as np

from gsto_train import benchmarks
from gsto_train.resolve import load_datasets, title
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


def test_an_architecture_has_a_short_name() -> None:
    assert title("gsto-hrnet-w18") == "gsto-hrnet-w18"
    assert title("graphs/mine.json") == "mine"
    assert title("package.module:Class.variant") == "variant"
