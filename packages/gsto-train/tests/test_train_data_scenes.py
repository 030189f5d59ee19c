import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsto_train.data.samples import Sample
from gsto_train.data.scenes import GeneratedScenes
from gsto_train.segmentation.baselines import ColourPositionHistogram, ConstantAnswer, score

CLASSES = (
    "sky", "building", "road", "sidewalk", "vegetation", "fence", "vehicle", "person", "pole", "sign",
)  # fmt: skip


@pytest.fixture(scope="module")
def shares() -> np.ndarray:
    """Share of each label value 0..255 in 60 scenes."""
    scenes = GeneratedScenes(60)
    labels = np.stack([scenes[index].label for index in range(60)])
    return np.bincount(labels.ravel(), minlength=256) / labels.size


def same(first: Sample, second: Sample) -> bool:
    return np.array_equal(first.image, second.image) and np.array_equal(first.label, second.label)


def test_a_scene_is_a_picture_with_a_label_per_pixel() -> None:
    sample = GeneratedScenes(3)[2]
    assert sample.image.shape == (128, 256, 3) and sample.image.dtype == np.uint8
    assert sample.label.shape == (128, 256) and sample.label.dtype == np.uint8
    assert sample.name == "scene 2 of train"


def test_classes_have_names_and_colours_of_their_own() -> None:
    scenes = GeneratedScenes(1)
    assert scenes.classes == CLASSES
    assert len(set(scenes.palette)) == len(CLASSES)


@given(st.integers(0, 2**32 - 1), st.integers(0, 500))
@settings(max_examples=10)
def test_a_scene_is_a_function_of_seed_split_and_index(seed: int, index: int) -> None:
    scene = GeneratedScenes(501, seed=seed, split="val", size=(32, 64))[index]
    assert same(scene, GeneratedScenes(index + 1, seed=seed, split="val", size=(32, 64))[index])
    others = (
        GeneratedScenes(501, seed=seed, split="train", size=(32, 64))[index],
        GeneratedScenes(501, seed=seed + 1, split="val", size=(32, 64))[index],
        GeneratedScenes(502, seed=seed, split="val", size=(32, 64))[index + 1],
    )
    assert not any(same(scene, other) for other in others)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 1000))
@settings(max_examples=40)
def test_scenes_come_in_any_size(height: int, width: int, index: int) -> None:
    sample = GeneratedScenes(1001, size=(height, width))[index]
    assert sample.image.shape == (height, width, 3)
    assert sample.label.shape == (height, width)
    assert set(np.unique(sample.label)) <= {*range(10), 255}


@pytest.mark.parametrize("index", [-1, 4, 100])
def test_there_is_no_scene_beyond_the_count(index: int) -> None:
    scenes = GeneratedScenes(4)
    assert len(scenes) == 4
    with pytest.raises(IndexError, match=f"scene {index} of train: there are 4"):
        scenes[index]


def test_large_regions_and_a_long_tail(shares: np.ndarray) -> None:
    large = [shares[CLASSES.index(name)] for name in ("sky", "building", "road")]
    small = [shares[CLASSES.index(name)] for name in ("person", "pole", "sign")]
    assert min(large) > 0.1
    assert min(small) > 0.005 and max(small) < 0.05
    assert shares[:10].min() > 0.005


def test_some_pixels_are_ignored_and_no_other_value_occurs(shares: np.ndarray) -> None:
    assert 0.003 < shares[255] < 0.05
    assert shares[10:255].sum() == 0


def test_a_label_is_what_is_visible() -> None:
    """Colours change where labels do: edges of the labels are edges of the picture, not beside them."""
    scenes = GeneratedScenes(30, size=(256, 512))
    contrast = {offset: 0.0 for offset in (-4, 0, 4)}
    for index in range(30):
        sample = scenes[index]
        steps = np.abs(np.diff(sample.image.astype(int), axis=1)).sum(axis=-1)
        edges = np.diff(sample.label.astype(int), axis=1) != 0
        for offset in contrast:
            contrast[offset] += steps[np.roll(edges, offset, axis=1)].mean()
    assert contrast[0] > 2 * max(contrast[-4], contrast[4])


def test_light_and_colours_vary_from_scene_to_scene() -> None:
    scenes = GeneratedScenes(60, size=(64, 128))
    skies, heights = list[float](), list[int]()
    for index in range(60):
        sample = scenes[index]
        sky = sample.label == 0
        if sky.sum() > 50:
            skies.append(float(sample.image[sky].mean()))
            heights.append(int(sky.any(axis=1).sum()))
    assert np.std(skies) > 20
    assert np.std(heights) > 5


def test_neither_one_class_nor_colour_and_place_answer_well() -> None:
    training, validation = GeneratedScenes(80), GeneratedScenes(16, split="val")
    assert score(ConstantAnswer.fit(training), validation).mean_iou < 0.05
    assert 0.12 < score(ColourPositionHistogram.fit(training), validation).mean_iou < 0.22
