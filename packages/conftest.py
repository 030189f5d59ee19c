"""The golden networks, which the tests of every package read."""

import json
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Golden:
    """A network as its authors' released code computes it: names and shapes, an input, the outputs."""

    parameters: dict[str, tuple[int, ...]]
    image: NDArray[Any]
    outputs: list[NDArray[Any]]

    @property
    def weights(self) -> dict[str, NDArray[Any]]:
        return {name: golden_tensor(name, shape) for name, shape in self.parameters.items()}


def golden_tensor(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The tensor that belongs to a name, by the rule that the golden files' README gives."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        value = draw.uniform(0.5, 1.5, shape)
    elif len(shape) == 4:
        value = draw.standard_normal(shape) * np.sqrt(1.0 / np.prod(shape[1:]))
    elif name.endswith("weight"):
        value = draw.uniform(0.25, 0.75, shape)
    else:
        value = 0.1 * draw.standard_normal(shape)
    return np.asarray(value, np.float32)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Reads a golden file by its stem, from GSTO_GOLDEN or ../shared/golden beside the checkout."""
    folder = Path(os.environ.get("GSTO_GOLDEN") or CHECKOUT.parent / "shared" / "golden")

    def read(stem: str) -> Golden:
        if not (folder / f"{stem}.npz").is_file():
            pytest.skip(f"no {stem}.npz in {folder}: set GSTO_GOLDEN to the folder of the golden files")
        with np.load(folder / f"{stem}.npz") as file:
            facts = json.loads(str(file["meta"]))
            outputs = [file[f"output_{k}"] for k in range(len(file.files) - 1)]
        image = np.random.default_rng(0).standard_normal(facts["input_shape"]).astype(np.float32)
        return Golden({name: tuple(shape) for name, shape in facts["parameters"].items()}, image, outputs)

    return read
