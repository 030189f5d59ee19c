"""Exported models compute what the definition does, as ONNX Runtime runs them; skipped where it is absent."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import gsto_spec.onnx
from gsto_spec import (
    Graph,
    GraphBuilder,
    GraphError,
    GstoError,
    build,
    evaluate,
    initial_weights,
    optimize,
    variant,
)
from gsto_spec.cli import main
from gsto_spec.onnx import to_onnx
from gsto_spec.ops import AdaptiveAvgPool, AvgPool, Conv2d, MaxPool, Op, Parameter, Resize, Slice, Softmax
from gsto_spec.weights import save_directory

onnx = pytest.importorskip("onnx", reason="the extra gsto-spec[onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime, which runs what is exported, is absent")

UNIT = 2.0**-24
"""A rounding in float32."""
Arrays = Mapping[str, NDArray[Any]]


def ran(
    graph: Graph, weights: Arrays, inputs: Arrays, size: tuple[int, int] | None
) -> dict[str, NDArray[Any]]:
    return session_run(to_onnx(graph, weights, size=size).SerializeToString(), inputs)


def session_run(model: bytes, inputs: Arrays) -> dict[str, NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    values = session.run(None, {name: array.astype(np.float32) for name, array in inputs.items()})
    return dict(zip((item.name for item in session.get_outputs()), values, strict=True))


def single(op: Op, *, channels: int = 4, kernel: tuple[int, ...] = (), like: int = 0) -> Graph:
    """One op on the input, its size maybe taken from the input under a window of stride `like`."""
    build = GraphBuilder()
    operands = [build.input(channels=channels)]
    if kernel:
        operands += [
            build.parameter("weight", Parameter(kernel)),
            build.parameter("bias", Parameter(kernel[:1])),
        ]
    if like:
        operands.append(build.avg_pool("image", 1, like, name="image/grid"))
    return build.graph({"stage4": build.apply("op", op, *operands)})


OPS: dict[str, tuple[Op, dict[str, Any]]] = {
    "convolution": (Conv2d((2, 1), (1, 0, 2, 3), (1, 2), groups=2), {"kernel": (6, 2, 3, 2)}),
    "slice": (Slice(1, 3), {}),
    "softmax": (Softmax(), {}),
    "average": (AvgPool((3, 2), (2, 1), (1, 0, 1, 1)), {}),
    "average of cells": (AvgPool((3, 3), (2, 2), (1, 1, 1, 1), count_padding=False), {}),
    "maximum": (MaxPool((3, 3), (2, 2), (1, 1, 0, 2)), {}),
    "mean": (AdaptiveAvgPool((1, 1)), {}),
    "bins": (AdaptiveAvgPool((3, 5)), {}),
    "bins alike": (AdaptiveAvgPool(), {"like": 2}),
    "more bins": (AdaptiveAvgPool((17, 31)), {}),
    "bilinear": (Resize(size=(13, 40)), {}),
    "bilinear to one": (Resize(size=(1, 1)), {}),
    "bilinear alike": (Resize(), {"like": 3}),
    "corners": (Resize(align_corners=True, size=(13, 40)), {}),
    "corners to one": (Resize(align_corners=True, size=(1, 2)), {}),
    "nearest": (Resize("nearest", size=(41, 47)), {}),
    "nearest alike": (Resize("nearest"), {"like": 2}),
}  # fmt: skip


@pytest.mark.parametrize("fixed", [False, True], ids=["any size", "one size"])
@pytest.mark.parametrize("name", OPS)
def test_an_op_means_the_same(name: str, fixed: bool) -> None:
    op, fields = OPS[name]
    graph = single(op, **fields)
    generator = np.random.default_rng(0)
    weights = {leaf: generator.standard_normal(shape) for leaf, shape in graph.parameters.items()}
    for size in ((9, 12), (24, 41)):
        image = generator.standard_normal((2, 4, *size)).astype(np.float32)
        got = ran(graph, weights, {"image": image}, size if fixed else None)["stage4"]
        want = evaluate(graph, weights, {"image": image})["stage4"]
        assert got.dtype == np.float32 and got.shape == want.shape
        # Roundings: one for each value that is summed; of a resize's coordinate, up to the source's length.
        summed = max([math.prod(shape[1:]) for shape in graph.parameters.values()] + [math.prod(size)])
        size_of_terms = np.abs(image).max() * max([1.0, *(np.abs(a).max() for a in weights.values())])
        np.testing.assert_allclose(got, want, rtol=0, atol=4 * UNIT * summed * size_of_terms)


def test_nearest_takes_the_source_that_integers_give() -> None:
    graph = single(Resize("nearest", size=(1, 4 * 41)), channels=1)
    image = np.arange(41.0).reshape(1, 1, 1, 41)
    got = ran(graph, {}, {"image": image}, None)["stage4"]
    np.testing.assert_array_equal(got.ravel(), np.arange(4 * 41) // 4)


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    named = variant("gsto-hrnet-w18-small-v2")
    return build(dataclasses.replace(
        named, widths=(3, 4, 5, 6), modules=(1, 1, 1), blocks=1, stem_width=3, layer1_width=2,
        layer1_blocks=1,
        classes=draw(st.integers(1, 3)), form=draw(st.sampled_from(["release", "paper"])),
        upsampling=draw(st.sampled_from(["bilinear", "nearest"])), align_corners=draw(st.booleans()),
    ))  # fmt: skip


@settings(max_examples=8)
@given(graph=networks(), fixed=st.booleans(), rewritten=st.booleans(), seed=st.integers(0, 99),
       size=st.tuples(st.integers(33, 70), st.integers(33, 70)))  # fmt: skip
def test_a_network_computes_the_same_plain_and_optimized(
    graph: Graph, fixed: bool, rewritten: bool, seed: int, size: tuple[int, int]
) -> None:
    weights: Arrays = initial_weights(graph, seed)
    image = {"image": np.random.default_rng(seed).standard_normal((2, 3, *size)).astype(np.float32)}
    want, rounded = evaluate(graph, weights, image), evaluate(graph, weights, image, np.float32)
    exported, values = optimize(graph, weights) if rewritten else (graph, weights)
    got = ran(exported, values, image, size if fixed else None)
    assert list(got) == list(graph.outputs)
    # The yardstick is the definition's own stray in float32; an engine sums in another order.
    for name, value in want.items():
        stray = np.abs(rounded[name] - value).max() + UNIT * np.abs(value).max()
        np.testing.assert_allclose(got[name], value, rtol=0, atol=16 * stray, err_msg=name)


def test_names_of_outputs_and_nodes_may_be_each_other_s() -> None:
    build = GraphBuilder()
    x = build.input()
    crossed = build.relu(x, name="b"), build.sigmoid(x, name="a")
    graph = build.graph({"a": crossed[0], "b": crossed[1], "again": crossed[1], "image": x})
    with pytest.raises(GstoError, match="image: expected outputs called otherwise than inputs"):
        to_onnx(graph, {})
    graph = dataclasses.replace(graph, outputs={"a": "b", "b": "a", "again": "a", "whole": "image"})
    image = np.random.default_rng(0).standard_normal((1, 3, 4, 5))
    got, want = ran(graph, {}, {"image": image}, None), evaluate(graph, {}, {"image": image})
    assert list(got) == list(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=4 * UNIT * np.abs(image).max())


def test_a_model_says_what_it_was_made_of() -> None:
    graph = single(Softmax())
    model = to_onnx(graph, {})
    assert {item.key: item.value for item in model.metadata_props}["graph_digest"] == graph.digest
    dims = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["N", 4, "H", "W"]
    fixed = to_onnx(graph, {}, size=(6, 7)).graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in fixed] == ["N", 4, 6, 7]
    with pytest.raises(GraphError, match="graph_c5"):
        to_onnx(graph, {}, size=(0, 7))


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(gsto_spec.onnx, "import_module", absent)
    with pytest.raises(
        GstoError, match=r"exporting to ONNX needs the package onnx: pip install 'gsto-spec\[onnx\]'"
    ):
        to_onnx(single(Softmax()), {})


def export(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["export", *arguments])
    return result.exit_code, result.output


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Graph, Arrays]:
    named = variant("gsto-hrnet-w18-small-v2")
    graph = build(dataclasses.replace(named, widths=(2, 3, 4, 5), modules=(1, 1, 1), blocks=1, stem_width=3,
                                      layer1_width=2, layer1_blocks=1, classes=2))  # fmt: skip
    weights = initial_weights(graph, 3)
    save_directory(tmp_path / "model", graph, weights)
    return tmp_path, graph, weights


def test_the_command_writes_saved_weights_optimized(saved: tuple[Path, Graph, Arrays]) -> None:
    folder, graph, weights = saved
    file = folder / "model.onnx"
    model = folder / "model"
    status, text = export(str(model / "graph.json"), "--onnx", str(file), "--weights", str(model),
                          "--optimize", "--output", "stage4", "--size", "64x48")  # fmt: skip
    assert status == 0 and text.startswith(f"{file}: stage4 of ")
    image = {"image": np.random.default_rng(0).standard_normal((1, 3, 64, 48))}
    got = session_run(file.read_bytes(), image)
    want, rounded = (evaluate(graph, weights, image, kind)["stage4"] for kind in (np.float64, np.float32))
    assert list(got) == ["stage4"]
    np.testing.assert_allclose(got["stage4"], want, rtol=0, atol=16 * np.abs(rounded - want).max())


def test_of_a_directory_the_command_takes_graph_and_weights(saved: tuple[Path, Graph, Arrays]) -> None:
    folder, _, _ = saved
    model, files = str(folder / "model"), [folder / f"{index}.onnx" for index in range(4)]
    for file, asked in zip(
        files, ((f"{model}/graph.json", "--weights", model), (model,), (str(folder),),
                (f"{model}/graph.json", "--weights", str(folder))), strict=True,
    ):  # fmt: skip
        status, text = export(*asked, "--onnx", str(file))
        assert status == 0 and "initial weights" not in text
        of = "its own weights" if len(asked) == 1 else asked[-1]
        assert text.startswith(f"{file}: stage4, stage3, stage2 of {asked[0]}, {of}, digest ")
    assert len({file.read_bytes() for file in files}) == 1
    status, text = export(model, "--classes", "9", "--onnx", str(folder / "9.onnx"))
    assert status == 2 and "has 2 channels, expected one for each of 9 classes" in text
    assert text.count("\n") == 1 and not (folder / "9.onnx").exists()


def test_the_command_refuses_in_one_line(saved: tuple[Path, Graph, Arrays]) -> None:
    folder, _, _ = saved
    graph = str(folder / "model/graph.json")
    for arguments, message in (
        (("--onnx", str(folder / "x.pb")), "x.pb: expected a name ending in .onnx"),
        (("--onnx", str(folder / "no/x.onnx")), "x.onnx: cannot be written: No such file or directory"),
        (("--onnx", str(folder / "x.onnx"), "--weights", str(folder / "none.safetensors")),
         "none.safetensors: expected a checkpoint's file or a saved directory, found none"),
        (("--onnx", str(folder / "x.onnx"), "--output", "stage5"), "found stage5 (nearest: stage"),
        (("--onnx", str(folder / "x.onnx"), "--rule", "hoist-gate"), "--rule: expected it with --optimize"),
    ):  # fmt: skip
        status, text = export(graph, *arguments)
        assert status == 2 and message in text
