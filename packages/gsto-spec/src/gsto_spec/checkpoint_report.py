"""What reading a checkpoint found: as data, and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gsto_spec.errors import LONGEST_NAME, module_of


@dataclass(frozen=True, kw_only=True)
class CheckpointReport:
    """What of a checkpoint a graph took, under canonical names; `str` says it in a few lines.

    - `source`: the file. `tensors`: how many the graph stores; `sizes`: learnt tensor -> number of values.
    - `loaded`: what came from the file; `kept_as_initialized`: the rest, drawn from `seed`.
    - `declared_absent`: the file's tensors of parts that the graph is known to do without -> why.
    - `unexpected`: the file's other tensors, by its own names; `misshapen`: name -> shape found, expected.
    - `ignored`: the file's bookkeeping, by its own names -> why; `prefixes`: taken off -> of how many names.
    - `negative_scales`: scale of a batch norm -> how many of its values are negative in the file.
    - `inplace_abn`: the choice that was made; `notes`: what decoding did, in words.
    """

    source: str
    sizes: Mapping[str, int]
    tensors: int
    loaded: tuple[str, ...]
    kept_as_initialized: tuple[str, ...]
    declared_absent: Mapping[str, str]
    unexpected: tuple[str, ...]
    misshapen: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    ignored: Mapping[str, str]
    prefixes: Mapping[str, int]
    negative_scales: Mapping[str, int]
    inplace_abn: bool | None
    seed: int
    notes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Learnt values of the graph."""
        return sum(self.sizes.values())

    @property
    def loaded_parameters(self) -> int:
        """Learnt values that came from the file."""
        return sum(self.sizes.get(name, 0) for name in self.loaded)

    @property
    def summary(self) -> str:
        """`N of M tensors, x% of parameters`; 100% is said of all of them alone."""
        share = self.loaded_parameters * 1000 // self.parameters / 10 if self.parameters else 100.0
        return f"{len(self.loaded):,} of {self.tensors:,} tensors, {share:g}% of parameters"

    @property
    def class_counts(self) -> tuple[int, int] | None:
        """Classes of the file and of the graph, where they and nothing else are why shapes differ."""
        changes = {pair for shapes in self.misshapen.values() for pair in _changed_axes(*shapes)}
        roles = {name.rpartition(".")[2] for name in self.misshapen}
        # A width of the network is that of batch norms too; a number of classes is of predictions alone,
        # which have a weight and a bias.
        if len(changes) != 1 or not {"weight", "bias"} <= roles or "running_mean" in roles:
            return None
        return changes.pop()

    @property
    def other_classes(self) -> str | None:
        """`the file has 21 classes, the graph 19`, where `class_counts` are known."""
        if self.class_counts is None:
            return None
        found, expected = self.class_counts
        return f"the file has {found} classes, the graph {expected}"

    @property
    def details(self) -> tuple[str, ...]:
        """Everything that is not a tensor's arrival as it was under its own name, a line each."""
        lines = [*self.notes, *(f"took {name} off {count:,} names" for name, count in self.prefixes.items())]
        lines += [f"left out {text}" for text in _by_reason({**self.ignored, **self.declared_absent})]
        if self.unexpected:
            names = ", ".join(map(shown, self.unexpected))
            lines.append(f"left out {_tensors(self.unexpected)} that the network does not have: {names}")
        lines += [self.other_classes] if self.other_classes else []
        lines += [
            f"left out {name}: its shape is {shape_text(found)}, the network's {shape_text(expected)}"
            for name, (found, expected) in self.misshapen.items()
        ]
        if self.kept_as_initialized:
            count = _tensors(self.kept_as_initialized)
            lines.append(f"kept as initialised (seed {self.seed}), {count}: {self._parts()}")
        if (scales := self._scales()) is not None:
            lines.append(scales)
        return tuple(lines)

    def __str__(self) -> str:
        return "\n".join([f"{self.source}: {self.summary}", *self.details])

    def _parts(self) -> str:
        counts = Counter(map(module_of, self.kept_as_initialized))
        return ", ".join(f"{part} ({count:,})" for part, count in counts.items())

    def _scales(self) -> str | None:
        if self.inplace_abn:
            changed = f", {sum(self.negative_scales.values()):,} of them negative in the file"
            return f"read batch norms' scales as |scale| + eps{changed if self.negative_scales else ''}"
        if not self.negative_scales:
            return None
        return negative_text(self.negative_scales) if self.inplace_abn is None else (
            f"took {_count(self.negative_scales)} as they are"
        )  # fmt: skip


def _changed_axes(found: Sequence[int], expected: Sequence[int]) -> list[tuple[int, int]]:
    """The sizes that differ; none that says anything where the shapes are of another kind."""
    if len(found) != len(expected):
        return [(0, 0), (0, 1)]
    return [(have, want) for have, want in zip(found, expected, strict=True) if have != want]


def negative_text(counts: Mapping[str, int]) -> str:
    """Why negative scales need a choice."""
    return (
        f"{_count(counts)}: an in-place activated batch norm, as GSTO's authors trained with, means "
        "|scale| + eps by them; taken as they are, choose inplace_abn=True or False (gsto-convert: "
        "--inplace-abn or --no-inplace-abn)"
    )


def _count(counts: Mapping[str, int]) -> str:
    return (
        f"{sum(counts.values()):,} negative batch-norm scales in {len(counts):,} tensors such as "
        f"{next(iter(counts))}"
    )


def _tensors(names: Collection[str]) -> str:
    return f"{len(names):,} tensor{'s' if len(names) != 1 else ''}"


def _by_reason(reasons: Mapping[str, str]) -> Iterable[str]:
    grouped: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        grouped.setdefault(reason, []).append(name)
    for reason, names in grouped.items():
        listed = shown(names[0])
        yield f"{listed if len(names) == 1 else f'{len(names):,} tensors such as {listed}'}: {reason}"


def shown(name: str) -> str:
    """A name of a file that anyone may have written, fit to be printed on one line."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."


def shape_text(shape: Sequence[int]) -> str:
    """A shape as numpy prints it."""
    return str(tuple(shape))
