"""How long storage takes, for whoever wants to know."""

from collections.abc import Callable

Observer = Callable[[str, float], None]
"""Gets the name of an operation and the seconds it took."""


def unobserved(operation: str, seconds: float) -> None:
    """For those who don't ask."""
