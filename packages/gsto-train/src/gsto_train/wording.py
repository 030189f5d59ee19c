"""Numbers of things in words."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return "1 picture", "2 pictures"; `plural` where it is not the noun and an s."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"
