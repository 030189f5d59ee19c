"""Cityscapes' scores against the official tool, and the formulas of LIP and Pascal Context."""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gsto_train.data.cityscapes import label_ids, train_ids
from gsto_train.metrics import CityscapesCounts, CityscapesScores, ConfusionMatrix

Ids = NDArray[np.int64]
Triple = tuple[Ids, Ids, Ids]

SEEDS = st.integers(0, 2**32 - 1)
WITH_INSTANCES = (24, 25, 26, 27, 28, 29, 30, 31, 32, 33)


def close_to(value: float | None) -> Any:
    """Equal to 1e-12; None and nan are one."""
    return pytest.approx(float("nan") if value is None else value, rel=0, abs=1e-12, nan_ok=True)


def real_data(name: str) -> Path:
    root = Path(os.environ.get("GSTO_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not (root / name).is_dir():
        pytest.skip(f"no real data at {root / name}: set GSTO_REAL_DATA")
    return root / name


def random_triple(generator: np.random.Generator) -> Triple:
    """Label, instance and predicted ids of a picture of boxes; void and ignored vehicles among them."""
    size = tuple(generator.integers(8, 40, 2))
    label, instances = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for number in range(generator.integers(0, 12)):
        kind = int(generator.integers(0, 34))
        top, left = (int(generator.integers(0, side)) for side in size)
        box = np.s_[top : top + generator.integers(1, 16), left : left + generator.integers(1, 16)]
        label[box] = kind
        # Groups of things have no instances of their own.
        single = kind in WITH_INSTANCES and generator.random() < 0.8
        instances[box] = kind * 1000 + number if single else kind
    return label, instances, predicted(label, generator)


def predicted(label: Ids, generator: np.random.Generator) -> Ids:
    wrong = generator.random(label.shape) < generator.choice([0.0, 0.1, 0.5, 1.0])
    # Of every id, void ones too, or of those that a network of 19 classes knows.
    ids = np.arange(34) if generator.random() < 0.5 else label_ids(np.arange(19)).astype(np.int64)
    return np.where(wrong, generator.choice(ids, label.shape), label)


def triples(seed: int, count: int) -> list[Triple]:
    generator = np.random.default_rng(seed)
    return [random_triple(generator) for _ in range(count)]


def counted(pictures: list[Triple]) -> CityscapesCounts:
    counts = CityscapesCounts()
    for label, instances, prediction in pictures:
        counts.update(label, prediction, instances)
    return counts


Official = Callable[[list[str], list[str]], dict[str, Any]]


def official(official_scores: Official, pictures: list[Triple]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        predictions, labels = [], []
        for index, (label, instances, prediction) in enumerate(pictures):
            stem = Path(folder) / f"{index}_gtFine_"
            Image.fromarray(label.astype(np.uint8)).save(f"{stem}labelIds.png")
            Image.fromarray(instances.astype(np.uint16)).save(f"{stem}instanceIds.png")
            Image.fromarray(prediction.astype(np.uint8)).save(f"{stem}pred.png")
            labels.append(f"{stem}labelIds.png")
            predictions.append(f"{stem}pred.png")
        return official_scores(predictions, labels)


def assert_same(ours: CityscapesScores, theirs: dict[str, Any]) -> None:
    names = list(theirs["classScores"])
    scored = dict(zip([names[index] for index in label_ids(np.arange(19))], ours.iou, strict=True))
    for found, key in (
        (scored, "classScores"),
        (ours.instance_iou, "classInstScores"),
        (ours.category_iou, "categoryScores"),
        (ours.category_instance_iou, "categoryInstScores"),
    ):
        for name, value in theirs[key].items():
            assert found.get(name, float("nan")) == close_to(value), (key, name)
    for mean, key in (
        (ours.mean_iou, "averageScoreClasses"),
        (ours.mean_instance_iou, "averageScoreInstClasses"),
        (ours.mean_category_iou, "averageScoreCategories"),
        (ours.mean_category_instance_iou, "averageScoreInstCategories"),
    ):
        assert mean == close_to(theirs[key]), key


def sample() -> tuple[Triple, dict[str, Any]]:
    folder = real_data("format-samples") / "cityscapes"
    stem = folder / "gtFine" / "val" / "frankfurt" / "frankfurt_000000_000294_gtFine_"
    label, instances = (
        np.asarray(Image.open(f"{stem}{kind}.png")).astype(np.int64) for kind in ("labelIds", "instanceIds")
    )
    expected: dict[str, Any] = json.loads((folder / "expected_eval.json").read_text())
    return (label, instances, np.roll(label, 3, axis=1)), expected


def test_the_official_scores_of_a_real_frame() -> None:
    triple, expected = sample()
    assert_same(counted([triple]).scores(), expected)


def test_the_official_tool_agrees_on_a_real_frame(official_scores: Official) -> None:
    triple, _ = sample()
    assert_same(counted([triple]).scores(), official(official_scores, [triple]))


@pytest.mark.parametrize("seed", range(30))
def test_the_official_tool_agrees_on_generated_pictures(official_scores: Official, seed: int) -> None:
    """240 pictures in all: several are pooled, and one stands alone, so that scores go missing."""
    pictures = triples(seed, 8)
    assert_same(counted(pictures).scores(), official(official_scores, pictures))
    assert_same(counted(pictures[:1]).scores(), official(official_scores, pictures[:1]))


def by_the_published_formula(pictures: list[Triple], label: int, size: float) -> float:
    """IIoU of a class, summed instance by instance in floating point."""
    right = wrong = false = 0.0
    for truth, instances, prediction in pictures:
        for number in np.unique(instances[instances // 1000 == label]):
            mask = instances == number
            right += (prediction[mask] == label).sum() * size / mask.sum()
            wrong += (prediction[mask] != label).sum() * size / mask.sum()
        counts = np.isin(truth, label_ids(np.arange(19))) & (truth != label)
        false += (counts & (prediction == label)).sum()
    return right / (right + wrong + false) if right + wrong + false else float("nan")


@given(SEEDS)
@settings(max_examples=50)
def test_an_instance_weighs_as_much_as_the_average_one(seed: int) -> None:
    pictures = triples(seed, 4)
    expected = by_the_published_formula(pictures, 26, 12794.0202738185)
    assert counted(pictures).scores().instance_iou["car"] == close_to(expected)


@given(SEEDS, st.permutations(range(6)), st.integers(0, 6), st.integers(0, 6))
@settings(max_examples=50)
def test_pictures_in_any_order_and_on_any_process_count_the_same(
    seed: int, order: list[int], one: int, two: int
) -> None:
    pictures, (first, second) = triples(seed, 6), sorted((one, two))
    shuffled = [pictures[index] for index in order]
    merged = counted(shuffled[:first])
    merged.merge(counted(shuffled[first:second]))
    merged.merge(counted(shuffled[second:]))
    assert np.array_equal(merged.pixels, counted(pictures).pixels)
    assert np.array_equal(merged.instances, counted(pictures).instances)
    assert merged.pixels.dtype == merged.instances.dtype == np.int64


@given(SEEDS)
@settings(max_examples=50)
def test_merging_is_associative_and_sums_of_arrays_do_as_well(seed: int) -> None:
    one, two, three = ([triple] for triple in triples(seed, 3))
    left, right, last = counted(one), counted(two), counted(three)
    left.merge(right)
    left.merge(last)
    last.merge(counted(two))
    last.merge(counted(one))
    summed = CityscapesCounts.from_counts(
        np.sum([counted(each).pixels for each in (one, two, three)], axis=0),
        np.sum([counted(each).instances for each in (one, two, three)], axis=0),
    )
    for other in (last, summed):
        assert np.array_equal(left.pixels, other.pixels)
        assert np.array_equal(left.instances, other.instances)


@given(SEEDS)
@settings(max_examples=50)
def test_void_pixels_and_padded_samples_weigh_nothing(seed: int) -> None:
    generator = np.random.default_rng(seed)
    (label, instances, prediction), *_ = triples(seed, 1)
    before = counted([(label, instances, prediction)])
    void = ~np.isin(label, label_ids(np.arange(19))) & (instances <= 1000)
    changed = np.where(void, generator.integers(0, 34, label.shape), prediction)
    padding = (np.zeros_like(label), np.zeros_like(label), changed)
    after = counted([(label, instances, changed), padding])
    np.testing.assert_equal(asdict(after.scores()), asdict(before.scores()))


@given(SEEDS)
@settings(max_examples=50)
def test_class_scores_are_those_of_the_train_ids(seed: int) -> None:
    """What a network of 19 classes is scored by in training is the official mean IoU."""
    generator = np.random.default_rng(seed)
    (label, instances, _), *_ = triples(seed, 1)
    prediction = generator.integers(0, 19, label.shape)
    matrix = ConfusionMatrix(19)
    matrix.update(train_ids(label), prediction)
    plain = matrix.scores()
    scores = counted([(label, instances, label_ids(prediction).astype(np.int64))]).scores()
    np.testing.assert_allclose(scores.iou, plain.iou, rtol=0, atol=1e-15)
    for name in ("mean_iou", "pixel_accuracy", "mean_accuracy"):
        assert getattr(scores, name) == close_to(getattr(plain, name))


def test_nothing_counted_has_no_scores() -> None:
    scores = CityscapesCounts().scores()
    means = (scores.mean_iou, scores.mean_instance_iou, scores.mean_category_iou)
    assert np.isnan([*means, scores.mean_category_instance_iou, scores.pixel_accuracy]).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([[34]], [[0]], [[0]]), r"labels that are ids, 0\.\.33, found 34\.\.34"),
        (([[0]], [[-1]], [[0]]), r"predictions that are ids, 0\.\.33, found -1\.\.-1"),
        (([[7]], [[7]], [[7001]]), r"instances of the labels 24, .*, found 7001"),
        (([[7]], [[7]], [[34001]]), "found 34001"),
        (([[7]], [[7, 7]], [[7]]), r"one shape, found \(1, 1\), \(1, 2\), \(1, 1\)"),
    ],
)
def test_what_is_no_id_is_an_error_and_counts_nothing(arrays: Any, message: str) -> None:
    counts = CityscapesCounts()
    with pytest.raises(ValueError, match=message):
        counts.update(*(np.array(array) for array in arrays))
    assert counts.pixels.sum() == counts.instances.sum() == 0


def test_counts_of_another_shape_do_not_come_back() -> None:
    with pytest.raises(ValueError, match=r"\(34, 34\) and \(8, 3\), found \(19, 19\)"):
        CityscapesCounts.from_counts(np.zeros((19, 19), np.int64), np.zeros((8, 3), np.int64))


def human_parsing_scores(counts: Ids) -> tuple[float, float, float]:
    """Pixel accuracy, mean accuracy and mIoU as HRNet's and SCHP's code for LIP print them."""
    truth, predicted, right = counts.sum(1), counts.sum(0), np.diag(counts)
    pixel_accuracy = right.sum() / truth.sum()
    mean_accuracy = (right / np.maximum(1.0, truth)).mean()
    return pixel_accuracy, mean_accuracy, (right / np.maximum(1.0, truth + predicted - right)).mean()


@given(SEEDS, st.sampled_from([20, 59, 60]))
@settings(max_examples=50)
def test_lip_and_pascal_context_by_their_formula(seed: int, classes: int) -> None:
    """All classes are in the mean, also those that occur nowhere."""
    generator = np.random.default_rng(seed)
    known = generator.permutation(classes)[: generator.integers(1, classes + 1)]
    label = np.where(generator.random((30, 30)) < 0.1, 255, generator.choice(known, (30, 30)))
    label[0, 0] = known[0]
    prediction = np.where(generator.random((30, 30)) < 0.7, np.where(label == 255, 0, label), known[0])
    matrix = ConfusionMatrix(classes)
    matrix.update(label, prediction)
    scores = matrix.scores(absent="zero")
    expected = human_parsing_scores(matrix.counts)
    found = (scores.pixel_accuracy, scores.mean_accuracy, scores.mean_iou)
    assert found == pytest.approx(expected, rel=0, abs=1e-12)
    if len(known) == classes:
        assert found[2] <= matrix.scores().mean_iou + 1e-12


def test_absent_classes_are_left_out_unless_asked_for() -> None:
    matrix = ConfusionMatrix(4)
    matrix.update(np.array([0, 0, 1]), np.array([0, 0, 1]))
    assert matrix.scores().mean_iou == matrix.scores().mean_accuracy == 1
    assert matrix.scores(absent="zero").mean_iou == matrix.scores(absent="zero").mean_accuracy == 0.5
    assert np.isnan(ConfusionMatrix(4).scores(absent="zero").mean_iou)
