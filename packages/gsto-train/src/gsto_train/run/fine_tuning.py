"""Parts of a network by prefixes of their modules' paths: what stays as it is, and what learns faster."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gsto_spec.graph import Graph
from gsto_train.errors import InputError, nearest
from gsto_train.settings import TrainSettings, rate_factor


@dataclass(frozen=True)
class FineTuning:
    """Learnt tensors that are `frozen`, and factors of the learning rate of others, by canonical name."""

    frozen: frozenset[str]
    rate_factors: dict[str, float]
    learnt: int

    @classmethod
    def of(cls, train: TrainSettings, graph: Graph) -> "FineTuning":
        """Return what the settings mean for a graph.

        A prefix is a whole path of modules, or a tensor's name: `stage2.0` holds `stage2.0.branches...`, not
        `stage2.01`. Of several factors the one of the longest prefix counts. Raises `InputError` for a prefix
        that holds nothing learnt, a factor for what is frozen, and where nothing is left to learn.
        """
        frozen = frozenset(
            name for prefix in train.freeze or () for name in _held("freeze", prefix, graph.trainable)
        )
        if frozen and len(frozen) == len(graph.trainable):
            raise InputError("setting 'train.freeze' leaves nothing to learn; give fewer prefixes")
        factors = _factors(train.rate_factors or (), [*graph.trainable], frozen)
        return cls(frozen, factors, len(graph.trainable))

    def __str__(self) -> str:
        """What differs from plain training, in words; empty where nothing does."""
        frozen = f"{len(self.frozen)} of {self.learnt} learnt tensors frozen"
        faster = f"{len(self.rate_factors)} of {self.learnt} learnt tensors with a learning rate of their own"
        return ", ".join([*([frozen] if self.frozen else []), *([faster] if self.rate_factors else [])])


def _factors(entries: Iterable[str], learnt: Sequence[str], frozen: frozenset[str]) -> dict[str, float]:
    factors: dict[str, float] = {}
    for prefix, factor in sorted(map(rate_factor, entries), key=lambda entry: len(entry[0])):
        free = [name for name in _held("rate_factors", prefix, learnt) if name not in frozen]
        if not free:
            raise InputError(
                f"setting 'train.rate_factors': all of {prefix!r} is frozen and learns nothing; remove it "
                "here or from train.freeze"
            )
        factors.update(dict.fromkeys(free, factor))
    return factors


def _held(key: str, prefix: str, learnt: Iterable[str]) -> list[str]:
    """Return the tensors under a prefix; raises `InputError`, naming the nearest prefix, for none."""
    names = list(learnt)
    held = [name for name in names if name == prefix or name.startswith(f"{prefix}.")]
    if not held:
        hint = nearest(prefix, _prefixes(names))
        raise InputError(
            f"setting 'train.{key}': expected the path of a module that learns, as in conv1 or stage2, "
            f"found {prefix!r}{hint}; `gsto-spec show` prints the paths"
        )
    return held


def _prefixes(names: Iterable[str]) -> list[str]:
    parts = [name.split(".") for name in names]
    paths = {".".join(path[:count]) for path in parts for count in range(1, len(path) + 1)}
    return sorted(paths, key=lambda path: (path.count("."), path))
