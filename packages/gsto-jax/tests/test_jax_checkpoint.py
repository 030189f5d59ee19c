"""Published checkpoints in neutral files, read and run without torch."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.testing import assert_allclose, assert_array_equal

import gsto_jax
from gsto_jax.backend import JaxBackend
from gsto_spec import HRNet, WeightsError, build, initial_weights
from gsto_spec.checkpoint import CheckpointError, CheckpointWarning
from gsto_spec.weights import save_directory

NARROW = HRNet(
    widths=(2, 4, 6, 8), modules=(1, 1, 1), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1, classes=3
)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_the_released_network_gives_its_outputs(
    golden: Callable[[str], Any], tmp_path: Path, prefix: str
) -> None:
    released, graph = golden("gsto_release_w18_small_v2_c19"), build("gsto-hrnet-w18-small-v2")
    weights = released.weights
    path = tmp_path / "released.safetensors"
    path.write_bytes(safetensors.numpy.save({prefix + name: array for name, array in weights.items()}))
    found = gsto_jax.read_checkpoint(path, graph)
    assert len(found.report.declared_absent) == 5
    for name, array in found.items():
        assert_array_equal(array, weights[name])
    if prefix:
        return  # the weights are the same; compiling them again shows nothing new
    predicted = (
        JaxBackend().predictor(graph, found, device="cpu", precision="float64").predict(released.image)
    )
    for output, wanted in zip(predicted.values(), released.outputs, strict=True):
        assert_allclose(output, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())


def test_a_saved_directory_is_read_and_initialises_other_classes(tmp_path: Path) -> None:
    graph, other = build(NARROW), build(replace(NARROW, classes=4))
    weights = initial_weights(graph, 3)
    save_directory(tmp_path / "a", graph, weights)
    for name, array in gsto_jax.read_checkpoint(tmp_path / "a", graph).items():
        assert_array_equal(array, weights[name])
    with pytest.raises(CheckpointError, match=r"last_layer\.3\.weight has shape .*; last_layer\.3\.bias has"):
        gsto_jax.read_checkpoint(tmp_path / "a", other)
    found = gsto_jax.read_checkpoint(tmp_path / "a", other, initialize=True, seed=2)
    assert found.report.kept_as_initialized == ("last_layer.3.weight", "last_layer.3.bias")
    assert_array_equal(found["last_layer.3.weight"], initial_weights(other, 2)["last_layer.3.weight"])
    assert_array_equal(found["conv1.weight"], weights["conv1.weight"])


def test_negative_scales_warn_until_their_meaning_is_chosen(tmp_path: Path) -> None:
    graph = build(NARROW)
    weights = initial_weights(graph) | {"bn1.weight": np.array([-2, 1, 1, 1], np.float32)}
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.numpy.save(weights))
    with pytest.warns(CheckpointWarning, match=r"a\.safetensors: 1 negative batch-norm scales") as caught:
        gsto_jax.read_checkpoint(path, graph)
    assert caught[0].filename == __file__
    found = gsto_jax.read_checkpoint(path, graph, inplace_abn=True)
    assert_array_equal(found["bn1.weight"], np.abs(weights["bn1.weight"]) + np.float32(1e-5))


def test_a_file_of_torch_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"PK")
    with pytest.raises(WeightsError, match=r"a\.pth: expected a \.safetensors file or .*; .*gsto-convert"):
        gsto_jax.read_checkpoint(tmp_path / "a.pth", build(NARROW))


READ = """
import sys
import gsto_jax, gsto_spec
found = gsto_jax.read_checkpoint(sys.argv[1], gsto_spec.build("gsto-hrnet-w16-mini"))
print(found.report.summary, "torch" in sys.modules)
"""


def test_reading_brings_no_torch(tmp_path: Path) -> None:
    graph = build("gsto-hrnet-w16-mini")
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.numpy.save(initial_weights(graph)))
    command = [sys.executable, "-c", READ, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    count = len(graph.parameters)
    assert ended.stdout.strip() == f"{count:,} of {count:,} tensors, 100% of parameters False"
