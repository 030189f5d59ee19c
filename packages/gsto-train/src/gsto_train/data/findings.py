"""What is wrong with a data set on disk: one finding a file, in a person's words."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from gsto_spec.errors import printable
from gsto_train.errors import InputError
from gsto_train.wording import counted

_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    kind: "missing" (a file that is named and not there), "broken" (one that cannot be used), or "odd"
    (usable, but worth a look). text: what was found, what was expected and the mend, in one line naming the
    file. alike: what `file` may have in common with others, told once of all of them.
    """

    kind: Literal["missing", "broken", "odd"]
    text: str
    file: str = ""
    alike: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", printable(self.text))

    @classmethod
    def broken(cls, error: InputError) -> "Finding":
        """Return the finding of a file that cannot be used."""
        if isinstance(error, UnknownLabel):
            return cls("broken", str(error), error.file, error.alike)
        return cls("broken", str(error))

    def as_json(self) -> dict[str, str]:
        """Return the finding as JSON has it."""
        return {"kind": self.kind, "text": self.text}


class UnknownLabel(InputError):
    """A label in `file` with one single value that is no class; `alike` says it of all that have this one."""

    def __init__(self, message: str, file: str, alike: str) -> None:
        super().__init__(message)
        self.file, self.alike = file, alike


def gathered(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with those that are alike as one, in the place of the first of them."""
    groups = defaultdict[object, list[Finding]](list)
    for number, finding in enumerate(findings):
        groups[finding.alike or number].append(finding)
    return [each[0] if len(each) == 1 else _of_all(each) for each in groups.values()]


def _of_all(alike: Sequence[Finding]) -> Finding:
    names = ", ".join([*(finding.file for finding in alike[:_SHOWN]), *["..."][: len(alike) > _SHOWN]])
    return Finding(alike[0].kind, f"{len(alike)} files: {alike[0].alike}: {names}")


def problems(findings: Iterable[Finding]) -> int:
    """Return how many findings stand in the way: all but the odd ones."""
    return sum(finding.kind != "odd" for finding in findings)


def error_of(findings: Sequence[Finding], total: int) -> InputError:
    """Return the error that sums up `findings` among `total` pictures: how many, and the first of them."""
    if len(findings) == 1:
        return InputError(findings[0].text)
    first = "; ".join(finding.text.partition("; ")[0] for finding in findings[:_SHOWN])
    more = "; ..." if len(findings) > _SHOWN else ""
    return InputError(
        f"{len(findings)} files of {counted(total, 'picture')} are missing: {first}{more}; complete the "
        "folder, or leave these out with --set data.skip_unreadable=true"
    )
