"""The order in which a compiled graph runs, and how its parts are run again in the backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gsto_spec import Graph
from gsto_spec.graph import Node
from gsto_spec.heads import Head
from gsto_spec.ops import Add, BatchNorm, Conv2d, Input, Parameter, Relu
from gsto_torch.batch_norm import statistics_left_alone


@dataclass(frozen=True)
class Step:
    """One node to run: its operands that are not leaves of its module, and values nobody needs afterwards.

    `overwrites`: it may put its result in the place of its first operand. `kernel`: height and width of a
    convolution's own. `head`: the parts that it reads in place of its operand.
    """

    node: Node
    is_module: bool
    operands: tuple[str, ...]
    finished: tuple[str, ...]
    overwrites: bool
    kernel: tuple[int, ...]
    head: Head | None = None


@dataclass(frozen=True)
class Segment:
    """Neighbouring steps, the values that they read of earlier ones, and those that later ones read."""

    steps: tuple[Step, ...]
    reads: tuple[str, ...]
    makes: tuple[str, ...]


def schedule(
    graph: Graph, modules: set[str], heads: Mapping[str, Head] = MappingProxyType({})
) -> tuple[Step, ...]:
    """All computed nodes in `graph.order`; `modules` names those that have a module of their own.

    What lies between `heads` and their parts is left out.
    """
    between = {name for head in heads.values() for name in head.between}
    steps = [node for node in graph.order
             if not isinstance(node.op, (Input, Parameter)) and node.name not in between]  # fmt: skip
    operands = {node.name: node.operands[:1] if node.name in modules else node.operands for node in steps}
    operands |= {name: head.operands for name, head in heads.items()}
    last_use = {name: node.name for node in steps for name in operands[node.name]}
    kept = {*graph.outputs.values(), *graph.leaves}
    finished: dict[str, list[str]] = {}
    for name, user in last_use.items():
        if name not in kept:
            finished.setdefault(user, []).append(name)
    reads = Counter(name for node in steps for name in operands[node.name])
    # Their results lie in memory of their own, and no gradient reads them.
    own = {node.name for node in steps if isinstance(node.op, (Conv2d, BatchNorm, Add))}
    own = {name for name in own - kept if reads[name] == 1}
    return tuple(
        Step(
            node, node.name in modules, operands[node.name], tuple(finished.get(node.name, ())),
            isinstance(node.op, (Relu, Add)) and operands[node.name][0] in own,
            graph.leaves[node.operands[1]].shape[2:] if node.name in modules else (), heads.get(node.name),
        )
        for node in steps
    )  # fmt: skip


def cut(
    steps: Sequence[Step], groups: Iterable[Iterable[str]], outputs: Iterable[str]
) -> tuple[Segment, ...]:
    """Steps in segments, one for every group of nodes' names; `outputs` are needed at the end."""
    by_name = {step.node.name: step for step in steps}
    parts = [tuple(by_name[name] for name in names) for names in groups]
    needed, segments = set(outputs), []
    for part in reversed(parts):
        made = [step.node.name for step in part]
        read = dict.fromkeys(name for step in part for name in step.operands if name not in made)
        segments.append(Segment(part, tuple(read), tuple(name for name in made if name in needed)))
        needed |= read.keys()
    return tuple(reversed(segments))


def rematerialized(
    model: nn.Module, advance: Callable[[Sequence[Step], dict[str, Tensor]], None],
    segment: Segment, values: dict[str, Tensor],
) -> None:  # fmt: skip
    """Add what a segment makes, keeping what it reads; the backward pass computes the rest again.

    `advance` takes steps of the model and adds their results to the values that it is given.
    """
    reads = {name: values[name] for name in segment.reads if name in values}

    def run(*operands: Tensor) -> tuple[Tensor, ...]:
        inside = dict(zip(reads, operands, strict=True))
        advance(segment.steps, inside)
        return tuple(inside[name] for name in segment.makes)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        # Running statistics have taken the batch in when the segment is run again.
        return nullcontext(), statistics_left_alone(_norms(model, segment))

    made = checkpoint(
        run, *reads.values(), use_reentrant=False, context_fn=contexts, preserve_rng_state=False
    )
    values.update(zip(segment.makes, made, strict=True))
    for name in {name for step in segment.steps for name in step.finished} & values.keys():
        del values[name]


def _norms(model: nn.Module, segment: Segment) -> list[nn.Module]:
    return [
        model.get_submodule(step.node.name)
        for step in segment.steps if step.is_module and isinstance(step.node.op, BatchNorm)
    ]  # fmt: skip
