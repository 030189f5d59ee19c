"""Predictions that are not finite: counted where some are, and the end of an evaluation where all are."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gsto_train.commands.evaluate import main as evaluate_main
from gsto_train.data.samples import Sample
from gsto_train.finite import NOT_FINITE, NotFiniteError
from gsto_train.pose.evaluation import PoseTest, predict_poses, score_poses
from gsto_train.pose.figures import GeneratedFigures
from gsto_train.pose.loading import Cropping
from gsto_train.pose.targets import Codec
from gsto_train.segmentation.evaluation import Evaluation, evaluate
from gsto_train.segmentation.procedures import Procedure

FLIPPED = Evaluation(Procedure(flip=True))


class Black:
    """Black pictures of two classes."""

    classes, palette = ("dark", "bright"), ((0, 0, 0), (255, 255, 255))

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), f"picture {index}")


class Overflowing:
    """Zeros, and `value` at the corner or everywhere of the images of the calls that are `broken`."""

    def __init__(
        self, broken: Callable[[int], bool], value: float, shape: tuple[int, ...], corner: bool
    ) -> None:
        self._broken, self._value, self._shape, self._corner = broken, value, shape, corner
        self._calls = 0

    def predict(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        logits = np.zeros((len(images), *self._shape), np.float32)
        if self._broken(self._calls):
            logits[(slice(1), ..., -1) if self._corner else ...] = self._value
        self._calls += 1
        return {"stage4": logits, "stage3": np.full_like(logits, np.nan)}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pictures_with_a_logit_that_is_not_finite_are_counted(value: float) -> None:
    """In batches of 2, 2 and 1 pictures, predicted twice each: the second time of the last two."""
    counts = list[int]()
    predictor = Overflowing(lambda call: call in (3, 5), value, (2, 4, 4), corner=True)
    evaluate(
        predictor, Black(), align_corners=False, batch=2, threads=1, evaluation=FLIPPED,
        on_not_finite=counts.append,
    )  # fmt: skip
    assert counts == [2]


def test_of_finite_logits_none_is_counted() -> None:
    counts = list[int]()
    predictor = Overflowing(lambda call: False, np.nan, (2, 4, 4), corner=True)
    evaluate(predictor, Black(), align_corners=False, batch=2, threads=1, on_not_finite=counts.append)
    assert counts == [0]


def test_nothing_finite_at_all_is_an_error_that_names_pictures() -> None:
    predictor = Overflowing(lambda call: True, np.nan, (2, 4, 4), corner=False)
    with pytest.raises(NotFiniteError) as error:
        evaluate(predictor, Black(), align_corners=False, batch=2, threads=1)
    assert "on all 5 pictures (picture 0, picture 1, picture 2, ...)" in str(error.value)
    assert "\n" not in str(error.value)


FIGURES = GeneratedFigures(3, split="val")
TEST = PoseTest(Cropping((64, 64), 1.25), Codec((16, 16), 4, 1.0), flip=False)


def poses(predictor: Overflowing) -> Any:
    return predict_poses(predictor, FIGURES, TEST, batch=1, threads=1)


def test_persons_with_a_heatmap_that_is_not_finite_are_counted() -> None:
    shape = (len(FIGURES.skeleton.joints), 16, 16)
    found = poses(Overflowing(lambda call: call == 1, np.nan, shape, corner=True))
    assert score_poses(found, FIGURES, TEST)[NOT_FINITE] == 1
    found = poses(Overflowing(lambda call: False, np.nan, shape, corner=True))
    assert NOT_FINITE not in score_poses(found, FIGURES, TEST)
    with pytest.raises(NotFiniteError, match="on all 3 persons"):
        poses(Overflowing(lambda call: True, np.nan, shape, corner=False))


@pytest.fixture
def overflow(linear: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Makes what the linear backend predicts not finite, on that share of the images."""

    def plant(share: float) -> None:
        original = linear.LinearTrainer.predict

        def predict(self: Any, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
            outputs: dict[str, NDArray[Any]] = original(self, images)
            for array in outputs.values():
                array[: round(share * len(images))] = np.inf
            return outputs

        monkeypatch.setattr(linear.LinearTrainer, "predict", predict)

    yield plant


def test_a_run_that_predicts_nothing_finite_fails_with_its_checkpoints_kept(
    command: Any, overflow: Callable[[float], None], capfd: pytest.CaptureFixture[str]
) -> None:
    overflow(1.0)
    failed = command("--output", "run", settings=("train.checkpoint_every=10",))
    assert failed.status == 1
    assert "scoring at step 20: nothing that the network predicts is finite" in failed.failure
    assert "4.png" in failed.failure
    assert failed.failure.endswith("the checkpoints in run/checkpoints are kept")
    assert {path.name for path in Path("run/checkpoints").iterdir()} == {"step-000010", "step-000020"}
    assert not Path("run/result.json").exists()
    with pytest.raises(SystemExit) as ended:
        evaluate_main(["run"])
    assert ended.value.code == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1].startswith("gsto-eval: run: nothing that the network predicts is finite")


def test_a_run_that_predicts_some_pictures_not_finite_says_how_many(
    command: Any, overflow: Callable[[float], None]
) -> None:
    overflow(0.5)
    done = command("--output", "run", settings=("train.evaluate_every=10",))
    assert done.status == 0
    assert json.loads(Path("run/result.json").read_text())["metrics"][NOT_FINITE] == 1
    told = [line for line in done.error.splitlines() if "but predictions on 1 picture are not finite" in line]
    assert len(told) == 2
