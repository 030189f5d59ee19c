"""Published checkpoints as `.pth` files: read under every prefix and wrapper, run, and refused if hostile."""

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

import gsto_torch
from gsto_spec import Graph, HRNet, WeightsError, build, evaluate, initial_weights
from gsto_spec.checkpoint import CheckpointError, CheckpointWarning

PAGE = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text(encoding="utf-8")

Arrays = dict[str, NDArray[Any]]
Entries = dict[str, torch.Tensor]

NARROW = HRNet(
    widths=(2, 4, 6, 8), modules=(1, 1, 2), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1, classes=3
)
GSTO = replace(NARROW, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised")


def entries(weights: Arrays, prefix: str = "") -> Entries:
    """A state dict as torch writes it: batch counters beside the running statistics."""
    found: Entries = OrderedDict()
    for name, array in weights.items():
        found[prefix + name] = torch.from_numpy(array)
        if name.endswith("running_var"):
            found[prefix + name.replace("running_var", "num_batches_tracked")] = torch.tensor(3)
    return found


def random_weights(graph: Graph, seed: int = 0) -> Arrays:
    draw = np.random.default_rng(seed)
    return {
        name: draw.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in graph.parameters.items()
    }


def saved(contents: object, path: Path, **options: Any) -> Path:
    torch.save(contents, path, **options)
    return path


def outputs(graph: Graph, weights: Arrays, image: NDArray[Any]) -> list[NDArray[Any]]:
    model = gsto_torch.compile(graph, weights, dtype=torch.float64).eval()
    with torch.inference_mode():
        return [tensor.numpy() for tensor in model(torch.from_numpy(image).double()).values()]


def pose_training_s(state: Entries) -> dict[str, Any]:
    """What a training script keeps between epochs."""
    return {"epoch": 210, "model": "pose_hrnet", "state_dict": state, "best_state_dict": state, "perf": 0.758,
            "optimizer": {"state": {}, "param_groups": []}}  # fmt: skip


WRAPPINGS: dict[str, Callable[[Arrays], object]] = {
    "bare": entries,
    "module": lambda weights: entries(weights, "module."),
    "model": lambda weights: entries(weights, "model."),
    "module.model": lambda weights: entries(weights, "module.model."),
    "backbone": lambda weights: entries(weights, "backbone."),
    "compiled": lambda weights: entries(weights, "_orig_mod."),
    "loss": lambda weights: {**entries(weights, "model."), "loss.criterion.weight": torch.ones(19)},
    "state_dict": lambda weights: {"epoch": 3, "state_dict": entries(weights, "module.")},
    "model entry": lambda weights: {"model": entries(weights), "args": None},
    "nested": lambda weights: {"state_dict": {"model": entries(weights, "module.model.")}},
    "training": lambda weights: pose_training_s(entries(weights, "module.")),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("gsto_release_w18_small_v2_c19", "gsto-hrnet-w18-small-v2"),
        ("hrnetv2_w18_small_v2_c19", "hrnetv2-w18-small-v2"),
    ],
)
def test_released_networks_give_their_outputs_under_every_prefix_and_wrapper(
    golden: Callable[[str], Any], tmp_path: Path, stem: str, name: str, wrapping: str
) -> None:
    released, graph = golden(stem), build(name)
    path = saved(WRAPPINGS[wrapping](released.weights), tmp_path / "released.pth")
    found = gsto_torch.read_checkpoint(path, graph)
    assert list(found) == list(graph.parameters)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert set(found.report.declared_absent) == set(released.parameters) - set(graph.parameters)
    for array, wanted in zip(outputs(graph, found, released.image), released.outputs, strict=True):
        assert_allclose(array, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())


def test_the_released_pose_network_gives_its_outputs(golden: Callable[[str], Any], tmp_path: Path) -> None:
    released, graph = golden("pose_hrnet_w32_k17"), build("pose-hrnet-w32")
    path = saved(pose_training_s(entries(released.weights)), tmp_path / "checkpoint.pth.tar")
    (array,) = outputs(graph, gsto_torch.read_checkpoint(path, graph), released.image)
    assert_allclose(array, released.outputs[0], rtol=0, atol=1e-9 * np.abs(released.outputs[0]).max())


@settings(max_examples=12)
@given(
    base=st.sampled_from([NARROW, GSTO, replace(NARROW, head="hrnetv1", upsampling="nearest")]),
    widths=st.tuples(*[st.integers(1, 5)] * 4),
    classes=st.integers(1, 21),
    align_corners=st.booleans(),
    size=st.tuples(st.integers(33, 70), st.integers(33, 70)),
    wrapping=st.sampled_from(sorted(WRAPPINGS)),
)
def test_other_widths_classes_sizes_and_corners_equal_the_definition(
    tmp_path_factory: pytest.TempPathFactory, base: HRNet, widths: Any, classes: int, align_corners: bool,
    size: tuple[int, int], wrapping: str,
) -> None:  # fmt: skip
    graph = build(replace(base, widths=widths, classes=classes, align_corners=align_corners))
    weights = random_weights(graph, seed=classes)
    path = saved(WRAPPINGS[wrapping](weights), tmp_path_factory.mktemp("case") / "a.pt")
    image = np.random.default_rng(0).standard_normal((1, 3, *size))
    wanted = evaluate(graph, weights, {"image": image})
    found = outputs(graph, gsto_torch.read_checkpoint(path, graph), image)
    for array, expected in zip(found, wanted.values(), strict=True):
        assert_allclose(array, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_an_imagenet_backbone_initialises_pose_and_segmentation(tmp_path: Path) -> None:
    trunk = {name: array for name, array in random_weights(build(NARROW)).items() if "last_layer" not in name}
    head = {"incre_modules.0.0.bn1.weight": (4,), "downsamp_modules.0.1.bias": (4,),
            "final_layer.0.bias": (4,), "classifier.weight": (1000, 4)}  # fmt: skip
    path = saved(entries(trunk | {name: np.ones(shape) for name, shape in head.items()}), tmp_path / "a.pth")
    for network in (GSTO, replace(NARROW, head="hrnetv1", classes=17)):
        graph = build(network)
        found = gsto_torch.read_checkpoint(path, graph, seed=5)
        assert set(found.report.kept_as_initialized) == set(graph.parameters) - set(trunk)
        initial = initial_weights(graph, 5)
        for name in graph.parameters:
            assert_array_equal(found[name], trunk.get(name, initial[name]), err_msg=name)
        gsto_torch.compile(graph, found)


def test_inplace_abn_is_a_choice_and_its_absence_a_warning_when_it_matters(tmp_path: Path) -> None:
    graph = build(NARROW)
    weights = random_weights(graph)
    weights["bn1.weight"][1] *= -1
    path = saved(entries(weights, "model."), tmp_path / "a.pth")
    with pytest.warns(
        CheckpointWarning, match=r"a\.pth: 1 negative batch-norm scales in 1 tensors"
    ) as caught:
        gsto_torch.read_checkpoint(path, graph)
    assert caught[0].filename == __file__
    read = {choice: gsto_torch.read_checkpoint(path, graph, inplace_abn=choice) for choice in (True, False)}
    assert_array_equal(read[False]["bn1.weight"], weights["bn1.weight"])
    assert_array_equal(read[True]["bn1.weight"], np.abs(weights["bn1.weight"]) + np.float32(1e-5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_read_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    graph = build(NARROW)
    state = {name: tensor.to(dtype) for name, tensor in entries(random_weights(graph)).items()}
    found = gsto_torch.read_checkpoint(saved(state, tmp_path / "a.pth"), graph)
    for name, array in found.items():
        assert_array_equal(array, state[name].float().numpy())


def test_other_files_that_every_backend_reads_are_read_here_too(tmp_path: Path) -> None:
    graph, weights = build(NARROW), random_weights(build(NARROW))
    gsto_torch.save(gsto_torch.compile(graph, weights), tmp_path / "saved")
    for path in (tmp_path / "saved", tmp_path / "saved" / "model.safetensors"):
        found = gsto_torch.read_checkpoint(path, graph)
        assert all(np.array_equal(found[name], array) for name, array in weights.items())


@pytest.mark.parametrize(
    ("other", "texts"),
    [
        (replace(GSTO, widths=(3, 4, 6, 8)), ["stage4.1.branches.0.0.conv2.weight has shape (2, 2, 3, 3)"]),
        (
            replace(GSTO, classes=5),
            [
                "last_layer.3.bias has shape (3,), expected (5,)",
                ": the file has 3 classes, the graph 5: give --classes 3, from Python classes=3; last_layer",
                "; its backbone fits",
            ],
        ),
        (NARROW, ["att2.2.0.0.weight is not declared", "its backbone fits"]),
    ],
    ids=["width", "classes", "gates"],
)
def test_a_checkpoint_of_another_network_is_one_complete_list(
    tmp_path: Path, other: HRNet, texts: list[str]
) -> None:
    source, graph = build(GSTO), build(other)
    with pytest.raises(CheckpointError) as raised:
        gsto_torch.read_checkpoint(saved(entries(random_weights(source)), tmp_path / "a.pth"), graph)
    text = str(raised.value)
    assert text.startswith(f"{tmp_path / 'a.pth'}: ") and "\n" not in text
    wrong = {name for name, shape in source.parameters.items() if graph.parameters.get(name) != shape}
    listed = "; ".join(raised.value.offenders)
    assert all(f"{name} has shape" in listed or f"{name} is not declared" in listed for name in wrong)
    assert all(part in f"{text}; {listed}" for part in texts)
    assert ("classes" in text) == (other == replace(GSTO, classes=5))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_file_of_nothing_is_refused_in_a_few_words(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    with pytest.raises(WeightsError) as caught:
        gsto_torch.read_checkpoint(path, build(GSTO))
    assert str(caught.value) == f"{path}: expected a checkpoint, found an empty file"
    saved({}, path) if name == "a.pth" else safetensors.numpy.save_file({}, path)
    with pytest.raises(WeightsError) as caught:
        gsto_torch.read_checkpoint(path, build(GSTO))
    assert str(caught.value) == f"{path}: expected a checkpoint, found a file that holds no tensors"


class Trap:
    """Reading this pickle would run code."""

    fired = False

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return setattr, (Trap, "fired", True)


def endless() -> dict[str, Any]:
    contents: dict[str, Any] = {}
    contents["state_dict"] = contents
    return contents


def compressed() -> bytes:
    """A torch file packed again: a megabyte of zeros in a few kilobytes."""
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(2**18)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return packed.getvalue()


def torch_bytes(contents: object) -> bytes:
    file = io.BytesIO()
    torch.save(contents, file)
    return file.getvalue()


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"a poem, or anything else that is no tensor",
    "long text": lambda: b"x" * 100_000,
    "web page": lambda: b"<!DOCTYPE html><html>Too many requests</html>",
    "pickled code": lambda: pickle.dumps(Trap()),
    "pickled code in torch's file": lambda: torch_bytes({"conv1.weight": Trap()}),
    "truncated": lambda: torch_bytes(entries(random_weights(build(NARROW))))[:-2000],
    "half": lambda: torch_bytes(entries(random_weights(build(NARROW))))[:20_000],
    "empty archive": lambda: b"PK\x05\x06" + bytes(18),
    "compressed": compressed,
    "list": lambda: torch_bytes([torch.ones(2)]),
    "a dict of itself": lambda: torch_bytes(endless()),
    "no names": lambda: torch_bytes({3: torch.ones(2), (10**5000,): torch.ones(2)}),
    "no values": lambda: torch_bytes({"conv1.weight": torch.ones(2, device="meta")}),
    "safetensors": lambda: (2).to_bytes(8, "little") + b"{}",
    "long header": lambda: (2**62).to_bytes(8, "little") + b"{}",
    "escape codes": lambda: torch_bytes({"\x1b[2J\nconv1": 3}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_or_broken_file_is_one_line_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.pth").write_bytes(HOSTILE[kind]())
    with pytest.raises(WeightsError) as raised:
        gsto_torch.read_checkpoint(tmp_path / "a.pth", build(NARROW), initialize=True)
    text = str(raised.value)
    assert text.startswith(f"{tmp_path / 'a.pth'}: expected a ") and text.isprintable()
    assert not Trap.fired


def test_a_view_of_astronomic_size_is_refused_and_costs_no_memory(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(2**20, 2**20)
    contents = {**entries(random_weights(build(NARROW))), "bn1.weight": huge, "more": huge}
    with pytest.raises(WeightsError, match=r"a\.pth: expected tensors of what the file stores, [\d,]+ bytes"):
        gsto_torch.read_checkpoint(saved(contents, tmp_path / "a.pth"), build(NARROW))


def test_a_path_without_a_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"b\.pth: expected a checkpoint's file or a saved directory, found"
    ):
        gsto_torch.read_checkpoint(tmp_path / "b.pth", build(NARROW))


def test_the_page_on_checkpoints_runs_and_shows_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = random_weights(build("gsto-hrnet-w18-small-v2"))
    trunk = random_weights(build("hrnetv2-w18-small-v2"))
    trunk = {name: array for name, array in trunk.items() if not name.startswith("last_layer")}
    head = {"classifier.weight": np.ones((1000, 4)), "classifier.bias": np.ones(1000)}
    saved(entries(whole, "model."), Path("gsto_hrnet_w18_small_v2.pth"))
    saved(entries(trunk | head, "module."), Path("hrnet_w18_small_v2_imagenet.pth"))
    Path("weights.safetensors").write_bytes(safetensors.numpy.save(whole))
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "checkpoints.md", "exec"), names)
    assert "1,084 of 1,084 tensors, 100% of parameters" in capsys.readouterr().out
    imagenet = gsto_torch.read_checkpoint("hrnet_w18_small_v2_imagenet.pth", names["graph"]).report
    shown = re.findall(r"^((?:hrnet_w18\S+:|took|left|kept) .*)$", PAGE, re.MULTILINE)
    assert len(shown) == 5
    for line, printed in zip(shown, str(imagenet).splitlines(), strict=True):
        assert printed.startswith(line.removesuffix("...")), printed
