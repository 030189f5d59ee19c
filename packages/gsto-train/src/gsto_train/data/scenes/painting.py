"""From a view to a picture: colour, texture, shadow, haze, light, blur, noise."""

import cv2
import numpy as np
from numpy.typing import NDArray

from gsto_train.data.scenes.canvas import View
from gsto_train.data.scenes.colours import HEAVEN, pick

_Field = NDArray[np.float32]


def paint(view: View, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return the (H, W, 3) RGB picture of a view; light, weather and noise are drawn from `generator`."""
    picture = _surfaces(view, generator)
    picture *= (_texture(view, generator) * _light(view, generator))[..., None]
    cv2.GaussianBlur(picture, (3, 3), generator.uniform(0.3, 0.75), dst=picture)
    noise = _uniform_noise(generator, view.part.shape) * np.float32(generator.uniform(0.5, 3.0))
    picture += noise[..., None]
    return cv2.convertScaleAbs(np.maximum(picture, 0, out=picture)).astype(np.uint8, copy=False)


def labels(view: View) -> NDArray[np.uint8]:
    """Return the (H, W) labels of a view: the class of the part visible at each pixel."""
    return view.kinds[view.part]


def _surfaces(view: View, generator: np.random.Generator) -> _Field:
    """Return the colours in 0..255 before texture and shadow: of the parts, in this weather and light."""
    haze = 1 - np.exp(-view.depths / generator.uniform(100, 800))[:, None]
    light = 255 * _illumination(generator)
    colours = (view.colours * (1 - haze) + pick(generator, HEAVEN) * haze) @ light
    gradients = view.gradients @ light
    rows = (np.arange(view.part.shape[0]) - view.camera.horizon) / view.part.shape[0]
    surfaces = gradients.astype(np.float32).take(view.part, axis=0)
    surfaces *= rows.astype(np.float32)[:, None, None]
    surfaces += colours.astype(np.float32).take(view.part, axis=0)
    return np.asarray(surfaces)


def _texture(view: View, generator: np.random.Generator) -> _Field:
    """Return the factor of brightness that each part's texture makes."""
    shape = view.part.shape
    fine, leafy, patchy = (weights.take(view.part) for weights in np.ascontiguousarray(view.textures.T))
    texture = 1 + fine * _uniform_noise(generator, shape)
    texture += leafy * _smooth_noise(generator, shape, 2.5)
    texture += patchy * _smooth_noise(generator, shape, max(shape) / 10)
    return np.asarray(np.maximum(texture, 0.1, out=texture))


def _light(view: View, generator: np.random.Generator) -> _Field:
    """Return the factor of brightness: shadows on the ground, and light that differs left to right."""
    strength = generator.uniform(0.25, 0.6) / 255
    shadow = cv2.blur(view.shadow, (3, 3)) * view.grounds.take(view.part)
    slope = generator.uniform(-0.2, 0.2) * np.linspace(-1, 1, view.part.shape[1], dtype=np.float32)
    return (1 - np.float32(strength) * shadow) * (1 + slope.astype(np.float32))


def _illumination(generator: np.random.Generator) -> NDArray[np.float64]:
    """Return the (3, 3) map of colours that saturation, the light's colour and the exposure make."""
    exposure = generator.uniform(0.55, 0.75) if generator.random() < 0.15 else generator.uniform(0.75, 1.15)
    saturation = generator.random()
    warmth, tint = 0.1 * generator.standard_normal(2)
    grey = np.full((3, 3), 1 / 3)
    balance = exposure * np.array([1 + warmth, 1 + tint / 2, 1 - warmth])
    return np.asarray((grey + saturation * (np.eye(3) - grey)) * balance)


def _uniform_noise(generator: np.random.Generator, shape: tuple[int, ...]) -> _Field:
    """Return noise of unit deviation at each pixel; uniform because that is quick to draw."""
    return (generator.random(shape, np.float32) - np.float32(0.5)) * np.float32(np.sqrt(12))


def _smooth_noise(generator: np.random.Generator, shape: tuple[int, ...], period: float) -> _Field:
    """Return noise of unit deviation at its grid points, one of which stands every `period` pixels."""
    rows, columns = (int(side / period) + 2 for side in shape)
    grid = generator.standard_normal((rows, columns), np.float32)
    noise = cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(noise, np.float32)
