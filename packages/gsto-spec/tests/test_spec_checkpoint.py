"""Published checkpoints in neutral files: all that fits and nothing else, initialisation, and the report."""

import copy
import json
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from gsto_spec import Graph, GraphBuilder, HRNet, WeightsError, build, initial_weights
from gsto_spec.checkpoint import CheckpointError, CheckpointWarning, LoadedWeights, read_checkpoint
from gsto_spec.weights import save_directory

Arrays = dict[str, NDArray[Any]]

PLAIN = HRNet(
    widths=(2, 4, 6, 8), modules=(1, 1, 2), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1, classes=3
)
GSTO = replace(PLAIN, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised")
POSE = replace(PLAIN, head="hrnetv1", upsampling="nearest", classes=5)
NETWORKS = pytest.mark.parametrize("network", [PLAIN, GSTO, POSE], ids=["plain", "gsto", "pose"])

CLASSIFICATION = {
    "incre_modules.0.0.conv1.weight": (3, 2, 1, 1),
    "incre_modules.0.0.downsample.1.running_var": (3,),
    "downsamp_modules.0.0.bias": (3,),
    "final_layer.0.weight": (6, 3, 1, 1),
    "final_layer.1.running_mean": (6,),
    "classifier.weight": (1000, 6),
}
DEAD: dict[str, tuple[int, ...]] = {
    f"att1.1.0.{name}": (1,) for name in ("1.weight", "1.bias", "1.running_mean", "1.running_var")
}
DEAD["att1.1.0.0.weight"] = (1, 3, 3, 3)


def random_weights(graph: Graph, seed: int = 0) -> Arrays:
    draw = np.random.default_rng(seed)
    return {
        name: draw.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in graph.parameters.items()
    }


def ones(shapes: dict[str, tuple[int, ...]]) -> Arrays:
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


def backbone(weights: Arrays) -> Arrays:
    """What an ImageNet network of the same trunk has."""
    parts = (".att_layers.", "att2.", "att3.", "last_layer", "final_layer")
    return {name: array for name, array in weights.items() if not any(part in name for part in parts)}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., LoadedWeights]:
    def written_and_read(tensors: Arrays, graph: Graph, **options: Any) -> LoadedWeights:
        path = tmp_path / "a.safetensors"
        path.write_bytes(safetensors.numpy.save(tensors))
        return read_checkpoint(path, graph, **options)

    return written_and_read


def refusal(read: Callable[..., LoadedWeights], *arguments: Any, **options: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as raised:
        read(*arguments, **options)
    assert "\n" not in str(raised.value)
    return raised.value


def assert_equal(found: Arrays, expected: Arrays) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert_array_equal(found[name], array, err_msg=name)


@NETWORKS
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_a_whole_checkpoint_is_read_in_the_graph_s_order(
    read: Callable[..., LoadedWeights], network: HRNet, prefix: str
) -> None:
    graph = build(network)
    weights = random_weights(graph)
    shuffled = {f"{prefix}{name}": weights[name] for name in sorted(weights, reverse=True)}
    found = read(shuffled | {f"{prefix}bn1.num_batches_tracked": np.array(3)}, graph)
    assert list(found) == list(graph.parameters)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert_equal(found, weights)
    assert found.report.loaded == tuple(graph.parameters)
    assert found.report.summary == f"{len(weights):,} of {len(weights):,} tensors, 100% of parameters"
    assert found.report.prefixes == ({prefix: len(weights)} if prefix else {})
    assert list(found.report.ignored) == [f"{prefix}bn1.num_batches_tracked"]
    rest = (found.report.kept_as_initialized, found.report.declared_absent, found.report.unexpected,
            found.report.misshapen)  # fmt: skip
    assert not any(rest)


def test_the_dead_branch_is_dropped_and_told(read: Callable[..., LoadedWeights]) -> None:
    graph = build(GSTO)
    dead = {f"model.{name}": array for name, array in ones(DEAD).items()}
    found = read({f"model.{name}": array for name, array in random_weights(graph).items()} | dead, graph)
    assert set(found) == set(graph.parameters)
    assert set(found.report.declared_absent) == set(DEAD)
    assert "left out 5 tensors such as att1.1.0" in str(found.report)


@NETWORKS
def test_an_imagenet_file_initialises_any_network_of_its_backbone(
    read: Callable[..., LoadedWeights], network: HRNet
) -> None:
    graph = build(network)
    trunk = backbone(random_weights(build(PLAIN)))
    found = read(trunk | ones(CLASSIFICATION), graph, seed=7)
    kept = set(found.report.kept_as_initialized)
    assert kept == set(graph.parameters) - set(trunk)
    initial = initial_weights(graph, 7)
    assert_equal(found, {name: initial[name] if name in kept else trunk[name] for name in graph.parameters})
    lower = {name for name in trunk if name not in graph.parameters}
    assert bool(lower) == (network is POSE)
    assert set(found.report.declared_absent) == {*CLASSIFICATION, *lower}
    assert found.report.unexpected == ()


def test_what_stays_as_initialised_is_said_part_by_part(read: Callable[..., LoadedWeights]) -> None:
    graph = build(GSTO)
    report = read(backbone(random_weights(graph)), graph).report
    text = str(report)
    assert "kept as initialised (seed 0), " in text
    for part in ("last_layer (", "last_layer_stage3 (", "att3 (", "stage2.0.att_layers ("):
        assert part in text
    assert sum(map(int, re.findall(r"\((\d+)\)", text))) == len(report.kept_as_initialized)
    lost = [shape for name, shape in graph.trainable.items() if name in report.kept_as_initialized]
    assert report.parameters - report.loaded_parameters == sum(map(math.prod, lost))
    assert "100%" not in report.summary


def test_a_backbone_that_lacks_a_tensor_or_has_another_width_lists_its_own_alone(
    read: Callable[..., LoadedWeights],
) -> None:
    trunk = backbone(random_weights(build(GSTO)))
    trunk.pop("stage3.0.branches.1.0.bn2.bias")
    trunk["layer1.0.conv1.weight"] = np.ones((5, 4, 1, 1), np.float32)
    trunk["decode_head.weight"] = np.ones(1, np.float32)
    assert (
        str(refusal(read, trunk, build(GSTO)))
        .partition(".safetensors: ")[2]
        .startswith(
            "stage3.0.branches.1.0.bn2.bias is missing; decode_head.weight is not declared; "
            "layer1.0.conv1.weight has shape (5, 4, 1, 1), expected (2, 4, 1, 1) (of the architecture's "
        )
    )


def test_another_number_of_classes_is_refused_whole_and_initialises_when_asked(
    read: Callable[..., LoadedWeights],
) -> None:
    source, graph = build(GSTO), build(replace(GSTO, classes=7))
    weights = random_weights(source)
    other = {name for name, shape in graph.parameters.items() if source.parameters[name] != shape}
    error = refusal(read, weights, graph)
    assert set(re.findall(r"([\w.]+) has shape", str(error))) == other == set(error.report.misshapen)
    told = f": the file has {GSTO.classes} classes, the graph 7: give --classes {GSTO.classes}, from Python "
    assert told in str(error).partition(" has shape")[0]
    assert f"file has {GSTO.classes} classes, the graph 7\n" in str(error.report)
    mend = "to keep 7 classes, say initialize=True from Python, or gsto-convert --initialize, to take what"
    assert f"; its backbone fits: {mend}" in str(error)
    found = read(weights, graph, initialize=True, seed=2)
    assert set(found.report.kept_as_initialized) == set(found.report.misshapen) == other
    initial = initial_weights(graph, 2)
    assert_equal(
        found, {name: initial[name] if name in other else weights[name] for name in graph.parameters}
    )
    assert all(f"left out {name}: its shape is" in str(found.report) for name in other)


@pytest.mark.parametrize(
    ("source", "target"),
    [(PLAIN, GSTO), (GSTO, PLAIN), (GSTO, POSE), (POSE, GSTO), (PLAIN, replace(GSTO, form="paper"))],
    ids=["plain to gsto", "gsto to plain", "gsto to pose", "pose to gsto", "plain to paper form"],
)
def test_any_network_of_the_same_trunk_initialises_another_when_asked(
    read: Callable[..., LoadedWeights], source: HRNet, target: HRNet
) -> None:
    had, graph = build(source).parameters, build(target)
    weights = random_weights(build(source))
    refusal(read, weights, graph)
    found = read(weights, graph, initialize=True)
    shared = [name for name, shape in graph.parameters.items() if had.get(name) == shape]
    assert found.report.loaded == tuple(shared)
    assert_equal({name: found[name] for name in shared}, {name: weights[name] for name in shared})
    left = set(weights) - set(shared)
    assert left == {*found.report.unexpected, *found.report.declared_absent, *found.report.misshapen}


@pytest.mark.parametrize("initialize", [False, True])
@pytest.mark.parametrize(
    "other", [replace(PLAIN, widths=(4, 6, 8, 10)), replace(PLAIN, blocks=2), replace(PLAIN, layer1_blocks=2),
              replace(PLAIN, stem_width=8)], ids=["width", "blocks", "layer1", "stem"],
)  # fmt: skip
@pytest.mark.parametrize("turned", [False, True])
def test_another_trunk_is_one_complete_list(
    read: Callable[..., LoadedWeights], other: HRNet, turned: bool, initialize: bool
) -> None:
    source, graph = (build(PLAIN), build(other))[:: -1 if turned else 1]
    error = refusal(read, random_weights(source), graph, initialize=initialize)
    for name in {**source.parameters, **graph.parameters}:
        found, expected = source.parameters.get(name), graph.parameters.get(name)
        residual = re.match(r"conv|bn|layer|stage\d\.\d\.branches", name)
        if found != expected and (residual or not initialize):
            verdict = (
                "is missing" if found is None else f"has shape {found}" if expected else "is not declared"
            )
            assert any(text.startswith(f"{name} {verdict}") for text in error.offenders)
        else:
            assert not any(text.startswith(f"{name} ") for text in error.offenders)
    assert "is it of another architecture?" in str(error)


def test_of_a_checkpoint_of_another_network_the_verdict_comes_first_and_the_rest_is_counted(
    read: Callable[..., LoadedWeights], tmp_path: Path
) -> None:
    graph, other = build(GSTO), random_weights(build(replace(PLAIN, widths=(3, 5, 7, 9))))
    error = refusal(read, other, graph)
    text = str(error).partition(".safetensors: ")[2]
    kept = len(error.report.loaded) + len(error.report.misshapen)
    assert text.startswith(f"of the architecture's {len(graph.parameters):,} tensors the file has {kept:,}")
    assert "; is it of another architecture? " in text
    named, _, counted = text.partition("; and ")
    assert all(kind in named for kind in ("is missing", "has shape"))
    assert named.count(";") == 4
    rest = re.fullmatch(r"([\d,]+) more: (.*)", counted)
    assert rest and int(rest[1].replace(",", "")) == len(error.offenders) - 4
    assert sum(map(int, re.findall(r"\((\d+)\)", rest[2]))) == len(error.offenders) - 4
    assert "\n" not in text and len(text) < 600


def test_weights_of_another_network_are_told_with_the_verdict_first_too(tmp_path: Path) -> None:
    graph, other = build(GSTO), random_weights(build(PLAIN))
    with pytest.raises(WeightsError) as raised:
        save_directory(tmp_path / "a", graph, other)
    text = str(raised.value)
    told = (
        f"weights: of the {len(graph.parameters):,} tensors expected {len(other):,} are there in their shape"
    )
    assert text.startswith(f"{told}; are they of another architecture? ")
    assert len(raised.value.offenders) == len(graph.parameters) - len(other)
    assert "\n" not in text and len(text) < 600


def test_everything_wrong_is_listed_at_once(read: Callable[..., LoadedWeights]) -> None:
    graph = build(PLAIN)
    weights = random_weights(graph)
    weights["other"] = weights.pop("last_layer.3.bias")
    weights["module.conv1.weight"] = weights["conv1.weight"]
    weights["bn1.weight"][1] = np.nan
    weights["bn1.bias"] = np.ones(4, int)
    weights["bn2.bias"] = np.ones((2, 2), np.float32)
    assert (
        str(refusal(read, weights, graph))
        .partition(".safetensors: ")[2]
        .startswith(
            "conv1.weight is there twice, as conv1.weight and as module.conv1.weight; last_layer.3.bias is "
            "missing; other is not declared; bn2.bias has shape (2, 2), expected (4,); bn1.weight is not "
            "finite; bn1.bias is of int64, expected floating-point numbers (of the architecture's "
        )
    )


@given(data=st.data())
def test_whatever_is_taken_away_added_or_bent_is_named(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    graph = build(PLAIN)
    weights = random_weights(graph)
    names = sorted(set(weights) - {"last_layer.0.weight"})  # without any of its head it is a backbone's file
    taken, bent = data.draw(st.sets(st.sampled_from(names), max_size=3)), data.draw(st.sampled_from(names))
    for name in taken:
        del weights[name]
    if bent in weights:
        weights[bent] = np.ones((1, *weights[bent].shape), np.float32)
    path = tmp_path_factory.mktemp("case") / "a.safetensors"
    path.write_bytes(safetensors.numpy.save(weights | {"more": np.ones(2, np.float32)}))
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(path, graph)
    text = str(raised.value)
    assert all(f"{name} is missing" in text for name in taken)
    assert (f"{bent} has shape" in text) == (bent not in taken)
    assert "more is not declared" in text
    assert text.count(";") == len(taken) + (bent not in taken) + 1


def negative(graph: Graph) -> Arrays:
    weights = random_weights(graph)
    weights["bn1.weight"][:2] *= -1
    weights["last_layer.1.weight"][0] *= -1
    weights["bn1.bias"] *= -1  # no scale
    return weights


def test_negative_scales_without_a_choice_are_counted_in_a_warning(
    read: Callable[..., LoadedWeights],
) -> None:
    graph = build(PLAIN)
    with pytest.warns(CheckpointWarning, match=r"3 negative batch-norm scales in 2 tensors such as bn1\.wei"):
        found = read(negative(graph), graph)
    assert_equal(found, negative(graph))
    assert found.report.negative_scales == {"bn1.weight": 2, "last_layer.1.weight": 1}
    assert "choose inplace_abn" in str(found.report)


@pytest.mark.parametrize("initialize", [False, True])
def test_inplace_abn_reads_scales_as_the_release_does(
    read: Callable[..., LoadedWeights], initialize: bool
) -> None:
    graph = build(PLAIN)
    given = negative(graph)
    found = read(given, graph, inplace_abn=True, initialize=initialize)
    scales = {name for name in graph.parameters
              if f"{name.removesuffix('.weight')}.running_var" in graph.parameters}  # fmt: skip
    expected = {name: np.abs(array) + np.float32(1e-5) if name in scales else array
                for name, array in given.items()}  # fmt: skip
    assert_equal(found, expected)
    assert "read batch norms' scales as |scale| + eps, 3 of them negative in the file" in str(found.report)


def test_scales_taken_as_they_are_by_choice_warn_of_nothing(read: Callable[..., LoadedWeights]) -> None:
    graph = build(PLAIN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(read(negative(graph), graph, inplace_abn=False), negative(graph))
        read(random_weights(graph), graph)


def test_initialised_scales_are_not_those_of_a_file(read: Callable[..., LoadedWeights]) -> None:
    found = read(backbone(random_weights(build(GSTO))), build(GSTO), inplace_abn=True)
    assert_array_equal(found["last_layer.1.weight"], initial_weights(build(GSTO))["last_layer.1.weight"])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floating_point_types_become_float32(read: Callable[..., LoadedWeights], dtype: Any) -> None:
    graph = build(PLAIN)
    weights = {name: array.astype(dtype) for name, array in random_weights(graph).items()}
    found = read(weights, graph)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert_equal(found, {name: array.astype(np.float32) for name, array in weights.items()})
    assert ("tensors such as conv1.weight to float32" in str(found.report)) == (dtype is np.float64)


def test_a_value_beyond_float32_is_refused(read: Callable[..., LoadedWeights]) -> None:
    graph = build(PLAIN)
    weights = random_weights(graph) | {"bn1.bias": np.array([1, 1e300, 0, 0])}
    assert "bn1.bias is not finite" in str(refusal(read, weights, graph))


def raw_safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    maker = GraphBuilder()
    graph = maker.graph({"stage4": maker.conv2d("head", maker.input("image", 2), 1)})
    header = {"head.weight": {"dtype": "BF16", "shape": [1, 2, 1, 1], "data_offsets": [0, 4]}}
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw_safetensors(json.dumps(header).encode(), b"\x80\x3f\x81\xbf"))
    assert read_checkpoint(path, graph)["head.weight"].ravel().tolist() == [1.0, -1.0078125]


HUGE = json.dumps({"conv1.weight": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}})


@pytest.mark.parametrize(
    "data",
    [b"a poem", raw_safetensors(b"{}", length=2**63), raw_safetensors(b"{}", length=2**30),
     raw_safetensors(HUGE.encode()), raw_safetensors(b"[" * 100_000), raw_safetensors(b"\xff\xfe{}"),
     raw_safetensors(HUGE.encode().replace(b"F32", b"F8_E5M2"), bytes(64)), b"\x80\x04cos\nsystem\n."],
    ids=["text", "endless header", "long header", "huge tensor", "deep", "not utf-8", "odd type",
         "pickle"],
)  # fmt: skip
def test_a_broken_file_is_one_line_that_names_it(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"a\.safetensors: expected a safetensors file, found ") as raised:
        read_checkpoint(path, build(PLAIN))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("data", "found"),
    [(b"", "an empty file"), (raw_safetensors(b"{}"), "a file that holds no tensors")],
    ids=["empty", "no tensors"],
)
def test_a_file_without_tensors_is_one_line_that_says_so(tmp_path: Path, data: bytes, found: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    for initialize in (False, True):
        with pytest.raises(WeightsError) as raised:
            read_checkpoint(path, build(PLAIN), initialize=initialize)
        assert str(raised.value) == f"{path}: expected a checkpoint, found {found}"


def test_a_type_that_numpy_lacks_is_named(tmp_path: Path) -> None:
    header = {"a": {"dtype": "F8_E5M2", "shape": [2], "data_offsets": [0, 2]}}
    (tmp_path / "a.safetensors").write_bytes(raw_safetensors(json.dumps(header).encode(), b"ab"))
    with pytest.raises(WeightsError, match=r"expected tensors of types that numpy has, found a of F8_E5M2$"):
        read_checkpoint(tmp_path / "a.safetensors", build(PLAIN))


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    data = safetensors.numpy.save(random_weights(build(PLAIN)))
    for share in (0.001, 0.5, 0.999):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(WeightsError, match=r"a\.safetensors: expected a safetensors file, found "):
            read_checkpoint(path, build(PLAIN))


def test_names_of_a_hostile_file_are_printed_on_one_line_and_short(
    read: Callable[..., LoadedWeights],
) -> None:
    extra = {"x\x1b[2J\n": np.ones(1), "y" * 5000: np.ones(1)}
    text = str(refusal(read, random_weights(build(PLAIN)) | extra, build(PLAIN)))
    more = {f"{index}{'.1' * 100_000}!": np.ones(1) for index in range(9)}
    assert len(str(refusal(read, more | random_weights(build(PLAIN)), build(PLAIN)))) < 1500
    assert "x\\x1b[2J\\n is not declared" in text
    assert "y" * 100 in text and "y" * 200 not in text


@pytest.mark.parametrize("name", ["a.pth", "a.pth.tar", "a.txt", "a"])
def test_files_of_a_framework_are_left_to_its_backend(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"?")
    with pytest.raises(
        WeightsError, match=rf"{name}: expected a \.safetensors file or a saved directory; .*"
    ):
        read_checkpoint(tmp_path / name, build(PLAIN))


def test_a_name_in_place_of_a_graph_is_told_how_to_build_it(tmp_path: Path) -> None:
    name: Any = "hrnetv2-w18"
    with pytest.raises(
        TypeError, match=r"found the name 'hrnetv2-w18': build it by gsto_spec.build\('hrnetv2"
    ):
        read_checkpoint(tmp_path / "a.safetensors", name)


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"a\.safetensors: expected a checkpoint's file or .*, found none$"
    ):
        read_checkpoint(tmp_path / "a.safetensors", build(PLAIN))
    with pytest.raises(WeightsError, match=r"graph\.json: a saved model has graph\.json, "):
        read_checkpoint(tmp_path, build(PLAIN))


def test_a_saved_directory_is_read(tmp_path: Path) -> None:
    graph, weights = build(PLAIN), random_weights(build(PLAIN))
    save_directory(tmp_path / "saved", graph, weights)
    assert_equal(read_checkpoint(tmp_path / "saved", graph), weights)
    other = build(replace(PLAIN, classes=9))
    with pytest.raises(CheckpointError, match=r"last_layer\.3\.weight has shape"):
        read_checkpoint(tmp_path / "saved", other)
    assert read_checkpoint(tmp_path / "saved", other, initialize=True).report.misshapen
    (tmp_path / "saved" / "graph.json").write_text("{")
    with pytest.raises(WeightsError, match=r"graph\.json: "):
        read_checkpoint(tmp_path / "saved", graph)


def test_a_saved_directory_of_a_graph_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    save_directory(tmp_path, build(PLAIN), random_weights(build(PLAIN)))
    aligned = build(replace(PLAIN, align_corners=True))
    with pytest.raises(WeightsError, match=r"something else with the same tensors; initialize=True from P"):
        read_checkpoint(tmp_path, aligned)
    assert_equal(read_checkpoint(tmp_path, aligned, initialize=True), random_weights(build(PLAIN)))


def test_a_file_of_nothing_that_the_graph_knows_is_refused_even_to_initialise_from(
    read: Callable[..., LoadedWeights],
) -> None:
    maker = GraphBuilder()
    graph = maker.graph({"stage4": maker.conv2d("head", maker.input(), 2)})
    text = str(refusal(read, ones(CLASSIFICATION), graph, initialize=True))
    assert "nothing in it belongs to the architecture (of the architecture's 1 tensors the file has 0" in text


def test_the_result_is_a_dict_that_can_be_copied(read: Callable[..., LoadedWeights]) -> None:
    found = read(random_weights(build(PLAIN)), build(PLAIN))
    assert isinstance(found, dict)
    assert copy.deepcopy(found).report == found.report
