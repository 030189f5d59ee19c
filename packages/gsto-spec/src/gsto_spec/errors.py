"""What goes wrong in a declaration, said in one line: where, what was expected, what was found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
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


FEW = 8
"""As many offenders as a line names one by one."""

LONGEST_NAME = 120
"""Characters of a tensor's name that a line holds."""

_NAMED, _MODULES = 4, 6


class WeightsError(GstoError):
    """Tensors that do not fit a graph, or a file that does not hold any.

    `offenders` has a text for every tensor that is missing, unknown, misshapen, ...; the line itself names
    all of them where they are few, else some, and counts the others by module.
    """

    def __init__(self, message: str, offenders: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.offenders = tuple(offenders)


def listed(offenders: Sequence[str]) -> str:
    """Texts that begin with a tensor's name, on one line: all of a few, else some and the others' modules."""
    if len(offenders) <= FEW:
        return "; ".join(map(_shortened, offenders))
    chosen = _of_every_kind(offenders)
    rest = [text for index, text in enumerate(offenders) if index not in chosen]
    named = "; ".join(_shortened(offenders[index]) for index in chosen)
    return f"{named}; and {len(rest):,} more: {by_module(text.partition(' ')[0] for text in rest)}"


def _of_every_kind(offenders: Sequence[str]) -> list[int]:
    """The places of the first few, in turn of those that are missing, unknown, misshapen, ..."""
    seen: Counter[str] = Counter()
    turns = []
    for text in offenders:
        kind = " ".join(text.split(" ")[1:3])
        turns.append(seen[kind])
        seen[kind] += 1
    return sorted(sorted(range(len(turns)), key=turns.__getitem__)[:_NAMED])


def module_of(name: str) -> str:
    """The module that a tensor is of: `stage3.0.att_layers` of `stage3.0.att_layers.1.0.1.bias`."""
    return re.sub(r"(\.\d+)*\.\w+$", "", name[:LONGEST_NAME])  # Of an endless name that would take forever.


def by_module(names: Iterable[str], most: int = _MODULES) -> str:
    """How many tensors of each module, of the `most` largest: `stage3.0.att_layers (45), elsewhere (3)`."""
    counts = Counter(map(module_of, names))
    texts = [f"{_shortened(module, 40)} ({count:,})" for module, count in counts.most_common(most)]
    elsewhere = counts.total() - sum(count for _, count in counts.most_common(most))
    return ", ".join([*texts, f"elsewhere ({elsewhere:,})"] if elsewhere else texts)


def _shortened(text: str, longest: int = LONGEST_NAME) -> str:
    """A text whose first word, a name that anyone may have written, is not endless."""
    name, space, rest = text.partition(" ")
    return text if len(name) <= longest else f"{name[:longest]}...{space}{rest}"


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


_TELLING = 3
"""As many letters as tell what a longer name that holds them may be."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A suggestion to append to an error: `` (nearest: conv2d)``, or nothing where no name is close.

    Capitals count for nothing; a name that begins with the text is nearer than one that holds it, and that
    nearer than any other.
    """
    wanted, known = name.casefold(), {each.casefold(): each for each in valid}
    whole = [each for each in known if wanted in each] if len(wanted) >= _TELLING else []
    close = sorted(whole, key=lambda each: (not each.startswith(wanted), len(each)))
    close = close or get_close_matches(wanted, list(known), n=1, cutoff=0.5)
    return f" (nearest: {known[close[0]]})" if close else ""
