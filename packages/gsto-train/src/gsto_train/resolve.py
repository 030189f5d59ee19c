"""From names to things: the backend, architecture and data set that a user asked for."""

from collections.abc import Callable
from pathlib import Path

import click

from gsto_spec.backend import Backend, backend, backends
from gsto_spec.graph import Graph
from gsto_spec.locate import locate
from gsto_spec.ops import Input, Parameter
from gsto_train.data.cityscapes import Cityscapes
from gsto_train.data.decoded import keep_in
from gsto_train.data.files import LabelledFiles
from gsto_train.data.lip import Lip
from gsto_train.data.listed import ListedImages
from gsto_train.data.pascal_context import PascalContext
from gsto_train.data.readable import Subset, readable
from gsto_train.data.resized import Resized
from gsto_train.data.samples import Dataset
from gsto_train.data.scenes import GeneratedScenes
from gsto_train.errors import InputError, nearest
from gsto_train.settings import KEYPOINTS, PARTS, ArchitectureSettings, DataSettings, Part, Settings
from gsto_train.task import Task
from gsto_train.wording import counted

_READING_THREADS = 8


def check_backend(name: str) -> None:
    """Raise gsto_spec's `BackendError`, with what to install, unless a backend of this name is installed.

    One of `module:attribute` is imported when it is needed.
    """
    if ":" not in name and name not in backends():
        backend(name)


def load_backend(name: str) -> Backend:
    """Import a backend and start it; raises `InputError` where what it needs is missing."""
    try:
        return backend(name)
    except ImportError as error:
        raise InputError(
            f"backend {name!r} does not import: {error}; install what it lacks in this environment"
        ) from error


def check_choices(backend: Backend, precision: str, device: str) -> None:
    """Raise `InputError` unless the backend has the precision and this machine the device."""
    _check_choice("train.precision", precision, backend.precisions, f"backend {backend.name!r}")
    _check_choice(
        "train.device", device, ("auto", *backend.devices()), f"backend {backend.name!r} on this machine"
    )


def _check_choice(key: str, value: str, known: tuple[str, ...], owner: str) -> None:
    if value not in known:
        no_gpu = value.partition(":")[0] in ("cuda", "gpu") and known == ("auto", "cpu")
        hint = "; it sees no GPU here" if no_gpu else nearest(value, known)
        raise InputError(
            f"setting {key!r}: expected one of {', '.join(known)} ({owner}), found {value!r}{hint}"
        )


def load_graph(architecture: ArchitectureSettings, classes: int) -> Graph:
    """Return the graph that `gsto_spec.locate` finds by a name, for so many classes.

    Raises `InputError`, or `gsto_spec`'s error, where there is none or it cannot be trained: other
    inputs than pictures, outputs that are not `classes` wide, nothing to learn.
    """
    graph = locate(architecture.name, classes=classes, form=architecture.form)
    _check_inputs(architecture.name, graph)
    _check_outputs(architecture.name, graph, classes)
    _check_learns(architecture.name, graph)
    return graph


def load_task(settings: Settings) -> Task:
    """Return the data set with what is learnt from it; raises `InputError`."""
    if settings.data.kind in KEYPOINTS:
        from gsto_train.pose.task import Keypoints

        return Keypoints.load(settings)
    from gsto_train.segmentation.task import Segmentation

    return Segmentation(settings, *load_datasets(settings.data))


def _to_standard_error(line: str) -> None:
    click.echo(line, err=True)


def load_datasets(
    data: DataSettings, note: Callable[[str], None] = _to_standard_error
) -> tuple[Dataset, Dataset]:
    """Return the pictures to train on and those to score on; `note` hears of those that are left out.

    Raises `InputError`.
    """
    training, validation = (load_split(data, part, note) for part in PARTS)
    return (Resized(training, data.input_size) if data.input_size else training), validation


def load_split(data: DataSettings, part: Part, note: Callable[[str], None] = _to_standard_error) -> Dataset:
    """Return the pictures of one part, as they are; raises `InputError`."""
    dataset = open_split(data, part, skip_missing=data.skip_unreadable)
    if not data.skip_unreadable:
        return dataset
    missing = dataset.listing.missing if isinstance(dataset, LabelledFiles) else ()
    kept, broken = readable(dataset, threads=_READING_THREADS)
    left_out = (*missing, *broken)
    if left_out:
        remain = f"{counted(len(kept), 'picture')} {'remains' if len(kept) == 1 else 'remain'}"
        note(f"{part}: left out {counted(len(left_out), 'unreadable file')}, {remain}")
        for finding in left_out:
            note(f"left out: {finding.text}")
    return Subset(dataset, kept.indices, len(left_out))


def open_split(data: DataSettings, part: Part, *, skip_missing: bool = False) -> Dataset:
    """Return the pictures of one part, unread; missing files are errors unless `skip_missing`."""
    keep_in(data.decoded)
    match data.kind:
        case "scenes":
            count = {"train": data.train_scenes, "val": data.val_scenes}[part]
            return GeneratedScenes(count, size=data.scene_size, seed=data.scene_seed, split=part)
        case "list":
            return ListedImages(
                _folder(data),
                {"train": data.train_list, "val": data.val_list}[part],
                classes=data.classes,
                ignore_label=data.ignore_label,
                skip_missing=skip_missing,
            )
        case "cityscapes":
            return Cityscapes(_folder(data), _split(data, part), skip_missing=skip_missing)
        case "lip":
            return Lip(_folder(data), _split(data, part), skip_missing=skip_missing)
        case "pascal-context":
            split, classes = _split(data, part), data.context_classes
            return PascalContext(_folder(data), split, classes=classes, skip_missing=skip_missing)
        case "figures" | "keypoints":
            raise InputError(f"setting 'data.kind': expected labelled pixels, found {data.kind!r}, joints")


def title(name: str) -> str:
    """Return what people are told: a graph file's stem; another name, `mine:network` say, as it was given."""
    return Path(name).stem if name.endswith(".json") else name


def part_of_path(name: str) -> str:
    """Return what stands for a name in the names of files: its title, `mine-network` for `mine:network`."""
    module, colon, attribute = title(name).rpartition(":")
    return f"{module.rpartition('.')[2]}-{attribute}" if colon else attribute


def _split(data: DataSettings, part: Part) -> str:
    return {"train": data.train_split, "val": data.val_split}[part]


def _folder(data: DataSettings) -> str:
    if data.folder is None:
        raise InputError("setting 'data.folder' is missing: give the folder of pictures with --data DIR")
    return data.folder


def _check_inputs(name: str, graph: Graph) -> None:
    if list(graph.inputs.values()) != [3]:
        found = (
            ", ".join(f"{each} ({counted(channels, 'channel')})" for each, channels in graph.inputs.items())
            or "none"
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
                f"architecture {name!r}: output {output!r} has {counted(channels, 'channel')}, expected one "
                f"for each of the {counted(classes, 'class', 'classes')} of the data"
            )
