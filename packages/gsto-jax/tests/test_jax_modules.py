"""A compiled graph is an ordinary flax module: transformations, copies, pickles, statistics, errors."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
import pytest
from flax import nnx
from jax import Array, export
from numpy.testing import assert_allclose, assert_array_equal

import gsto_jax
from gsto_spec import Graph, GraphBuilder, GraphError, evaluate, initial_weights
from gsto_spec.backend import BackendError


def small() -> Graph:
    """Two layers, two outputs that are not in the order of the alphabet, a gate, odd padding."""
    build = GraphBuilder()
    x = build.conv2d("conv1", build.input(), 4, kernel=3, stride=2, padding=(1, 1, 0, 1))
    x = build.relu(build.batch_norm("bn1", x))
    x = build.mul(build.sigmoid(build.conv2d("att.0", x, 1)), x)
    head = build.conv2d("last_layer.0", x, 2, bias=True)
    return build.graph({"stage4": head, "stage1": x})


IMAGE = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 7, 3)), jnp.float32)


def ready(seed: int = 0) -> gsto_jax.CompiledGraph:
    """In inference mode."""
    model = gsto_jax.compile(small(), seed=seed)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def total(model: gsto_jax.CompiledGraph, image: Array) -> Array:
    return jnp.stack([(output**2).sum() for output in model(image).values()]).sum()


def test_variables_lie_under_the_graphs_names_in_flaxs_layout() -> None:
    model: Any = ready()
    assert isinstance(model.conv1.weight, nnx.Param)
    assert model.conv1.weight.shape == (3, 3, 3, 4)
    assert model.last_layer["0"].bias.shape == (2,)
    assert isinstance(model.bn1.running_var, nnx.BatchStat)
    paths = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model))}
    assert paths == set(small().parameters)


def test_parameters_have_the_type_asked_for() -> None:
    def types(**options: Any) -> set[Any]:
        return {array.dtype for array in jax.tree.leaves(nnx.state(gsto_jax.compile(small(), **options)))}

    assert types() == {np.dtype(np.float32)}
    assert types(dtype=jnp.bfloat16) == {jnp.dtype(jnp.bfloat16)}
    with jax.enable_x64(True):
        assert types() == {np.dtype(np.float32)}
        assert types(dtype=np.float64) == {np.dtype(np.float64)}


def test_float64_is_refused_where_jax_would_narrow_it_without_a_word() -> None:
    with pytest.raises(BackendError) as caught:
        gsto_jax.compile(small(), dtype=np.float64)
    assert str(caught.value) == (
        "dtype: expected float32 or less, found float64; set jax.config.update('jax_enable_x64', True) first"
    )


def test_outputs_keep_the_order_of_the_graph_under_every_transformation() -> None:
    model = ready()
    wanted = model(IMAGE)
    assert list(wanted) == ["stage4", "stage1"]
    found = nnx.jit(lambda model, image: model(image))(model, IMAGE)
    assert list(found) == ["stage4", "stage1"]
    for name, output in wanted.items():
        assert_allclose(found[name], output, rtol=1e-6, atol=1e-6)


def as_copied(model: gsto_jax.CompiledGraph) -> gsto_jax.CompiledGraph:
    return copy.deepcopy(model)


def as_pickled(model: gsto_jax.CompiledGraph) -> gsto_jax.CompiledGraph:
    again: gsto_jax.CompiledGraph = pickle.loads(pickle.dumps(model))
    return again


def as_split_and_merged(model: gsto_jax.CompiledGraph) -> gsto_jax.CompiledGraph:
    definition, *states = nnx.split(nnx.clone(model), nnx.Param, nnx.BatchStat)
    counts = [len(jax.tree.leaves(state)) for state in states]
    assert counts == [len(small().trainable), len(small().parameters) - len(small().trainable)]
    merged: gsto_jax.CompiledGraph = nnx.merge(definition, *states)
    return merged


@pytest.mark.parametrize("twin_of", [as_copied, as_pickled, as_split_and_merged])
def test_a_copy_is_whole_and_on_its_own(
    twin_of: Callable[[gsto_jax.CompiledGraph], gsto_jax.CompiledGraph],
) -> None:
    model = ready()
    wanted = model(IMAGE)["stage4"]
    twin = twin_of(model)
    assert twin.graph == model.graph
    assert_array_equal(twin(IMAGE)["stage4"], wanted)
    twin.variable("last_layer.0.bias").set_value(jnp.ones(2))
    assert not np.array_equal(twin(IMAGE)["stage4"], wanted)
    assert_array_equal(model(IMAGE)["stage4"], wanted)


def test_gradients_are_those_of_the_definition_and_statistics_move_meanwhile() -> None:
    """The slope along one direction of all parameters, by the complex step."""
    graph, image = small(), np.random.default_rng(1).standard_normal((2, 3, 9, 7))
    weights: dict[str, Any] = {name: array.astype(float) for name, array in initial_weights(graph).items()}
    draw = np.random.default_rng(2)
    direction = {name: draw.standard_normal(shape) for name, shape in graph.trainable.items()}
    moved = {name: array + 1e-30j * direction.get(name, 0) for name, array in weights.items()}
    outputs, _ = evaluate(graph, moved, {"image": image}, np.complex128, train_mode=True)
    exact = sum((output**2).sum() for output in outputs.values()).imag / 1e-30
    _, statistics = evaluate(graph, weights, {"image": image}, train_mode=True)
    with jax.enable_x64(True):
        model = gsto_jax.compile(graph, weights, dtype=np.float64)
        slopes = nnx.grad(total)(model, jnp.asarray(image.transpose(0, 2, 3, 1)))
        flat = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(slopes)}
        assert set(flat) == set(graph.trainable)
        for name, along in direction.items():
            native = along.transpose(2, 3, 1, 0) if along.ndim == 4 else along
            exact -= float((flat[name].get_value() * native).sum())
    assert abs(exact) < 1e-9
    for name, array in statistics.items():
        assert_allclose(gsto_jax.weights_of(model)[name], array, rtol=1e-12)


def test_flaxs_optimizer_trains_it() -> None:
    model = gsto_jax.compile(small())
    optimizer = nnx.Optimizer(model, optax.sgd(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model: gsto_jax.CompiledGraph, optimizer: nnx.Optimizer[Any]) -> Array:
        value: Array
        value, slopes = nnx.value_and_grad(total)(model, IMAGE)
        optimizer.update(model, slopes)
        return value

    losses = [float(step(model, optimizer)) for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_a_network_goes_through_jax_export_and_back() -> None:
    graph, image = small(), np.random.default_rng(1).standard_normal((3, 9, 7, 3))
    weights = {name: array.astype(float) for name, array in initial_weights(graph).items()}
    with jax.enable_x64(True):
        model = gsto_jax.compile(graph, weights, dtype=np.float64)
        model.eval()  # type: ignore[no-untyped-call]
        (count,) = export.symbolic_shape("count")
        images = jax.ShapeDtypeStruct((count, *image.shape[1:]), np.float64)  # type: ignore[no-untyped-call]
        exported = export.export(jax.jit(lambda images: model(images)))(images).serialize()
        found = export.deserialize(exported).call(image)  # type: ignore[no-untyped-call]
        wanted = model(jnp.asarray(image))
    assert list(found) == list(wanted)
    for name, output in wanted.items():
        # Compiled apart, sums of some hundred products may round otherwise.
        assert_allclose(found[name], output, rtol=0, atol=1e-13 * np.abs(output).max())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((9, 7, 3), "image: expected an array of N x H x W x C, found 9 x 7 x 3 [graph_c5]"),
        ((2, 3, 9, 7), "image: expected an array of 2 x 3 x 9 x 3, found 2 x 3 x 9 x 7 [graph_c5]"),
    ],
)
def test_images_that_the_graph_cannot_take_are_refused_in_one_line(
    shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(GraphError) as caught:
        ready()(jnp.zeros(shape))
    assert str(caught.value) == message
    assert getattr(caught.value, "__notes__", []) == []


def test_the_number_of_inputs_is_the_graphs() -> None:
    with pytest.raises(GraphError, match=r"^inputs: expected image, found 2 arrays \[graph_c5\]$"):
        ready()(IMAGE, IMAGE)


def test_the_example_of_the_packages_readme_runs() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(readme.split("```python\n")[1].split("```")[0], names)
    model = names["model"]
    model.eval()
    shapes = jax.eval_shape(lambda image: model(image), jnp.zeros((1, 32, 64, 3)))
    assert {name: output.shape for name, output in shapes.items()} == dict.fromkeys(
        ("stage4", "stage3", "stage2"), (1, 8, 16, 19)
    )
