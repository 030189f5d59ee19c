"""Which joints there are: their names, which swap when mirrored, and how exactly people place them."""

from collections.abc import Sequence
from dataclasses import dataclass

from gsto_train.errors import InputError
from gsto_train.wording import counted

Pairs = tuple[tuple[int, int], ...]

COCO_JOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
"""COCO's 17 joints, in its order."""

COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072,
    0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
)  # fmt: skip
"""The spread of annotators per joint, in square roots of the person's area (COCO's evaluation)."""

_LOWER = ("hip", "knee", "ankle", "foot", "heel", "toe", "leg")


@dataclass(frozen=True)
class Skeleton:
    """The joints of a data set.

    `pairs` of joint numbers swap when a picture is mirrored; `upper` are those of the upper half of the
    body; `sigmas` as COCO's, None where nobody has measured them.
    """

    joints: tuple[str, ...]
    pairs: Pairs = ()
    upper: tuple[int, ...] = ()
    sigmas: tuple[float, ...] | None = None

    @classmethod
    def of(
        cls,
        joints: Sequence[str],
        *,
        pairs: Pairs | None = None,
        upper: tuple[int, ...] | None = None,
        sigmas: tuple[float, ...] | None = None,
    ) -> "Skeleton":
        """Return the skeleton of joints of these names; what is not given, the names tell.

        Raises `InputError` for numbers that are no joints and for a wrong number of sigmas.
        """
        names = tuple(joints)
        if pairs is None:
            pairs = _pairs(names)
        if upper is None:
            upper = tuple(i for i, name in enumerate(names) if not any(part in name for part in _LOWER))
        if sigmas is None and names == COCO_JOINTS:
            sigmas = COCO_SIGMAS
        _check("pairs", [joint for pair in pairs for joint in pair], len(names))
        _check("upper_joints", upper, len(names))
        if sigmas is not None and len(sigmas) != len(names):
            raise InputError(
                f"setting 'pose.oks_sigmas': expected {counted(len(names), 'number')}, one per joint, "
                f"found {len(sigmas)}"
            )
        return cls(names, pairs, upper, sigmas)

    @property
    def mirrored(self) -> tuple[int, ...]:
        """The joint that each joint is in the mirror."""
        order = list(range(len(self.joints)))
        for left, right in self.pairs:
            order[left], order[right] = right, left
        return tuple(order)


def _pairs(names: tuple[str, ...]) -> Pairs:
    """Return the joints whose names differ by left and right alone."""
    numbers = {name: i for i, name in enumerate(names)}
    mirrors = ((i, numbers.get(name.replace("left", "right"))) for name, i in numbers.items())
    return tuple((i, other) for i, other in mirrors if other is not None and other != i)


def _check(setting: str, joints: Sequence[int], count: int) -> None:
    if joints and max(joints) >= count:
        raise InputError(
            f"setting 'pose.{setting}': expected joint numbers of at most {count - 1}, found {max(joints)}"
        )
    if len(set(joints)) != len(joints):
        raise InputError(f"setting 'pose.{setting}': expected each joint once, found {sorted(joints)}")


COCO = Skeleton.of(COCO_JOINTS)
"""COCO's person."""
