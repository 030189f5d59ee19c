"""From names to things: the backend, architecture and data set that a user asked for."""

from pathlib import Path

from gsto_spec.backend import Backend, backend, backends
from gsto_spec.graph import Graph
from gsto_spec.locate import locate
from gsto_spec.ops import Input, Parameter
from gsto_train.data.samples import Dataset
from gsto_train.errors import InputError, nearest
from gsto_train.settings import ArchitectureSettings, DataSettings


def check_backend(name: str) -> None:
    """Raise gsto_spec's `BackendError`, with what to install, unless a backend of this name is installed.

    One of `module:attribute` is imported when it is needed.
    """
    if ":" not in name and name not in backends():
        backend(name)


def load_backend(name: str) -> Backend:
    """Import a backend and start it; raises `InputError` where what it needs is missing."""
    try:
        found = backend(name)
    except ImportError as error:
        raise InputError(
            f"backend {name!r} does not import: {error}; install what it lacks in this environment"
        ) from error
    if found.process_count != 1:
        raise InputError(
            f"backend {name!r}: gsto-train runs in one process, found {found.process_count}; start it "
            "without a launcher"
        )
    return found


def check_choices(backend: Backend, precision: str, device: str) -> None:
    """Raise `InputError` unless the backend has the precision and this machine the device."""
    _check_choice("train.precision", precision, backend.precisions, f"backend {backend.name!r}")
    _check_choice(
        "train.device", device, ("auto", *backend.devices()), f"backend {backend.name!r} on this machine"
    )


def _check_choice(key: str, value: str, known: tuple[str, ...], owner: str) -> None:
    if value not in known:
        hint = nearest(value, known)
        raise InputError(
            f"setting {key!r}: expected one of {', '.join(known)} ({owner}), found {value!r}{hint}"
        )


def load_graph(architecture: ArchitectureSettings, classes: int) -> Graph:
    """Return the graph of a catalogue name, a graph's JSON file or module:attribute, for so many classes.

    Raises `InputError`, or `gsto_spec`'s error, where there is none or it cannot be trained: other
    inputs than pictures, outputs that are not `classes` wide, nothing to learn.
    """
    graph = locate(architecture.name, classes=classes, form=architecture.form)
    _check_inputs(architecture.name, graph)
    _check_outputs(architecture.name, graph, classes)
    _check_learns(architecture.name, graph)
    return graph


def load_datasets(data: DataSettings) -> tuple[Dataset, Dataset]:
    """Return the pictures to train on and those to score on; raises `InputError`."""
    if data.kind == "scenes":
        from gsto_train.data.scenes import GeneratedScenes

        return (
            GeneratedScenes(data.train_scenes, size=data.scene_size, seed=data.scene_seed, split="train"),
            GeneratedScenes(data.val_scenes, size=data.scene_size, seed=data.scene_seed, split="val"),
        )
    return _listed(data, data.train_list), _listed(data, data.val_list)


def title(name: str) -> str:
    """Return a short name: a graph file's stem, a module's attribute, or the catalogue name itself."""
    return Path(name).stem if name.endswith(".json") else name.rpartition(":")[2].rpartition(".")[2]


def _listed(data: DataSettings, list_file: str) -> Dataset:
    from gsto_train.data.listed import ListedImages

    if data.folder is None:
        raise InputError("setting 'data.folder' is missing: give the folder of pictures with --data DIR")
    return ListedImages(data.folder, list_file, classes=data.classes, ignore_label=data.ignore_label)


def _check_inputs(name: str, graph: Graph) -> None:
    if list(graph.inputs.values()) != [3]:
        found = (
            ", ".join(f"{each} ({channels} channels)" for each, channels in graph.inputs.items()) or "none"
        )
        raise InputError(f"architecture {name!r}: expected one input of 3 channels, found {found}")


def _check_learns(name: str, graph: Graph) -> None:
    """Raise `InputError` unless some output depends on a parameter that is learnt."""
    reached, pending = set[str](), list(graph.outputs.values())
    while pending:
        node = pending.pop()
        if node not in reached:
            reached.add(node)
            pending.extend(graph.by_name[node].operands)
    if not graph.trainable:
        raise InputError(f"architecture {name!r}: expected a trainable parameter, found none to learn")
    if reached.isdisjoint(graph.trainable):
        first = next(iter(graph.trainable))
        raise InputError(
            f"architecture {name!r}: expected outputs that depend on a trainable parameter, found that none "
            f"does, not even on {first!r}"
        )


def _check_outputs(name: str, graph: Graph, classes: int) -> None:
    violation = graph.training_form_violation()
    if violation is not None:
        raise InputError(f"architecture {name!r} cannot be trained: {violation}")
    for output, node in graph.outputs.items():
        if isinstance(graph.by_name[node].op, Input | Parameter):
            raise InputError(
                f"architecture {name!r}: output {output!r} is {node!r}, an input or a parameter; expected a "
                "feature map computed from the input"
            )
        channels = graph.shapes[node][1]
        if channels != classes:
            raise InputError(
                f"architecture {name!r}: output {output!r} has {channels} channels, expected one for each of "
                f"the {classes} classes of the data"
            )
