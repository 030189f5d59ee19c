"""`state_dict` files: what torch writes is read without running it, and what is written torch loads."""

import io
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import gsto_torch
from gsto_spec import Graph, GraphBuilder, WeightsError
from gsto_spec.backend import tensor_file
from gsto_torch.released import StateDictFile

Arrays = dict[str, NDArray[Any]]


def small_graph() -> Graph:
    build = GraphBuilder()
    x = build.batch_norm("bn1", build.conv2d("conv1", build.input(), 4))
    x = build.batch_norm("part.bn2", build.relu(x))
    return build.graph({"stage4": build.conv2d("part.head", x, 2, bias=True)})


def random_weights(graph: Graph, dtype: Any = np.float32) -> Arrays:
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shape).astype(dtype) for name, shape in graph.parameters.items()}


def saved(contents: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(contents, file, **options)
    return file.getvalue()


def decoded(contents: object, **options: Any) -> tuple[Arrays, list[str]]:
    return StateDictFile().decode(saved(contents, **options))


def assert_same_bits(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("ending", ["pth", "pt"])
def test_both_endings_are_found_by_their_entry_point(ending: str) -> None:
    assert isinstance(tensor_file(ending), StateDictFile)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_weights_come_back_bit_for_bit(dtype: Any) -> None:
    graph = small_graph()
    weights = random_weights(graph, dtype)
    weights["part.head.bias"] = np.array([-0.0, np.finfo(dtype).smallest_subnormal], dtype)
    data, notes = StateDictFile().encode(graph, weights)
    found, told = StateDictFile().decode(data)
    assert_same_bits({name: found[name] for name in graph.parameters}, weights)
    assert notes == ["added 2 num_batches_tracked of 0, which torch expects"]
    assert sorted(set(found) - set(weights)) == ["bn1.num_batches_tracked", "part.bn2.num_batches_tracked"]
    assert told == []


def test_the_file_loads_strictly_into_the_compiled_graph_in_its_order() -> None:
    graph = small_graph()
    weights = random_weights(graph)
    data, _ = StateDictFile().encode(graph, weights)
    state = torch.load(io.BytesIO(data), weights_only=True)
    model = gsto_torch.compile(graph, seed=1)
    assert list(state) == list(model.state_dict())
    assert {name: value.dtype for name, value in state.items()} == {
        name: value.dtype for name, value in model.state_dict().items()
    }
    model.load_state_dict(state, strict=True)
    assert_same_bits(gsto_torch.weights_of(model), weights)


def test_a_graph_without_batch_norm_gets_no_counters() -> None:
    build = GraphBuilder()
    graph = build.graph({"stage4": build.conv2d("head", build.input(), 2)})
    assert StateDictFile().encode(graph, random_weights(graph))[1] == []


def test_the_same_weights_make_the_same_file() -> None:
    graph = small_graph()
    first, second = (StateDictFile().encode(graph, random_weights(graph))[0] for _ in range(2))
    assert first == second


def test_what_a_model_s_state_dict_holds_is_read() -> None:
    model = gsto_torch.compile(small_graph())
    found, notes = decoded(model.state_dict())
    assert notes == []
    assert_same_bits({name: found[name] for name in model.graph.parameters}, gsto_torch.weights_of(model))


def test_parameters_views_and_old_files_are_read() -> None:
    base = torch.arange(6.0).reshape(2, 3)
    contents = {"transposed": base.T, "parameter": nn.Parameter(base), "again": base}
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        found, _ = decoded(contents, **options)
        np.testing.assert_array_equal(found["transposed"], base.T.numpy())
        np.testing.assert_array_equal(found["parameter"], base.numpy())
        np.testing.assert_array_equal(found["again"], base.numpy())


def test_a_wrapper_is_taken_off_and_what_lay_beside_it_told() -> None:
    weights = OrderedDict(conv1=torch.ones(2))
    found, notes = decoded({"epoch": 3, "state_dict": weights, "optimizer": {"state": {}}})
    assert list(found) == ["conv1"]
    assert notes == ["took the entry state_dict, and left out what lay beside it: epoch, optimizer"]
    assert decoded({"state_dict": weights})[1] == ["took the entry state_dict"]


def test_bfloat16_is_widened_exactly_and_told() -> None:
    values = torch.tensor([1.0, 1.0078125, -0.0, 3.0e38]).bfloat16()
    found, notes = decoded({"conv1.weight": values, "conv2.weight": values.float()})
    assert found["conv1.weight"].dtype == np.float32
    assert found["conv1.weight"].tobytes() == values.float().numpy().tobytes()
    assert notes == ["widened 1 tensors such as conv1.weight to float32, which is exact"]


def test_entries_that_are_no_dense_tensors_are_listed_all_at_once() -> None:
    sparse = torch.ones(2, 2).to_sparse()
    message = (
        r"^expected a dict of dense tensors by name, but epoch is of type int; "
        r"sparse is a tensor of torch.float32, torch.sparse_coo$"
    )
    with pytest.raises(WeightsError, match=message):
        decoded({"epoch": 3, "conv1.weight": torch.ones(2), "sparse": sparse})


def test_another_object_than_a_dict_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"^expected a dict of dense tensors by name, found of type list$"):
        decoded([torch.ones(2)])


class Trap:
    """Reading this pickle would run code."""

    fired = False

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return setattr, (Trap, "fired", True)


@pytest.mark.parametrize("contents", [Trap(), {"conv1.weight": Trap()}, nn.Conv2d(1, 1, 1)])
def test_a_file_that_would_run_code_is_refused_and_does_not(contents: object) -> None:
    with pytest.raises(
        WeightsError, match=r"^expected a torch state_dict file, found a pickle of other things"
    ):
        decoded(contents)
    assert not Trap.fired


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WeightsError, match=r"^expected a "):
        StateDictFile().decode(data)


@given(share=st.floats(0, 0.999), old=st.booleans())
def test_a_truncated_file_is_refused(share: float, old: bool) -> None:
    state: dict[str, Tensor] = {"conv1.weight": torch.ones(64, 8), "bn1.bias": torch.zeros(8)}
    data = saved(state, _use_new_zipfile_serialization=not old)
    with pytest.raises(WeightsError, match=r"^expected a "):
        StateDictFile().decode(data[: int(share * len(data))])


def test_a_state_dict_s_attached_metadata_is_no_obstacle() -> None:
    state = gsto_torch.compile(small_graph()).state_dict()
    assert hasattr(state, "_metadata")
    assert set(decoded(state)[0]) == set(state)
