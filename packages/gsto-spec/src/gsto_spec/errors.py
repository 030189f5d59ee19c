"""What goes wrong in a declaration, said in one line: where, what was expected, what was found."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class GstoError(ValueError):
    """Base of every error that a user's input can cause; its text is one line for people."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.splitlines())))


class ConstraintError(GstoError):
    """An op's labelled constraint does not hold. The graph adds the node's path and raises `GraphError`."""

    def __init__(self, label: str, expected: str, found: str) -> None:
        super().__init__(f"expected {expected}, found {found} [{label}]")
        self.label, self.expected, self.found = label, expected, found


class GraphError(GstoError):
    """A graph that means nothing.

    Attributes: `node` (path of the node, or of the output), `expected`, `found`, and `label`, the
    constraint's heading in the op reference.
    """

    def __init__(self, node: str, expected: str, found: str, label: str) -> None:
        super().__init__(f"{node}: expected {expected}, found {found} [{label}]")
        self.node, self.expected, self.found, self.label = node, expected, found, label


class WeightsError(GstoError):
    """Tensors that do not fit a graph, or a file that does not hold any; lists every offender at once."""


def printable(text: object) -> str:
    """Text that any terminal takes and none obeys, whatever a file or its name holds: the rest is escaped."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shown)


def require(holds: bool, label: str, expected: str, found: object) -> None:
    """Raise `ConstraintError` unless `holds`."""
    if not holds:
        raise ConstraintError(label, expected, str(found))


def nearest(name: str, valid: Iterable[str]) -> str:
    """A suggestion to append to an error: `` (nearest: conv2d)``, or nothing where no name is close."""
    close = get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" (nearest: {close[0]})" if close else ""
