"""`Disagreement`: what a failed check says, and how to see it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conformance.cases import Case, Subject, image_as_parameter

SNIPPET = """\
from pathlib import Path

from gsto_spec import Graph
from gsto_spec.backend import Training
from gsto_spec.objective import *

from conformance import {module}
from conformance.cases import Case, image_as_parameter, subject

graph = Graph.from_json(Path("{file}").read_text())
case = {case}
{module}.{check}(subject("{backend}", "{precision}", "{device}"{speed}), case{arguments})
"""


@dataclass
class Disagreement(AssertionError):
    """A backend that says something else: where (`path` is a node or a tensor), what, and by how much.

    `ratio` is the error over its bound, infinite where something is missing or of another shape.
    """

    row: str
    subject: Subject
    path: str
    index: str
    got: str
    want: str
    ratio: float = float("inf")
    error: float = float("inf")
    snippet: str = ""
    graph_file: Path | None = None
    graph_text: str = ""

    def __str__(self) -> str:
        lines = [
            f"{self.subject} in {self.subject.precision} disagrees: {self.row} of {self.path}",
            f"  node   {self.path}",
            f"  index  {self.index}",
            f"  got    {self.got}",
            f"  want   {self.want}",
            f"  error  {self.error:.3g}, {self.ratio:.3g} times its bound",
        ]
        if self.snippet:
            lines += [
                "To see it again, paste this into Python at the root of the repository:",
                "",
                self.snippet,
            ]
        return "\n".join(lines)

    def reproduced_by(
        self, check: Callable[..., None], case: Case, arguments: tuple[object, ...], folder: Path
    ) -> None:
        """Add the snippet; `save` writes the graph that it reads."""
        self.graph_file = folder / f"{check.__name__}-{case.key}.json"
        self.graph_text = original(case).graph.to_json(indent=1)
        more = "".join(f", {argument!r}" for argument in arguments)
        self.snippet = SNIPPET.format(
            file=self.graph_file.as_posix(), case=expression(case),
            module=check.__module__.rpartition(".")[2], check=check.__name__, backend=self.subject.name,
            precision=self.subject.precision, device=self.subject.device, arguments=more,
            speed="" if self.subject.speed == "fast" else f', "{self.subject.speed}"',
        )  # fmt: skip

    def save(self) -> None:
        """Write the graph beside the report."""
        assert self.graph_file is not None
        self.graph_file.parent.mkdir(parents=True, exist_ok=True)
        self.graph_file.write_text(self.graph_text)


def original(case: Case) -> Case:
    """The case that was drawn, where its image has become a parameter since."""
    return case.drawn or case


def expression(case: Case) -> str:
    """Python that makes the case out of `graph`."""
    drawn = original(case)
    fields = {
        "seed": drawn.seed, "training": drawn.training, "offset": drawn.offset, "valid": drawn.valid,
        "tied": drawn.tied,
        "whole": drawn.whole,
    }  # fmt: skip
    settings = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    plain = f"Case(graph, {drawn.shape}, {settings})"
    return plain if drawn is case else f"{image_as_parameter.__name__}({plain})"
