"""Numbers of things in words."""


def noun_of(count: object, noun: str, plural: str | None = None) -> str:
    """Return "picture" for one, else "pictures"; `plural` where it is not the noun and an s."""
    return noun if count == 1 else plural or f"{noun}s"


def counted(count: object, noun: str, plural: str | None = None) -> str:
    """Return "1 picture", "2 pictures"; `plural` as in `noun_of`."""
    return f"{count} {noun_of(count, noun, plural)}"


def unit_of(count: int, units: str) -> str:
    """Return "class", "persons": as `noun_of`, for a task's units, which are named in the plural."""
    return noun_of(count, {"classes": "class"}.get(units, units.removesuffix("s")), units)


def counted_units(count: int, units: str) -> str:
    """Return "1 class", "2 persons"; `units` as in `unit_of`."""
    return f"{count} {unit_of(count, units)}"
