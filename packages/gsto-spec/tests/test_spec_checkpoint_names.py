"""Names that others gave: prefixes come off, bookkeeping goes, absent parts are known; all of it is told."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gsto_spec import Graph, GraphBuilder, HRNet, build
from gsto_spec.backend import BackendError, tensor_file
from gsto_spec.checkpoint_names import canonical_tensors

PREFIXES = ["module.", "model.", "backbone.", "module.model.", "model.backbone.", "state_dict.module.",
            "_orig_mod.model."]  # fmt: skip


def small_graph(head: str = "head") -> Graph:
    build = GraphBuilder()
    x = build.batch_norm("bn1", build.conv2d("conv1", build.input(), 4))
    return build.graph({"stage4": build.conv2d(head, x, 2, bias=True)})


def tensors(graph: Graph, prefix: str = "") -> dict[str, NDArray[np.float64]]:
    return {f"{prefix}{name}": np.ones(shape) for name, shape in graph.parameters.items()}


def test_canonical_names_stay_and_nothing_is_told() -> None:
    given = tensors(small_graph())
    found = canonical_tensors(small_graph(), given)
    assert found.tensors == given
    assert (found.prefixes, found.ignored, found.declared_absent, found.duplicates) == ({}, {}, {}, ())


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_come_off(prefix: str) -> None:
    graph = small_graph()
    found = canonical_tensors(graph, tensors(graph, prefix))
    assert list(found.tensors) == list(graph.parameters)
    assert found.prefixes == {prefix: 7}


def test_each_prefix_is_told_on_its_own() -> None:
    graph = small_graph()
    given = {f"{'backbone.' if name.startswith('conv1') else 'model.'}{name}": array
             for name, array in tensors(graph).items()}  # fmt: skip
    assert canonical_tensors(graph, given).prefixes == {"backbone.": 1, "model.": 6}


def test_a_name_that_only_looks_prefixed_stays() -> None:
    graph = small_graph(head="model.head")
    found = canonical_tensors(graph, tensors(graph))
    assert list(found.tensors) == list(graph.parameters)
    assert found.prefixes == {}


def test_a_name_that_is_not_the_graph_s_even_without_prefix_stays_as_it_was() -> None:
    found = canonical_tensors(small_graph(), {"module.decode.weight": np.ones(1)})
    assert list(found.tensors) == ["module.decode.weight"]
    assert found.prefixes == {}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_batch_counters_losses_and_optimiser_slots_are_ignored_and_told(prefix: str) -> None:
    graph = small_graph()
    extra = {f"{prefix}bn1.num_batches_tracked": np.array(7), f"{prefix}loss.criterion.weight": np.ones(19),
             "optimizer/momentum/conv1.weight": np.ones(1)}  # fmt: skip
    found = canonical_tensors(graph, tensors(graph) | extra)
    assert list(found.tensors) == list(graph.parameters)
    assert found.ignored == {
        f"{prefix}bn1.num_batches_tracked": "torch counts batches there, which nothing reads",
        f"{prefix}loss.criterion.weight": "the loss's, not the network's",
        "optimizer/momentum/conv1.weight": "optimiser slots",
    }


def test_two_names_for_one_tensor_are_told() -> None:
    graph = small_graph()
    found = canonical_tensors(graph, {**tensors(graph), "module.conv1.weight": np.ones((4, 3, 1, 1))})
    assert found.duplicates == ("conv1.weight is there twice, as conv1.weight and as module.conv1.weight",)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    "name",
    ["incre_modules.0.0.conv1.weight", "incre_modules.3.0.downsample.1.running_var", "classifier.bias",
     "downsamp_modules.2.0.bias", "final_layer.0.weight", "final_layer.1.running_mean", "fc.weight"],
)  # fmt: skip
def test_a_classification_head_is_declared_absent(prefix: str, name: str) -> None:
    found = canonical_tensors(small_graph(), {prefix + name: np.ones(3)})
    assert found.tensors == {}
    assert list(found.declared_absent) == [name]


@pytest.mark.parametrize(
    "name",
    [
        "final_layer.weight",
        "final_layers.0.weight",
        "aux.classifier.bias",
        "classifier.0.convs.0.0.weight",
        "incre_modules.note",
    ],
)
def test_what_only_resembles_a_classification_head_is_kept_for_the_caller_to_refuse(name: str) -> None:
    assert list(canonical_tensors(small_graph(), {name: np.ones(3)}).tensors) == [name]


def test_a_part_that_the_graph_has_is_never_absent() -> None:
    graph = small_graph(head="classifier")
    assert list(canonical_tensors(graph, tensors(graph)).tensors) == list(graph.parameters)


NARROW = HRNet(
    widths=(2, 4, 6, 8), modules=(1, 1, 2), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1
)
DEAD = {"att1.1.0.0.weight": (1, 19, 3, 3), "att1.1.0.1.weight": (1,), "att1.1.0.1.running_var": (1,)}


def test_the_dead_branch_is_declared_absent_and_a_live_one_of_that_name_is_not() -> None:
    found = canonical_tensors(build(NARROW), {name: np.ones(shape) for name, shape in DEAD.items()})
    assert (found.tensors, list(found.declared_absent)) == ({}, list(DEAD))
    unsupervised = {"att1.1.0.0.weight": np.ones((1, 8, 1, 1))}
    assert list(canonical_tensors(build(NARROW), unsupervised).tensors) == list(unsupervised)


def test_only_a_fusion_without_lower_targets_does_without_them() -> None:
    lower = "stage4.1.fuse_layers.1.0.0.0.weight"
    others = ["stage4.1.fuse_layers.4.0.0.0.weight", "stage4.1.fuse_layers.0.9.0.0.weight",
              "stage4.2.fuse_layers.1.0.0.0.weight", "stage4.1.fuse_layers.1.note"]  # fmt: skip
    given = {name: np.ones(1) for name in (lower, *others)}
    found = canonical_tensors(build(replace(NARROW, head="hrnetv1")), given)
    assert (list(found.declared_absent), list(found.tensors)) == ([lower], others)
    assert list(canonical_tensors(build(NARROW), given).tensors) == [lower, *others]


def test_a_file_that_nothing_installed_reads_is_refused_by_its_ending() -> None:
    with pytest.raises(BackendError, match=r"^nothing installed reads \.safetensor files \(installed: .*\)"):
        tensor_file("safetensor")
