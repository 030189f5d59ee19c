"""Names that others gave: prefixes come off, bookkeeping goes, and all of it is told."""

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from gsto_spec import Graph, GraphBuilder, WeightsError
from gsto_spec.backend import BackendError, tensor_file
from gsto_spec.checkpoint_names import canonical_tensors


def small_graph(head: str = "head") -> Graph:
    build = GraphBuilder()
    x = build.batch_norm("bn1", build.conv2d("conv1", build.input(), 4))
    return build.graph({"stage4": build.conv2d(head, x, 2, bias=True)})


def tensors(graph: Graph, prefix: str = "") -> dict[str, NDArray[np.float64]]:
    return {f"{prefix}{name}": np.ones(shape) for name, shape in graph.parameters.items()}


def test_canonical_names_stay_and_nothing_is_told() -> None:
    given = tensors(small_graph())
    found, notes = canonical_tensors(small_graph(), given)
    assert found == given
    assert notes == []


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "module.model.", "model.backbone."])
def test_prefixes_come_off(prefix: str) -> None:
    graph = small_graph()
    found, notes = canonical_tensors(graph, tensors(graph, prefix))
    assert list(found) == list(graph.parameters)
    assert notes == [f"took {prefix} off 7 names"]


def test_each_prefix_is_told_on_its_own() -> None:
    graph = small_graph()
    given = {f"{'backbone.' if name.startswith('conv1') else 'model.'}{name}": array
             for name, array in tensors(graph).items()}  # fmt: skip
    _, notes = canonical_tensors(graph, given)
    assert notes == ["took backbone. off 1 names", "took model. off 6 names"]


def test_a_name_that_only_looks_prefixed_stays() -> None:
    graph = small_graph(head="model.head")
    found, notes = canonical_tensors(graph, tensors(graph))
    assert list(found) == list(graph.parameters)
    assert notes == []


def test_a_name_that_is_not_the_graph_s_even_without_prefix_stays_as_it_was() -> None:
    found, notes = canonical_tensors(small_graph(), {"module.decode.weight": np.ones(1)})
    assert list(found) == ["module.decode.weight"]
    assert notes == []


@pytest.mark.parametrize("prefix", ["", "module."])
def test_batch_counters_losses_and_optimiser_slots_are_left_out_and_told(prefix: str) -> None:
    graph = small_graph()
    extra = {f"{prefix}bn1.num_batches_tracked": np.array(7), f"{prefix}loss.weight": np.ones(19),
             "optimizer/momentum/conv1.weight": np.ones(1), "optimizer/step": np.array(3)}  # fmt: skip
    found, notes = canonical_tensors(graph, tensors(graph) | extra)
    assert list(found) == list(graph.parameters)
    assert notes[-3:] == [
        f"left out {prefix}bn1.num_batches_tracked: torch counts batches there, which nothing reads",
        f"left out {prefix}loss.weight: the loss's, not the network's",
        "left out 2 tensors such as optimizer/momentum/conv1.weight: optimiser slots",
    ]


def test_a_batch_counter_of_a_norm_that_the_graph_lacks_is_kept_for_the_caller_to_refuse() -> None:
    found, _ = canonical_tensors(small_graph(), {"bn2.num_batches_tracked": np.array(7)})
    assert list(found) == ["bn2.num_batches_tracked"]


def test_two_names_for_one_tensor_are_refused() -> None:
    graph = small_graph()
    message = "conv1.weight is there twice, as conv1.weight and as module.conv1.weight"
    with pytest.raises(WeightsError, match=f"^{re.escape(message)}$"):
        canonical_tensors(graph, {**tensors(graph), "module.conv1.weight": np.ones((4, 3, 1, 1))})


def test_a_file_that_nothing_installed_reads_is_refused_by_its_ending() -> None:
    with pytest.raises(BackendError, match=r"^nothing installed reads \.safetensor files \(installed: .*\)"):
        tensor_file("safetensor")
