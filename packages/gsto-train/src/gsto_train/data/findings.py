"""What is wrong with a data set on disk: one finding a file, in a person's words."""

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
    file.
    """

    kind: Literal["missing", "broken", "odd"]
    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", printable(self.text))


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
